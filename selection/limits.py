"""Limits that the picks must respect, in the form that the strategies work with."""

from typing import NamedTuple

import numpy as np

from nnunetv2_xssr.compiling import compiled
from nnunetv2_xssr.selection._engine.cells import squared_distance


class Limits(NamedTuple):
    """What closes cases as others are picked. A closed case never opens again, so lazy evaluation stays exact.

    Case i is open while use[p, i] <= room[p, label[p, i]] for every limit p, and no chosen case is nearer than
    ``min_distance``. It is a named tuple because compiled code can read one.

    Attributes
    ----------
    label : int array of shape (p, n)
        What a case counts towards, such as its domain or its group.
    use : array of shape (p, n)
        How much a case counts: 1, or its cost.
    room : array of shape (p, m)
        How much is left for each label; picks lower it.
    cost : array of shape (n,)
    min_distance : float
    """

    label: np.ndarray
    use: np.ndarray
    room: np.ndarray
    cost: np.ndarray
    min_distance: float

    @property
    def costs_differ(self) -> bool:
        """Whether some cases cost more than others."""
        return bool(self.cost.min() < self.cost.max())

    @property
    def exist(self) -> bool:
        """Whether there is any limit."""
        return len(self.label) > 0 or self.min_distance > 0

    def opened(self) -> np.ndarray:
        """Which cases each limit leaves open, bool array of shape (p, n), whatever their distances."""
        return self.use <= self.room[np.arange(len(self.room))[:, None], self.label]

    def open_cases(self) -> np.ndarray:
        """Which cases all limits leave open, bool array of shape (n,), whatever their distances."""
        return np.all(self.opened(), axis=0)

    def fresh(self) -> "Limits":
        """A copy whose room picks can use up."""
        return self._replace(room=self.room.copy())

    def rows(self, order: np.ndarray) -> "Limits":
        """The limits of the cases in another order."""
        label, use = np.ascontiguousarray(self.label[:, order]), np.ascontiguousarray(self.use[:, order])
        return self.fresh()._replace(label=label, use=use, cost=self.cost[order])


def unlimited(n: int) -> Limits:
    """No limit on n cases."""
    return Limits(
        label=np.zeros((0, n), np.int64),
        use=np.zeros((0, n)),
        room=np.zeros((0, 1)),
        cost=np.ones(n),
        min_distance=0.0,
    )


@compiled()
def is_open(limits, i, nearest):
    """Whether case i may be picked, given its distance to the nearest chosen case."""
    for p in range(len(limits.label)):
        if limits.use[p, i] > limits.room[p, limits.label[p, i]]:
            return False
    return nearest >= limits.min_distance


@compiled()
def take(limits, i):
    """Count case i as picked."""
    for p in range(len(limits.label)):
        limits.room[p, limits.label[p, i]] -= limits.use[p, i]


@compiled()
def nearest_of(rows, i, chosen, picks, limits):
    """Distance of case i to the nearest case of two lists; infinite, and quick, if no limit needs it."""
    nearest = np.inf
    if limits.min_distance > 0:
        for cases in (chosen, picks):
            for j in cases:
                nearest = min(nearest, np.sqrt(squared_distance(rows[i], rows[j])))
    return nearest


@compiled()
def first_open(rows, order, budget, chosen, limits):
    """Go through the cases in this order and return the first ``budget`` of them that are open at their turn."""
    picks = np.empty(budget, np.int64)
    count = 0
    for i in order:
        if count == budget:
            break
        if is_open(limits, i, nearest_of(rows, i, chosen, picks[:count], limits)):
            take(limits, i)
            picks[count] = i
            count += 1
    return picks[:count]


class Draft:
    """Picks so far, and the cases that are still open.

    Attributes
    ----------
    budget : int
        Most picks.
    chosen : int array
        Cases that counted as picked from the start.
    picks : list of int
    open : bool array of shape (n,)
        No case is open once the budget is spent.
    """

    def __init__(self, rows: np.ndarray, *, budget: int, chosen: np.ndarray, limits: Limits):
        self.budget, self.chosen = budget, chosen
        self.picks: list[int] = []
        self._rows, self._limits = rows, limits.fresh()
        self.open = limits.open_cases()
        for i in chosen:
            self._close_near(i)

    def take(self, i: int) -> None:
        """Pick case i."""
        self.picks.append(int(i))
        take(self._limits, i)
        self._close_near(i)
        self.open &= self._limits.open_cases() & (len(self.picks) < self.budget)

    def _close_near(self, i: int) -> None:
        self.open[i] = False
        if self._limits.min_distance > 0:
            apart = np.asarray(self._rows, np.float64) - self._rows[i]
            self.open &= np.sqrt((apart**2).sum(axis=1)) >= self._limits.min_distance
