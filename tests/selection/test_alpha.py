"""The grid of alphas: every point is the greedy of that alpha, and the one that covers the pool best is kept."""

import naive
import numpy as np
import pytest

from nnunetv2_xssr.selection.alpha import ALPHAS, calibrate_sum

NONE = np.empty(0, int)


@pytest.fixture(scope="module")
def problem():
    pool = naive.pool_of("clustered", 400, 16)
    rng = np.random.default_rng(0)
    return pool, 0.5 * rng.random(400), rng.random(400)


def test_every_point_of_the_curve_is_the_naive_greedy(problem):
    pool, density, novelty = problem
    alpha, picks, curve = calibrate_sum(
        pool, weighted_density=density, novelty=novelty, budget=30, chosen=np.array([7])
    )
    runs = [naive.greedy(pool, density + a * novelty, 1 - a, 30, np.array([7])) for a in ALPHAS]
    assert curve.alpha == ALPHAS
    np.testing.assert_allclose(curve.mean_distance, [nearest.mean() for _, nearest, _ in runs], rtol=1e-12)
    np.testing.assert_array_equal(curve.covering_radius, [nearest.max() for _, nearest, _ in runs])
    shared = [len(set(a[0]) & set(b[0])) / 30 for a, b in zip(runs[:-1], runs[1:], strict=True)]
    np.testing.assert_array_equal(curve.overlap, shared)
    assert alpha == ALPHAS[int(np.argmin(curve.mean_distance))]
    np.testing.assert_array_equal(picks, runs[ALPHAS.index(alpha)][0])


def test_ties_go_to_the_smallest_alpha(problem):
    pool, density, _ = problem
    # Without novelty and at the whole budget every alpha covers the pool alike.
    assert calibrate_sum(pool, weighted_density=density, novelty=np.zeros(400), budget=400, chosen=NONE)[0] == 0.0


def test_a_grid_of_one_has_no_overlap(problem):
    pool, density, novelty = problem
    alpha, picks, curve = calibrate_sum(
        pool, weighted_density=density, novelty=novelty, budget=5, chosen=NONE, alphas=(0.3,)
    )
    assert (alpha, curve.overlap) == (0.3, ())
    assert len(picks) == 5
