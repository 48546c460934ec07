"""Coverage as a function of the budget, its knee, and the same for random draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_xssr.selection._engine.growth import mean_distances
from nnunetv2_xssr.selection._engine.threads import in_threads
from nnunetv2_xssr.selection.constraints import Constraints
from nnunetv2_xssr.selection.strategies import Outcome, Problem

STEPS = (5, 10, 20)  # further cases that the curve always has a point for
_POINTS = 128  # of a curve; up to so many picks, each has its own


@dataclass(frozen=True, kw_only=True)
class BudgetCurve:
    """What each budget would give, smaller and larger than the asked one: a selection is a ranking.

    Attributes
    ----------
    budget : tuple of int
        1, 2, ... picks; beyond 128 only some of the numbers.
    mean_distance : tuple of float
        Mean distance of the pool to the nearest labelled case or one of the first ``budget`` picks; it never grows.
    random_least, random_median, random_most : tuples of float
        The same for 20 random draws under the same limits: best, median and worst of them. At the asked budget the
        draws are complete: if cases have costs, they spend as much as the picks and may be more or fewer cases.
    knee : int
        The budget beyond which a case adds less than the average one: see `knee`.
    """

    budget: tuple[int, ...]
    mean_distance: tuple[float, ...]
    random_least: tuple[float, ...]
    random_median: tuple[float, ...]
    random_most: tuple[float, ...]
    knee: int

    def random_at(self, budget: int) -> float:
        """``random_median`` at one of the budgets."""
        return self.random_median[self.budget.index(budget)]


def knee(budget: Sequence[int], mean_distance: Sequence[float]) -> int:
    """The knee of a falling curve: the budget whose point lies farthest below the chord between the curve's ends.

    Budget and distance are scaled to [0, 1], and the largest (1 - x) - y wins; ties go to the smaller budget (Kneedle,
    Satopaa et al. 2011, without smoothing, because the curve is exact and never rises). The knee of a flat curve is its
    first budget. The knee depends on where the curve ends, so name both.
    """
    x, y = np.asarray(budget, np.float64), np.asarray(mean_distance, np.float64)
    if np.ptp(y) == 0:
        return int(budget[0])
    below = (x[-1] - x) / np.ptp(x) - (y - y[-1]) / np.ptp(y)
    return int(budget[int(np.argmax(below))])


def budgets_to_show(*, asked: int, longest: int) -> list[int]:
    """The points of a curve up to ``longest``: all budgets if few, else some, with ``asked`` and `STEPS` more."""
    if longest <= _POINTS:
        return list(range(1, longest + 1))
    some = np.rint(np.geomspace(1, longest, _POINTS)).astype(int).tolist()
    wanted = {*some, asked, *(asked + step for step in STEPS)}
    return sorted(budget for budget in wanted if 1 <= budget <= longest)


def next_round(
    problem: Problem, *, constraints: Constraints, budget: float, picks: np.ndarray, more: int
) -> Problem | None:
    """The problem of picking after these picks, as if they were labelled by now; None if nothing is left to pick.

    Parameters
    ----------
    problem : Problem
    constraints : Constraints
    budget : int, or float under a cost
        The budget of the picks; under costs the next round may spend as much again.
    picks : int array
    more : int
        How many further cases are wanted.
    """
    n, chosen = len(problem.density), np.sort(np.append(problem.chosen, picks))
    unlabelled = np.setdiff1d(np.arange(n), chosen)
    if more < 1 or len(unlabelled) == 0 or isinstance(constraints.domain_quota, Mapping):
        return None  # given numbers per domain leave nothing for a next round
    further: float = min(more, len(unlabelled))
    if constraints.cost is not None:
        further = min(budget, np.asarray(constraints.cost, np.float64)[unlabelled].sum())
    most, limits = constraints.unchecked_limits(n, budget=further, labelled=chosen)
    return replace(problem, chosen=chosen, budget=most, limits=limits) if most else None


def budget_curve(
    problem: Problem,
    *,
    outcome: Outcome,
    constraints: Constraints,
    budget: float,
    horizon: int,
    strategy: Callable[[Problem], Outcome],
    draws: Sequence[np.ndarray],
    draw: Callable[[Problem], np.ndarray],
) -> BudgetCurve:
    """Follow the ranking of a selection, and random draws, up to ``horizon`` cases or as far as the limits allow.

    Parameters
    ----------
    problem : Problem
    outcome : Outcome
        What the strategy picked for this problem.
    constraints : Constraints
    budget : int, or float under a cost
    horizon : int
    strategy : callable
        Problem to `Outcome`; it picks the further cases as if the picks were labelled.
    draws : sequence of int arrays
        Random draws for the same problem, each in random order.
    draw : callable
        Problem to a random draw, with which ``draws`` go on.
    """
    asked = len(outcome.picks)
    more = max(horizon - asked, 0)
    alphas = problem.alphas if outcome.alpha is None else (outcome.alpha,)

    def followed(picks: np.ndarray, pick: Callable[[Problem], np.ndarray]) -> np.ndarray:
        further = next_round(problem, constraints=constraints, budget=budget, picks=picks, more=more)
        if further is None:
            return picks
        return np.append(picks, pick(replace(further, alphas=alphas))[:more])

    rankings = [
        followed(outcome.picks, lambda problem: strategy(problem).picks),
        *(followed(picks, draw) for picks in draws),
    ]
    budgets = budgets_to_show(asked=asked, longest=len(rankings[0]))

    def curve_of(ranking: np.ndarray) -> np.ndarray:
        return mean_distances(problem.pool, ranking=ranking, chosen=problem.chosen)

    ours, *theirs = in_threads(curve_of, rankings)
    shown = ours[np.array(budgets) - 1]
    random = [
        curve[_draw_index(budgets, asked=asked, drawn=len(picks), longest=len(curve))]
        for picks, curve in zip(draws, theirs, strict=True)
    ]
    return BudgetCurve(
        budget=tuple(budgets),
        mean_distance=tuple(shown.tolist()),
        random_least=tuple(np.min(random, axis=0).tolist()),
        random_median=tuple(np.median(random, axis=0).tolist()),
        random_most=tuple(np.max(random, axis=0).tolist()),
        knee=knee(budgets, shown.tolist()),
    )


def _draw_index(budgets: Sequence[int], *, asked: int, drawn: int, longest: int) -> np.ndarray:
    """Which points of a random draw's curve are compared with these budgets.

    At the asked budget it is the end of the draw, which has more or fewer cases than the picks if cases have costs or
    limits. Before it the draw has at most as many cases as the picks, and after it as many further ones.
    """
    budget = np.array(budgets)
    cases = np.where(budget < asked, np.minimum(budget, drawn), drawn + budget - asked)
    return np.minimum(cases, longest) - 1  # a draw that the limits end earlier stays as it is
