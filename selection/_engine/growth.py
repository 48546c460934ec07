"""The mean distance of a pool to its nearest picks after every single pick: exact, and one pass for many picks."""

import numpy as np
from numba import njit

from nnunetv2_xssr.selection._engine.cells import Cells, cells_of, news_to_cell, squared_distance, whole
from nnunetv2_xssr.selection._engine.coverage import BLOCK, Coverage

_FIRST = 32  # picks of the first block, which tells whether bounds help here
_WASTE = 0.02  # share of pairs whose true distance may be found in vain before plain products are the cheaper way


def mean_distances(pool: np.ndarray | Cells, ranking: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean over the pool of the distance to the nearest of ``chosen`` and the first 1, 2, ... k of a ranking.

    `nnunetv2_xssr.selection._engine.coverage` is quicker where only the distances after many picks are asked for.

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
    nearest, reach = start.distances(), np.full(len(cells.centres), np.inf)
    sums, done = np.zeros(len(ranking)), 0
    while done < len(ranking):
        picks = np.asarray(ranking[done : done + (BLOCK if done else _FIRST)], np.int64)
        waste = _follow(cells, picks, nearest, reach, sums[done : done + len(picks)])
        if cells.sketched and waste > _WASTE * len(nearest) * len(picks):
            cells = whole(cells.pool)
            reach = np.full(len(cells.centres), np.inf)
        done += len(picks)
    return sums / len(nearest)


@njit(cache=True, nogil=True)
def _follow(cells, picks, nearest, reach, sums):
    """Let every case meet the picks one after the other, and add its distance after each of them to ``sums``.

    Return how many true distances were in vain. For ``reach`` see `coverage`: a pick beyond it is no news to any case
    of the cell.
    """
    places = cells.position[picks]
    features, squares = cells.features[places], cells.squares[places]
    gaps = np.dot(cells.centres, features.T)
    near = np.empty(len(picks), np.int64)
    waste = 0
    for c in range(len(cells.centres)):
        count = news_to_cell(cells, c, squares, gaps[c], reach[c], near)
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
                    waste += true >= distance
                    if true < distance:
                        for j in range(done, near[h]):
                            sums[j] += distance
                        distance, done = true, near[h]
            for j in range(done, len(picks)):
                sums[j] += distance
            nearest[i] = distance
            farthest = max(farthest, cells.away[e] + distance)
        reach[c] = farthest
    return waste
