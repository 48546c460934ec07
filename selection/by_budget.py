"""How the coverage grows with the budget, where it bends, and what random draws give."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numba import config

from nnunetv2_xssr.selection._engine.growth import mean_distances
from nnunetv2_xssr.selection.constraints import Constraints
from nnunetv2_xssr.selection.strategies import Outcome, Problem

STEPS = (5, 10, 20)  # further cases that the curve always has a point for
_POINTS = 128  # of a curve; up to so many picks every one has its own


@dataclass(frozen=True)
class BudgetCurve:
    """What every budget would give, and more than the asked one too, as a selection is a ranking.

    Attributes
    ----------
    budget : tuple of int
        1, 2, ... picks; beyond 128 only some of the numbers.
    mean_distance : tuple of float
        Mean distance of the pool to the nearest of the labelled cases and the first so many picks; it never grows.
    random_least, random_median, random_most : tuples of float
        The same for 20 random draws under the same limits: best, median and worst of them. At the asked budget the
        draws are complete: where cases have costs, they spend as much as the picks and may be more or fewer cases.
    knee : int
        The budget from which on a case adds less than the average one: see `knee`.
    """

    budget: tuple[int, ...]
    mean_distance: tuple[float, ...]
    random_least: tuple[float, ...]
    random_median: tuple[float, ...]
    random_most: tuple[float, ...]
    knee: int


def knee(budget: Sequence[int], mean_distance: Sequence[float]) -> int:
    """The knee of a falling curve: the budget whose point lies farthest below the chord between the curve's ends.

    Budget and distance are scaled to [0, 1] and the largest (1 - x) - y is taken, ties by the smaller budget (Kneedle,
    Satopaa et al. 2011, without smoothing, as the curve is exact and never rises). A flat curve bends at its start.
    The knee depends on where the curve ends, so say that with it.
    """
    x, y = np.asarray(budget, np.float64), np.asarray(mean_distance, np.float64)
    if np.ptp(y) == 0:
        return int(budget[0])
    below = (x[-1] - x) / np.ptp(x) - (y - y[-1]) / np.ptp(y)
    return int(budget[int(np.argmax(below))])


def budgets_to_show(asked: int, longest: int) -> list[int]:
    """The points of a curve up to ``longest``: all budgets if they are few, and always the asked one and `STEPS` on."""
    if longest <= _POINTS:
        return list(range(1, longest + 1))
    some = np.rint(np.geomspace(1, longest, _POINTS)).astype(int).tolist()
    wanted = {*some, asked, *(asked + step for step in STEPS)}
    return sorted(budget for budget in wanted if 1 <= budget <= longest)


def next_round(
    problem: Problem, constraints: Constraints, budget: float, picks: np.ndarray, more: int
) -> Problem | None:
    """The problem of picking after these picks, as if they were labelled by now; None where nothing is left to pick.

    Parameters
    ----------
    budget : int, or float under a cost
        What the picks were allowed; under costs the next round may spend as much again.
    more : int
        How many further cases are wanted.
    """
    n, chosen = len(problem.density), np.sort(np.append(problem.chosen, picks))
    free = np.setdiff1d(np.arange(n), chosen)
    if more < 1 or len(free) == 0 or isinstance(constraints.domain_quota, Mapping):
        return None  # numbers that a user gave for every domain are all that is wanted of it
    further: float = min(more, len(free))
    if constraints.cost is not None:
        further = min(budget, np.asarray(constraints.cost, np.float64)[free].sum())
    most, limits = constraints.unchecked_limits(n, budget=further, labelled=chosen)
    return replace(problem, chosen=chosen, budget=most, limits=limits) if most else None


def budget_curve(
    problem: Problem,
    outcome: Outcome,
    constraints: Constraints,
    budget: float,
    horizon: int,
    strategy: Callable[[Problem], Outcome],
    draws: Sequence[np.ndarray],
    draw: Callable[[Problem], np.ndarray],
) -> BudgetCurve:
    """Follow a selection's ranking, and random draws, up to ``horizon`` cases or as far as the limits allow.

    Parameters
    ----------
    problem, outcome : what was asked and what was picked
    constraints : Constraints
    budget : int, or float under a cost
    horizon : int
    strategy : callable
        Problem to `Outcome`: what picked, and picks the further cases as if the picks were labelled.
    draws : sequence of int arrays
        Random draws for the same problem, each in random order.
    draw : callable
        Problem to a random draw: how ``draws`` go on.
    """
    asked = len(outcome.picks)
    more = max(horizon - asked, 0)
    alphas = problem.alphas if outcome.alpha is None else (outcome.alpha,)

    def followed(picks: np.ndarray, pick: Callable[[Problem], np.ndarray]) -> np.ndarray:
        further = next_round(problem, constraints, budget, picks, more)
        if further is None:
            return picks
        return np.append(picks, pick(replace(further, alphas=alphas))[:more])

    rankings = [
        followed(outcome.picks, lambda problem: strategy(problem).picks),
        *(followed(picks, draw) for picks in draws),
    ]
    budgets = budgets_to_show(asked, len(rankings[0]))
    with ThreadPoolExecutor(config.NUMBA_NUM_THREADS) as threads:
        curves = list(threads.map(lambda ranking: mean_distances(problem.pool, ranking, problem.chosen), rankings))
    ours = curves[0][np.array(budgets) - 1]
    theirs = [
        curve[_places(budgets, asked, len(picks), len(curve))] for picks, curve in zip(draws, curves[1:], strict=True)
    ]
    return BudgetCurve(
        tuple(budgets),
        tuple(map(float, ours)),
        tuple(np.min(theirs, axis=0).tolist()),
        tuple(np.median(theirs, axis=0).tolist()),
        tuple(np.max(theirs, axis=0).tolist()),
        knee(budgets, ours),
    )


def _places(budgets: Sequence[int], asked: int, drawn: int, longest: int) -> np.ndarray:
    """Which places of a random draw's curve are compared with these budgets.

    At the asked budget that is the end of the draw, whose cases may be more or fewer than the picks where cases have
    costs or limits. Before it the draw has no more cases than the picks have, and after it as many more.
    """
    budget = np.array(budgets)
    cases = np.where(budget < asked, np.minimum(budget, drawn), drawn + budget - asked)
    return np.minimum(cases, longest) - 1  # a draw that the limits end earlier stays what it is
