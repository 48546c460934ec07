"""The strategies: each is one function with the same call, listed in ``STRATEGIES``.

A strategy takes a `Problem` and returns an `Outcome`; `nnunetv2_xssr.selection.select` is the one place that calls it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_xssr.selection._engine.cells import Cells
from nnunetv2_xssr.selection.alpha import ALPHAS, AlphaCurve, calibrate
from nnunetv2_xssr.selection.clusters import kmeans_picks, typiclust_picks
from nnunetv2_xssr.selection.facility import facility_picks
from nnunetv2_xssr.selection.greedy import greedy_within_cost
from nnunetv2_xssr.selection.limits import Limits, first_open, take
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
    limits : Limits
        What the picks must keep to.
    alphas : tuple of float
        The trade-offs to calibrate over.
    density_weight : float
    alpha_criterion : str
    seed : int
    """

    pool: Cells
    density: np.ndarray
    novelty: np.ndarray
    budget: int
    chosen: np.ndarray
    limits: Limits
    alphas: tuple[float, ...] = ALPHAS
    density_weight: float = 0.5
    alpha_criterion: str = "mean_distance"
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The picks of a strategy in order, int array of shape (k,) or fewer, and, where it has a score, its weights."""

    picks: np.ndarray
    density_weight: float = 0.0
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
        problem.alpha_criterion,
        problem.limits,
    )
    return Outcome(picks, problem.density_weight, alpha, curve)


def xssr_no_density(problem: Problem) -> Outcome:
    """`xssr` without density: alpha novelty_i + (1 - alpha) diversity_i(S)."""
    return xssr(replace(problem, density_weight=0.0))


def xssr_no_novelty(problem: Problem) -> Outcome:
    """`xssr` without novelty, so alpha = 0: density_weight density_i + diversity_i(S)."""
    return xssr(replace(problem, alphas=(0.0,)))


def xssr_no_diversity(problem: Problem) -> Outcome:
    """`xssr` without diversity, so alpha = 1: density_weight density_i + novelty_i."""
    return xssr(replace(problem, alphas=(1.0,)))


def coreset(problem: Problem) -> Outcome:
    """k-center greedy (Sener & Savarese 2018): always the case farthest from all picks.

    The method leaves the first pick open; with no labelled case to start from it is the densest one. Under a total cost
    the greedy on distance per cost is tried too, and the smaller covering radius wins.
    """
    first, limits = np.empty(0, int), problem.limits.fresh()
    is_open = limits.open_cases()
    if len(problem.chosen) == 0 and is_open.any():
        first = np.argmax(np.where(is_open, problem.density, -np.inf))[None]
        take(limits, first[0])
    picks, _ = greedy_within_cost(
        problem.pool,
        np.zeros(len(problem.density)),
        1.0,
        problem.budget - len(first),
        np.concatenate([problem.chosen, first]),
        limits,
        np.max,
    )
    return Outcome(np.concatenate([first, picks]))


def random(problem: Problem) -> Outcome:
    """Cases drawn without replacement from ``numpy.random.default_rng(seed)``: what every selection must beat."""
    candidates = np.setdiff1d(np.arange(len(problem.density)), problem.chosen)
    return Outcome(first_allowed(problem, np.random.default_rng(problem.seed).permutation(candidates)))


def random_draw(problem: Problem, rng: np.random.Generator) -> np.ndarray:
    """A set of random cases, not a ranking; of a large pool it takes far less than an order of all cases."""
    candidates = np.setdiff1d(np.arange(len(problem.density)), problem.chosen)
    count = len(candidates) if problem.limits.exist else problem.budget
    return first_allowed(problem, rng.choice(candidates, count, replace=False))


def first_allowed(problem: Problem, order: np.ndarray) -> np.ndarray:
    """The first cases of this order that the budget and the limits allow."""
    return first_open(problem.pool.pool, order, problem.budget, problem.chosen, problem.limits.fresh())


def _in_canonical_order(picker: Callable[..., np.ndarray], problem: Problem, *options) -> Outcome:
    """Let a picker see the cases sorted by their features, so that no tie and no k-means depends on the pool's order.

    ``picker(rows, budget, chosen, limits, *options)`` returns rows in order.
    """
    order = np.lexsort(problem.pool.pool.T)
    chosen, limits = np.argsort(order)[problem.chosen], problem.limits.rows(order)
    return Outcome(order[picker(problem.pool.pool[order], problem.budget, chosen, limits, *options)])


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
    for strategy in (
        xssr,
        xssr_no_density,
        xssr_no_novelty,
        xssr_no_diversity,
        random,
        coreset,
        kmeans,
        typiclust,
        probcover,
        facility_location,
        maxherding,
    )
}
