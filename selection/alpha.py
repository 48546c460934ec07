"""The trade-off between novelty and diversity, calibrated by coverage of the embedding space."""

from dataclasses import dataclass

import numpy as np

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
    """

    alphas: tuple[float, ...]
    mean_distance: tuple[float, ...]
    covering_radius: tuple[float, ...]


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
    runs = [greedy(cells, weighted_density + alpha * novelty, 1 - alpha, budget, chosen) for alpha in alphas]
    mean = tuple(float(nearest.mean()) for _, nearest in runs)
    best = int(np.argmin(mean))
    curve = AlphaCurve(tuple(alphas), mean, tuple(float(nearest.max()) for _, nearest in runs))
    return alphas[best], runs[best][0], curve
