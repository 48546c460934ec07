"""The trade-off between novelty and diversity, calibrated by coverage of the embedding space."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import config
from threadpoolctl import threadpool_limits

from nnunetv2_xssr.selection.cells import Cells, cells_of
from nnunetv2_xssr.selection.greedy import greedy

ALPHAS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class AlphaCurve:
    """What every alpha of the grid gives.

    Attributes
    ----------
    alphas, mean_distance, covering_radius : tuples of float
        Mean and maximum over the pool of the distance to the nearest chosen case, one a grid point.
    overlap : tuple of float
        Share of the picks that two neighbours of the grid have in common, one for every grid point but the last.
    """

    alphas: tuple[float, ...]
    mean_distance: tuple[float, ...]
    covering_radius: tuple[float, ...]
    overlap: tuple[float, ...]


def calibrate(
    pool: np.ndarray | Cells,
    weighted_density: np.ndarray,
    novelty: np.ndarray,
    budget: int,
    chosen: np.ndarray,
    alphas: tuple[float, ...] = ALPHAS,
) -> tuple[float, np.ndarray, AlphaCurve]:
    """Run the greedy for every alpha and keep the one whose picks cover the pool best.

    score_i(S) = weighted_density_i + alpha * novelty_i + (1 - alpha) * diversity_i(S); the best alpha minimises
    mean_i min_{j in S} |z_i - z_j| (the paper's embedding-space coverage, as we read it); ties go to the smallest.

    Returns
    -------
    alpha : float
    picks : int array of shape (budget,)
    curve : AlphaCurve
    """
    cells = cells_of(pool)

    def run(alpha):
        return greedy(cells, weighted_density + alpha * novelty, 1 - alpha, budget, chosen)

    # Compiled loops run side by side; the matrix products inside them must not start threads of their own.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(config.NUMBA_NUM_THREADS) as threads:
        picks, nearest = zip(*threads.map(run, alphas), strict=True)
    mean = tuple(float(distances.mean()) for distances in nearest)
    radius = tuple(float(distances.max()) for distances in nearest)
    overlap = tuple(len(np.intersect1d(*pair)) / budget for pair in zip(picks[:-1], picks[1:], strict=True))
    best = int(np.argmin(mean))
    return alphas[best], picks[best], AlphaCurve(tuple(alphas), mean, radius, overlap)
