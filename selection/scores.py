"""Density and novelty: the two parts of the score that do not depend on the picks."""

import numpy as np

N_NEIGHBOURS = 20
_BLOCK = 2**24  # distances held at a time; bounds memory at 128 MiB whatever the size of the pool


def distances(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distances, shape (len(rows), len(others)), between rows of unit length (or zero)."""
    rows, others = rows.astype(np.float64), others.astype(np.float64)
    squared = (rows**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * (rows @ others.T)
    return np.sqrt(np.maximum(squared, 0))


def _blocks(n_rows: int, n_others: int):
    step = max(1, _BLOCK // max(1, n_others))
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def mean_neighbour_distance(rows: np.ndarray, others: np.ndarray, k: int, exclude_self: bool) -> np.ndarray:
    """Mean distance of every row to its k nearest others, shape (n,).

    ``exclude_self`` says that both are the same array, and that a row is not its own neighbour.
    """
    mean = np.empty(len(rows))
    for block in _blocks(len(rows), len(others)):
        d = distances(rows[block], others)
        if exclude_self:
            d[np.arange(len(d)), np.arange(block.start, block.stop)] = np.inf
        mean[block] = np.partition(d, k - 1, axis=1)[:, :k].mean(axis=1)
    return mean


def min_max(values: np.ndarray) -> np.ndarray:
    """Scale to [0, 1] over the pool; equal values become zero."""
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def density(pool: np.ndarray) -> np.ndarray:
    """Typicality of every case, in [0, 1], shape (n,).

    1 / (mean distance to the k = min(20, n - 1) nearest of the pool + 1e-5), min-max scaled (TypiClust, Hacohen et
    al. 2022, eq. 1; the small constant is ours and keeps duplicates finite).
    """
    n = len(pool)
    if n == 1:
        return np.zeros(1)
    return min_max(1 / (mean_neighbour_distance(pool, pool, min(N_NEIGHBOURS, n - 1), exclude_self=True) + 1e-5))


def novelty(pool: np.ndarray, source: np.ndarray | None) -> np.ndarray:
    """Distance of every case from what the source has, in [0, 1], shape (n,); zero without a source.

    Mean distance to the min(20, m) nearest source cases, min-max scaled over the pool (our reading of XSSR).
    """
    if source is None:
        return np.zeros(len(pool))
    return min_max(mean_neighbour_distance(pool, source, min(N_NEIGHBOURS, len(source)), exclude_self=False))
