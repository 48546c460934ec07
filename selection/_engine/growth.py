"""The mean distance of a pool to its nearest picks after each single pick: exact, with one pass for many picks."""

import numpy as np

from nnunetv2_xssr.compiling import compiled
from nnunetv2_xssr.selection._engine.cells import Cells, cells_of, picks_near_cell, squared_distance, whole
from nnunetv2_xssr.selection._engine.coverage import BLOCK, Coverage

_FIRST = 32  # picks in the first block, which shows whether bounds help
_FALSE_HITS = 0.02  # share of pairs with a useless true distance from which on plain products are cheaper


def mean_distances(pool: np.ndarray | Cells, *, ranking: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean over the pool of the distance to the nearest of ``chosen`` and the first 1, 2, ... k of a ranking.

    `nnunetv2_xssr.selection._engine.coverage` is quicker if only the distances after many picks are needed.

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
    ranking : int array of shape (k,)
    chosen : int array

    Returns
    -------
    array of shape (k,), never growing
    """
    cells = cells_of(pool)
    start = Coverage(cells)
    start.add(chosen)
    nearest, pruning_radii = start.distances(), np.full(len(cells.centres), np.inf)
    sums, done = np.zeros(len(ranking)), 0
    while done < len(ranking):
        picks = np.asarray(ranking[done : done + (BLOCK if done else _FIRST)], np.int64)
        false_hits = _add_distances(cells, picks, nearest, pruning_radii, sums[done : done + len(picks)])
        if cells.sketched and false_hits > _FALSE_HITS * len(nearest) * len(picks):
            cells = whole(cells.pool)
            pruning_radii = np.full(len(cells.centres), np.inf)
        done += len(picks)
    return sums / len(nearest)


@compiled()
def _add_distances(cells, picks, nearest, pruning_radii, sums):
    """Update each case with one pick after the other, and add its distance after each of them to ``sums``.

    Return the number of false hits. For false hits and pruning radii see `coverage`.
    """
    entries = cells.position[picks]
    features, squares = cells.features[entries], cells.squares[entries]
    of_centres = np.dot(cells.centres, features.T)
    near = np.empty(len(picks), np.int64)
    false_hits = 0
    for c in range(len(cells.centres)):
        count = picks_near_cell(cells, c, squares, of_centres[c], pruning_radii[c], near)
        start, stop = cells.starts[c], cells.starts[c + 1]
        products = np.dot(cells.features[start:stop], features[near[:count]].T)
        farthest = 0.0
        for e in range(start, stop):
            i, row = cells.rows[e], products[e - start]
            distance, done = nearest[i], 0
            for h in range(count):
                bound = cells.squares[e] + squares[near[h]] - 2 * row[h] - cells.slack
                if distance > 0 and bound < distance * distance:
                    true = np.sqrt(squared_distance(cells.pool[i], cells.pool[picks[near[h]]]))
                    false_hits += true >= distance
                    if true < distance:
                        for j in range(done, near[h]):
                            sums[j] += distance
                        distance, done = true, near[h]
            for j in range(done, len(picks)):
                sums[j] += distance
            nearest[i] = distance
            farthest = max(farthest, cells.from_centre[e] + distance)
        pruning_radii[c] = farthest
    return false_hits
