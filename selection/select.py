"""From embeddings to a ranking with every number that explains it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numba import config
from threadpoolctl import threadpool_limits

from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.selection._engine.cells import cells_of
from nnunetv2_xssr.selection.alpha import ALPHAS, CRITERIA, AlphaCurve
from nnunetv2_xssr.selection.by_budget import BudgetCurve, budget_curve
from nnunetv2_xssr.selection.constraints import Constraints
from nnunetv2_xssr.selection.greedy import nearest_distance, replay, stand_for
from nnunetv2_xssr.selection.scores import density, novelty
from nnunetv2_xssr.selection.standardise import standardise
from nnunetv2_xssr.selection.strategies import STRATEGIES, Outcome, Problem, random_draw

N_RANDOM_DRAWS = 20


@dataclass(frozen=True)
class Selection:
    """A ranking: its first cases are the selection for a smaller budget at the same alpha.

    Attributes
    ----------
    picks : int array of shape (k,)
        Rows of the pool, in order; fewer than the budget where constraints leave no other.
    density, novelty, diversity : arrays of shape (k,), in [0, 1]
        The parts of each pick's score at the moment it was picked.
    score : array of shape (k,) or None
        density_weight * density + alpha * novelty + (1 - alpha) * diversity; None for strategies without a score.
    alpha : float or None
    curve : AlphaCurve or None
    mean_distance, covering_radius : float
        Mean and maximum over the pool of the distance to the nearest picked or labelled case; smaller is better.
    random_mean_distance : float
        Median of mean_distance over 20 random draws of the same budget and under the same constraints.
    stands_for : int array of shape (k,)
        How many cases of the pool, itself included, are nearer to each pick than to any other pick or labelled case.
    by_budget : BudgetCurve or None
        What smaller and larger budgets would give; None if not asked for.
    """

    picks: np.ndarray
    density: np.ndarray
    novelty: np.ndarray
    diversity: np.ndarray
    score: np.ndarray | None
    alpha: float | None
    curve: AlphaCurve | None
    mean_distance: float
    covering_radius: float
    random_mean_distance: float
    stands_for: np.ndarray
    by_budget: BudgetCurve | None = None


def select(
    pool: np.ndarray,
    budget: float,
    source: np.ndarray | None = None,
    strategy: str = "xssr",
    labelled: np.ndarray | None = None,
    alpha: float | None = None,
    density_weight: float = 0.5,
    seed: int = 0,
    alpha_criterion: str = "mean_distance",
    constraints: Constraints | None = None,
    horizon: int = 0,
    components: int | None = None,
) -> Selection:
    """Pick ``budget`` of n embedded cases.

    Parameters
    ----------
    pool : array of shape (n, d)
        Encoder features of the cases to choose from, as the encoder gives them: they are standardised here.
    budget : int, or float under a cost
        k, between 1 and the number of cases that are not labelled; the total cost where the constraints give costs.
    source : array of shape (m, d), optional
        Features of the cases that the novelty of a case is measured against. Without it novelty is off and alpha
        is 0, which leaves diversity its full weight.
    strategy : str
        A name in ``STRATEGIES``: "xssr", or a rival such as "coreset" or "facility_location".
    labelled : int array, optional
        Rows of the pool that have a label already: they count as picked and cost nothing.
    alpha : float in [0, 1], optional
        Trade-off between novelty (1) and diversity (0); calibrated by default.
    density_weight : float
        Weight of density; at 0.5 the three parts weigh the same for alpha = 0.5.
    seed : int
        For the random strategy and the random draws that the coverage is compared with.
    alpha_criterion : str
        A name in ``CRITERIA``: what the calibrated alpha minimises.
    constraints : Constraints, optional
        Costs, quotas, groups, least distance, excluded rows. They may leave fewer picks than the budget.
    horizon : int
        Follow the ranking up to so many cases and say how the coverage grows: `Selection.by_budget`. Further cases are
        those that would be picked if the picks were labelled by then.
    components : int, optional
        Principal components of the standardised pool that cases are compared by, at most half as many as there are
        cases; all features by default. Hundreds of features and more are mostly noise, which makes all distances alike:
        32 components leave it out.

    Raises
    ------
    UserError
        If an argument does not fit, or the constraints leave no case to pick; the sentence names it.
    """
    labelled = np.empty(0, int) if labelled is None else np.unique(np.asarray(labelled, int))
    constraints = constraints or Constraints()
    _check(pool, source, strategy, labelled, alpha, density_weight, alpha_criterion)
    constraints.check(len(pool))
    if constraints.excluded is not None:
        kept = np.setdiff1d(np.arange(len(pool)), constraints.excluded)
        if len(kept) == 0:
            raise UserError(f"excluded names all {len(pool)} cases of the pool; nothing is left to pick from")
        if not np.isin(labelled, kept).all():
            raise UserError(f"labelled and excluded must not share rows; got {labelled.tolist()} as labelled")
        rest = source, strategy, np.searchsorted(kept, labelled), alpha, density_weight, seed, alpha_criterion
        among_kept = select(pool[kept], budget, *rest, constraints.only(kept), horizon, components)
        return replace(among_kept, picks=kept[among_kept.picks])
    most, limits = constraints.limits(len(pool), budget=budget, labelled=labelled)
    z, x = standardise(pool, source, components)
    alphas = ((alpha,) if alpha is not None else ALPHAS) if source is not None else (0.0,)
    # The matrix products are many and small: threads of their own would cost more than they save, and would get into
    # each other's way where several alphas run side by side.
    with threadpool_limits(1, "blas"):
        cells = cells_of(z)
        if constraints.min_distance > 0:
            constraints.check_open(limits, labelled=labelled, nearest=nearest_distance(cells, labelled))
        scores = density(cells), novelty(cells, x)
        problem = Problem(cells, *scores, most, labelled, limits, alphas, density_weight, alpha_criterion, seed)
        outcome = STRATEGIES[strategy](problem)
        rng = np.random.default_rng(seed)
        draws = [random_draw(problem, rng) for _ in range(N_RANDOM_DRAWS)]
        if not horizon:
            return _explained(problem, outcome, _median_mean_distance(problem, draws), None)
        go_on = partial(random_draw, rng=rng)
        curve = budget_curve(problem, outcome, constraints, budget, horizon, STRATEGIES[strategy], draws, go_on)
        return _explained(problem, outcome, curve.random_median[curve.budget.index(len(outcome.picks))], curve)


def _explained(problem: Problem, outcome: Outcome, random: float, by_budget: BudgetCurve | None) -> Selection:
    """The selection with all numbers about its picks; ``random`` is the mean distance of random draws."""
    picks = outcome.picks
    parts = problem.density[picks], problem.novelty[picks]
    diversity, nearest = replay(problem.pool, picks, problem.chosen)
    score = None
    if outcome.alpha is not None:
        score = outcome.density_weight * parts[0] + outcome.alpha * parts[1] + (1 - outcome.alpha) * diversity
    chosen = np.concatenate([problem.chosen, picks])
    return Selection(
        picks,
        *parts,
        diversity,
        score,
        outcome.alpha,
        outcome.curve,
        float(nearest.mean()),
        float(nearest.max()),
        random,
        stand_for(problem.pool, problem.pool.pool[chosen], chosen)[len(problem.chosen) :],
        by_budget,
    )


def _median_mean_distance(problem: Problem, draws: list[np.ndarray]) -> float:
    """The median over some draws of the mean distance of the pool to the nearest drawn or labelled case."""
    chosen = [np.append(problem.chosen, draw) for draw in draws]
    with ThreadPoolExecutor(config.NUMBA_NUM_THREADS) as threads:
        return float(np.median(list(threads.map(lambda draw: nearest_distance(problem.pool, draw).mean(), chosen))))


def _check(pool, source, strategy, labelled, alpha, density_weight, alpha_criterion) -> None:
    if strategy not in STRATEGIES:
        raise one_of("strategy", STRATEGIES, strategy)
    if alpha_criterion not in CRITERIA:
        raise one_of("alpha_criterion", CRITERIA, alpha_criterion)
    for name, features in (("pool", pool), ("source", source)):
        if features is None:
            continue
        if features.ndim != 2 or len(features) == 0:
            raise UserError(f"{name} must have the shape (cases, features), not empty; got {features.shape}")
        if not np.isfinite(features).all():
            row = int(np.argwhere(~np.isfinite(features))[0, 0])
            raise UserError(f"{name} must hold finite numbers only; got NaN or infinity in row {row}")
    if source is not None and source.shape[1] != pool.shape[1]:
        raise UserError(f"source must have as many features as the pool, {pool.shape[1]}; got {source.shape[1]}")
    if len(labelled) and not (0 <= labelled[0] and labelled[-1] < len(pool)):
        raise UserError(f"labelled must name rows of the pool, 0 to {len(pool) - 1}; got {labelled.tolist()}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise UserError(f"alpha must be between 0 and 1; got {alpha}")
    if not density_weight >= 0:
        raise UserError(f"density_weight must be 0 or more; got {density_weight}")
