"""Distance of each case to its nearest chosen one."""

from typing import NamedTuple

import numpy as np

from nnunetv2_xssr.compiling import compiled
from nnunetv2_xssr.selection._engine.cells import Cells, cells_of, picks_near_cell, squared_distance, whole

BLOCK = 256  # picks that are applied together
_FALSE_HITS = 0.02  # share of pairs with a useless true distance from which on plain products are cheaper


class Coverage:
    """Distances of all cases to the nearest of the picks S, while picks are added.

    The features often show which pick is the nearest, but its distance only roughly. The true distance is computed on
    demand, because reading two rows costs more than all steps before it.

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
        self._pruning_radii = np.full(len(self.cells.centres), np.inf)

    def add(self, picks: np.ndarray) -> None:
        """Add rows of the pool to S."""
        if len(picks) and np.isinf(self.nearest[0]):
            _apply_first(self.cells.pool, picks[0], self.nearest)
            picks = picks[1:]
        for start in range(0, len(picks), BLOCK):
            self._add_block(np.asarray(picks[start : start + BLOCK], np.int64))

    def _add_block(self, picks: np.ndarray) -> None:
        most_false_hits = _FALSE_HITS * len(self.nearest) * len(picks) if self.cells.sketched else np.inf
        if not _apply(self.cells, picks, self.nearest, self._pending, self._pruning_radii, most_false_hits):
            self.cells = whole(self.cells.pool)
            self._pruning_radii = np.full(len(self.cells.centres), np.inf)
            self._add_block(picks)

    def settle(self, rows: np.ndarray) -> None:
        """Make the distances of these cases exact."""
        _settle(self.cells.pool, rows, self.nearest, self._pending)

    def distances(self) -> np.ndarray:
        """min_{j in S} |z_i - z_j|, exact for all cases, shape (n,)."""
        self.settle(np.arange(len(self.nearest)))
        return self.nearest


class Pending(NamedTuple):
    """The nearest pick of cases that are not settled, and a bound of its distance.

    Attributes
    ----------
    pick : int array of shape (n,)
        -1 for a settled case.
    least : array of shape (n,)
        Least possible squared distance; the largest possible one is nearest^2.
    """

    pick: np.ndarray
    least: np.ndarray


@compiled()
def _apply_first(pool, pick, nearest):
    """All true distances are needed: read the pool in its own order."""
    for i in range(len(pool)):
        nearest[i] = np.sqrt(squared_distance(pool[i], pool[pick]))


@compiled()
def _settle(pool, rows, nearest, pending):
    for i in rows:
        if pending.pick[i] >= 0:
            nearest[i] = np.sqrt(squared_distance(pool[i], pool[pending.pick[i]]))
            pending.pick[i] = -1


@compiled()
def _apply(cells, picks, nearest, pending, pruning_radii, most_false_hits):
    """Update the distances of all cases with new picks; False if it stopped early, after too many false hits.

    A false hit is a pair whose bound is too small to prune it, but whose true distance is of no use. A pick farther
    from the centre of cell c than pruning_radii[c] = max_i |x_i - centre| + nearest_i cannot be the nearest of any of
    its cases (triangle inequality).
    """
    entries = cells.position[picks]
    features, squares = cells.features[entries], cells.squares[entries]
    of_centres = np.dot(cells.centres, features.T)
    near = np.empty(len(picks), np.int64)
    hits = np.empty(len(picks), np.int64)
    false_hits = 0
    for c in range(len(cells.centres)):
        count = picks_near_cell(cells, c, squares, of_centres[c], pruning_radii[c], near)
        if count == 0:
            continue
        start, stop = cells.starts[c], cells.starts[c + 1]
        products = np.dot(cells.features[start:stop], features[near[:count]].T)
        near_entries = entries[near[:count]]
        norms = squares[near[:count]]
        farthest = 0.0
        for e in range(start, stop):
            i, row = cells.rows[e], products[e - start]
            if nearest[i] > 0:
                # |x_e - x_j|^2 - slack < nearest^2, with what does not depend on j on the right
                limit = np.float32(nearest[i] * nearest[i] - cells.squares[e] + cells.slack)
                if _any_below(row, norms, limit):
                    found = _below(row, norms, limit, hits)
                    false_hits += _apply_to(cells, e, near_entries, row, hits[:found], nearest, pending)
            farthest = max(farthest, cells.from_centre[e] + nearest[i])
        pruning_radii[c] = farthest
        if false_hits > most_false_hits:
            return False
    return True


@compiled()
def _any_below(row, norms, limit):
    count = 0  # a count, because compilers vectorise sums but not early exits
    for j in range(row.size):
        count += norms[j] - np.float32(2) * row[j] < limit
    return count > 0


@compiled()
def _below(row, norms, limit, hits):
    """Write down which entries are below the limit, and return how many."""
    found = 0
    for j in range(row.size):
        hits[found] = j
        found += norms[j] - np.float32(2) * row[j] < limit
    return found


@compiled()
def _apply_to(cells, e, entries, products, hits, nearest, pending):
    """Update the case at entry e with the picks ``hits``; return the number of false hits.

    The true distance is left for later if the largest possible distance of one pick is at most the least possible
    distance of all others, the nearest one so far included.
    """
    i = cells.rows[e]
    best, least = 0, np.inf
    second = nearest[i] * nearest[i] if pending.pick[i] < 0 else pending.least[i]
    for h in range(len(hits)):
        bound = cells.squares[e] + cells.squares[entries[hits[h]]] - 2 * products[hits[h]] - cells.slack
        if bound < least:
            best, least, second = h, bound, min(second, least)
        else:
            second = min(second, bound)
    hits[0], hits[best] = hits[best], hits[0]
    most = least + 2 * cells.slack + 4 * cells.residual[e] * cells.residual[entries[hits[0]]]
    if most <= second:
        nearest[i], pending.pick[i], pending.least[i] = np.sqrt(most), cells.rows[entries[hits[0]]], least
        return 0
    if pending.pick[i] >= 0:
        nearest[i] = np.sqrt(squared_distance(cells.pool[i], cells.pool[pending.pick[i]]))
        pending.pick[i] = -1
    false_hits = 0
    for j in hits:
        bound = cells.squares[e] + cells.squares[entries[j]] - 2 * products[j] - cells.slack
        if bound < nearest[i] * nearest[i]:
            distance = np.sqrt(squared_distance(cells.pool[i], cells.pool[cells.rows[entries[j]]]))
            false_hits += distance >= nearest[i]
            nearest[i] = min(nearest[i], distance)
    return false_hits
