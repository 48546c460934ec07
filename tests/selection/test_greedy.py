"""The fast greedy picks what the naive one picks, in the same order."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from nnunetv2_xssr.selection import greedy as greedy_module
from nnunetv2_xssr.selection import standardise
from nnunetv2_xssr.selection._engine import lazy
from nnunetv2_xssr.selection._engine.cells import cells_of
from nnunetv2_xssr.selection._engine.coverage import Coverage
from nnunetv2_xssr.selection.greedy import greedy, nearest_distance, replay, stand_for

NONE = np.empty(0, int)
KINDS = ("clustered", "blobs", "isotropic", "duplicates")


def assert_same(pool, fixed, weight, budget, chosen):
    expected, nearest, diversity = naive.greedy(pool, fixed, weight, budget, chosen)
    picks, ours = greedy(pool, fixed=fixed, diversity_weight=weight, budget=budget, chosen=chosen)
    np.testing.assert_array_equal(picks, expected)
    np.testing.assert_array_equal(ours, nearest)
    np.testing.assert_array_equal(replay(pool, picks=picks, chosen=chosen)[0], diversity)


@st.composite
def problems(draw):
    """Small pools with few distinct values, so that ties, duplicates and zero rows are the rule."""
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    values = st.lists(st.integers(-2, 2), min_size=n * d, max_size=n * d)
    pool = naive.unit(np.array(draw(values), float).reshape(n, d))
    levels = draw(st.sampled_from([[0.0], [0.0, 0.5, 1.0], [-1.0, 0.3]]))
    fixed = np.array(draw(st.lists(st.sampled_from(levels), min_size=n, max_size=n)))
    chosen = np.array(draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1)), int)
    budget = draw(st.integers(1, n - len(chosen)))
    return pool, fixed, draw(st.sampled_from([0.0, 0.3, 1.0])), budget, chosen


@given(problems())
@settings(max_examples=100, deadline=None)
def test_small_pools_with_ties(problem):
    assert_same(*problem)


@given(problems(), st.sampled_from([1, 3, 512]), st.sampled_from([1, 4, 256]), st.booleans())
@settings(max_examples=400, deadline=None)
def test_small_pools_with_ties_the_way_of_large_pools(problem, candidates, block, sketch):
    with naive.way_of_large_pools(candidates, block, sketch):
        assert_same(*problem)


@pytest.mark.parametrize("kind", [KINDS[0], *naive.slow(*KINDS[1:])])
def test_20_000_cases(kind):
    pool = naive.pool_of(kind, 20_000, 64)
    fixed = np.random.default_rng(1).random(len(pool)).round(2)  # rounded, so that scores tie
    assert_same(pool, fixed, 0.7, 300, NONE)
    assert_same(pool, np.zeros(len(pool)), 1.0, 300, np.array([5, 19_999, 3]))


def test_picks_do_not_depend_on_the_number_of_threads():
    pool = naive.pool_of("isotropic", 6000, 384)
    fixed = np.random.default_rng(1).random(len(pool))
    runs = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            runs.append(greedy(pool, fixed=fixed, diversity_weight=0.7, budget=300, chosen=NONE)[0])
    np.testing.assert_array_equal(*runs)


def test_isotropic_pools_do_without_a_sketch_and_clustered_ones_use_it():
    assert not cells_of(naive.pool_of("isotropic", 6000, 384)).sketched
    assert cells_of(naive.pool_of("clustered", 6000, 384)).sketched


def test_a_sketch_that_turns_out_useless_is_given_up():
    # Two far groups: one direction holds most of the variance, and inside a group all directions are alike.
    rows = np.random.default_rng(0).standard_normal((6000, 384)) / 20
    rows[:, 0] += np.where(np.arange(6000) < 3000, 3, -3)
    coverage = Coverage(naive.unit(rows))
    assert coverage.cells.sketched
    chosen = np.arange(0, 6000, 20)
    coverage.add(chosen)
    assert not coverage.cells.sketched
    distances_to = naive.Distances(coverage.cells.pool)
    np.testing.assert_array_equal(coverage.distances(), np.min([distances_to(i) for i in chosen], axis=0))


def test_sketch_distances_never_exceed_true_distances():
    pool = naive.pool_of("clustered", 6000, 100)
    cells = cells_of(pool)
    true = naive.Distances(pool)(17) ** 2
    sketch = ((cells.features - cells.features[cells.position[17]]) ** 2).sum(1)
    assert (sketch - cells.slack <= true[cells.rows]).all()
    assert np.median(sketch / np.maximum(true[cells.rows], 1e-9)) > 0.9  # and are worth something


def test_picks_come_in_blocks():
    """One pass over the pool for many picks is what makes it fast."""
    pool = naive.pool_of("clustered", 20_000, 64)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy_module, "pick_block", lambda *a, **k: seen.append(lazy.pick_block(*a, **k)) or seen[-1])
        greedy(pool, fixed=np.zeros(len(pool)), diversity_weight=1.0, budget=500, chosen=NONE)
    assert len(seen) < 50


@pytest.mark.parametrize("n", [100, 40_000, 1_000_000])
@pytest.mark.parametrize("count", [65, 512])
def test_candidates_stay_few_however_large_the_pool(n, count):
    values = np.random.default_rng(0).random(n)
    top = lazy._top(values, min(count, n))
    assert min(count, n) // 4 <= len(top) <= max(4 * count, n // 100)
    assert values[top].min() >= np.delete(values, top).max(initial=0)


def test_nearest_distance_to_nothing_is_infinite():
    assert np.isinf(nearest_distance(naive.pool_of("blobs", 10, 3), chosen=NONE)).all()


def test_when_only_duplicates_are_left_inside_a_block_the_others_are_asked_again(monkeypatch):
    monkeypatch.setattr(greedy_module, "SMALL", 0)
    monkeypatch.setattr(lazy, "_CANDIDATES", 3)
    pool = naive.unit(np.repeat(np.eye(2), 6, axis=0))
    # After one of each kind all distances are 0. The candidates are then of the second kind, the best are not.
    assert_same(pool, np.repeat([1.0, 0.5], 6), 1.0, 8, NONE)


@pytest.mark.parametrize("small", [0, 5000])
def test_a_pick_that_is_nearer_by_a_hair_counts(small, monkeypatch):
    """Single precision cannot tell the two distances apart, and half of the time has them the wrong way round."""
    monkeypatch.setattr(greedy_module, "SMALL", small)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        middle = naive.unit(np.ones((1, 384)))
        far = naive.unit(rng.standard_normal((1, 384)))
        near = rng.permutation(far[0])[None]  # as far from the middle
        near[0, np.argmin(np.abs(near[0]))] += 2.0**-24  # and a step towards it
        assert_same(np.concatenate([middle, far, near]), np.array([1.0, 3.0, 2.0]), 0.0, 2, NONE)


def test_every_case_is_stood_for_by_its_nearest_chosen_one():
    z, _ = standardise(naive.pool_of("clustered", 300, 8))
    chosen = np.array([250, 3, 77])
    owner = np.linalg.norm(z[:, None] - z[chosen], axis=2).argmin(axis=1)
    np.testing.assert_array_equal(stand_for(z, rows=z[chosen], own=chosen), np.bincount(owner, minlength=3))


def test_a_chosen_copy_stands_for_itself():
    z, _ = standardise(np.array([[0.0, 1], [0, 1], [1, 0], [0, 1]]))
    counts = stand_for(z, rows=z[[0, 1, 2]], own=np.array([0, 1, 2]))
    assert counts.sum() == 4 and counts[2] == 1 and counts.min() == 1
    assert stand_for(z, rows=z[:0], own=np.array([], int)).shape == (0,)
