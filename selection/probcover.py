"""ProbCover: balls of one radius around the picks that cover as many cases as possible."""

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import pairwise_distances_chunked

from nnunetv2_xssr.selection.clusters import cluster
from nnunetv2_xssr.selection.limits import Draft, Limits

PURITY = 0.95


def ball_radius(rows: np.ndarray, *, n_clusters: int, seed: int) -> float:
    """The largest radius at which 95 % of the balls are pure (ProbCover, Yehuda et al. 2022, section 3.2).

    A ball is pure if all its cases are in the k-means cluster of its centre. So the radius is the 5 % quantile of the
    distances to the nearest case of another cluster.
    """
    labels, _ = cluster(rows, n_clusters=n_clusters, seed=seed)
    if labels.max() == 0:  # a single cluster: every ball is pure, and one ball holds all cases
        return np.inf

    def nearest_of_another_cluster(distances: np.ndarray, start: int) -> np.ndarray:
        same = labels == labels[start : start + len(distances), None]
        return np.where(same, np.inf, distances).min(axis=1)

    nearest = np.concatenate(list(pairwise_distances_chunked(rows, reduce_func=nearest_of_another_cluster)))
    return float(np.quantile(nearest, 1 - PURITY, method="lower"))


def probcover_picks(rows: np.ndarray, *, budget: int, chosen: np.ndarray, limits: Limits, seed: int) -> np.ndarray:
    """Repeatedly pick the case whose ball covers the most uncovered cases (Yehuda et al. 2022, algorithm 1).

    The method does not say what to do once all cases are covered: we go on with the case farthest from all picks.
    Memory does not grow with n x n.
    """
    radius = ball_radius(rows, n_clusters=min(budget + len(chosen), len(rows)), seed=seed)
    uncovered = np.ones(len(rows), bool)
    gain = np.zeros(len(rows))
    for within in _balls(rows, rows, radius):
        gain += within.sum(axis=0)
    nearest = np.full(len(rows), np.inf)

    def cover(i: int) -> None:
        distance = np.linalg.norm(rows - rows[i], axis=1)
        np.minimum(nearest, distance, out=nearest)
        newly = np.flatnonzero(uncovered & (distance < radius))
        uncovered[newly] = False
        for within in _balls(rows[newly], rows, radius):
            np.subtract(gain, within.sum(axis=0), out=gain)

    for i in chosen:
        cover(i)
    draft = Draft(rows, budget=budget, chosen=chosen, limits=limits)
    while draft.open.any():
        quality = gain if gain[draft.open].max() > 0 else nearest
        i = int(np.argmax(np.where(draft.open, quality, -1)))
        draft.take(i)
        cover(i)
    return np.array(draft.picks, int)


def _balls(centres: np.ndarray, rows: np.ndarray, radius: float) -> Iterator[np.ndarray]:
    """Blocks of the matrix that says which rows lie in which centre's ball."""
    if len(centres):
        for d in pairwise_distances_chunked(centres, rows):
            yield d < radius
