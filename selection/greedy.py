"""The greedy algorithm that XSSR and k-center share, and the coverage of a set of picks."""

import numpy as np

from nnunetv2_xssr.selection.cells import SMALL, Cells
from nnunetv2_xssr.selection.coverage import BLOCK, Coverage
from nnunetv2_xssr.selection.lazy import pick_block, replay_block
from nnunetv2_xssr.selection.plain import plain_greedy


def greedy(
    pool: np.ndarray | Cells, fixed: np.ndarray, diversity_weight: float, budget: int, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pick the case with the highest ``fixed + diversity_weight * diversity(S)``, add it to S, repeat.

    diversity_i(S) = min_{j in S} |z_i - z_j| / r(S), with the covering radius r(S) = max_i min_{j in S} |z_i - z_j|;
    zero while S is empty, and when r(S) = 0 (only duplicates are left). The score is compared as
    ``r(S) * fixed + diversity_weight * min_{j in S} |z_i - z_j|``, which has the same order and only falls as S grows.
    Ties go to the case that comes first in the pool. The picks are those of the plain loop over all cases in double
    precision; most of its work is left out because bounds show that it cannot matter.

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
        Rows as `standardise` gives them.
    fixed : array of shape (n,)
        The part of the score that does not depend on the picks.
    diversity_weight : float, 0 or more
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
    coverage = Coverage(pool)
    coverage.add(chosen)
    free = np.array(fixed, np.float64)
    free[chosen] = -np.inf
    if len(free) < SMALL:
        nearest = coverage.distances()
        cells = coverage.cells
        return plain_greedy(cells.pool, free, float(diversity_weight), budget, nearest, cells.slack), nearest
    picks = np.empty(budget, np.int64)
    done = 0
    while done < budget:
        if done == 0 and len(chosen) == 0:
            new = np.argmax(free)[None]
        else:
            limit = min(BLOCK, budget - done)
            new = pick_block(coverage, free, float(diversity_weight), limit)
        picks[done : done + len(new)] = new
        free[new] = -np.inf
        coverage.add(new)
        done += len(new)
    return picks, coverage.distances()


def replay(pool: np.ndarray | Cells, picks: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diversity of every pick at the moment it was picked, shape (k,), and the final nearest distances, shape (n,)."""
    coverage = Coverage(pool)
    coverage.add(chosen)
    diversity = np.zeros(len(picks))
    done = 0
    while done < len(picks):
        if done == 0 and len(chosen) == 0:
            count = 1  # the first pick is diverse from nothing
        else:
            new = replay_block(coverage, np.asarray(picks[done : done + BLOCK], np.int64))
            count = len(new)
            diversity[done : done + count] = new
        coverage.add(picks[done : done + count])
        done += count
    return diversity, coverage.distances()


def nearest_distance(pool: np.ndarray | Cells, chosen: np.ndarray) -> np.ndarray:
    """Distance of every case to its nearest chosen one, shape (n,); infinite where nothing is chosen."""
    coverage = Coverage(pool)
    coverage.add(chosen)
    return coverage.distances()
