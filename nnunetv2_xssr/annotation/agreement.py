"""How far raters agree on the cases that several of them drew."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two raters agree on one label.

    Attributes
    ----------
    label : str
    raters : tuple of str
    cases : int
        That both have drawn.
    dice : float or None
        Mean over the cases in which either drew the label; None if there is none.
    kappa : float or None
        Cohen's, of all voxels of these cases together, label or not; None where both gave all voxels the same.
    """

    label: str
    raters: tuple[str, str]
    cases: int
    dice: float | None
    kappa: float | None


class Comparison:
    """Counts the voxels on which raters agree, case by case.

    Parameters
    ----------
    names : mapping from int or tuple of int to str
        The labels to compare, by value, or by the values of a region.
    ignore : int or None
        Voxels that either rater gave this value do not count.
    """

    def __init__(self, names: Mapping[int, str] | Mapping[tuple[int, ...], str], *, ignore: int | None):
        self._names, self._ignore = names, ignore
        self._counts: dict[tuple[str, str], list[np.ndarray]] = {}

    def add(self, labels: Mapping[str, np.ndarray]) -> None:
        """Compare the labels of one case, by rater."""
        for pair in combinations(labels, 2):
            one, other = (labels[rater] for rater in pair)
            counted = (one != self._ignore) & (other != self._ignore)
            one, other = one[counted], other[counted]
            rows = []
            for value in self._names:
                ours, theirs = np.isin(one, value), np.isin(other, value)
                rows.append([(ours & theirs).sum(), ours.sum(), theirs.sum(), one.size])
            self._counts.setdefault(pair, []).append(np.array(rows, float))

    def result(self) -> list[Agreement]:
        """Of every label and pair of raters."""
        return [
            self._agreement(name, pair, np.array([case[row] for case in cases]))
            for row, name in enumerate(self._names.values())
            for pair, cases in self._counts.items()
        ]

    def _agreement(self, name: str, pair: tuple[str, str], counts: np.ndarray) -> Agreement:
        both, one, other, _ = counts.T
        drawn = one + other > 0
        b, o, t, n = counts.sum(axis=0)
        chance = (o * t + (n - o) * (n - t)) / n**2 if n else 1.0
        observed = (n - o - t + 2 * b) / n if n else 1.0
        return Agreement(
            label=name,
            raters=pair,
            cases=len(counts),
            dice=float(np.mean(2 * both[drawn] / (one + other)[drawn])) if drawn.any() else None,
            kappa=float((observed - chance) / (1 - chance)) if chance < 1 else None,
        )
