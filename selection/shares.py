"""Shares of the budget: every kind of the pool gets its part of the picks, at every length of the ranking."""

from typing import NamedTuple

import numpy as np

from nnunetv2_xssr.compiling import compiled

LEAST_GAIN = 0.25  # of the best case's gain: a kind whose best case gains less has enough, such as a burst of copies


class Shares(NamedTuple):
    """The kinds of a pool. It is a named tuple because compiled code can read one.

    Attributes
    ----------
    kind : int array of shape (n,)
    sizes : int array of shape (kinds,)
        Cases of every kind.
    """

    kind: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, kind: np.ndarray) -> "Shares":
        """From the kind of every case, numbered from 0."""
        return cls(kind=np.ascontiguousarray(kind, np.int64), sizes=np.bincount(kind).astype(np.int64))

    @classmethod
    def none(cls, n: int) -> "Shares":
        """All n cases are of one kind."""
        return cls.of(np.zeros(n, np.int64))


@compiled()
def come_first(counts, sizes):
    """Which kinds may come next, bool array of shape (kinds,), so that none ever lacks its share.

    After t picks a kind with N_h of the pool's N cases is to have floor(t N_h / N) of them. This can be kept at all
    later lengths T while sum_h max(n_h, floor(T N_h / N)) <= T. At the first T where both sides are equal, only kinds
    with less than floor(T N_h / N) may come, and any of them keeps it (lower quota, as in Balinski & Young 1975). A
    kind that has less than its share already, because others were labelled, comes first too.

    Parameters
    ----------
    counts : int array of shape (kinds,)
        n_h, the picked and labelled cases of every kind.
    sizes : int array of shape (kinds,)
        N_h, all at least 1.
    """
    whole, length = sizes.sum(), counts.sum()
    last = length
    for h in range(len(sizes)):
        last = max(last, counts[h] * whole // sizes[h])
    for later in range(length + 1, last + 2):
        shares = later * sizes // whole
        if np.maximum(counts, shares).sum() >= later:
            return counts < shares
    return np.ones(len(sizes), np.bool_)
