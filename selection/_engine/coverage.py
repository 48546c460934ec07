"""Distance of every case to its nearest chosen one."""

from typing import NamedTuple

import numpy as np
from numba import njit

from nnunetv2_xssr.selection._engine.cells import Cells, cells_of, news_to_cell, squared_distance, whole

BLOCK = 256  # picks that are applied together
_WASTE = 0.02  # share of pairs whose true distance may be found in vain before plain products are the cheaper way


class Coverage:
    """Distances of all cases to the nearest of the picks S, while picks are added.

    Often the features tell which pick is the nearest, and its distance only roughly. The true distance is found when
    it is asked for, because reading two rows costs more than all that leads up to it.

    Attributes
    ----------
    cells : Cells
    nearest : array of shape (n,)
        At least min_{j in S} |z_i - z_j|, and equal to it for settled cases; infinite while S is empty.
    """

    def __init__(self, pool: np.ndarray | Cells):
        self.cells = cells_of(pool)
        n = len(self.cells.pool)
        self.nearest = np.full(n, np.inf)
        self._pending = Pending(np.full(n, -1), np.zeros(n))
        self._reach = np.full(len(self.cells.centres), np.inf)

    def add(self, picks: np.ndarray) -> None:
        """Add rows of the pool to S."""
        if len(picks) and np.isinf(self.nearest[0]):
            _meet_first(self.cells.pool, picks[0], self.nearest)
            picks = picks[1:]
        for start in range(0, len(picks), BLOCK):
            self._add_block(np.asarray(picks[start : start + BLOCK], np.int64))

    def _add_block(self, picks: np.ndarray) -> None:
        patience = _WASTE * len(self.nearest) * len(picks) if self.cells.sketched else np.inf
        if not _meet(self.cells, picks, self.nearest, self._pending, self._reach, patience):
            self.cells = whole(self.cells.pool)
            self._reach = np.full(len(self.cells.centres), np.inf)
            self._add_block(picks)

    def settle(self, rows: np.ndarray) -> None:
        """Make the distances of these cases exact."""
        _settle(self.cells.pool, rows, self.nearest, self._pending)

    def distances(self) -> np.ndarray:
        """min_{j in S} |z_i - z_j|, exact for all cases, shape (n,)."""
        self.settle(np.arange(len(self.nearest)))
        return self.nearest


class Pending(NamedTuple):
    """For cases that are not settled: the pick that is known to be the nearest, and what its distance can be.

    Attributes
    ----------
    pick : int array of shape (n,)
        -1 for a settled case.
    least : array of shape (n,)
        The square of the true distance is at least this, and at most nearest^2.
    """

    pick: np.ndarray
    least: np.ndarray


@njit(cache=True, nogil=True)
def _meet_first(pool, pick, nearest):
    """Every true distance is needed: read the pool in its own order."""
    for i in range(len(pool)):
        nearest[i] = np.sqrt(squared_distance(pool[i], pool[pick]))


@njit(cache=True, nogil=True)
def _settle(pool, rows, nearest, pending):
    for i in rows:
        if pending.pick[i] >= 0:
            nearest[i] = np.sqrt(squared_distance(pool[i], pool[pending.pick[i]]))
            pending.pick[i] = -1


@njit(cache=True, nogil=True)
def _meet(cells, picks, nearest, pending, reach, patience):
    """Let every case meet new picks; False when too many true distances were in vain, with some cases still to do.

    reach[c] is the largest distance from the centre of cell c at which a pick can still be news to one of its cases:
    max_i |x_i - centre| + nearest_i, by the triangle inequality.
    """
    places = cells.position[picks]
    features, squares = cells.features[places], cells.squares[places]
    gaps = np.dot(cells.centres, features.T)
    near = np.empty(len(picks), np.int64)
    hits = np.empty(len(picks), np.int64)
    waste = 0
    for c in range(len(cells.centres)):
        count = news_to_cell(cells, c, squares, gaps[c], reach[c], near)
        if count == 0:
            continue
        start, stop = cells.starts[c], cells.starts[c + 1]
        products = np.dot(cells.features[start:stop], features[near[:count]].T)
        here = places[near[:count]]
        norms = squares[near[:count]]
        farthest = 0.0
        for e in range(start, stop):
            i, row = cells.rows[e], products[e - start]
            if nearest[i] > 0:
                # |x_e - x_j|^2 - slack < nearest^2, with what does not depend on j on the right
                limit = np.float32(nearest[i] * nearest[i] - cells.squares[e] + cells.slack)
                if _any_below(row, norms, limit):
                    found = _below(row, norms, limit, hits)
                    waste += _approach(cells, e, here, row, hits[:found], nearest, pending)
            farthest = max(farthest, cells.away[e] + nearest[i])
        reach[c] = farthest
        if waste > patience:
            return False
    return True


@njit(cache=True, nogil=True)
def _any_below(row, norms, limit):
    count = 0  # a count, because the compiler makes vector code of sums and not of exits
    for j in range(row.size):
        count += norms[j] - np.float32(2) * row[j] < limit
    return count > 0


@njit(cache=True, nogil=True)
def _below(row, norms, limit, hits):
    """Write down which entries are below the limit, and return how many."""
    found = 0
    for j in range(row.size):
        hits[found] = j
        found += norms[j] - np.float32(2) * row[j] < limit
    return found


@njit(cache=True, nogil=True)
def _approach(cells, e, places, products, hits, nearest, pending):
    """Let the case at entry e meet the picks ``hits``; return how many true distances were in vain.

    The true distance waits if one of the picks, the old nearest included, is nearer at most than any other at least.
    """
    i = cells.rows[e]
    best, least = 0, np.inf
    second = nearest[i] * nearest[i] if pending.pick[i] < 0 else pending.least[i]
    for h in range(len(hits)):
        bound = cells.squares[e] + cells.squares[places[hits[h]]] - 2 * products[hits[h]] - cells.slack
        if bound < least:
            best, least, second = h, bound, min(second, least)
        else:
            second = min(second, bound)
    hits[0], hits[best] = hits[best], hits[0]
    most = least + 2 * cells.slack + 4 * cells.left_out[e] * cells.left_out[places[hits[0]]]
    if most <= second:
        nearest[i], pending.pick[i], pending.least[i] = np.sqrt(most), cells.rows[places[hits[0]]], least
        return 0
    if pending.pick[i] >= 0:
        nearest[i] = np.sqrt(squared_distance(cells.pool[i], cells.pool[pending.pick[i]]))
        pending.pick[i] = -1
    waste = 0
    for j in hits:
        bound = cells.squares[e] + cells.squares[places[j]] - 2 * products[j] - cells.slack
        if bound < nearest[i] * nearest[i]:
            distance = np.sqrt(squared_distance(cells.pool[i], cells.pool[cells.rows[places[j]]]))
            waste += distance >= nearest[i]
            nearest[i] = min(nearest[i], distance)
    return waste
