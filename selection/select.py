"""From embeddings to a ranking, with the numbers that explain it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection._engine.cells import cells_of
from nnunetv2_xssr.selection._engine.threads import in_threads
from nnunetv2_xssr.selection.alpha import AlphaCurve, alphas_to_try
from nnunetv2_xssr.selection.by_budget import BudgetCurve, budget_curve
from nnunetv2_xssr.selection.constraints import Constraints
from nnunetv2_xssr.selection.greedy import nearest_chosen, nearest_distance, replay, stand_for
from nnunetv2_xssr.selection.kinds import tell_kinds
from nnunetv2_xssr.selection.options import check_doubt, check_options, labelled_rows
from nnunetv2_xssr.selection.scores import density, doubt_rank, novelty
from nnunetv2_xssr.selection.standardise import check_features, standardise
from nnunetv2_xssr.selection.strategies import STRATEGIES, Outcome, Problem, random_draw, with_control

N_RANDOM_DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A ranking: its first cases are the selection for a smaller budget at the same alpha.

    Attributes
    ----------
    picks : int array of shape (k,)
        Rows of the pool, in order; fewer than the budget if the constraints leave no more.
    density, novelty, diversity : arrays of shape (k,), in [0, 1]
        The parts of each pick's score when it was picked.
    doubt : array of shape (k,) or None
        See `nnunetv2_xssr.selection.scores.doubt_rank`; None without a model.
    score : array of shape (k,) or None
        density_weight * density + alpha * novelty + (1 - alpha) * diversity, of the weighted sums; else None.
    alpha : float or None
    curve : AlphaCurve or None
    mean_distance, covering_radius : float
        Mean and maximum over the pool of the distance to the nearest picked or labelled case; smaller is better.
    random_mean_distance : float
        Median of mean_distance over 20 random draws of the same budget and under the same constraints; the same number
        as `BudgetCurve.random_median` at the asked budget.
    stands_for : int array of shape (k,)
        How many cases of the pool, itself included, are nearer to each pick than to any other pick or labelled case.
    other_wholes : int array of shape (k,) or None
        Where cases are parts: how many other wholes have a part that is nearer to each pick than to any other pick or
        labelled case.
    by_budget : BudgetCurve or None
        What smaller and larger budgets would give; None without a horizon.
    control : bool array of shape (k,) or None
        Which picks were drawn at random, for comparison; None where none was asked for.
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
    other_wholes: np.ndarray | None = None
    by_budget: BudgetCurve | None = None
    control: np.ndarray | None = None
    doubt: np.ndarray | None = None


def select(
    pool: np.ndarray,
    budget: float,
    *,
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
    widths: Sequence[int] | None = None,
    wholes: Sequence[str] | None = None,
    doubt: np.ndarray | None = None,
    control: int = 0,
) -> Selection:
    """Pick ``budget`` of n embedded cases.

    Parameters
    ----------
    pool : array of shape (n, d)
        Features of the cases to choose from, as the encoder gives them: they are standardised here.
    budget : int, or float under a cost
        k, between 1 and the number of cases without a label; the total cost if the constraints give costs.
    source : array of shape (m, d), optional
        Features of the cases against which novelty is measured. Without it novelty is off and alpha is 0, which gives
        diversity its full weight.
    strategy : str
        A name in ``STRATEGIES``: "xssr", or a rival such as "coreset" or "facility_location".
    labelled : int array, optional
        Rows of the pool that have a label: they count as picked and cost nothing.
    alpha : float in [0, 1], optional
        Trade-off between novelty (1) and diversity (0); calibrated by default.
    density_weight : float
        Weight of density; 0.5 gives the three parts equal weights at alpha = 0.5.
    seed : int
        For the strategies that use chance and the random draws that the coverage is compared with.
    alpha_criterion : str
        A name in ``CRITERIA``: what the calibrated alpha minimises.
    constraints : Constraints, optional
        Costs, quotas, groups, least distance, excluded rows. They may leave fewer picks than the budget.
    horizon : int
        Follow the ranking up to so many cases and report the coverage over the budget: `Selection.by_budget`. Further
        cases are those that would be picked if the picks were labelled.
    components : int, optional
        Principal components of the standardised pool by which cases are compared; all features by default. Hundreds of
        features are mostly noise, which makes all distances alike; 32 components leave it out. Small pools have fewer:
        see `nnunetv2_xssr.selection.standardise.Scale.of`.
    widths : sequence of int, optional
        Where features of several sorts lie side by side, how many there are of each: every sort counts as much as every
        other. By default every feature does.
    wholes : sequence of n names, optional
        Where cases are parts, such as slices of volumes: the whole of each. Parts of one whole, which are alike anyway,
        do not count as density.
    doubt : array of shape (n,), optional
        How unsure a model is of each case, in any unit: "xssr" weighs cases by the order. That of labelled cases does
        not count.
    control : int
        How many cases of the budget are drawn at random in the place of picks of the strategy.

    Raises
    ------
    UserError
        If an argument does not fit, or the constraints leave no case to pick; the sentence names it.
    """
    check_features(pool, source)
    check_options(
        strategy=strategy, alpha=alpha, density_weight=density_weight, alpha_criterion=alpha_criterion, seed=seed
    )
    if doubt is not None:
        check_doubt(doubt, n=len(pool), strategy=strategy)
    labelled = labelled_rows(labelled, n=len(pool))
    constraints = constraints or Constraints()
    constraints.check(len(pool))
    kept = _kept_rows(constraints, labelled=labelled, n=len(pool))
    parts = _numbers_of(wholes, n=len(pool))
    parts = None if parts is None else parts[kept]
    if len(kept) < len(pool):
        pool, labelled, constraints = pool[kept], np.searchsorted(kept, labelled), constraints.only(kept)
    most, limits = constraints.limits(len(pool), budget=budget, labelled=labelled)
    z, x = standardise(pool, source, components=components, widths=widths)
    # There are many small matrix products: more threads for each would cost more than they save, and would disturb the
    # threads that work on several alphas at once.
    with threadpool_limits(1, "blas"):
        cells = cells_of(z)
        if constraints.min_distance > 0:
            constraints.check_open(limits, labelled=labelled, nearest=nearest_distance(cells, chosen=labelled))
        problem = Problem(
            pool=cells,
            density=density(cells, wholes=parts),
            novelty=novelty(cells, x),
            kind=tell_kinds(z),
            doubt=None if doubt is None else doubt_rank(doubt[kept], chosen=labelled),
            budget=most,
            chosen=labelled,
            limits=limits,
            alphas=alphas_to_try(alpha, has_source=source is not None),
            density_weight=density_weight,
            alpha_criterion=alpha_criterion,
            seed=seed,
        )
        chosen = _explained(
            problem, STRATEGIES[strategy], constraints=constraints, budget=budget, horizon=horizon, control=control
        )
        others = None if parts is None else _other_wholes(problem, chosen.picks, parts)
    return replace(chosen, picks=kept[chosen.picks], other_wholes=others)


def _other_wholes(problem: Problem, picks: np.ndarray, parts: np.ndarray) -> np.ndarray:
    chosen = np.concatenate([problem.chosen, picks])
    nearest = nearest_chosen(problem.pool, rows=problem.pool.pool[chosen], own=chosen)
    met = np.unique(np.stack([nearest, parts]), axis=1)
    met = met[0, parts[chosen[met[0]]] != met[1]]
    return np.bincount(met, minlength=len(chosen))[len(problem.chosen) :]


def _numbers_of(wholes: Sequence[str] | None, *, n: int) -> np.ndarray | None:
    """A number per case that cases of one whole share."""
    if wholes is None:
        return None
    if len(wholes) != n:
        raise UserError(f"wholes must have one entry per case, {n}; got {len(wholes)}")
    return np.unique(np.asarray(wholes), return_inverse=True)[1]


def _kept_rows(constraints: Constraints, *, labelled: np.ndarray, n: int) -> np.ndarray:
    """The rows of a pool of n cases that are not excluded, ascending."""
    excluded = np.empty(0, int) if constraints.excluded is None else constraints.excluded
    kept = np.setdiff1d(np.arange(n), excluded)
    if len(kept) == 0:
        raise UserError(f"excluded names all {n} cases of the pool; nothing is left to pick from")
    if not np.isin(labelled, kept).all():
        raise UserError(f"labelled and excluded must not share rows; got {labelled.tolist()} as labelled")
    return kept


def _explained(
    problem: Problem,
    strategy: Callable[[Problem], Outcome],
    *,
    constraints: Constraints,
    budget: float,
    horizon: int,
    control: int,
) -> Selection:
    """The picks of a strategy with all numbers about them."""
    outcome = with_control(strategy, problem, count=control) if control else strategy(problem)
    rng = np.random.default_rng(problem.seed)
    draws = [random_draw(problem, rng=rng) for _ in range(N_RANDOM_DRAWS)]
    curve = None
    if horizon:
        curve = budget_curve(
            problem,
            outcome=outcome,
            constraints=constraints,
            budget=budget,
            horizon=horizon,
            strategy=strategy,
            draws=draws,
            draw=partial(random_draw, rng=rng),
        )
    picks, chosen = outcome.picks, np.concatenate([problem.chosen, outcome.picks])
    parts = problem.density[picks], problem.novelty[picks]
    diversity, nearest = replay(problem.pool, picks=picks, chosen=problem.chosen)
    score = None
    if outcome.alpha is not None and outcome.density_weight is not None:
        score = outcome.density_weight * parts[0] + outcome.alpha * parts[1] + (1 - outcome.alpha) * diversity
    return Selection(
        picks=picks,
        density=parts[0],
        novelty=parts[1],
        diversity=diversity,
        doubt=None if problem.doubt is None else problem.doubt[picks],
        score=score,
        alpha=outcome.alpha,
        curve=outcome.curve,
        mean_distance=float(nearest.mean()),
        covering_radius=float(nearest.max()),
        random_mean_distance=curve.random_at(len(picks)) if curve else _median_mean_distance(problem, draws),
        stands_for=stand_for(problem.pool, rows=problem.pool.pool[chosen], own=chosen)[len(problem.chosen) :],
        by_budget=curve,
        control=outcome.control,
    )


def _median_mean_distance(problem: Problem, draws: list[np.ndarray]) -> float:
    """Median over some draws of the mean distance of the pool to the nearest drawn or labelled case."""

    def mean_distance(draw: np.ndarray) -> float:
        return nearest_distance(problem.pool, chosen=np.append(problem.chosen, draw)).mean()

    return float(np.median(in_threads(mean_distance, draws)))
