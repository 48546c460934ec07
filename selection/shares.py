"""Shares of the budget: every kind of the pool gets its part of the picks, at every length of the ranking."""

from typing import NamedTuple

import numpy as np

from nnunetv2_xssr.compiling import compiled

LEAST_GAIN = 0.25  # of the best case's gain: a kind whose best case gains less has enough, such as a burst of copies
_GRID = 1024


class Shares(NamedTuple):
    """The kinds of a pool. It is a named tuple because compiled code can read one.

    Attributes
    ----------
    kind : int array of shape (n,)
    parts : int array of shape (kinds,)
        The budget is shared in proportion to these: the square roots of the kinds' sizes, in multiples of 1 / 1024. In
        proportion to sizes, small kinds would be left out of small budgets (power allocation, Bankier 1988).
    """

    kind: np.ndarray
    parts: np.ndarray

    @classmethod
    def of(cls, kind: np.ndarray) -> "Shares":
        """From the kind of every case, numbered from 0."""
        parts = np.rint(_GRID * np.sqrt(np.bincount(kind)))
        return cls(kind=np.ascontiguousarray(kind, np.int64), parts=parts.astype(np.int64))

    @classmethod
    def none(cls, n: int) -> "Shares":
        """All n cases are of one kind."""
        return cls.of(np.zeros(n, np.int64))


@compiled()
def come_first(counts, parts):
    """Which kinds may come next, bool array of shape (kinds,), so that none ever lacks its share.

    After t picks kind h is to have floor(t p_h) of them, where p_h is its part of all. This can be kept at all later
    lengths T while sum_h max(n_h, floor(T p_h)) <= T. At the first T where both sides are equal, only kinds with less
    than floor(T p_h) may come, and any of them keeps it (lower quota, as in Balinski & Young 1975). A kind that has
    less than its share already, because others were labelled, comes first too.

    Parameters
    ----------
    counts : int array of shape (kinds,)
        n_h, the picked and labelled cases of every kind.
    parts : int array of shape (kinds,)
        In proportion to p_h, all at least 1.
    """
    whole, length = parts.sum(), counts.sum()
    last = length
    for h in range(len(parts)):
        last = max(last, counts[h] * whole // parts[h])
    for later in range(length + 1, last + 2):
        shares = later * parts // whole
        if np.maximum(counts, shares).sum() >= later:
            return counts < shares
    return np.ones(len(parts), np.bool_)
