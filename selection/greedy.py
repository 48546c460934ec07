"""The greedy algorithm that XSSR and k-center share, and the coverage of a set of picks."""

from collections.abc import Callable

import numpy as np

from nnunetv2_xssr.selection._engine.cells import SMALL, Cells
from nnunetv2_xssr.selection._engine.coverage import BLOCK, Coverage
from nnunetv2_xssr.selection._engine.lazy import pick_block, replay_block
from nnunetv2_xssr.selection._engine.neighbours import nearest_neighbours
from nnunetv2_xssr.selection._engine.plain import plain_greedy
from nnunetv2_xssr.selection.limits import Limits, take, unlimited


def greedy(
    pool: np.ndarray | Cells,
    fixed: np.ndarray,
    diversity_weight: float | np.ndarray,
    budget: int,
    chosen: np.ndarray,
    limits: Limits | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pick the case with the highest ``fixed + diversity_weight * diversity(S)``, add it to S, repeat.

    diversity_i(S) = min_{j in S} |z_i - z_j| / r(S), with the covering radius r(S) = max_i min_{j in S} |z_i - z_j|;
    zero while S is empty, and when r(S) = 0 (only duplicates are left). The score is compared as
    ``r(S) * fixed + diversity_weight * min_{j in S} |z_i - z_j|``, which has the same order and only falls as S grows.
    Ties go to the case that comes first in the pool. The picks are those of the plain loop over all cases in double
    precision; most of its work is left out because bounds show that it cannot matter. Limits only take cases away, so
    the bounds hold under them too.

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
        Rows as `standardise` gives them.
    fixed : array of shape (n,)
        The part of the score that does not depend on the picks.
    diversity_weight : float or array of shape (n,), 0 or more
    budget : int
        k, how many cases to pick.
    chosen : int array
        Cases that are in S from the start; they are not picked again.
    limits : Limits, optional

    Returns
    -------
    picks : int array of shape (k,)
        Fewer where the limits leave nothing open.
    nearest : array of shape (n,)
        Distance of every case to its nearest chosen one at the end.
    """
    coverage = Coverage(pool)
    coverage.add(chosen)
    n = len(coverage.nearest)
    limits = unlimited(n) if limits is None else limits.fresh()
    free, weight = np.array(fixed, np.float64), np.zeros(n) + diversity_weight
    free[chosen] = -np.inf
    if n < SMALL:
        nearest, cells = coverage.distances(), coverage.cells
        return plain_greedy(cells.pool, free, weight, budget, nearest, cells.slack, limits), nearest
    picks = np.empty(0, np.int64)
    while len(picks) < budget:
        free[~limits.open_cases() | (coverage.nearest < limits.min_distance)] = -np.inf
        if np.isneginf(free.max()):
            break
        if len(picks) == 0 and len(chosen) == 0:
            new = np.argmax(free)[None]
            take(limits, new[0])
        else:
            new = pick_block(coverage, free, weight, min(BLOCK, budget - len(picks)), limits)
        free[new] = -np.inf
        coverage.add(new)
        picks = np.append(picks, new)
    return picks, coverage.distances()


def greedy_within_cost(
    pool: np.ndarray | Cells,
    fixed: np.ndarray,
    diversity_weight: float,
    budget: int,
    chosen: np.ndarray,
    limits: Limits,
    loss: Callable[[np.ndarray], float],
) -> tuple[np.ndarray, np.ndarray]:
    """The greedy by score or, if its picks cover better, the greedy by score per cost; without costs the two are one.

    Either alone can be arbitrarily bad under a total cost, the better of both cannot (Leskovec et al. 2007, theorem 3,
    for monotone submodular gains).

    Parameters
    ----------
    loss : callable
        Of the distances to the nearest chosen case, shape (n,); the smaller the better. Ties go to the plain greedy.
    pool, fixed, diversity_weight, budget, chosen, limits
        As in `greedy`, which says what is returned.
    """
    runs = [greedy(pool, fixed, diversity_weight, budget, chosen, limits)]
    if limits.costs_differ:
        runs.append(greedy(pool, fixed / limits.cost, diversity_weight / limits.cost, budget, chosen, limits))
    return min(runs, key=lambda run: loss(run[1]))


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


def stand_for(pool: np.ndarray | Cells, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many cases of the pool have each chosen case as their nearest chosen one, int array of shape (k,).

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
    rows : float32 array of shape (k, d)
        Of the chosen cases.
    own : int array of shape (k,)
        Where the chosen cases are in the pool; -1 if they are not. A chosen case stands for itself, its copies aside.
    """
    if len(rows) == 0:
        return np.zeros(0, int)
    nearest = nearest_neighbours(pool, 1, rows)[1][:, 0]
    here = own >= 0
    nearest[own[here]] = np.flatnonzero(here)
    return np.bincount(nearest, minlength=len(rows))
