"""Facility location: picks that every case of the pool is near to, by an exact lazy greedy."""

from collections.abc import Callable

import numpy as np

_BLOCK = 64  # candidates whose gain is computed at a time, by one product


def facility_picks(
    rows: np.ndarray, budget: int, chosen: np.ndarray, utility: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Greedily maximise sum_i max_{j in S} utility(|z_i - z_j|).

    The gain of a case only falls as S grows, so a gain computed earlier bounds it from above: only the candidates with
    the highest bounds are computed again, until the best of them beats all other bounds (lazy greedy, Minoux 1978).
    Memory grows with n, not n x n. Ties go to the first case.

    Parameters
    ----------
    rows : array of shape (n, d)
    budget : int
    chosen : int array
        In S from the start.
    utility : callable
        Falls with distance; at the largest distance between rows of unit length, 2, it may not be negative.
    """
    rows = np.asarray(rows, np.float64)
    squared = (rows**2).sum(axis=1)

    def utilities(candidates: np.ndarray) -> np.ndarray:
        d2 = squared[candidates, None] + squared - 2 * (rows[candidates] @ rows.T)
        d2[np.arange(len(candidates)), candidates] = 0  # rounding leaves a case about 1e-8 away from itself
        return utility(np.sqrt(np.maximum(d2, 0)))

    served = np.zeros(len(rows))
    for i in chosen:
        np.maximum(served, utilities(np.array([i]))[0], out=served)

    def gains(candidates: np.ndarray) -> np.ndarray:
        return np.maximum(utilities(candidates) - served, 0).sum(axis=1)

    blocks = np.array_split(np.arange(len(rows)), -(-len(rows) // _BLOCK))
    bound = np.concatenate([gains(block) for block in blocks])
    bound[chosen] = -np.inf
    picks = np.empty(budget, int)
    for t in range(budget):
        fresh = np.zeros(len(rows), bool)
        while not fresh[i := int(np.argmax(bound))]:
            stale = np.flatnonzero(~fresh & (bound > -np.inf))
            top = stale[np.argpartition(-bound[stale], min(_BLOCK, len(stale)) - 1)[:_BLOCK]]
            top = np.sort(np.union1d(top, [i]))
            bound[top] = gains(top)
            fresh[top] = True
        picks[t] = i
        bound[i] = -np.inf
        np.maximum(served, utilities(np.array([i]))[0], out=served)
    return picks
