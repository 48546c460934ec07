"""Density, novelty and doubt: the parts of the score that do not depend on the picks."""

import numpy as np
from scipy.stats import rankdata

from nnunetv2_xssr.selection._engine.cells import Cells, cells_of
from nnunetv2_xssr.selection._engine.neighbours import nearest_neighbours

N_NEIGHBOURS = 20
_SPARSE = 0.3  # quantile of the pool that is below the median of the others if bursts are up to 40 % of the pool
_USUAL = 10  # times the height of that quantile: the largest height above the least that may set the scale
_TIE = 1e-6  # relative difference that raw densities must exceed, so that rounding cannot cause it


def mean_neighbour_distance(pool: np.ndarray | Cells, *, k: int, others: np.ndarray | None = None) -> np.ndarray:
    """Mean distance of each case to its k nearest others, shape (n,); without ``others``, to those of the pool."""
    return nearest_neighbours(pool, k=k, others=others)[0].mean(axis=1)


def scaled(values: np.ndarray, *, least: float, span: float) -> np.ndarray:
    """Scale values to [0, 1]: ``least`` becomes 0, ``least + span`` and more 1; a span of zero makes all of them 0."""
    return np.minimum((values - least) / span, 1.0) if span > 0 else np.zeros_like(values)


def raw_density(distance: np.ndarray) -> np.ndarray:
    """1 / (mean distance to the nearest neighbours + 1e-5); the constant is ours and keeps copies finite."""
    return 1 / (distance + 1e-5)


def density_span(raw: np.ndarray) -> float:
    """The height above the least raw density of a pool at which its density is 1: see `density`."""
    height = raw - raw.min()
    sparse = np.quantile(height, _SPARSE, method="lower")
    if sparse <= _TIE * raw.min():  # so many cases tie for the least, which says nothing about the others
        return height.max()
    return height[height <= _USUAL * sparse].max()


def density(pool: np.ndarray | Cells, *, wholes: np.ndarray | None = None) -> np.ndarray:
    """Typicality of each case, in [0, 1], shape (n,).

    1 / (mean distance to the k = min(20, n - 1) nearest of the pool + 1e-5) (TypiClust, Hacohen et al. 2022, eq. 1),
    min-max scaled over the usual cases; 1 for the others. A case is usual if it lies at most ten times as far above the
    least dense case as the 30 % quantile of the pool does.

    A burst of near-copies, such as the frames of a video, is a hundred times as dense as anything else. If it set the
    scale, all other cases would have density 0, and the score would lose one of its parts. With this rule the median
    density of the others is at least 0.1 while bursts make up at most 40 % of the pool, and a burst far denser than
    the rest does not affect their scale. If all cases are usual, as in most pools, this is plain min-max scaling.

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
    wholes : int array of shape (n,), optional
        Where cases are parts, such as slices of volumes: the whole of each. Parts of one whole are no neighbours.
    """
    cells = cells_of(pool)
    n = len(cells.pool)
    wholes = np.arange(n) if wholes is None else wholes
    largest = int(np.bincount(wholes).max())
    k = min(N_NEIGHBOURS, n - largest)
    if k == 0:
        return np.zeros(n)
    distances, rows = nearest_neighbours(cells, k=k + largest - 1)
    if largest > 1:
        own = wholes[rows] == wholes[:, None]
        # Parts of other wholes first, still by distance: there are k of them at least.
        order = np.argsort(own, axis=1, kind="stable")[:, :k]
        distances = np.take_along_axis(distances, order, axis=1)
    raw = raw_density(distances.mean(axis=1))
    return scaled(raw, least=raw.min(), span=density_span(raw))


def novelty(pool: np.ndarray | Cells, source: np.ndarray | None) -> np.ndarray:
    """Distance of each case from the source, in [0, 1], shape (n,); zero without a source.

    Mean distance to the min(20, m) nearest source cases, min-max scaled over the pool (our reading of XSSR).
    """
    cells = cells_of(pool)
    if source is None:
        return np.zeros(len(cells.pool))
    distance = mean_neighbour_distance(cells, k=min(N_NEIGHBOURS, len(source)), others=source)
    return scaled(distance, least=distance.min(), span=np.ptp(distance))


def doubt_rank(doubt: np.ndarray, *, chosen: np.ndarray) -> np.ndarray:
    """Share of the other open cases that a model doubts less than each, in [0, 1], shape (n,); 0 for chosen ones.

    Equal ones share the mean of their ranks. Ranks, because what has been checked of a model's doubt is the order in
    which it puts cases, and because one case on which its predictions have nothing in common must not set the scale.

    Parameters
    ----------
    doubt : array of shape (n,)
    chosen : int array
        Labelled cases, of which nobody asks what a model thinks.
    """
    ranks, is_open = np.zeros(len(doubt)), np.ones(len(doubt), bool)
    is_open[chosen] = False
    ranks[is_open] = (rankdata(doubt[is_open]) - 1) / max(np.count_nonzero(is_open) - 1, 1)
    return ranks
