"""The greedy for few cases, where the lazy one spends more than it saves: one pass over all of them per pick."""

import numpy as np
from numba import njit

from nnunetv2_xssr.selection._engine.cells import rough_squared_distance, squared_distance
from nnunetv2_xssr.selection.limits import is_open, take


@njit(cache=True, nogil=True)
def plain_greedy(pool, free, weight, budget, nearest, slack, limits):
    """Return the picks, as `nnunetv2_xssr.selection.greedy.greedy` defines them, and shorten ``nearest`` in place.

    Parameters
    ----------
    pool : float32 array of shape (n, d)
    free : array of shape (n,)
        The part of the score that does not depend on the picks, overwritten; -inf for a case that cannot be picked.
    weight : array of shape (n,)
    budget : int
    nearest : array of shape (n,)
    slack : float
        What rounding to single precision can add to a squared distance.
    limits : Limits
        Their room is used up in place; the picks end early where nothing is left open.
    """
    picks = np.empty(budget, np.int64)
    for t in range(budget):
        radius = nearest.max()
        some = 0 < radius < np.inf
        best, top = -1, -np.inf
        for i in range(len(pool)):
            score = radius * free[i] + weight[i] * nearest[i] if some else free[i]
            if score > top:
                if is_open(limits, i, nearest[i]):
                    best, top = i, score
                else:
                    free[i] = -np.inf
        if best < 0:
            return picks[:t]
        picks[t], free[best] = best, -np.inf
        take(limits, best)
        for i in range(len(pool)):
            # The true distance only where single precision does not rule out that it is the shorter one.
            if rough_squared_distance(pool[i], pool[best]) - slack < nearest[i] * nearest[i]:
                nearest[i] = min(nearest[i], np.sqrt(squared_distance(pool[i], pool[best])))
    return picks
