"""The options of a selection, checked in one place for everything that takes them."""

import numpy as np

from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.selection.alpha import CRITERIA
from nnunetv2_xssr.selection.strategies import STRATEGIES, WEIGH_DOUBT

LARGEST_SEED = 2**32 - 1  # that generators of random numbers take


def check_options(
    *,
    strategy: str = "xssr",
    alpha: float | None = None,
    density_weight: float = 0.5,
    alpha_criterion: str = "mean_distance",
    seed: int = 0,
) -> None:
    """Check the options of `nnunetv2_xssr.selection.select` that do not depend on the pool.

    Raises
    ------
    UserError
        If one of them does not fit; the sentence names it.
    """
    if strategy not in STRATEGIES:
        raise one_of("strategy", STRATEGIES, strategy)
    if alpha is not None and not 0 <= alpha <= 1:
        raise UserError(f"alpha must be a number between 0 and 1; got {alpha}")
    if not 0 <= density_weight < np.inf:
        raise UserError(f"density_weight must be 0 or more and finite; got {density_weight}")
    if alpha_criterion not in CRITERIA:
        raise one_of("alpha_criterion", CRITERIA, alpha_criterion)
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed must be 0 or more, and at most {LARGEST_SEED}; got {seed}")


def labelled_rows(labelled: np.ndarray | None, *, n: int) -> np.ndarray:
    """The labelled rows of a pool of n cases, an ascending int array with each row once; empty for None.

    Raises
    ------
    UserError
        If a row is not one of the pool's.
    """
    rows = np.empty(0, int) if labelled is None else np.unique(np.asarray(labelled, int))
    if len(rows) and not (0 <= rows[0] and rows[-1] < n):
        raise UserError(f"labelled must name rows of the pool, 0 to {n - 1}; got {rows.tolist()}")
    return rows


def check_doubt(doubt: np.ndarray, *, n: int, strategy: str) -> None:
    """Raise `UserError` unless doubt is one finite number per case, for a strategy that weighs it."""
    if strategy not in WEIGH_DOUBT:
        raise UserError(f"only {' and '.join(WEIGH_DOUBT)} weigh a model's doubt; got {strategy}, leave the doubt out")
    if doubt.shape != (n,) or not np.isfinite(doubt).all():
        raise UserError(f"doubt must be one finite number per case, of {n} cases; got an array of shape {doubt.shape}")
