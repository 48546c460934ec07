"""Strategies that cluster the pool and take one case per cluster: k-means and TypiClust."""

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors

from nnunetv2_xssr.selection.limits import Draft, Limits

# As in TypiClust: with more of them clusters get too small for a typical case, and the largest are visited repeatedly.
MAX_CLUSTERS = 500
N_NEIGHBOURS = 20


def cluster(rows: np.ndarray, *, n_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """k-means: the cluster of each case, shape (n,), and its distance to the centroid, shape (n,).

    Duplicates leave fewer clusters than asked for.
    """
    n_clusters = min(n_clusters, len(np.unique(rows, axis=0)))
    method = KMeans if n_clusters <= 50 else MiniBatchKMeans  # as in TypiClust
    fitted = method(n_clusters, n_init=3, random_state=seed).fit(rows)
    return fitted.labels_, np.linalg.norm(rows - fitted.cluster_centers_[fitted.labels_], axis=1)


def pick_by_cluster(labels: np.ndarray, *, quality: np.ndarray, draft: Draft) -> np.ndarray:
    """Visit the clusters with the fewest picks first, larger ones before smaller ones, and take the best case of each.

    Parameters
    ----------
    labels : int array of shape (n,)
    quality : array of shape (n,)
        The case with the highest quality represents its cluster; ties go to the first.
    draft : Draft
        Takes the picks.
    """
    n_clusters = labels.max() + 1
    size, taken = np.bincount(labels, minlength=n_clusters), np.bincount(labels[draft.chosen], minlength=n_clusters)
    # The best case orders clusters of equal size, because their numbers depend on chance.
    best = np.full(n_clusters, -np.inf)
    np.maximum.at(best, labels, quality)
    while draft.open.any():
        open_clusters = np.unique(labels[draft.open])
        order = np.lexsort((-best[open_clusters], -size[open_clusters], taken[open_clusters]))
        members = np.flatnonzero(draft.open & (labels == open_clusters[order[0]]))
        draft.take(members[np.argmax(quality[members])])
        taken[open_clusters[order[0]]] += 1
    return np.array(draft.picks, int)


def kmeans_picks(rows: np.ndarray, *, budget: int, chosen: np.ndarray, limits: Limits, seed: int) -> np.ndarray:
    """The case nearest to each centroid of k-means, with one cluster per chosen or picked case."""
    labels, from_centroid = cluster(rows, n_clusters=budget + len(chosen), seed=seed)
    draft = Draft(rows, budget=budget, chosen=chosen, limits=limits)
    return pick_by_cluster(labels, quality=-from_centroid, draft=draft)


def typiclust_picks(rows: np.ndarray, *, budget: int, chosen: np.ndarray, limits: Limits, seed: int) -> np.ndarray:
    """The most typical case of each cluster (TypiClust, Hacohen et al. 2022, algorithm 1).

    typicality_i = 1 / (mean distance to the 20 nearest cases of its cluster + 1e-5), eq. 1.
    """
    labels, _ = cluster(rows, n_clusters=min(budget + len(chosen), MAX_CLUSTERS), seed=seed)
    typicality = np.zeros(len(rows))
    for number in range(labels.max() + 1):
        members = np.flatnonzero(labels == number)
        k = min(N_NEIGHBOURS, len(members) - 1)
        if k > 0:
            distance, _ = NearestNeighbors(n_neighbors=k).fit(rows[members]).kneighbors()
            typicality[members] = 1 / (distance.mean(axis=1) + 1e-5)
    draft = Draft(rows, budget=budget, chosen=chosen, limits=limits)
    return pick_by_cluster(labels, quality=typicality, draft=draft)
