"""Facility location: picks that every case of the pool is near to, by an exact lazy greedy."""

from collections.abc import Callable

import numpy as np

from nnunetv2_xssr.selection.limits import Draft

_BLOCK = 64  # candidates whose gain is computed at a time, by one product


def pick_facilities(rows: np.ndarray, draft: Draft, utility: Callable[[np.ndarray], np.ndarray]) -> None:
    """Greedily maximise sum_i max_{j in S} utility(|z_i - z_j|).

    The gain of a case only falls as S grows, so a gain computed earlier bounds it from above: only the candidates with
    the highest bounds are computed again, until the best of them beats all other bounds (lazy greedy, Minoux 1978).
    Memory grows with n, not n x n. Ties go to the first case.

    Parameters
    ----------
    rows : array of shape (n, d)
    draft : Draft
        Takes the picks.
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
    for i in draft.chosen:
        np.maximum(served, utilities(np.array([i]))[0], out=served)

    def gains(candidates: np.ndarray) -> np.ndarray:
        return np.maximum(utilities(candidates) - served, 0).sum(axis=1)

    blocks = np.array_split(np.arange(len(rows)), -(-len(rows) // _BLOCK))
    bound = np.concatenate([gains(block) for block in blocks])
    while draft.open.any():
        bound[~draft.open] = -np.inf
        fresh = np.zeros(len(rows), bool)
        while not fresh[i := int(np.argmax(bound))]:
            stale = np.flatnonzero(~fresh & (bound > -np.inf))
            top = stale[np.argpartition(-bound[stale], min(_BLOCK, len(stale)) - 1)[:_BLOCK]]
            top = np.sort(np.union1d(top, [i]))
            bound[top] = gains(top)
            fresh[top] = True
        draft.take(i)
        np.maximum(served, utilities(np.array([i]))[0], out=served)
