"""Facility location against a naive greedy, and its samples against the exact greedy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import Distances, pool_of, slow, unit

from nnunetv2_xssr.selection import facility
from nnunetv2_xssr.selection.facility import facility_picks
from nnunetv2_xssr.selection.greedy import nearest_distance
from nnunetv2_xssr.selection.limits import unlimited

NONE = np.empty(0, int)
UTILITIES = [lambda distance: 2 - distance, lambda distance: np.exp(-(distance**2))]
either_utility = pytest.mark.parametrize("utility", UTILITIES, ids=["facility_location", "maxherding"])


def ours(pool, budget, chosen, utility):
    return facility_picks(pool, budget=budget, chosen=chosen, limits=unlimited(len(pool)), utility=utility)


def naive_picks(pool, budget, chosen, utility):
    """All gains anew for every pick. Utilities are rounded to 2^-22, so that equal gains are equal sums."""
    distances_to = Distances(pool)
    utilities = np.array([np.round(utility(distances_to(i)) * 2**22) / 2**22 for i in range(len(pool))])
    served = np.zeros(len(pool))
    taken = np.zeros(len(pool), bool)
    picks = []
    for i in chosen:
        served, taken[i] = np.maximum(served, utilities[i]), True
    for _ in range(budget):
        gains = np.maximum(utilities - served, 0).sum(axis=1)
        picks.append(int(np.argmax(np.where(taken, -1, gains))))
        served, taken[picks[-1]] = np.maximum(served, utilities[picks[-1]]), True
    return picks


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_picks_are_those_of_the_naive_greedy(data):
    """Rows with few different values: many duplicates, and many equal distances."""
    n, d = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 4))
    rows = data.draw(st.lists(st.integers(-1, 1), min_size=n * d, max_size=n * d))
    pool = unit(np.array(rows, float).reshape(n, d))
    chosen = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=n - 1, unique=True)), int)
    budget = data.draw(st.integers(1, n - len(chosen)))
    utility = data.draw(st.sampled_from(UTILITIES))
    assert ours(pool, budget, chosen, utility).tolist() == naive_picks(pool, budget, chosen, utility)


@either_utility
@pytest.mark.parametrize("kind", ["clustered", "isotropic", "duplicates"])
def test_picks_are_those_of_the_naive_greedy_on_larger_pools(kind, utility):
    pool, chosen = pool_of(kind, 1500, 32), np.array([3, 700])
    assert ours(pool, 150, chosen, utility).tolist() == naive_picks(pool, 150, chosen, utility)


@pytest.mark.parametrize("kind", ["blobs", *slow("clustered", "isotropic", "duplicates")])
def test_samples_cost_little_coverage(kind, monkeypatch):
    pool, chosen = pool_of(kind, 5000, 64), np.arange(5)
    by_samples = [ours(pool, budget, chosen, UTILITIES[0]) for budget in (50, 250)]
    monkeypatch.setattr(facility, "WHOLE", len(pool))
    exact = ours(pool, 250, chosen, UTILITIES[0])
    for picks, most in zip(by_samples, (1.03, 1.01), strict=True):
        assert len(set(picks.tolist() + chosen.tolist())) == len(picks) + 5
        distances = [
            nearest_distance(pool, chosen=np.append(chosen, some)).mean() for some in (picks, exact[: len(picks)])
        ]
        assert distances[0] <= most * distances[1]


def test_a_large_pool_can_be_picked_to_the_last_case():
    pool, chosen = pool_of("duplicates", 2100, 16), np.arange(0, 2100, 3)
    picks = ours(pool, 1400, chosen, UTILITIES[1])
    assert sorted(picks.tolist() + chosen.tolist()) == list(range(2100))
