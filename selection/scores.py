"""Density and novelty: the two parts of the score that do not depend on the picks."""

import numpy as np

from nnunetv2_xssr.selection._engine.cells import Cells, cells_of
from nnunetv2_xssr.selection._engine.neighbours import nearest_neighbours

N_NEIGHBOURS = 20


def mean_neighbour_distance(pool: np.ndarray | Cells, k: int, others: np.ndarray | None = None) -> np.ndarray:
    """Mean distance of every case to its k nearest others, shape (n,); without ``others``, to those of the pool."""
    return nearest_neighbours(pool, k, others)[0].mean(axis=1)


def min_max(values: np.ndarray) -> np.ndarray:
    """Scale to [0, 1] over the pool; equal values become zero."""
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def density(pool: np.ndarray | Cells) -> np.ndarray:
    """Typicality of every case, in [0, 1], shape (n,).

    1 / (mean distance to the k = min(20, n - 1) nearest of the pool + 1e-5), min-max scaled (TypiClust, Hacohen et
    al. 2022, eq. 1; the small constant is ours and keeps duplicates finite).
    """
    cells = cells_of(pool)
    n = len(cells.pool)
    if n == 1:
        return np.zeros(1)
    return min_max(1 / (mean_neighbour_distance(cells, min(N_NEIGHBOURS, n - 1)) + 1e-5))


def novelty(pool: np.ndarray | Cells, source: np.ndarray | None) -> np.ndarray:
    """Distance of every case from what the source has, in [0, 1], shape (n,); zero without a source.

    Mean distance to the min(20, m) nearest source cases, min-max scaled over the pool (our reading of XSSR).
    """
    cells = cells_of(pool)
    if source is None:
        return np.zeros(len(cells.pool))
    return min_max(mean_neighbour_distance(cells, min(N_NEIGHBOURS, len(source)), source))
