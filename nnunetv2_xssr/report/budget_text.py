"""How many cases to annotate, in words: the knee of the coverage, and what the next few would add."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunetv2_xssr.report.coverage_text import DIGITS
from nnunetv2_xssr.selection.by_budget import STEPS

_CLEAR = 0.25  # how far below the chord a knee must lie to be one: 0 is a straight line, 1 a right angle


@dataclass(frozen=True)
class Gain:
    """What further cases, or slices, would add.

    Attributes
    ----------
    cases : int
        Beyond those picked; fewer than asked where no more are left.
    mean_distance : float
        Of the pool to the nearest chosen case with them.
    nearer : float
        Share of the present mean distance by which it falls, in [0, 1].
    """

    cases: int
    mean_distance: float
    nearer: float


def gains(curve: Mapping[str, Any], picked: int) -> list[Gain]:
    """What the next 5, 10 and 20 cases would add, or as many as are left.

    Parameters
    ----------
    curve : dict
        The lists of a `nnunetv2_xssr.selection.by_budget.BudgetCurve`.
    picked : int
        How many cases are picked already: one of its budgets.
    """
    at = dict(zip(curve["budget"], curve["mean_distance"], strict=True))
    now, longest = at[picked], curve["budget"][-1]
    steps = sorted({min(step, longest - picked) for step in STEPS} - {0})
    return [Gain(step, at[picked + step], 1 - at[picked + step] / now if round(now, DIGITS) else 0.0) for step in steps]


def knee_words(curve: Mapping[str, Any], picked: int, unit: str = "case") -> str:
    """Where the curve bends, and how the picks, cases or slices, lie to that."""
    knee, longest = curve["knee"], curve["budget"][-1]
    if longest == 1:
        return f"a single {unit} can be picked: there is nothing to weigh up"
    place = "as many as are picked"
    if picked != knee:
        place = f"{abs(picked - knee)} {'fewer' if knee < picked else 'more'} than picked"
    words = f"the knee of the coverage up to {longest} {unit}s is at {knee}, {place}: "
    if _below_chord(curve) < _CLEAR:
        return words + f"but the curve hardly bends, every further {unit} adds about as much, and the knee says little"
    return words + f"up to there a {unit} adds more than the average one, from there on less"


def _below_chord(curve: Mapping[str, Any]) -> float:
    """How far the knee lies below the line between the curve's ends, both axes scaled to [0, 1]."""
    budget, distance = curve["budget"], curve["mean_distance"]
    fall = distance[0] - distance[-1]
    at = budget.index(curve["knee"])
    return (
        (budget[-1] - curve["knee"]) / (budget[-1] - budget[0]) - (distance[at] - distance[-1]) / fall if fall else 0.0
    )


def sure_words(curve: Mapping[str, Any], picked: int, unit: str = "case") -> str:
    """How the picks stand among random draws of as many cases, or slices: what can be said without a label."""
    at = curve["budget"].index(picked)
    ours, least, middle, most = (
        curve[name][at] for name in ("mean_distance", "random_least", "random_median", "random_most")
    )
    if ours < least:
        return f"the picks lie nearer to the {unit}s of the pool than every one of 20 random draws"
    if ours < middle:
        return f"the picks lie nearer to the {unit}s of the pool than most of 20 random draws, but not than the best"
    if ours <= most:
        return f"the picks lie no nearer to the {unit}s of the pool than most of 20 random draws"
    return f"the picks lie farther from the {unit}s of the pool than every one of 20 random draws"


def next_words(curve: Mapping[str, Any], picked: int, unit: str = "case") -> str:
    """What the next cases, or slices, would add, as one sentence."""
    found = gains(curve, picked)
    if not found:
        return f"no further {unit} can be picked"
    counts = ", ".join(str(gain.cases) for gain in found)
    nearer = ", ".join(f"{100 * gain.nearer:.1f}" for gain in found)
    noun = unit if counts == "1" else f"{unit}s"
    return f"the next {counts} {noun} would bring the pool {nearer} % nearer to a chosen one"
