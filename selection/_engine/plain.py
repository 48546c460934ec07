"""The greedy for few cases, where lazy evaluation costs more than it saves: one pass over all cases per pick."""

import numpy as np

from nnunetv2_xssr.compiling import compiled
from nnunetv2_xssr.selection._engine.cells import rough_squared_distance, squared_distance
from nnunetv2_xssr.selection.limits import is_open, take


@compiled()
def plain_greedy(pool, fixed, weight, budget, nearest, slack, limits):
    """Return the picks as `nnunetv2_xssr.selection.greedy.greedy` defines them, and update ``nearest`` in place.

    Parameters
    ----------
    pool : float32 array of shape (n, d)
    fixed : array of shape (n,)
        The part of the score that does not depend on the picks, overwritten; -inf for a closed case.
    weight : array of shape (n,)
    budget : int
    nearest : array of shape (n,)
    slack : float
        Most that rounding to single precision can add to a squared distance.
    limits : Limits
        Their room is used up in place; there are fewer picks if no case is left open.
    """
    picks = np.empty(budget, np.int64)
    for t in range(budget):
        radius = nearest.max()
        some = 0 < radius < np.inf
        best, top = -1, -np.inf
        for i in range(len(pool)):
            score = radius * fixed[i] + weight[i] * nearest[i] if some else fixed[i]
            if score > top:
                if is_open(limits, i, nearest[i]):
                    best, top = i, score
                else:
                    fixed[i] = -np.inf
        if best < 0:
            return picks[:t]
        picks[t], fixed[best] = best, -np.inf
        take(limits, best)
        for i in range(len(pool)):
            # The true distance is needed only if single precision cannot rule out that it is shorter.
            if rough_squared_distance(pool[i], pool[best]) - slack < nearest[i] * nearest[i]:
                nearest[i] = min(nearest[i], np.sqrt(squared_distance(pool[i], pool[best])))
    return picks
