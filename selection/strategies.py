"""The strategies: one function each, all called alike and listed in ``STRATEGIES``.

A strategy takes a `Problem` and returns an `Outcome`; only `nnunetv2_xssr.selection.select` calls it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection._engine.cells import Cells
from nnunetv2_xssr.selection.alpha import ALPHAS, AlphaCurve, calibrate, calibrate_sum
from nnunetv2_xssr.selection.clusters import kmeans_picks, typiclust_picks
from nnunetv2_xssr.selection.facility import facility_picks
from nnunetv2_xssr.selection.greedy import greedy_within_cost, nearest_distance
from nnunetv2_xssr.selection.limits import Limits, first_open, take
from nnunetv2_xssr.selection.probcover import probcover_picks

_CONTROL = 1  # with the seed: other draws than those that coverage is compared with
DOUBT_SHARE = 0.5  # of the weight of a case, what is left to a model's doubt
WEIGH_DOUBT = ("xssr", "xssr_no_shares")  # strategies that do; the others stay what they are compared as


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What there is to choose from, and how.

    Attributes
    ----------
    pool : Cells
        The standardised pool.
    density, novelty : arrays of shape (n,)
    kind : int array of shape (n,)
        See `nnunetv2_xssr.selection.kinds.tell_kinds`.
    doubt : array of shape (n,) or None
        See `nnunetv2_xssr.selection.scores.doubt_rank`; None without a model.
    budget : int
        k, between 1 and the number of cases that are not chosen yet.
    chosen : int array
        Labelled cases: they count as picked and cost nothing.
    limits : Limits
        What the picks must respect.
    alphas : tuple of float
        The grid on which alpha is calibrated.
    density_weight : float
    alpha_criterion : str
    seed : int
    """

    pool: Cells
    density: np.ndarray
    novelty: np.ndarray
    kind: np.ndarray
    budget: int
    chosen: np.ndarray
    limits: Limits
    alphas: tuple[float, ...] = ALPHAS
    density_weight: float = 0.5
    alpha_criterion: str = "mean_distance"
    seed: int = 0
    doubt: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The picks of a strategy.

    Attributes
    ----------
    picks : int array of shape (k,), or fewer
        In order.
    alpha : float or None
        Weight of novelty; None for strategies without it.
    curve : AlphaCurve or None
    density_weight : float or None
        Of strategies whose score is the weighted sum; None for the others.
    control : bool array of shape (k,) or None
        Which picks were drawn at random; None where none was asked for.
    """

    picks: np.ndarray
    alpha: float | None = None
    curve: AlphaCurve | None = None
    density_weight: float | None = None
    control: np.ndarray | None = None


def xssr(problem: Problem) -> Outcome:
    """Greedily maximise sum_i w_i max_{j in S} (2 - |z_i - z_j|) with w_i = (1 - alpha) + alpha novelty_i.

    XSSR (arXiv 2606.04301) as we read it, one objective for its three parts: density is the mass of cases that a
    pick covers, novelty is how much each of them counts, and diversity is the diminishing return, because what is
    covered by a pick cannot be covered again. The objective is submodular, so in a pool of one kind the greedy reaches
    at least 1 - 1/e of the best (Nemhauser et al. 1978). alpha is the one whose picks cover the pool best.

    Where the pool is of several kinds, each gets its share of the picks (`nnunetv2_xssr.selection.shares`), which is
    ours: the objective alone serves the kind whose cases lie near to each other, and this need not be the one that
    lacks labels.

    Where a model doubts cases, w_i is multiplied by (1 - beta) + beta doubt_i with beta = ``DOUBT_SHARE``: a case that
    the model is sure of counts half as much as the one that it doubts most. What is picked are still cases that others
    are near to: the most doubted ones alone are the odd ones.
    """
    return _covering(problem, kind=problem.kind)


def xssr_no_shares(problem: Problem) -> Outcome:
    """`xssr` whose kinds have no shares of the picks."""
    return _covering(problem)


def _covering(problem: Problem, *, kind: np.ndarray | None = None) -> Outcome:
    doubted = 1.0 if problem.doubt is None else 1 - DOUBT_SHARE + DOUBT_SHARE * problem.doubt

    def run(alpha: float) -> tuple[np.ndarray, np.ndarray]:
        weights = (1 - alpha + alpha * problem.novelty) * doubted
        picks = _facility_picks(problem, utility=_closeness, weights=weights, kind=kind)
        return picks, nearest_distance(problem.pool, chosen=np.append(problem.chosen, picks))

    alpha, picks, curve = calibrate(
        run, novelty=problem.novelty, alphas=problem.alphas, criterion=problem.alpha_criterion
    )
    return Outcome(picks=picks, alpha=alpha, curve=curve)


def xssr_sum(problem: Problem) -> Outcome:
    """The weighted sum density_weight density_i + alpha novelty_i + (1 - alpha) diversity_i(S).

    Another reading of XSSR (arXiv 2606.04301). alpha is the one whose picks cover the pool best.
    """
    alpha, picks, curve = calibrate_sum(
        problem.pool,
        weighted_density=problem.density_weight * problem.density,
        novelty=problem.novelty,
        budget=problem.budget,
        chosen=problem.chosen,
        alphas=problem.alphas,
        criterion=problem.alpha_criterion,
        limits=problem.limits,
    )
    return Outcome(picks=picks, density_weight=problem.density_weight, alpha=alpha, curve=curve)


def xssr_sum_no_density(problem: Problem) -> Outcome:
    """`xssr_sum` without density: alpha novelty_i + (1 - alpha) diversity_i(S)."""
    return xssr_sum(replace(problem, density_weight=0.0))


def xssr_sum_no_novelty(problem: Problem) -> Outcome:
    """`xssr_sum` without novelty, so alpha = 0: density_weight density_i + diversity_i(S)."""
    return xssr_sum(replace(problem, alphas=(0.0,)))


def xssr_sum_no_diversity(problem: Problem) -> Outcome:
    """`xssr_sum` without diversity, so alpha = 1: density_weight density_i + novelty_i."""
    return xssr_sum(replace(problem, alphas=(1.0,)))


def coreset(problem: Problem) -> Outcome:
    """k-center greedy (Sener & Savarese 2018): always the case farthest from all picks.

    The method leaves the first pick open; without labelled cases it is the densest case. Under a total cost we also run
    the greedy on distance per cost, and the smaller covering radius wins.
    """
    first, limits = np.empty(0, int), problem.limits.fresh()
    is_open = limits.open_cases()
    if len(problem.chosen) == 0 and is_open.any():
        first = np.array([np.argmax(np.where(is_open, problem.density, -np.inf))])
        take(limits, first[0])
    picks, _ = greedy_within_cost(
        problem.pool,
        fixed=np.zeros(len(problem.density)),
        diversity_weight=1.0,
        budget=problem.budget - len(first),
        chosen=np.concatenate([problem.chosen, first]),
        limits=limits,
        loss=np.max,
    )
    return Outcome(picks=np.concatenate([first, picks]))


def random(problem: Problem) -> Outcome:
    """Cases drawn without replacement from ``numpy.random.default_rng(seed)``: what every selection must beat."""
    candidates = np.setdiff1d(np.arange(len(problem.density)), problem.chosen)
    return Outcome(picks=_first_allowed(problem, np.random.default_rng(problem.seed).permutation(candidates)))


def random_draw(problem: Problem, *, rng: np.random.Generator) -> np.ndarray:
    """A set of random cases, not a ranking; without limits far quicker than ordering all cases of a large pool."""
    candidates = np.setdiff1d(np.arange(len(problem.density)), problem.chosen)
    count = len(candidates) if problem.limits.exist else problem.budget
    return _first_allowed(problem, rng.choice(candidates, count, replace=False))


def _first_allowed(problem: Problem, order: np.ndarray) -> np.ndarray:
    """The first cases of this order that the budget and the limits allow."""
    return first_open(problem.pool.pool, order, problem.budget, problem.chosen, problem.limits.fresh())


def with_control(strategy: Callable[[Problem], Outcome], problem: Problem, *, count: int) -> Outcome:
    """The picks of a strategy for what is left of the budget when ``count`` cases have been drawn from the pool.

    The drawn ones come first, from all open cases, so that they are what random picks would be; the strategy counts
    them as picked. Their places among the picks are random too: whoever works through the list cannot tell them.

    Raises
    ------
    UserError
        If they are not fewer than the budget.
    """
    if not 0 < count < problem.budget:
        raise UserError(f"control must be fewer than the {problem.budget} cases to pick, from 0; got {count}")
    rng = np.random.default_rng([problem.seed, _CONTROL])
    drawn = random_draw(replace(problem, budget=count), rng=rng)
    limits = problem.limits.fresh()
    for case in drawn:
        take(limits, case)
    rest = replace(
        problem, budget=problem.budget - len(drawn), chosen=np.concatenate([problem.chosen, drawn]), limits=limits
    )
    outcome = strategy(rest)
    total = len(drawn) + len(outcome.picks)
    is_control = np.zeros(total, bool)
    is_control[rng.choice(total, len(drawn), replace=False)] = True
    picks = np.empty(total, np.int64)
    picks[is_control], picks[~is_control] = drawn, outcome.picks
    return replace(outcome, picks=picks, control=is_control)


def _in_canonical_order(
    picker: Callable[..., np.ndarray], problem: Problem, *, of_cases: Mapping[str, np.ndarray] | None = None, **options
) -> np.ndarray:
    """Give a picker the cases sorted by their features, so that no tie and no k-means depends on the pool's order.

    ``picker(rows, budget=..., chosen=..., limits=..., **options)`` returns rows in order. ``of_cases`` are further
    options, with one value per case.
    """
    order = np.lexsort(problem.pool.pool.T)
    chosen, limits = np.argsort(order)[problem.chosen], problem.limits.rows(order)
    sorted_ = {name: values[order] for name, values in (of_cases or {}).items()}
    rows = problem.pool.pool[order]
    return order[picker(rows, budget=problem.budget, chosen=chosen, limits=limits, **sorted_, **options)]


def _facility_picks(
    problem: Problem, *, utility: Callable[[np.ndarray], np.ndarray], **of_cases: np.ndarray | None
) -> np.ndarray:
    """The greedy by gain or, if its picks cover better, the greedy by gain per cost: see `greedy_within_cost`."""
    given = {name: values for name, values in of_cases.items() if values is not None}
    prices = [{}, {"prices": problem.limits.cost}] if problem.limits.costs_differ else [{}]
    runs = [
        _in_canonical_order(facility_picks, problem, of_cases={**given, **price}, utility=utility) for price in prices
    ]
    if len(runs) == 1:
        return runs[0]
    return min(runs, key=lambda picks: nearest_distance(problem.pool, chosen=np.append(problem.chosen, picks)).mean())


def kmeans(problem: Problem) -> Outcome:
    """The case nearest to each centroid of k-means; clusters that hold a labelled case come last."""
    return Outcome(picks=_in_canonical_order(kmeans_picks, problem, seed=problem.seed))


def typiclust(problem: Problem) -> Outcome:
    """The most typical case of each cluster (TypiClust, Hacohen et al. 2022)."""
    return Outcome(picks=_in_canonical_order(typiclust_picks, problem, seed=problem.seed))


def probcover(problem: Problem) -> Outcome:
    """Picks whose balls cover the most cases, with the radius at which 95 % of balls are pure (Yehuda et al. 2022)."""
    return Outcome(picks=_in_canonical_order(probcover_picks, problem, seed=problem.seed))


def _closeness(distance: np.ndarray) -> np.ndarray:
    """2 is the largest distance between rows of unit length; while S is empty all cases count as this far from it."""
    return 2 - distance


def facility_location(problem: Problem) -> Outcome:
    """Greedily minimise the mean distance to the nearest pick, by maximising sum_i max_{j in S} (2 - |z_i - z_j|)."""
    return Outcome(picks=_facility_picks(problem, utility=_closeness))


def maxherding(problem: Problem) -> Outcome:
    """Greedily maximise the coverage sum_i max_{j in S} exp(-|z_i - z_j|^2) (MaxHerding, Bae et al. 2024)."""

    def utility(distance: np.ndarray) -> np.ndarray:
        return np.exp(-(distance**2))

    return Outcome(picks=_facility_picks(problem, utility=utility))


STRATEGIES: dict[str, Callable[[Problem], Outcome]] = {
    strategy.__name__: strategy
    for strategy in (
        xssr,
        xssr_no_shares,
        xssr_sum,
        xssr_sum_no_density,
        xssr_sum_no_novelty,
        xssr_sum_no_diversity,
        random,
        coreset,
        kmeans,
        typiclust,
        probcover,
        facility_location,
        maxherding,
    )
}
