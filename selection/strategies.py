"""The strategies: each is one function with the same call, listed in ``STRATEGIES``.

A strategy takes a `Problem` and returns an `Outcome`; `nnunetv2_xssr.selection.select` is the one place that calls it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.selection.alpha import ALPHAS, AlphaCurve, calibrate
from nnunetv2_xssr.selection.cells import Cells
from nnunetv2_xssr.selection.greedy import greedy


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


STRATEGIES: dict[str, Callable[[Problem], Outcome]] = {"xssr": xssr, "random": random, "coreset": coreset}
