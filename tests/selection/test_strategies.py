"""The contract of every strategy."""

import numpy as np
import pytest

from nnunetv2_xssr.selection import STRATEGIES, select

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def features(n, d=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def check_picks(result, n, budget, labelled=()):
    picks = result.picks.tolist()
    assert len(picks) == budget
    assert len(set(picks)) == budget
    assert all(0 <= i < n for i in picks)
    assert not set(picks) & set(labelled)
    for part in (result.density, result.novelty, result.diversity):
        assert part.shape == (budget,)
        assert ((part >= 0) & (part <= 1)).all()


@every_strategy
@pytest.mark.parametrize("n", range(1, 26))
def test_exact_budget_without_duplicates(strategy, n):
    source = features(4, seed=9) + 1 if n % 2 else None
    for budget in sorted({(n + 1) // 2, n}):
        check_picks(select(features(n), budget, source=source, strategy=strategy), n, budget)


@every_strategy
@pytest.mark.parametrize("labelled", [[0], [3, 7], list(range(9))])
def test_labelled_cases_are_never_picked(strategy, labelled):
    for budget in (1, 10 - len(labelled)):
        result = select(
            features(10), budget, source=features(5, seed=1), strategy=strategy, labelled=np.array(labelled)
        )
        check_picks(result, 10, budget, labelled)


@every_strategy
def test_deterministic(strategy):
    first, second = (select(features(20), 7, source=features(5, seed=1), strategy=strategy, seed=4) for _ in range(2))
    assert first.picks.tolist() == second.picks.tolist()
    assert first.mean_distance == second.mean_distance
    assert first.random_mean_distance == second.random_mean_distance


@every_strategy
def test_arguments_stay_as_they_were(strategy):
    pool, source, labelled = features(12), features(5, seed=1), np.array([4, 2])
    copies = [array.copy() for array in (pool, source, labelled)]
    select(pool, 4, source=source, strategy=strategy, labelled=labelled)
    for array, copy in zip((pool, source, labelled), copies, strict=True):
        assert np.array_equal(array, copy)


# To a random draw all cases are ties, which go by their place in the pool.
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "random"])
@pytest.mark.parametrize("seed", range(8))
def test_invariant_to_the_order_of_the_pool(strategy, seed):
    pool, source = features(24, seed=seed), features(6, seed=seed + 50) + 0.5
    order = np.random.default_rng(seed).permutation(24)
    straight = select(pool, 9, source=source, strategy=strategy, labelled=np.array([1]), alpha=0.3)
    shuffled = select(pool[order], 9, source=source, strategy=strategy, labelled=np.flatnonzero(order == 1), alpha=0.3)
    assert order[shuffled.picks].tolist() == straight.picks.tolist()


@every_strategy
@pytest.mark.parametrize("n", [2, 7, 25])
def test_duplicate_points(strategy, n):
    same = np.repeat(features(1), n, axis=0)
    pairs = np.repeat(features((n + 1) // 2), 2, axis=0)[:n]
    for pool in (same, pairs):
        for budget in (1, n):
            check_picks(select(pool, budget, source=features(3, seed=2), strategy=strategy), n, budget)


@pytest.mark.parametrize("strategy", ["xssr", "coreset"])
def test_every_distinct_point_comes_before_any_duplicate(strategy):
    distinct = features(5)
    result = select(np.concatenate([distinct, distinct, distinct]), 5, strategy=strategy)
    assert len({i % 5 for i in result.picks}) == 5
    assert result.covering_radius == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("strategy", ["xssr", "coreset"])
def test_ties_go_to_the_first_case(strategy):
    result = select(np.repeat(features(1), 6, axis=0), 4, strategy=strategy)
    assert result.picks.tolist() == [0, 1, 2, 3]


@every_strategy
def test_source_from_the_same_place_as_the_pool(strategy):
    pool = features(15)
    check_picks(select(pool, 5, source=pool, strategy=strategy), 15, 5)


def test_random_depends_on_the_seed_alone():
    draws = {tuple(select(features(30), 5, strategy="random", seed=seed).picks) for seed in range(10)}
    assert len(draws) == 10
    other_features = select(features(30, seed=3), 5, strategy="random", seed=0)
    assert other_features.picks.tolist() == select(features(30), 5, strategy="random", seed=0).picks.tolist()


def test_random_draws_every_case_equally_often():
    counts = np.bincount(np.concatenate([select(features(6), 2, strategy="random", seed=s).picks for s in range(300)]))
    assert counts.min() > 70 and counts.max() < 130


def test_coreset_is_farthest_first():
    """Against the definition: every pick is the farthest case from those before it."""
    pool = features(20)
    result = select(pool, 8, strategy="coreset", labelled=np.array([5]))
    rows = (pool - pool.mean(0, dtype=float)) / pool.std(0, dtype=float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = [5]
    for pick in result.picks:
        nearest = [min(np.linalg.norm(row - rows[c]) for c in chosen) for row in rows]
        assert pick == int(np.argmax(nearest))
        chosen.append(pick)
