"""What the Dice of selections and of random draws tells: gains with intervals, ranks, annotation saved, and words.

Dice comes as arrays of shape (units, ..., cases). A unit is what is drawn anew: a random draw, or the encoder of one
seed for a strategy. All arrays share the test cases; between them there may be budgets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
Outcome = Callable[[np.ndarray], np.ndarray]


def mean_dice(dice: np.ndarray) -> np.ndarray:
    """Mean over the cases, the last axis."""
    return dice.mean(axis=-1)


def worst_cases(dice: np.ndarray) -> np.ndarray:
    """5th percentile over the cases, the last axis."""
    return np.percentile(dice, 5, axis=-1)


def worst_tenth(dice: np.ndarray) -> np.ndarray:
    """Mean over the worst tenth of the cases, the last axis: one case at least."""
    n = max(1, dice.shape[-1] // 10)
    return np.partition(dice, n - 1, axis=-1)[..., :n].mean(axis=-1)


OUTCOMES: dict[str, Outcome] = {"mean": mean_dice, "worst_cases": worst_cases, "worst_tenth": worst_tenth}


@dataclass(frozen=True)
class Gain:
    """A difference to random draws with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def seen(self) -> bool:
        """Whether the interval leaves 0 out."""
        return not self.low <= 0 <= self.high


def gain(
    ours: np.ndarray,
    random: np.ndarray,
    *,
    outcome: Outcome = mean_dice,
    groups: Sequence[str] | None = None,
) -> Gain:
    """Outcome of a strategy less that of random draws, averaged over units and budgets.

    The interval is the percentile interval of a hierarchical bootstrap: test cases are drawn anew, the same for both,
    and so are the units of each. Of n units n - 1 are drawn, which makes the variance of their mean that of n units (of
    n drawn it would be (n - 1) / n of it; Rao & Wu 1988). A single unit stands for itself alone: the interval knows
    nothing of other encoder seeds then. Test cases of one patient are alike: they are drawn together, as wholes.

    Parameters
    ----------
    ours, random : arrays of shape (units, ..., cases) and (draws, ..., cases)
        Dice; the axes between are budgets.
    outcome : callable
        Of `OUTCOMES`.
    groups : sequence of str, optional
        The group (patient) of every test case; by default each is one of its own.
    """
    rng = np.random.default_rng(0)
    cases = _drawn_cases(ours.shape[-1], groups, rng)
    drawn = [_resampled(_over_budgets(dice), cases, outcome, rng) for dice in (ours, random)]
    low, high = np.quantile(drawn[0] - drawn[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Gain(float(outcome(ours).mean() - outcome(random).mean()), float(low), float(high))


def _drawn_cases(n_cases: int, groups: Sequence[str] | None, rng: np.random.Generator) -> list[np.ndarray]:
    """The test cases of every resample."""
    if not groups:
        return list(rng.integers(0, n_cases, (RESAMPLES, n_cases)))
    _, number = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(number == i) for i in range(number.max() + 1)]
    drawn = rng.integers(0, len(members), (RESAMPLES, len(members)))
    return [np.concatenate([members[i] for i in row]) for row in drawn]


def _over_budgets(dice: np.ndarray) -> np.ndarray:
    """Shape (units, budgets, cases), with one budget where there is no axis for it."""
    return dice.reshape(len(dice), -1, dice.shape[-1])


def _resampled(dice: np.ndarray, cases: list[np.ndarray], outcome: Outcome, rng: np.random.Generator) -> np.ndarray:
    """The mean outcome of every resample, shape (RESAMPLES,)."""
    of_units = np.stack([outcome(dice[..., drawn]).mean(axis=1) for drawn in cases])
    n = len(dice)
    units = rng.integers(0, n, (len(cases), max(1, n - 1)))
    return np.take_along_axis(of_units, units, axis=1).mean(axis=1)


def mean_over_studies(gains: np.ndarray) -> Gain:
    """Mean of the gains of several studies; the studies are drawn anew, as units are in `gain`.

    Parameters
    ----------
    gains : array of shape (studies,)
    """
    n = len(gains)
    drawn = np.random.default_rng(0).integers(0, n, (RESAMPLES, max(1, n - 1)))
    low, high = np.quantile(gains[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Gain(float(gains.mean()), float(low), float(high))


def percentile_within(ours: np.ndarray, random: np.ndarray) -> float:
    """Share of the random draws below a selection, in percent, the mean over selections; ties count half: 50 is chance.

    Parameters
    ----------
    ours, random : arrays of shape (units,) and (draws,)
        An outcome.
    """
    below, equal = ours[:, None] > random, ours[:, None] == random
    return float(100 * (below + equal / 2).mean())


def budgets_won(ours: np.ndarray, random: np.ndarray) -> int:
    """At how many budgets the mean over selections is above the mean over random draws.

    Parameters
    ----------
    ours, random : arrays of shape (units, budgets) and (draws, budgets)
        An outcome.
    """
    return int((ours.mean(axis=0) > random.mean(axis=0)).sum())


def annotation_saved(dice: float, *, n_cases: int, budgets: np.ndarray, random: np.ndarray) -> float | None:
    """How many more random cases reach the Dice that a selection reaches; negative where fewer do.

    The random budget curve is made monotone by least squares and interpolated over the logarithm of the budget.

    Parameters
    ----------
    dice : float
        Mean Dice of the selection.
    n_cases : int
        Its cases.
    budgets : array of shape (b,)
        Cases of the random draws, increasing; the last may be the whole pool.
    random : array of shape (b,)
        Mean Dice of random draws of as many cases.

    Returns
    -------
    float or None
        None where the curve does not reach that Dice, or starts above it.
    """
    curve = monotone(random)
    if not curve[0] <= dice <= curve[-1]:
        return None
    after = int(np.argmax(curve >= dice))
    if after == 0:
        return float(budgets[0] - n_cases)
    share = (dice - curve[after - 1]) / (curve[after] - curve[after - 1])
    low, high = np.log(budgets[after - 1 : after + 1])
    return float(np.exp(low + share * (high - low)) - n_cases)


def monotone(values: np.ndarray) -> np.ndarray:
    """The never falling sequence nearest to this one in least squares: max over starts of min over ends of means."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    n = len(values)
    return np.array(
        [
            max(min((sums[end] - sums[start]) / (end - start) for end in range(i + 1, n + 1)) for start in range(i + 1))
            for i in range(n)
        ]
    )


def gains_by_domain(
    ours: np.ndarray, random: np.ndarray, *, domains: list[str], groups: Sequence[str] | None = None
) -> dict[str, Gain]:
    """The gain in mean Dice on the test cases of every domain.

    Parameters
    ----------
    ours, random, groups : see `gain`
    domains : list of str
        Of the test cases.
    """
    gains = {}
    for domain in sorted(set(domains)):
        places = [i for i, one in enumerate(domains) if one == domain]
        own = [groups[i] for i in places] if groups else None
        gains[domain] = gain(ours[..., places], random[..., places], groups=own)
    return gains


def conclusion(gains: Mapping[str, Gain], *, judge: str) -> str:
    """One sentence of what may be concluded.

    Parameters
    ----------
    gains : mapping from strategy to Gain
        In Dice points.
    judge : str
        In words.
    """

    def named(wanted: Callable[[Gain], bool]) -> str:
        return ", ".join(f"{name} ({describe(one)})" for name, one in gains.items() if wanted(one))

    parts = [
        f"better than random draws: {named(lambda one: one.low > 0)}",
        f"worse than random draws: {named(lambda one: one.high < 0)}",
        f"no difference seen: {named(lambda one: not one.seen)}",
    ]
    told = "; ".join(part for part in parts if part.endswith(")"))
    return f"{told[0].upper()}{told[1:]}; in points of mean Dice over all budgets with 95 % intervals, by {judge}."


def describe(one: Gain) -> str:
    """A gain in Dice points, such as ``+1.2, -0.3 to +2.8``."""
    return f"{one.mean:+.1f}, {one.low:+.1f} to {one.high:+.1f}"
