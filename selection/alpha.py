"""The trade-off between novelty and diversity, calibrated by coverage of the embedding space."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import config

from nnunetv2_xssr.selection._engine.cells import Cells, cells_of
from nnunetv2_xssr.selection.greedy import greedy_within_cost
from nnunetv2_xssr.selection.limits import Limits, unlimited

ALPHAS = tuple(i / 10 for i in range(11))


def mean_distance(nearest: np.ndarray, novelty: np.ndarray) -> float:
    """mean_i d_i with d_i = min_{j in S} |z_i - z_j|: the paper's embedding-space coverage, as we read it."""
    return float(nearest.mean())


def covering_radius(nearest: np.ndarray, novelty: np.ndarray) -> float:
    """max_i d_i: how far the case lies that is served worst."""
    return float(nearest.max())


def novel_mean_distance(nearest: np.ndarray, novelty: np.ndarray) -> float:
    """sum_i novelty_i d_i / sum_i novelty_i: coverage of what the source does not have.

    Where no case is new (novelty_i = 0 for all, as without a source) every case counts the same.
    """
    return float(np.average(nearest, weights=novelty if novelty.any() else None))


CRITERIA: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    criterion.__name__: criterion for criterion in (mean_distance, covering_radius, novel_mean_distance)
}


@dataclass(frozen=True)
class AlphaCurve:
    """What every alpha of the grid gives.

    Attributes
    ----------
    alpha : tuple of float
    mean_distance, covering_radius, novel_mean_distance : tuples of float
        The criteria of the same names, one value a grid point; smaller is better.
    overlap : tuple of float
        Share of the picks that two neighbours of the grid have in common, one for every grid point but the last.
    """

    alpha: tuple[float, ...]
    mean_distance: tuple[float, ...]
    covering_radius: tuple[float, ...]
    novel_mean_distance: tuple[float, ...]
    overlap: tuple[float, ...]


def calibrate(
    pool: np.ndarray | Cells,
    weighted_density: np.ndarray,
    novelty: np.ndarray,
    budget: int,
    chosen: np.ndarray,
    alphas: tuple[float, ...] = ALPHAS,
    criterion: str = "mean_distance",
    limits: Limits | None = None,
) -> tuple[float, np.ndarray, AlphaCurve]:
    """Run the greedy for every alpha and keep the one whose picks cover the pool best.

    score_i(S) = weighted_density_i + alpha * novelty_i + (1 - alpha) * diversity_i(S); the best alpha minimises the
    criterion, a name in ``CRITERIA``; ties go to the smallest.

    Returns
    -------
    alpha : float
    picks : int array of shape (budget,)
        Fewer where the limits leave nothing open.
    curve : AlphaCurve
    """
    cells = cells_of(pool)
    limits = unlimited(len(cells.pool)) if limits is None else limits
    loss = CRITERIA[criterion]

    def run(alpha):
        fixed = weighted_density + alpha * novelty
        return greedy_within_cost(cells, fixed, 1 - alpha, budget, chosen, limits, lambda d: loss(d, novelty))

    with ThreadPoolExecutor(config.NUMBA_NUM_THREADS) as threads:
        picks, nearest = zip(*threads.map(run, alphas), strict=True)
    curves = {name: tuple(value(distances, novelty) for distances in nearest) for name, value in CRITERIA.items()}
    overlap = tuple(
        len(np.intersect1d(a, b)) / max(len(a), len(b), 1) for a, b in zip(picks[:-1], picks[1:], strict=True)
    )
    best = int(np.argmin(curves[criterion]))
    return alphas[best], picks[best], AlphaCurve(tuple(alphas), **curves, overlap=overlap)
