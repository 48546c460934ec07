"""The strategies: each is one function with the same call, listed in ``STRATEGIES``.

A strategy takes a `Problem` and returns an `Outcome`; `nnunetv2_xssr.selection.select` is the one place that calls it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.selection.alpha import ALPHAS, AlphaCurve, calibrate
from nnunetv2_xssr.selection.cells import Cells
from nnunetv2_xssr.selection.clusters import kmeans_picks, typiclust_picks
from nnunetv2_xssr.selection.facility import facility_picks
from nnunetv2_xssr.selection.greedy import greedy
from nnunetv2_xssr.selection.probcover import probcover_picks


@dataclass(frozen=True)
class Problem:
    """What there is to choose from, and how.

    Attributes
    ----------
    pool : Cells
        The standardised pool.
    density, novelty : arrays of shape (n,)
    budget : int
        k, between 1 and the number of cases that are not chosen yet.
    chosen : int array
        Cases that are labelled already: they count as picked and cost nothing.
    alphas : tuple of float
        The trade-offs to calibrate over.
    density_weight : float
    seed : int
    """

    pool: Cells
    density: np.ndarray
    novelty: np.ndarray
    budget: int
    chosen: np.ndarray
    alphas: tuple[float, ...] = ALPHAS
    density_weight: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The picks of a strategy in order, int array of shape (k,), with alpha and its curve where it has one."""

    picks: np.ndarray
    alpha: float | None = None
    curve: AlphaCurve | None = None


def xssr(problem: Problem) -> Outcome:
    """Density, novelty and diversity with a calibrated trade-off (XSSR, arXiv 2606.04301, as we read it)."""
    alpha, picks, curve = calibrate(
        problem.pool,
        problem.density_weight * problem.density,
        problem.novelty,
        problem.budget,
        problem.chosen,
        problem.alphas,
    )
    return Outcome(picks, alpha, curve)


def coreset(problem: Problem) -> Outcome:
    """k-center greedy (Sener & Savarese 2018): always the case farthest from all picks.

    The method leaves the first pick open; with no labelled case to start from it is the densest one.
    """
    first = np.empty(0, int)
    if len(problem.chosen) == 0:
        first = np.array([np.argmax(problem.density)])
    nothing = np.zeros(len(problem.density))
    chosen = np.concatenate([problem.chosen, first])
    picks, _ = greedy(problem.pool, nothing, 1.0, problem.budget - len(first), chosen)
    return Outcome(np.concatenate([first, picks]))


def random(problem: Problem) -> Outcome:
    """Cases drawn without replacement from ``numpy.random.default_rng(seed)``: what every selection must beat."""
    candidates = np.setdiff1d(np.arange(len(problem.density)), problem.chosen)
    return Outcome(np.random.default_rng(problem.seed).permutation(candidates)[: problem.budget])


def _in_canonical_order(picker: Callable[..., np.ndarray], problem: Problem, *options) -> Outcome:
    """Let a picker see the cases sorted by their features, so that no tie and no k-means depends on the pool's order.

    ``picker(rows, budget, chosen, *options)`` returns rows in order.
    """
    order = np.lexsort(problem.pool.pool.T)
    chosen = np.argsort(order)[problem.chosen]
    return Outcome(order[picker(problem.pool.pool[order], problem.budget, chosen, *options)])


def kmeans(problem: Problem) -> Outcome:
    """The case nearest to each centroid of k-means; clusters that hold a labelled case come last."""
    return _in_canonical_order(kmeans_picks, problem, problem.seed)


def typiclust(problem: Problem) -> Outcome:
    """The most typical case of each cluster (TypiClust, Hacohen et al. 2022)."""
    return _in_canonical_order(typiclust_picks, problem, problem.seed)


def probcover(problem: Problem) -> Outcome:
    """Balls around the picks that cover the most cases, of the radius at which 95 % are pure (Yehuda et al. 2022)."""
    return _in_canonical_order(probcover_picks, problem, problem.seed)


def facility_location(problem: Problem) -> Outcome:
    """Greedily minimise the mean distance to the nearest pick: sum_i max_{j in S} (2 - |z_i - z_j|) grows the most.

    2 is the largest distance between rows of unit length, which a case without a pick is taken to have.
    """
    return _in_canonical_order(facility_picks, problem, lambda distance: 2 - distance)


def maxherding(problem: Problem) -> Outcome:
    """Greedily maximise the coverage sum_i max_{j in S} exp(-|z_i - z_j|^2) (MaxHerding, Bae et al. 2024)."""
    return _in_canonical_order(facility_picks, problem, lambda distance: np.exp(-(distance**2)))


STRATEGIES: dict[str, Callable[[Problem], Outcome]] = {
    strategy.__name__: strategy
    for strategy in (xssr, random, coreset, kmeans, typiclust, probcover, facility_location, maxherding)
}
