"""Distance of every case to its nearest chosen one."""

import numpy as np
from numba import njit

from nnunetv2_xssr.selection.cells import Cells, cells_of, rough_squared_distance, squared_distance, whole

BLOCK = 256  # picks that are applied together
_WASTE = 0.02  # share of pairs whose true distance may be found in vain before plain products are the cheaper way


class Coverage:
    """Distances of all cases to the nearest pick, exact at any time while picks are added.

    Attributes
    ----------
    cells : Cells
    nearest : array of shape (n,)
        min_{j in S} |z_i - z_j|; infinite while S is empty.
    """

    def __init__(self, pool: np.ndarray | Cells):
        self.cells = cells_of(pool)
        self.nearest = np.full(len(self.cells.pool), np.inf)
        self._reach = np.full(len(self.cells.centres), np.inf)

    @property
    def radius(self) -> float:
        """r(S) = max_i min_{j in S} |z_i - z_j|."""
        return float(self.nearest.max())

    def add(self, picks: np.ndarray) -> None:
        """Add rows of the pool to S."""
        if len(picks) and np.isinf(self.nearest[0]):
            _meet_first(self.cells.pool, picks[0], self.nearest)
            picks = picks[1:]
        for start in range(0, len(picks), BLOCK):
            self._add_block(np.asarray(picks[start : start + BLOCK], np.int64))

    def _add_block(self, picks: np.ndarray) -> None:
        patience = _WASTE * len(self.nearest) * len(picks) if self.cells.sketched else np.inf
        if not _meet(self.cells, picks, self.nearest, self._reach, patience):
            self.cells = whole(self.cells.pool)
            self._reach = np.full(len(self.cells.centres), np.inf)
            self._add_block(picks)


@njit(cache=True, nogil=True)
def _meet_first(pool, pick, nearest):
    """Every true distance is needed: read the pool in its own order."""
    for i in range(len(pool)):
        nearest[i] = np.sqrt(squared_distance(pool[i], pool[pick]))


@njit(cache=True, nogil=True)
def _meet(cells, picks, nearest, reach, patience):
    """Let every case meet new picks; False when too many true distances were in vain, with some cases still to do.

    reach[c] is the largest distance from the centre of cell c at which a pick can still be news to one of its cases:
    max_i |x_i - centre| + nearest_i, by the triangle inequality.
    """
    mine = cells.features[cells.position[picks]]
    squares = cells.squares[cells.position[picks]]
    near = np.empty(len(picks), np.int64)
    hits = np.empty(len(picks) + 1, np.int64)
    waste = 0
    for cell in range(len(cells.centres)):
        count = 0
        for j in range(len(picks)):
            near[count] = j
            gap = rough_squared_distance(cells.centres[cell], mine[j]) - cells.slack
            count += gap <= reach[cell] * reach[cell]
        if count == 0:
            continue
        start, stop = cells.starts[cell], cells.starts[cell + 1]
        products = np.dot(cells.features[start:stop], mine[near[:count]].T)
        norms = squares[near[:count]]
        farthest = 0.0
        for e in range(start, stop):
            i, row = cells.rows[e], products[e - start]
            # |x_e - x_j|^2 - slack < nearest^2, with what does not depend on j on the right
            limit = np.float32(nearest[i] * nearest[i] - cells.squares[e] + cells.slack)
            if nearest[i] > 0 and _any_below(row, norms, limit):
                found = _below(row, norms, limit, hits)
                for j in hits[:found]:
                    bound = norms[j] - 2 * row[j] + cells.squares[e] - cells.slack
                    if bound < nearest[i] * nearest[i]:
                        distance = np.sqrt(squared_distance(cells.pool[i], cells.pool[picks[near[j]]]))
                        waste += distance >= nearest[i]
                        nearest[i] = min(nearest[i], distance)
            farthest = max(farthest, cells.away[e] + nearest[i])
        reach[cell] = farthest
        if waste > patience:
            return False
    return True


@njit(cache=True, nogil=True)
def _any_below(row, norms, limit):
    count = 0  # a count, because the compiler makes vector code of sums and not of exits or minima
    for j in range(row.size):
        count += norms[j] - np.float32(2) * row[j] < limit
    return count > 0


@njit(cache=True, nogil=True)
def _below(row, norms, limit, hits):
    """Write down which entries are below the limit, the lowest first."""
    found, lowest = 0, np.float32(np.inf)
    for j in range(row.size):
        value = norms[j] - np.float32(2) * row[j]
        hits[found] = j
        if value < lowest and value < limit:
            lowest = value
            hits[0], hits[found] = j, hits[0]
        found += value < limit
    return found
