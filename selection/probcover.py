"""ProbCover: balls of one radius around the picks that cover as many cases as possible."""

import numpy as np
from sklearn.metrics import pairwise_distances_chunked

from nnunetv2_xssr.selection.clusters import cluster
from nnunetv2_xssr.selection.limits import Draft, Limits

PURITY = 0.95


def ball_radius(rows: np.ndarray, n_clusters: int, seed: int) -> float:
    """The largest radius at which 95 % of the balls are pure (ProbCover, Yehuda et al. 2022, section 3.2).

    A ball is pure if all its cases are in the k-means cluster of its centre. So the radius is the 5 % quantile of the
    distances to the nearest case of another cluster.
    """
    labels, _ = cluster(rows, n_clusters, seed)
    if labels.max() == 0:  # one cluster: every ball is pure, and one of them holds all
        return np.inf

    def nearest_stranger(distances, start):
        same = labels == labels[start : start + len(distances), None]
        return np.where(same, np.inf, distances).min(axis=1)

    nearest = np.concatenate(list(pairwise_distances_chunked(rows, reduce_func=nearest_stranger)))
    return float(np.quantile(nearest, 1 - PURITY, method="lower"))


def probcover_picks(rows: np.ndarray, budget: int, chosen: np.ndarray, limits: Limits, seed: int) -> np.ndarray:
    """Pick the case whose ball covers the most uncovered cases, again and again (Yehuda et al. 2022, algorithm 1).

    The method says nothing about what follows when all cases are covered: then the picks go on with the case farthest
    from all of them. Nothing of size n x n is held.
    """
    radius = ball_radius(rows, min(budget + len(chosen), len(rows)), seed)
    uncovered = np.ones(len(rows), bool)
    gain = np.zeros(len(rows))
    for within in _balls(rows, rows, radius):
        gain += within.sum(axis=0)
    nearest = np.full(len(rows), np.inf)

    def cover(i):
        distance = np.linalg.norm(rows - rows[i], axis=1)
        np.minimum(nearest, distance, out=nearest)
        newly = np.flatnonzero(uncovered & (distance < radius))
        uncovered[newly] = False
        for within in _balls(rows[newly], rows, radius):
            np.subtract(gain, within.sum(axis=0), out=gain)

    for i in chosen:
        cover(i)
    draft = Draft(rows, budget, chosen, limits)
    while draft.open.any():
        quality = gain if gain[draft.open].max() > 0 else nearest
        i = int(np.argmax(np.where(draft.open, quality, -1)))
        draft.take(i)
        cover(i)
    return np.array(draft.picks, int)


def _balls(centres: np.ndarray, rows: np.ndarray, radius: float):
    """Blocks of the matrix that says which rows lie in which centre's ball."""
    if len(centres):
        for d in pairwise_distances_chunked(centres, rows):
            yield d < radius
