"""Facility location: picks that all cases of the pool are near to, by a lazy greedy on growing samples."""

from collections.abc import Callable
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

import numpy as np

from nnunetv2_xssr.compiling import compiled
from nnunetv2_xssr.selection._engine.cells import Cells, cells_of, rough_squared_distance, squared_distance
from nnunetv2_xssr.selection._engine.coverage import Coverage
from nnunetv2_xssr.selection.limits import Limits, is_open, nearest_of, take
from nnunetv2_xssr.selection.shares import LEAST_GAIN, Shares, come_first

WHOLE = 2048  # up to this many cases the greedy is exact
_FIRST = 512  # cases in the first sample of a larger pool
_GROWTH = 5  # most times by which the next sample is larger
_PER_PICK = (16, 64)  # least and most cases per pick in a sample
_TOLERANCE = 0.02  # width of the range in which a squared distance is known in a larger pool, relative to it
_TILE = 128  # candidates that meet the cases as one matrix product
_GRID = 2.0**22  # utilities are multiples of 1 / _GRID
_WEIGHT_GRID = 2.0**10


def facility_picks(
    pool: np.ndarray | Cells,
    *,
    budget: int,
    chosen: np.ndarray,
    limits: Limits,
    utility: Callable[[np.ndarray], np.ndarray],
    weights: np.ndarray | None = None,
    prices: np.ndarray | None = None,
    kind: np.ndarray | None = None,
) -> np.ndarray:
    """Greedily maximise sum_i w_i max_{j in S} utility(|z_i - z_j|).

    Up to 2,048 cases the picks are those of the plain greedy in double precision. In a larger pool the greedy works on
    a random sample, always the same one: its cases are the candidates, and the sum is over them. The sample grows
    before it has too few cases per pick, finally to the whole pool, or to 64 cases per pick if that is less. Early
    picks need no larger sample, because each of them serves many cases, and later picks make up for what they miss.
    Distances are within 1/2 % of the true ones. There is no proven bound; in measurements the mean distance to the
    nearest pick is within 1 % of that of the exact greedy at budgets of 2 % and more, and within 3 % at smaller ones.

    Utilities are rounded to multiples of 2^-22 and weights to multiples of 2^-10, so their sums are exact in any order,
    and ties go to the case that comes first. Memory grows with n, not n x n.

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
        Rows as `standardise` gives them.
    budget : int
    chosen : int array
        In S from the start.
    limits : Limits
        If there are any, the last sample is the whole pool, so that no case is overlooked.
    utility : callable
        From an array of distances to their utilities, which fall with distance, from at most 2. Negative utilities
        count as 0, which is also the utility of having no pick.
    weights : array of shape (n,), optional
        How much every case counts, from 0 to 1; 1 by default.
    prices : array of shape (n,), optional
        By which the gain of a pick is divided; 1 by default.
    kind : int array of shape (n,), optional
        Of every case, numbered from 0: no kind lacks its share of the picks (`come_first`), unless its best case gains
        less than a quarter of what the best of all gains.

    Returns
    -------
    picks : int array of shape (budget,)
        Fewer if the limits leave no case open.
    """
    cells = cells_of(pool)
    n, total = len(cells.rows), budget + len(chosen)
    prices = np.ones(n) if prices is None else prices
    weights = np.ones(n) if weights is None else np.round(weights * _WEIGHT_GRID) / _WEIGHT_GRID
    enough = np.clip(n / total, *_PER_PICK)
    sizes = _sample_sizes(n, n if limits.exist else int(enough * total))
    limits, shares = limits.fresh(), Shares.none(n) if kind is None else Shares.of(kind)
    draw = np.random.default_rng(0).permutation(n)
    coverage = Coverage(cells)
    available = np.ones(n, bool)
    picks, new = np.empty(0, np.int64), np.asarray(chosen, np.int64)
    for size in sizes:
        available[new] = False
        coverage.add(new)
        entries = np.flatnonzero(draw < size)
        sample = cells.rows[entries]
        coverage.settle(sample)
        nearest = coverage.nearest[sample]
        services = _services(cells, entries=entries, nearest=nearest, utility=utility)
        count = budget - len(picks)
        if size < sizes[-1]:
            # A case with ``share`` nearer candidates is as near to S as to size / share random picks, and this sample
            # is large enough for size / enough picks.
            share = max(len(services.cases) / size, 1.0)
            count = max(0, min(count, int(size / enough - size / share)))
        served, taken = _on_grid(utility, nearest), np.concatenate([chosen, picks])
        new = _lazy_greedy(
            services,
            served,
            weights[sample],
            prices[sample],
            available[sample],
            count,
            cells.pool,
            sample,
            taken,
            limits,
            shares,
        )
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
    """The cases to which each candidate of a sample is nearer than S is.

    Candidate i has the entries from starts[i] to starts[i + 1].

    Attributes
    ----------
    starts : int array of shape (m + 1,)
    cases : int32 array
        Positions in the sample.
    utilities : float32 array
        Utility of the distance between candidate and case.
    """

    starts: np.ndarray
    cases: np.ndarray
    utilities: np.ndarray


def _services(
    cells: Cells, *, entries: np.ndarray, nearest: np.ndarray, utility: Callable[[np.ndarray], np.ndarray]
) -> Services:
    """Find the cases that the candidates of a sample can serve.

    No candidate of a cell can serve case j if |x_j - centre| > radius + nearest_j (triangle inequality). For the other
    pairs the features bound the distance from below, by one matrix product per tile, with the norms as two columns.

    Parameters
    ----------
    cells : Cells
    entries : int array of shape (m,), ascending
        The sample, as entries of the cells.
    nearest : array of shape (m,)
        Distances of its cases to S.
    utility : callable
    """
    rows, residual = cells.rows[entries], cells.residual[entries]
    left, centres = _as_left(cells.features[entries], cells.slack), _as_left(cells.centres, cells.slack)
    ones = np.ones(len(entries), np.float32)
    right = np.column_stack([cells.features[entries], ones, cells.squares[entries]])
    search_radius = (nearest * (1 + 1e-6)).astype(np.float32)  # never rounded down
    starts = np.searchsorted(entries, cells.starts)
    tolerance = _TOLERANCE if len(cells.rows) > WHOLE else 0.0
    found = []
    for c in np.flatnonzero(np.diff(starts)):
        radius = cells.from_centre[entries[starts[c] : starts[c + 1]]].max()
        near = np.flatnonzero(right @ centres[c] <= (radius + search_radius) ** 2)
        features, limit = right.take(near, axis=0).T, search_radius[near] ** 2
        for start in range(starts[c], starts[c + 1], _TILE):
            tile = slice(start, min(start + _TILE, starts[c + 1]))
            bounds = left[tile] @ features
            hits = np.flatnonzero(bounds < limit)
            counts, cases, distances = _nearer(
                cells.pool, rows, residual, start, near, bounds, hits, nearest, tolerance
            )
            found.append((counts, cases, _on_grid(utility, distances)))
    counts, cases, utilities = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Services(starts=np.append(0, np.cumsum(counts)), cases=cases, utilities=utilities)


def _as_left(features: np.ndarray, slack: float) -> np.ndarray:
    """Columns whose products with (features, 1, squares) bound squared distances from below.

    They take off twice the slack of the cells, because the norms are summed along with the product.
    """
    squares = np.einsum("ij,ij->i", features, features) - np.float32(2 * slack)
    return np.column_stack([-2 * features, squares, np.ones(len(features), np.float32)])


@compiled()
def _nearer(pool, rows, residual, start, near, bounds, hits, nearest, tolerance):
    """Keep the hits whose case is nearer to the candidate than to S.

    Parameters
    ----------
    pool : array of shape (n, d)
    rows : int array of shape (m,)
        The sample, as rows of the pool.
    residual, nearest : arrays of shape (m,)
    start : int
        Position of the first candidate in the sample; the others follow it.
    near : int array
        Positions of the cases.
    bounds : array of shape (candidates, cases)
    hits : int array
        Flat indices into ``bounds``, ascending.
    tolerance : float
        Width of the range in which a squared distance must be known, relative to it; 0 asks for double precision.

    Returns
    -------
    counts : int array of shape (candidates,)
        How many cases each candidate keeps.
    cases : int32 array
        Their positions in the sample, candidate by candidate.
    distances : array
    """
    counts = np.zeros(len(bounds), np.int64)
    cases, distances = np.empty(len(hits), np.int32), np.empty(len(hits))
    kept = 0
    for hit in hits:
        i = hit // len(near)
        j = near[hit - i * len(near)]
        spread = 4 * np.float64(residual[start + i]) * np.float64(residual[j])
        squared = max(bounds[i, hit - i * len(near)] + spread / 2, 0.0)
        if tolerance == 0:
            squared = squared_distance(pool[rows[start + i]], pool[rows[j]])
        elif spread > tolerance * squared:
            squared = np.float64(rough_squared_distance(pool[rows[start + i]], pool[rows[j]]))
        cases[kept], distances[kept] = j, np.sqrt(squared)
        if distances[kept] < nearest[j]:
            kept += 1
            counts[i] += 1
    return counts, cases[:kept], distances[:kept]


@compiled()
def _lazy_greedy(services, served, weights, prices, available, count, pool, sample, taken, limits, shares):
    """Pick up to ``count`` available candidates, each with the largest gain at its turn; return their rows of the pool.

    ``served``, ``available`` and ``limits`` are updated. ``sample`` holds the rows of the candidates in the pool, and
    ``taken`` those of S.
    """
    kind = shares.kind[sample]
    heaps = [[(0.0, -1) for _ in range(0)] for _ in shares.parts]
    for i in range(len(available)):
        heaps[kind[i]].append((-_gain(services, i, served, weights) / prices[i], i))
    for heap in heaps:
        heapify(heap)
    counts = np.zeros(len(heaps), np.int64)
    for row in taken:
        counts[shares.kind[row]] += 1
    picks = np.empty(count, np.int64)
    nothing = (np.inf, len(available))
    for done in range(count):
        first = come_first(counts, shares.parts)
        best, fair = nothing, nothing
        for h in range(len(heaps)):
            top, already = nothing, picks[:done]
            while top == nothing and len(heaps[h]) > 0:
                top = _settled(
                    heaps[h], services, served, weights, prices, available, pool, sample, taken, already, limits
                )
            if top < best:
                best = top
            if first[h] and top < fair:
                fair = top
        if best == nothing:
            return picks[:done]
        _, i = fair if fair[0] <= LEAST_GAIN * best[0] else best
        take(limits, sample[i])
        picks[done], available[i] = sample[i], False
        counts[kind[i]] += 1
        for e in range(services.starts[i], services.starts[i + 1]):
            case = services.cases[e]
            served[case] = max(served[case], services.utilities[e])
    return picks


@compiled()
def _settled(heap, services, served, weights, prices, available, pool, sample, taken, picks, limits):
    """The first of a heap, if it is its best candidate; else the heap changes, and there is none: (inf, candidates).

    A gain only falls as S grows, so an earlier gain is an upper bound: the candidate with the highest bound is the best
    one if its gain still equals it (lazy greedy, Minoux 1978).
    """
    bound, i = heap[0]
    loss = -_gain(services, i, served, weights) / prices[i]
    if not available[i]:
        heappop(heap)
    elif loss > bound:
        heapreplace(heap, (loss, i))
    elif not is_open(limits, sample[i], nearest_of(pool, sample[i], taken, picks, limits)):
        available[i] = False
    else:
        return heap[0]
    return np.inf, len(available)


@compiled()
def _gain(services, i, served, weights):
    gain = 0.0
    for e in range(services.starts[i], services.starts[i + 1]):
        case = services.cases[e]
        gain += weights[case] * max(np.float64(services.utilities[e]) - np.float64(served[case]), 0.0)
    return gain
