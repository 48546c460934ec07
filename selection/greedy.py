"""The greedy algorithm that XSSR and k-center share, and the coverage of a set of picks."""

import numpy as np

from nnunetv2_xssr.selection.scores import distances


def _add(nearest: np.ndarray, pool: np.ndarray, i: int) -> None:
    """Let the new pick i shorten the distance of every case to its nearest pick."""
    np.minimum(nearest, distances(pool, pool[i : i + 1])[:, 0], out=nearest)
    nearest[i] = 0.0  # rounding leaves a case about 1e-8 away from itself


def nearest_distance(pool: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Distance of every case to its nearest chosen one, shape (n,); infinite where nothing is chosen."""
    nearest = np.full(len(pool), np.inf)
    for i in chosen:
        _add(nearest, pool, i)
    return nearest


def diversity(nearest: np.ndarray) -> np.ndarray:
    """min_{j in S} |z_i - z_j| / r(S) with the covering radius r(S) = max_i min_{j in S} |z_i - z_j|, shape (n,).

    Zero for every case while S is empty, and when r(S) = 0 (only duplicates are left).
    """
    radius = nearest.max()
    return nearest / radius if 0 < radius < np.inf else np.zeros(len(nearest))


def greedy(
    pool: np.ndarray, fixed: np.ndarray, diversity_weight: float, budget: int, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pick the case with the highest ``fixed + diversity_weight * diversity(S)``, add it to S, repeat.

    Ties go to the case that comes first in the pool. Everything is in double precision: this plain loop is the
    definition of exactness.

    Parameters
    ----------
    pool : float64 array of shape (n, d)
        Rows of unit length.
    fixed : array of shape (n,)
        The part of the score that does not depend on the picks.
    diversity_weight : float
    budget : int
        k, how many cases to pick.
    chosen : int array
        Cases that are in S from the start; they are not picked again.

    Returns
    -------
    picks : int array of shape (k,)
    nearest : array of shape (n,)
        Distance of every case to its nearest chosen one at the end.
    """
    nearest = nearest_distance(pool, chosen)
    candidate = np.ones(len(pool), bool)
    candidate[chosen] = False
    picks = np.empty(budget, int)
    for t in range(budget):
        score = np.where(candidate, fixed + diversity_weight * diversity(nearest), -np.inf)
        picks[t] = i = int(np.argmax(score))
        candidate[i] = False
        _add(nearest, pool, i)
    return picks, nearest


def replay(pool: np.ndarray, picks: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diversity of every pick at the moment it was picked, shape (k,), and the final nearest distances, shape (n,)."""
    nearest = nearest_distance(pool, chosen)
    at_pick = np.empty(len(picks))
    for t, i in enumerate(picks):
        at_pick[t] = diversity(nearest)[i]
        _add(nearest, pool, i)
    return at_pick, nearest
