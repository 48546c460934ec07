"""The coverage over the budget against a naive re-computation in double precision, and its knee."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunetv2_xssr.selection import STRATEGIES, Constraints, select, standardise
from nnunetv2_xssr.selection.by_budget import budgets_to_show, knee

POOLS = hnp.arrays(np.float32, st.tuples(st.integers(1, 14), st.integers(1, 4)), elements=st.integers(-3, 3).map(float))


def clusters(n=300, kinds=12, d=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 5, (kinds, d))
    return (centres[np.arange(n) % kinds] + rng.normal(0, 0.05, (n, d))).astype(np.float32)


def brute(pool, ranking, chosen=()):
    """Mean distance to the nearest of the chosen and the first 1, 2, ... of a ranking."""
    z = standardise(pool)[0].astype(np.float64)
    distances = np.sqrt(((z[:, None] - z[None]) ** 2).sum(axis=2))
    return [distances[:, [*chosen, *ranking[: k + 1]]].min(axis=1).mean() for k in range(len(ranking))]


@settings(max_examples=40)
@given(pool=POOLS, data=st.data())
def test_curve_is_that_of_the_longer_selection(pool, data):
    n = len(pool)
    budget = data.draw(st.integers(1, n))
    horizon = data.draw(st.integers(budget, n))
    chosen = select(pool, budget, alpha=0.0, horizon=horizon)
    ranking = select(pool, horizon, alpha=0.0).picks
    curve = chosen.by_budget
    assert curve.budget == tuple(range(1, horizon + 1))
    np.testing.assert_allclose(curve.mean_distance, brute(pool, ranking), atol=1e-12)
    assert curve.mean_distance[budget - 1] == pytest.approx(chosen.mean_distance, abs=1e-12)
    assert all(later <= earlier for earlier, later in zip(curve.mean_distance, curve.mean_distance[1:], strict=False))
    bands = zip(curve.random_least, curve.random_median, curve.random_most, strict=True)
    assert all(least <= median <= most for least, median, most in bands)
    assert 1 <= curve.knee <= horizon
    assert select(pool, budget, alpha=0.0, horizon=horizon).by_budget == curve


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_followed_with_its_picks_first(strategy):
    pool = clusters(60)
    chosen = select(pool, 8, source=pool[:10] + 1, strategy=strategy, labelled=np.array([3, 5]), horizon=20)
    assert chosen.by_budget.budget == tuple(range(1, 21))
    np.testing.assert_allclose(chosen.by_budget.mean_distance[:8], brute(pool, chosen.picks, [3, 5]), atol=1e-12)
    assert list(chosen.by_budget.mean_distance) == sorted(chosen.by_budget.mean_distance, reverse=True)


def test_what_comes_next_is_the_next_round():
    """The further cases are those that are picked once the picks are labelled, and no labelled one again."""
    pool, labelled = clusters(60), np.array([3, 5])
    first = select(pool, 8, source=pool[:10] + 1, alpha=0.3, labelled=labelled, horizon=58)
    second = select(pool, 50, source=pool[:10] + 1, alpha=0.3, labelled=np.append(labelled, first.picks))
    expected = brute(pool, [*first.picks, *second.picks], labelled)
    assert first.by_budget.budget == tuple(range(1, 59))
    np.testing.assert_allclose(first.by_budget.mean_distance, expected, atol=1e-12)


def test_random_band_is_what_random_draws_give():
    pool = np.random.default_rng(3).normal(size=(80, 6)).astype(np.float32)
    curve = select(pool, 5, horizon=80).by_budget
    rng = np.random.default_rng(7)
    many = np.array([brute(pool, rng.permutation(80)) for _ in range(200)])
    np.testing.assert_allclose(curve.random_median[:60], np.median(many, axis=0)[:60], rtol=0.1)
    assert (np.array(curve.random_least) >= many.min(axis=0) * 0.9)[:60].all()
    assert (np.array(curve.random_most) <= many.max(axis=0) * 1.1)[:60].all()
    assert (np.array(curve.random_most[:60]) > np.array(curve.random_least[:60])).all()
    assert curve.random_least[-1] == curve.random_most[-1] == 0  # all 80 are drawn


LIMITS = {
    "none": {},
    "labelled": {"labelled": np.array([3, 5])},
    "groups": {"constraints": Constraints(group=[f"p{i // 4}" for i in range(60)], max_per_group=1)},
    "quotas": {"constraints": Constraints(domain=["A", "B", "C"] * 20, domain_quota={"A": 3, "B": 4, "C": 1})},
    "least distance": {"constraints": Constraints(min_distance=0.4)},
    "costs": {"constraints": Constraints(cost=np.random.default_rng(5).choice([0.5, 4.0], 60))},
}


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("strategy", ["xssr", "facility_location", "random"])
@pytest.mark.parametrize("horizon", [1, 8, 40])
def test_there_is_one_number_for_random_draws(limits, strategy, horizon):
    pool = np.random.default_rng(3).normal(size=(60, 6)).astype(np.float32)
    chosen = select(pool, 8, strategy=strategy, horizon=horizon, **LIMITS[limits])
    curve = chosen.by_budget
    at_budget = curve.random_median[curve.budget.index(len(chosen.picks))]
    assert at_budget == chosen.random_mean_distance
    without = select(pool, 8, strategy=strategy, **LIMITS[limits])
    assert at_budget == pytest.approx(without.random_mean_distance, rel=1e-12)
    for band in (curve.random_least, curve.random_median, curve.random_most):
        assert all(later <= earlier for earlier, later in zip(band, band[1:], strict=False))


def test_knee_of_clusters_is_their_number():
    curve = select(clusters(kinds=12), 5, strategy="coreset", horizon=100).by_budget
    assert curve.knee == 12


def test_knee_does_not_depend_on_the_unit():
    budget, distance = range(1, 26), 1 / np.arange(1, 26)
    assert knee(budget, distance) == knee(budget, 1000 * distance + 5) == 5  # b + 25 / b is least


def test_knee_of_a_flat_or_short_curve_is_its_start():
    assert knee([1], [0.4]) == 1
    assert knee([1, 2, 3], [0.0, 0.0, 0.0]) == 1
    assert knee([1, 2], [0.4, 0.0]) == 1


def test_long_curves_have_few_points_and_those_that_are_asked_for():
    budgets = budgets_to_show(asked=1000, longest=2000)
    assert {1, 1000, 1005, 1010, 1020, 2000} <= set(budgets) and len(budgets) < 140
    assert budgets == sorted(set(budgets))
    pool = clusters(400, kinds=40)
    curve = select(pool, 150, alpha=0.0, horizon=400).by_budget
    expected = brute(pool, select(pool, 400, alpha=0.0).picks)
    np.testing.assert_allclose(curve.mean_distance, [expected[budget - 1] for budget in curve.budget], atol=1e-12)


def test_limits_hold_beyond_the_budget():
    pool, group = clusters(40), [f"p{i // 4}" for i in range(40)]
    chosen = select(pool, 4, constraints=Constraints(group=group, max_per_group=1), horizon=30)
    assert chosen.by_budget.budget == tuple(range(1, 11))  # ten patients, then nothing is open
    given = Constraints(domain=["A", "B"] * 20, domain_quota={"A": 3, "B": 1})
    assert select(pool, 4, constraints=given, horizon=30).by_budget.budget == (1, 2, 3, 4)
    shared = Constraints(domain=["A", "B"] * 20, domain_quota="equal")
    assert select(pool, 4, constraints=shared, horizon=30).by_budget.budget[-1] == 30
    cost = Constraints(cost=np.full(40, 2.0))
    assert select(pool, 8.0, constraints=cost, horizon=30).by_budget.budget[-1] == 8  # as much again


def test_no_horizon_no_curve():
    assert select(clusters(40), 4).by_budget is None
