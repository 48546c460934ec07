"""The next picks of the greedy, found among a few candidates without looking at the other cases.

A score r(S) fixed_i + w min_{j in S} |z_i - z_j| only falls as S grows, so an earlier value is an upper bound (lazy
evaluation, Minoux 1978). The candidates are the cases with the best scores and those with the largest distances at the
start of a block. While the best candidate beats the upper bounds of all others, it is the next pick.
"""

from typing import NamedTuple

import numpy as np

from nnunetv2_xssr.compiling import compiled
from nnunetv2_xssr.selection._engine.cells import rough_squared_distance, squared_distance
from nnunetv2_xssr.selection._engine.coverage import Coverage
from nnunetv2_xssr.selection.limits import Limits, is_open, take

_CANDIDATES = 512
_FINAL = 2**62  # applied picks of a candidate that needs no further update


class Outside(NamedTuple):
    """Bounds of the cases that are not candidates, from the start of a block.

    Attributes
    ----------
    score : float
        The best of their scores.
    row : int
        The first case that has it.
    diversity : float
        The largest of their distances, each times the weight of the case.
    nearest : float
        The largest of their distances, closed cases included.
    """

    score: float
    row: int
    diversity: float
    nearest: float


def pick_block(coverage: Coverage, *, fixed: np.ndarray, weight: np.ndarray, most: int, limits: Limits) -> np.ndarray:
    """Return the next picks of the greedy, at most ``most``.

    There may be none, if true distances turn out to be shorter than their bounds; the next call then finds some.

    Parameters
    ----------
    coverage : Coverage
        Coverage of the picks so far, of which there is at least one.
    fixed : array of shape (n,)
        The part of the score that does not depend on the picks; -inf for a closed case.
    weight : array of shape (n,)
    most : int
    limits : Limits
        Their room is used up in place.
    """
    nearest = coverage.nearest
    radius = nearest.max()
    score = (radius if radius > 0 else 1.0) * fixed + weight * nearest
    rows = np.arange(len(score))
    if len(rows) > _CANDIDATES:
        rows = np.union1d(_top(score, _CANDIDATES), _top(nearest, 1 + _CANDIDATES // 8))
    others, distances = score.copy(), nearest.copy()
    others[rows], distances[rows] = -np.inf, 0.0
    first = int(np.argmax(others))
    open_distances = np.where(others > -np.inf, distances, 0.0)
    diversity = float((weight * open_distances).max())
    outside = Outside(score=float(others[first]), row=first, diversity=diversity, nearest=float(distances.max()))
    picks = np.empty(most, np.int64)
    coverage.settle(rows)
    count = _pick(coverage.cells, rows, fixed[rows], nearest[rows], weight[rows], radius, outside, limits, picks)
    return picks[:count]


def replay_block(coverage: Coverage, *, picks: np.ndarray) -> np.ndarray:
    """Return the diversity that given next picks have when they are picked; like `pick_block`, of the first of them.

    ``picks`` is an int array of shape (k,), and the result has the shape (at most k,).
    """
    nearest = coverage.nearest
    rows = np.union1d(_top(nearest, min(_CANDIDATES, len(nearest))), picks)
    distances = nearest.copy()
    distances[rows] = 0.0
    diversity = np.empty(len(picks))
    positions = np.searchsorted(rows, picks)
    coverage.settle(rows)
    return diversity[: _replay(coverage.cells, rows, nearest[rows], distances.max(), picks, positions, diversity)]


def _top(values: np.ndarray, count: int) -> np.ndarray:
    """Return about ``count`` rows with the largest values; among equal values the first rows."""
    step = max(1, len(values) // (64 * count))
    sample, rank = values[::step], max(1, count // step)
    cut = np.partition(sample, -rank)[-rank]
    above = np.flatnonzero(values > cut)
    return above if len(above) >= count else np.append(above, np.flatnonzero(values == cut)[: count - len(above)])


@compiled()
def _pick(cells, rows, fixed, nearest, weight, radius, outside, limits, picks):
    """Fill ``picks`` with rows as far as the candidates alone decide, and return how far that is.

    Rounding could lift a score of the other cases above its bound by some units in the last place; ``noise`` is more
    than that.
    """
    score = np.empty(len(rows))
    applied = np.zeros(len(rows), np.int64)
    largest = 0.0
    for value in fixed:
        if value > -np.inf:
            largest = max(largest, abs(value))
    noise = 1e-14 * radius * (largest + weight.max())
    for t in range(len(picks)):
        now = _farthest(cells, rows, nearest, applied, picks, t)
        if now < outside.nearest or (now == 0 and radius > 0):
            return t
        scale, bound = (now if now > 0 else 1.0), outside.score
        if now < radius:
            # now f + w m = now/radius (radius f + w m) + (1 - now/radius) w m; both terms were largest at the start
            share = now / radius
            bound = share * outside.score + (1 - share) * outside.diversity + noise
        c = _best(scale, fixed, weight, nearest, score)
        while score[c] > -np.inf and (applied[c] < t or not is_open(limits, rows[c], nearest[c])):
            if applied[c] < t:
                _apply(cells, rows, c, nearest, applied, picks, t)
            else:
                fixed[c] = -np.inf
            c = _best(scale, fixed, weight, nearest, score)
        if score[c] == -np.inf or score[c] < bound:
            return t
        if score[c] == bound and (now < radius or rows[c] > outside.row):
            return t
        take(limits, rows[c])
        picks[t], fixed[c], nearest[c], applied[c] = rows[c], -np.inf, 0.0, _FINAL
    return len(picks)


@compiled()
def _replay(cells, rows, nearest, outside, picks, positions, diversity):
    """Fill ``diversity`` as far as the candidates alone decide the covering radius, and return how far that is."""
    applied = np.zeros(len(rows), np.int64)
    for t in range(len(picks)):
        farthest = _farthest(cells, rows, nearest, applied, picks, t)
        if farthest < outside:
            return t
        if applied[positions[t]] < t:
            _apply(cells, rows, positions[t], nearest, applied, picks, t)
        diversity[t] = nearest[positions[t]] / farthest if farthest > 0 else 0.0
        nearest[positions[t]], applied[positions[t]] = 0.0, _FINAL
    return len(picks)


@compiled()
def _farthest(cells, rows, nearest, applied, picks, t):
    """Largest distance of a candidate after t picks of this block."""
    c = _first_largest(nearest)
    while applied[c] < t:
        _apply(cells, rows, c, nearest, applied, picks, t)
        c = _first_largest(nearest)
    return nearest[c]


@compiled()
def _apply(cells, rows, c, nearest, applied, picks, t):
    """Update candidate c with those of the first t picks of this block that are not applied to it yet."""
    row = rows[c]
    for pick in picks[applied[c] : t]:
        gap = rough_squared_distance(cells.features[cells.position[row]], cells.features[cells.position[pick]])
        if gap - cells.slack < nearest[c] * nearest[c]:
            nearest[c] = min(nearest[c], np.sqrt(squared_distance(cells.pool[row], cells.pool[pick])))
    applied[c] = t


@compiled()
def _best(scale, fixed, weight, nearest, score):
    for c in range(score.size):
        score[c] = scale * fixed[c] + weight[c] * nearest[c]
    return _first_largest(score)


@compiled()
def _first_largest(values):
    # Four running maxima, because the steps of a single one depend on each other.
    a = b = c = d = values[0]
    whole = values.size - values.size % 4
    for i in range(0, whole, 4):
        a = max(a, values[i])
        b = max(b, values[i + 1])
        c = max(c, values[i + 2])
        d = max(d, values[i + 3])
    top = max(max(a, b), max(c, d))
    for i in range(whole, values.size):
        top = max(top, values[i])
    for i in range(values.size):
        if values[i] == top:
            return i
    return 0
