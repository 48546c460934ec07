"""The k nearest neighbours of each case: exact, in bounded memory, and without most of the distances."""

from collections.abc import Iterable

import numpy as np

from nnunetv2_xssr.compiling import compiled
from nnunetv2_xssr.selection._engine.cells import (
    Cells,
    cells_like,
    cells_of,
    rough_squared_distance,
    squared_distance,
    whole,
)

_CHUNK = 256  # others that are compared with a cell in one matrix product
_FALSE_HITS = 0.01  # share of pairs with a useless true distance from which on plain products are cheaper


def nearest_neighbours(
    pool: np.ndarray | Cells, *, k: int, others: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest others of each case of the pool; without ``others``, the k nearest of the pool itself.

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
        Rows as `standardise` gives them; may be a memory map.
    k : int
        At most n - 1, or m.
    others : float32 array of shape (m, d), optional

    Returns
    -------
    distances : array of shape (n, k), ascending
    rows : int array of shape (n, k)
        Which others these are; any of those at equal distances.
    """
    cells = cells_of(pool)
    squared, rows = _nothing_found(cells, k)
    _look_among(cells, others, squared, rows)
    return np.sqrt(squared), rows


def nearest_distances(pool: np.ndarray | Cells, *, k: int, parts: Iterable[np.ndarray | None]) -> np.ndarray:
    """Find the distances to the k nearest of others that come in parts, one in memory at a time.

    The search in a part starts from what was found in those before it, so most of its pairs are pruned.

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
    k : int
        At most the number of all others.
    parts : iterable of float32 arrays of shape (any, d)
        None stands for the pool itself, where a case is not its own neighbour.

    Returns
    -------
    distances : array of shape (n, k), ascending
    """
    cells = cells_of(pool)
    squared, rows = _nothing_found(cells, k)
    for others in parts:
        cells = _look_among(cells, others, squared, rows)
    return np.sqrt(squared)


def _nothing_found(cells: Cells, k: int) -> tuple[np.ndarray, np.ndarray]:
    shape = len(cells.pool), k
    return np.full(shape, np.inf), np.zeros(shape, np.int64)


def _look_among(cells: Cells, others: np.ndarray | None, squared: np.ndarray, rows: np.ndarray) -> Cells:
    """Put nearer others into ``squared`` and ``rows``; return the cells for the search among the next part."""
    targets = cells if others is None else cells_like(cells, others)
    most_false_hits = _FALSE_HITS * len(cells.pool) * len(targets.pool) if cells.sketched else np.inf
    before = squared.copy(), rows.copy()
    if not _search(cells, targets, others is None, squared, rows, most_false_hits):
        squared[:], rows[:] = before
        cells = whole(cells.pool)
        _search(cells, cells if others is None else whole(targets.pool), others is None, squared, rows, np.inf)
    return cells


@compiled()
def _search(cells, targets, mutual, squared, rows, most_false_hits):
    """Improve squared distances and rows; False if it stopped early, after too many false hits.

    A false hit is a pair whose bound is too small to prune it, but whose true distance is of no use. If the targets are
    the cases themselves (``mutual``), each pair is compared once, for both. Target e is of no use to cell c if
    |e - centre_c| > |x - centre_c| + (distance of x to its k-th neighbour so far) for all x of the cell (triangle
    inequality); pruning_radii[c] is the largest right side.
    """
    radius, target_radius = _radii(cells), _radii(targets)
    slack = max(cells.slack, targets.slack)
    pruning_radii = np.full(len(radius), np.inf)
    false_hits = 0
    if mutual:
        for c in range(len(radius)):
            own = np.arange(cells.starts[c], cells.starts[c + 1])
            false_hits += _compare(cells, c, cells, own, mutual, squared, rows)
            pruning_radii[c] = _pruning_radius(cells, c, squared)
    near = np.empty(_CHUNK, np.int64)
    to_cells = np.empty(len(target_radius))
    for c in range(len(radius)):
        for other in range(len(to_cells)):
            to_cells[other] = rough_squared_distance(cells.centres[c], targets.centres[other]) - slack
        pruning_radii[c] = _pruning_radius(cells, c, squared)
        count = 0
        for other in np.argsort(to_cells):
            ours = (target_radius[other] + pruning_radii[c]) ** 2
            theirs = (radius[c] + pruning_radii[other]) ** 2 if mutual else 0.0
            if (mutual and other <= c) or (to_cells[other] > ours and to_cells[other] > theirs):
                continue
            for e in range(targets.starts[other], targets.starts[other + 1]):
                bound = rough_squared_distance(cells.centres[c], targets.features[e]) - slack
                useful = bound <= pruning_radii[c] ** 2
                if mutual and not useful:
                    useful = bound <= (radius[c] + np.sqrt(squared[targets.rows[e], -1])) ** 2
                near[count] = e
                count += useful
                if count == _CHUNK:
                    false_hits += _compare(cells, c, targets, near, mutual, squared, rows)
                    pruning_radii[c] = _pruning_radius(cells, c, squared)
                    count = 0
        false_hits += _compare(cells, c, targets, near[:count], mutual, squared, rows)
        if false_hits > most_false_hits:
            return False
    return True


@compiled()
def _radii(cells):
    """Largest distance of a case from the centre of its cell."""
    radii = np.zeros(len(cells.centres))
    for c in range(len(radii)):
        for e in range(cells.starts[c], cells.starts[c + 1]):
            radii[c] = max(radii[c], cells.from_centre[e])
    return radii


@compiled()
def _pruning_radius(cells, c, squared):
    radius = 0.0
    for e in range(cells.starts[c], cells.starts[c + 1]):
        radius = max(radius, cells.from_centre[e] + np.sqrt(squared[cells.rows[e], -1]))
    return radius


@compiled()
def _compare(cells, c, targets, near, mutual, squared, rows):
    """Compare the cases of cell c with the targets ``near``; return the number of false hits.

    Where these are the cases of the cell themselves, each pair is compared once.
    """
    start, stop = cells.starts[c], cells.starts[c + 1]
    if len(near) == 0 or start == stop:
        return 0
    own = mutual and near[0] == start  # told by no argument: numba would compile all of it for True and for False
    slack = max(cells.slack, targets.slack)
    norms = targets.squares[near]
    products = np.dot(cells.features[start:stop], targets.features[near].T)
    theirs = np.full(len(near), -np.inf, np.float32)
    if mutual:
        for j in range(len(near)):
            theirs[j] = _limit(squared[targets.rows[near[j]], -1], slack)
    hits = np.empty(len(near), np.int64)
    false_hits = 0
    for e in range(start, stop):
        i, first = cells.rows[e], e - start + 1 if own else 0
        ours = _limit(squared[i, -1], slack)
        row = products[e - start]
        if not _any_below(row[first:], norms[first:], cells.squares[e], ours, theirs[first:]):
            continue
        for j in hits[: _below(row, norms, cells.squares[e], ours, theirs, first, hits)]:
            bound = norms[j] - 2 * row[j] + cells.squares[e] - slack
            other = targets.rows[near[j]]
            if bound < squared[i, -1] or (mutual and bound < squared[other, -1]):
                distance = squared_distance(cells.pool[i], targets.pool[other])
                improved = _insert(squared[i], rows[i], distance, other)
                if mutual:
                    improved |= _insert(squared[other], rows[other], distance, i)
                false_hits += not improved
    return false_hits


@compiled()
def _limit(squared, slack):
    """Squared distances in single precision below this need a closer look; none do if the distance so far is 0."""
    return np.float32(squared + slack if squared > 0 else -np.inf)


@compiled()
def _any_below(row, norms, square, ours, theirs):
    count = 0  # a count, because compilers vectorise sums but not early exits
    for j in range(row.size):
        value = norms[j] - np.float32(2) * row[j] + square
        count += (value < ours) | (value < theirs[j])
    return count > 0


@compiled()
def _below(row, norms, square, ours, theirs, first, hits):
    found = 0
    for j in range(first, row.size):
        value = norms[j] - np.float32(2) * row[j] + square
        hits[found] = j
        found += (value < ours) | (value < theirs[j])
    return found


@compiled()
def _insert(distances, rows, distance, row):
    """Insert a neighbour in ascending order if it is among the nearest so far; return whether it was."""
    at = distances.size - 1
    if distance >= distances[at]:
        return False
    while at > 0 and distances[at - 1] > distance:
        distances[at], rows[at] = distances[at - 1], rows[at - 1]
        at -= 1
    distances[at], rows[at] = distance, row
    return True
