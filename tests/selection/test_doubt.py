"""What a model is unsure of weighs cases, and does not choose them."""

import numpy as np
import pytest

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection import Constraints, select
from nnunetv2_xssr.selection.scores import doubt_rank
from nnunetv2_xssr.selection.standardise import standardise


def two_crowds(*, one=20, other=20, odd=0, seed=0):
    """Two crowds of cases far from each other, and some far from everything."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(np.eye(8)[:2], [one, other], axis=0)
    return np.concatenate([centres + rng.normal(0, 0.05, centres.shape), 3 * np.eye(8)[2 : 2 + odd]]).astype(np.float32)


def plain_greedy(z, weights, budget):
    """Of sum_i w_i max_{j in S} (2 - |z_i - z_j|), in double precision, with weights as the objective rounds them."""
    closeness = 2 - np.linalg.norm(z[:, None].astype(float) - z[None], axis=2)
    served, picks = np.zeros(len(z)), []
    weights = np.round(weights * 2**10) / 2**10
    for _ in range(budget):
        gains = (weights[:, None] * np.maximum(closeness - served[:, None], 0)).sum(axis=0)
        picks.append(int(np.argmax(gains)))
        served = np.maximum(served, closeness[:, picks[-1]])
    return picks


def test_the_picks_are_those_of_the_plain_greedy_with_weights_by_the_rank_of_doubt():
    rng = np.random.default_rng(1)
    pool, doubt = rng.normal(size=(60, 6)).astype(np.float32), rng.random(60)
    chosen = select(pool, 8, doubt=doubt)
    ranks = np.argsort(np.argsort(doubt)) / 59
    z, _ = standardise(pool, None)
    assert chosen.picks.tolist() == plain_greedy(z, 0.5 + 0.5 * ranks, 8)
    assert chosen.picks.tolist() != select(pool, 8).picks.tolist()
    np.testing.assert_allclose(chosen.doubt, ranks[chosen.picks])


@pytest.mark.parametrize("doubted", [0, 1])
def test_of_two_like_crowds_the_doubted_one_comes_first(doubted):
    pool = two_crowds()
    crowd = np.repeat([0, 1], 20)
    first = select(pool, 1, doubt=(crowd == doubted).astype(float)).picks[0]
    assert crowd[first] == doubted


def test_an_odd_case_is_not_picked_for_its_doubt_alone():
    pool = two_crowds(odd=3)
    doubt = np.append(np.zeros(40), [0.9, 0.8, 0.7])
    assert set(select(pool, 3, strategy="random").picks) <= set(range(43))
    assert not set(select(pool, 2, doubt=doubt).picks) & {40, 41, 42}


def test_only_the_order_of_doubt_counts_and_without_doubt_nothing_changes():
    rng = np.random.default_rng(2)
    pool, doubt = rng.normal(size=(40, 5)).astype(np.float32), rng.random(40)
    labelled = np.array([3, 7])
    chosen = select(pool, 6, labelled=labelled, doubt=doubt)
    other = doubt**3 / 10
    other[labelled] = 99.0  # of labelled cases nobody asks
    again = select(pool, 6, labelled=labelled, doubt=other)
    assert again.picks.tolist() == chosen.picks.tolist()
    assert again.doubt.tolist() == chosen.doubt.tolist()
    plain = select(pool, 6, labelled=labelled)
    assert plain.doubt is None
    assert select(pool, 6, labelled=labelled, doubt=np.full(40, 0.3)).picks.tolist() == plain.picks.tolist()


def test_ranks():
    doubt = np.array([0.2, 0.9, 0.2, 5.0, 0.1])
    assert doubt_rank(doubt, chosen=np.array([3])).tolist() == [0.5, 1.0, 0.5, 0.0, 0.0]
    assert doubt_rank(np.array([0.4]), chosen=np.empty(0, int)).tolist() == [0.0]


@pytest.mark.parametrize(
    ("doubt", "strategy", "part"),
    [
        (np.zeros(7), "xssr", "of 8 cases"),
        (np.full(8, np.nan), "xssr", "finite"),
        (np.zeros(8), "coreset", "got coreset"),
    ],
)
def test_bad_doubt(doubt, strategy, part):
    pool = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    with pytest.raises(UserError, match=part):
        select(pool, 2, doubt=doubt, strategy=strategy)


@pytest.mark.parametrize("strategy", ["xssr", "coreset", "kmeans", "random"])
def test_random_cases_are_part_of_the_budget_and_the_rest_is_chosen_around_them(strategy):
    pool = np.random.default_rng(4).normal(size=(50, 6)).astype(np.float32)
    labelled = np.array([1, 2])
    chosen = select(pool, 9, labelled=labelled, strategy=strategy, control=4, horizon=12)
    assert len(set(chosen.picks)) == 9 and chosen.control.sum() == 4 and not set(chosen.picks) & {1, 2}
    drawn, others = chosen.picks[chosen.control], chosen.picks[~chosen.control]
    around = select(pool, 5, labelled=np.concatenate([labelled, drawn]), strategy=strategy)
    assert others.tolist() == around.picks.tolist()
    assert chosen.mean_distance == pytest.approx(around.mean_distance) and chosen.by_budget.budget[-1] >= 9
    assert select(pool, 9, strategy=strategy).control is None


def test_every_case_is_drawn_as_often_and_at_every_place():
    pool = two_crowds(one=15, other=5)
    runs = [select(pool, 6, control=2, seed=seed) for seed in range(200)]
    cases = np.bincount(np.concatenate([run.picks[run.control] for run in runs]), minlength=20)
    places = np.sum([run.control for run in runs], axis=0)
    assert 5 < cases.min() and cases.max() < 40 and 45 < places.min() and places.max() < 90


def test_random_cases_respect_the_limits():
    pool = np.random.default_rng(4).normal(size=(40, 6)).astype(np.float32)
    patients = [f"p{i // 4}" for i in range(40)]
    for seed in range(5):
        constraints = Constraints(group=patients, max_per_group=1)
        chosen = select(pool, 8, control=3, seed=seed, constraints=constraints)
        assert len({patients[i] for i in chosen.picks}) == 8
