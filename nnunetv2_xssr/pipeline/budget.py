"""How many cases are picked: as many as the user says, or as many as the knee of the coverage tells."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from nnunetv2_xssr.pipeline.plan import MOST_AUTOMATIC, Choice, FoldPlan
from nnunetv2_xssr.selection import Selection


def pick(
    fold: FoldPlan,
    pool: np.ndarray,
    *,
    select: Callable[..., Selection],
    choice: Choice,
    source: np.ndarray | None,
    labelled: np.ndarray,
    components: int | None,
    widths: Sequence[int] | None,
    doubt: np.ndarray | None,
) -> Selection:
    """Select the cases of one fold.

    Without a budget the ranking of the longest selection is followed, and its first cases up to the knee are picked,
    with the alpha that was calibrated for all of it: then the picks are that ranking's, and so is the knee.

    Parameters
    ----------
    select : callable
        See `nnunetv2_xssr.pipeline.scheduler.selector`.
    pool, source : arrays of shape (n, d) and (m, d)
    labelled : int array
        Rows of the pool.
    components : int or None
    widths : sequence of int or None
    doubt : array of shape (n,) or None
        See `nnunetv2_xssr.selection.select`.
    """

    def run(budget: float, alpha: float | None, horizon: int) -> Selection:
        return select(
            pool,
            budget,
            source=source,
            strategy=choice.strategy,
            labelled=labelled,
            alpha=alpha,
            density_weight=choice.density_weight,
            seed=choice.seed,
            alpha_criterion=choice.alpha_criterion,
            constraints=fold.constraints,
            horizon=horizon,
            components=components,
            widths=widths,
            wholes=fold.constraints.volume,
            doubt=doubt,
            control=choice.control,
        )

    if fold.budget is not None:
        # The knee depends on how far the curve goes: while budgets are small, that shall not depend on them. Of large
        # ones it goes on for as long as an annotator could.
        cases = 0 if fold.constraints.cost is not None else int(fold.budget)
        return run(fold.budget, choice.alpha, max(min(2 * cases, cases + MOST_AUTOMATIC), MOST_AUTOMATIC))
    longest = run(fold.most(), choice.alpha, fold.most())
    curve = longest.by_budget
    chosen = run(curve.knee if curve else fold.most(), longest.alpha, fold.most())
    return replace(chosen, curve=longest.curve)
