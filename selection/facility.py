"""Facility location: picks that every case of the pool is near to, by a lazy greedy on samples that grow."""

from collections.abc import Callable
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

import numpy as np
from numba import njit

from nnunetv2_xssr.selection._engine.cells import Cells, cells_of, rough_squared_distance, squared_distance
from nnunetv2_xssr.selection._engine.coverage import Coverage
from nnunetv2_xssr.selection.limits import Limits, is_open, nearest_of, take

WHOLE = 2048  # up to this many cases the greedy is exact
_FIRST = 512  # cases in the first sample of a larger pool
_GROWTH = 5  # how many times larger the next sample is, at most
_PER_PICK = (16, 64)  # fewest and most cases per pick that a sample is given
_CLOSE = 0.02  # in a larger pool a squared distance may lie in a range this wide, as a share of it
_TILE = 128  # candidates that meet the cases as one matrix product
_GRID = 2.0**22  # utilities are multiples of 1 / _GRID


def facility_picks(
    pool: np.ndarray | Cells,
    budget: int,
    chosen: np.ndarray,
    limits: Limits,
    utility: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Greedily maximise sum_i max_{j in S} utility(|z_i - z_j|).

    Up to 2,048 cases the picks are those of the plain greedy in double precision. In a larger pool the greedy sees a
    random sample, always the same one: its cases are the candidates, and the sum is over them. The sample grows before
    there are too many picks for it, in the end to the whole pool, or to 64 cases per pick if these are fewer. Early
    picks need no more, because each serves many cases then, and later picks make up for what they miss. Distances are
    within 1/2 % of the true ones. No bound is proved; measured, the mean distance to the nearest pick is within 1 % of
    the exact greedy's at budgets of 2 % and more, and within 3 % at smaller ones.

    Utilities are rounded to multiples of 2^-22, so sums of them are exact in any order: ties are ties, and go to the
    case that comes first. Memory grows with n, not n x n.

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
        Rows as `standardise` gives them.
    budget : int
    chosen : int array
        In S from the start.
    limits : Limits
        Where there are some, the last sample is the whole pool, so that no case is overlooked.
    utility : callable
        Of an array of distances; falls with distance, from at most 2. Less than 0 counts as 0, as having no pick does.

    Returns
    -------
    picks : int array of shape (budget,)
        Fewer where the limits leave nothing open.
    """
    cells = cells_of(pool)
    n, total = len(cells.rows), budget + len(chosen)
    enough = np.clip(n / total, *_PER_PICK)
    sizes = _sample_sizes(n, n if limits.exist else int(enough * total))
    limits = limits.fresh()
    draw = np.random.default_rng(0).permutation(n)
    coverage = Coverage(cells)
    free = np.ones(n, bool)
    picks, new = np.empty(0, np.int64), np.asarray(chosen, np.int64)
    for size in sizes:
        free[new] = False
        coverage.add(new)
        entries = np.flatnonzero(draw < size)
        sample = cells.rows[entries]
        coverage.settle(sample)
        nearest = coverage.nearest[sample]
        services = _services(cells, entries, nearest, utility)
        count = budget - len(picks)
        if size < sizes[-1]:
            # A case with ``share`` nearer candidates is served as by size / share random picks, and this sample is
            # good for size / enough picks.
            share = max(len(services.cases) / size, 1.0)
            count = max(0, min(count, int(size / enough - size / share)))
        served, taken = _on_grid(utility, nearest), np.concatenate([chosen, picks])
        new = _lazy_greedy(services, served, free[sample], count, cells.pool, sample, taken, limits)
        picks = np.append(picks, new)
        if len(picks) == budget:
            break
    return picks


def _sample_sizes(n: int, enough: int) -> np.ndarray:
    """Sizes of the samples, in equal ratios, up to ``enough`` or all n cases."""
    if n <= WHOLE:
        return np.array([n])
    largest = min(n, max(enough, WHOLE))
    steps = int(np.ceil(np.log(largest / _FIRST) / np.log(_GROWTH)))
    return np.geomspace(_FIRST, largest, steps + 1).round().astype(int)


def _on_grid(utility: Callable[[np.ndarray], np.ndarray], distances: np.ndarray) -> np.ndarray:
    """Utilities as float32, which holds multiples of 2^-22 up to 4 without rounding."""
    return (np.round(np.maximum(utility(distances), 0) * _GRID) / _GRID).astype(np.float32)


class Services(NamedTuple):
    """The cases that every candidate of a sample is nearer to than S is: candidate i has the entries starts[i:i + 2].

    Attributes
    ----------
    starts : int array of shape (m + 1,)
    cases : int32 array
        Places in the sample.
    utilities : float32 array
        What candidate and case have for each other.
    """

    starts: np.ndarray
    cases: np.ndarray
    utilities: np.ndarray


def _services(
    cells: Cells, entries: np.ndarray, nearest: np.ndarray, utility: Callable[[np.ndarray], np.ndarray]
) -> Services:
    """Find whom the candidates of a sample can serve.

    A case j is out of reach of a whole cell if |x_j - centre| > radius + nearest_j (triangle inequality). For the
    other pairs the features bound the distance from below, in one product per tile that has the norms as two columns.

    Parameters
    ----------
    cells : Cells
    entries : int array of shape (m,), ascending
        The sample, as entries of the cells.
    nearest : array of shape (m,)
        Distance of its cases to S.
    utility : callable
    """
    rows, left_out = cells.rows[entries], cells.left_out[entries]
    left, centres = _as_left(cells.features[entries], cells.slack), _as_left(cells.centres, cells.slack)
    ones = np.ones(len(entries), np.float32)
    right = np.column_stack([cells.features[entries], ones, cells.squares[entries]])
    reach = (nearest * (1 + 1e-6)).astype(np.float32)  # never rounded down
    starts = np.searchsorted(entries, cells.starts)
    close = _CLOSE if len(cells.rows) > WHOLE else 0.0
    found = []
    for c in np.flatnonzero(np.diff(starts)):
        radius = cells.away[entries[starts[c] : starts[c + 1]]].max()
        near = np.flatnonzero(right @ centres[c] <= (radius + reach) ** 2)
        features, limit = right.take(near, axis=0).T, reach[near] ** 2
        for start in range(starts[c], starts[c + 1], _TILE):
            tile = slice(start, min(start + _TILE, starts[c + 1]))
            bounds = left[tile] @ features
            hits = np.flatnonzero(bounds < limit)
            counts, cases, distances = _nearer(cells.pool, rows, left_out, start, near, bounds, hits, nearest, close)
            found.append((counts, cases, _on_grid(utility, distances)))
    counts, cases, utilities = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Services(np.append(0, np.cumsum(counts)), cases, utilities)


def _as_left(features: np.ndarray, slack: float) -> np.ndarray:
    """Columns whose products with (features, 1, squares) bound squared distances from below.

    Twice the slack of the cells, because the norms are summed along with the product.
    """
    squares = np.einsum("ij,ij->i", features, features) - np.float32(2 * slack)
    return np.column_stack([-2 * features, squares, np.ones(len(features), np.float32)])


@njit(cache=True, nogil=True)
def _nearer(pool, rows, left_out, start, near, bounds, hits, nearest, close):
    """Keep the hits whose case is nearer to the candidate than to S.

    Parameters
    ----------
    pool : array of shape (n, d)
    rows : int array of shape (m,)
        The sample, as rows of the pool.
    left_out, nearest : arrays of shape (m,)
    start : int
        Place of the first candidate in the sample; the others follow it.
    near : int array
        Places of the cases.
    bounds : array of shape (candidates, cases)
    hits : int array
        Flat indices into ``bounds``, ascending.
    close : float
        Share of a squared distance that it may be uncertain by; 0 asks for double precision.

    Returns
    -------
    counts : int array of shape (candidates,)
        How many cases every candidate keeps.
    cases : int32 array
        Their places in the sample, candidate by candidate.
    distances : array
    """
    counts = np.zeros(len(bounds), np.int64)
    cases, distances = np.empty(len(hits), np.int32), np.empty(len(hits))
    kept = 0
    for hit in hits:
        i = hit // len(near)
        j = near[hit - i * len(near)]
        spread = 4 * np.float64(left_out[start + i]) * np.float64(left_out[j])
        squared = max(bounds[i, hit - i * len(near)] + spread / 2, 0.0)
        if close == 0:
            squared = squared_distance(pool[rows[start + i]], pool[rows[j]])
        elif spread > close * squared:
            squared = np.float64(rough_squared_distance(pool[rows[start + i]], pool[rows[j]]))
        cases[kept], distances[kept] = j, np.sqrt(squared)
        if distances[kept] < nearest[j]:
            kept += 1
            counts[i] += 1
    return counts, cases[:kept], distances[:kept]


@njit(cache=True, nogil=True)
def _lazy_greedy(services, served, free, count, pool, sample, taken, limits):
    """Pick up to ``count`` free candidates, each the one that gains the most; return their rows of the pool.

    A gain only falls as S grows, so one from earlier is a bound: the candidate with the highest bound is the next pick
    if its gain is still that much (lazy greedy, Minoux 1978). ``served``, ``free`` and ``limits`` are kept up to date.
    ``sample`` holds the rows of the pool that the candidates are, ``taken`` those in S.
    """
    heap = [(-_gain(services, i, served), i) for i in range(len(free))]
    heapify(heap)
    picks = np.empty(count, np.int64)
    done = 0
    while done < count and len(heap) > 0:
        bound, i = heap[0]
        loss = -_gain(services, i, served)
        if not free[i]:
            heappop(heap)
        elif loss > bound:
            heapreplace(heap, (loss, i))
        elif not is_open(limits, sample[i], nearest_of(pool, sample[i], taken, picks[:done], limits)):
            free[i] = False
        else:
            take(limits, sample[i])
            picks[done], free[i] = sample[i], False
            done += 1
            for e in range(services.starts[i], services.starts[i + 1]):
                case = services.cases[e]
                served[case] = max(served[case], services.utilities[e])
    return picks[:done]


@njit(cache=True, nogil=True)
def _gain(services, i, served):
    gain = 0.0
    for e in range(services.starts[i], services.starts[i + 1]):
        gain += max(np.float64(services.utilities[e]) - np.float64(served[services.cases[e]]), 0.0)
    return gain
