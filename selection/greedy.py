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
    *,
    fixed: np.ndarray,
    diversity_weight: float | np.ndarray,
    budget: int,
    chosen: np.ndarray,
    limits: Limits | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pick the case with the highest ``fixed + diversity_weight * diversity(S)``, add it to S, repeat.

    diversity_i(S) = min_{j in S} |z_i - z_j| / r(S), with the covering radius r(S) = max_i min_{j in S} |z_i - z_j|. It
    is zero while S is empty and once r(S) = 0, when only duplicates are left. The code compares
    ``r(S) * fixed + diversity_weight * min_{j in S} |z_i - z_j|``, which has the same order and only falls as S grows.
    Ties go to the case that comes first in the pool. The picks are those of the plain loop over all cases in double
    precision; bounds show that most of its work cannot matter, and it is skipped. Limits only close cases, so the
    bounds hold under limits too.

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
        Cases that are in S from the start; they are not picked.
    limits : Limits, optional

    Returns
    -------
    picks : int array of shape (k,)
        Fewer if the limits leave no case open.
    nearest : array of shape (n,)
        Distance of each case to its nearest chosen one at the end.
    """
    coverage = Coverage(pool)
    coverage.add(chosen)
    n = len(coverage.nearest)
    limits = unlimited(n) if limits is None else limits.fresh()
    fixed, weight = np.array(fixed, np.float64), np.zeros(n) + diversity_weight
    fixed[chosen] = -np.inf
    if n < SMALL:
        nearest, cells = coverage.distances(), coverage.cells
        return plain_greedy(cells.pool, fixed, weight, budget, nearest, cells.slack, limits), nearest
    picks = np.empty(0, np.int64)
    while len(picks) < budget:
        fixed[~limits.open_cases() | (coverage.nearest < limits.min_distance)] = -np.inf
        if np.isneginf(fixed.max()):
            break
        if len(picks) == 0 and len(chosen) == 0:
            new = np.array([np.argmax(fixed)])
            take(limits, new[0])
        else:
            most = min(BLOCK, budget - len(picks))
            new = pick_block(coverage, fixed=fixed, weight=weight, most=most, limits=limits)
        fixed[new] = -np.inf
        coverage.add(new)
        picks = np.append(picks, new)
    return picks, coverage.distances()


def greedy_within_cost(
    pool: np.ndarray | Cells,
    *,
    fixed: np.ndarray,
    diversity_weight: float,
    budget: int,
    chosen: np.ndarray,
    limits: Limits,
    loss: Callable[[np.ndarray], float],
) -> tuple[np.ndarray, np.ndarray]:
    """The greedy by score or, if its picks cover better, the greedy by score per cost. Without costs they are the same.

    Under a total cost either alone can be arbitrarily bad, but not the better of the two (Leskovec et al. 2007,
    theorem 3, for monotone submodular gains).

    Parameters
    ----------
    pool, fixed, diversity_weight, budget, chosen, limits
        See `greedy`, which has the same result.
    loss : callable
        From the distances to the nearest chosen case, shape (n,), to a number; smaller is better. Ties go to the greedy
        by score.
    """
    costs: list[float | np.ndarray] = [1.0, limits.cost] if limits.costs_differ else [1.0]
    runs = [
        greedy(
            pool,
            fixed=fixed / cost,
            diversity_weight=diversity_weight / cost,
            budget=budget,
            chosen=chosen,
            limits=limits,
        )
        for cost in costs
    ]
    return min(runs, key=lambda run: loss(run[1]))


def replay(pool: np.ndarray | Cells, *, picks: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diversity of each pick when it was picked, shape (k,), and the final nearest distances, shape (n,)."""
    coverage = Coverage(pool)
    coverage.add(chosen)
    diversity = np.zeros(len(picks))
    done = 0
    while done < len(picks):
        if done == 0 and len(chosen) == 0:
            count = 1  # there is nothing yet that the first pick could differ from
        else:
            new = replay_block(coverage, picks=np.asarray(picks[done : done + BLOCK], np.int64))
            count = len(new)
            diversity[done : done + count] = new
        coverage.add(picks[done : done + count])
        done += count
    return diversity, coverage.distances()


def nearest_distance(pool: np.ndarray | Cells, *, chosen: np.ndarray) -> np.ndarray:
    """Distance of each case to its nearest chosen one, shape (n,); infinite if none is chosen."""
    coverage = Coverage(pool)
    coverage.add(chosen)
    return coverage.distances()


def stand_for(pool: np.ndarray | Cells, *, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many cases of the pool have each chosen case as their nearest chosen one, int array of shape (k,).

    Parameters
    ----------
    pool, rows, own
        See `nearest_chosen`.
    """
    if len(rows) == 0:
        return np.zeros(0, int)
    return np.bincount(nearest_chosen(pool, rows=rows, own=own), minlength=len(rows))


def nearest_chosen(pool: np.ndarray | Cells, *, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Which chosen case is nearest to each case of the pool, int array of shape (n,).

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
    rows : float32 array of shape (k, d)
        Features of the chosen cases, at least one.
    own : int array of shape (k,)
        Rows of the chosen cases in the pool; -1 if they are not in it. A chosen case always stands for itself, also if
        another chosen case is its copy.
    """
    nearest = nearest_neighbours(pool, k=1, others=rows)[1][:, 0]
    here = own >= 0
    nearest[own[here]] = np.flatnonzero(here)
    return nearest
