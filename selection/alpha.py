"""The trade-off between novelty and diversity, calibrated by coverage of the embedding space."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.selection._engine.cells import Cells, cells_of
from nnunetv2_xssr.selection._engine.threads import in_threads
from nnunetv2_xssr.selection.greedy import greedy_within_cost
from nnunetv2_xssr.selection.limits import Limits, unlimited

ALPHAS = tuple(i / 10 for i in range(11))


def alphas_to_try(alpha: float | None, *, has_source: bool) -> tuple[float, ...]:
    """The given alpha, or the grid to calibrate it on; without a source novelty is zero and alpha is 0."""
    if not has_source:
        return (0.0,)
    return ALPHAS if alpha is None else (alpha,)


def mean_distance(nearest: np.ndarray, novelty: np.ndarray) -> float:
    """mean_i d_i with d_i = min_{j in S} |z_i - z_j|: the paper's embedding-space coverage, as we read it."""
    return float(nearest.mean())


def covering_radius(nearest: np.ndarray, novelty: np.ndarray) -> float:
    """max_i d_i: the distance of the case that is covered worst."""
    return float(nearest.max())


def novel_mean_distance(nearest: np.ndarray, novelty: np.ndarray) -> float:
    """sum_i novelty_i d_i / sum_i novelty_i: coverage of what the source does not have.

    If no case is novel (novelty_i = 0 for all, as without a source), all cases count equally.
    """
    return float(np.average(nearest, weights=novelty if novelty.any() else None))


CRITERIA: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    criterion.__name__: criterion for criterion in (mean_distance, covering_radius, novel_mean_distance)
}


@dataclass(frozen=True, kw_only=True)
class AlphaCurve:
    """What each alpha of the grid gives.

    Attributes
    ----------
    alpha : tuple of float
    mean_distance, covering_radius, novel_mean_distance : tuples of float
        The criteria of the same names, one value per grid point; smaller is better.
    overlap : tuple of float
        Share of picks that two neighbouring grid points have in common, one value per grid point but the last.
    """

    alpha: tuple[float, ...]
    mean_distance: tuple[float, ...]
    covering_radius: tuple[float, ...]
    novel_mean_distance: tuple[float, ...]
    overlap: tuple[float, ...]


def calibrate(
    run: Callable[[float], tuple[np.ndarray, np.ndarray]],
    *,
    novelty: np.ndarray,
    alphas: tuple[float, ...] = ALPHAS,
    criterion: str = "mean_distance",
) -> tuple[float, np.ndarray, AlphaCurve]:
    """Pick with each alpha and keep the picks that cover the pool best.

    Parameters
    ----------
    run : callable
        From alpha to picks, int array of shape (k,), and the distance of every case to the nearest pick or labelled
        case, shape (n,).
    novelty : array of shape (n,)
    alphas : tuple of float, ascending
    criterion : str
        A name in ``CRITERIA``: what the best alpha minimises; of equals the smallest is taken.

    Returns
    -------
    alpha : float
    picks : int array of shape (k,)
    curve : AlphaCurve
    """
    picks, nearest = zip(*in_threads(run, alphas), strict=True)
    curves = {name: tuple(value(distances, novelty) for distances in nearest) for name, value in CRITERIA.items()}
    overlap = tuple(
        len(np.intersect1d(a, b)) / max(len(a), len(b), 1) for a, b in zip(picks[:-1], picks[1:], strict=True)
    )
    best = int(np.argmin(curves[criterion]))
    return alphas[best], picks[best], AlphaCurve(alpha=tuple(alphas), **curves, overlap=overlap)


def calibrate_sum(
    pool: np.ndarray | Cells,
    *,
    weighted_density: np.ndarray,
    novelty: np.ndarray,
    budget: int,
    chosen: np.ndarray,
    alphas: tuple[float, ...] = ALPHAS,
    criterion: str = "mean_distance",
    limits: Limits | None = None,
) -> tuple[float, np.ndarray, AlphaCurve]:
    """`calibrate` of the greedy on weighted_density_i + alpha novelty_i + (1 - alpha) diversity_i(S).

    Parameters
    ----------
    pool : float32 array of shape (n, d), or Cells
        Rows as `standardise` gives them.
    weighted_density, novelty : arrays of shape (n,)
    budget : int
    chosen : int array
        In S from the start.
    alphas : tuple of float
    criterion : str
    limits : Limits, optional
        They may leave fewer picks than the budget.
    """
    cells = cells_of(pool)
    limits = unlimited(len(cells.pool)) if limits is None else limits

    def run(alpha: float) -> tuple[np.ndarray, np.ndarray]:
        return greedy_within_cost(
            cells,
            fixed=weighted_density + alpha * novelty,
            diversity_weight=1 - alpha,
            budget=budget,
            chosen=chosen,
            limits=limits,
            loss=lambda nearest: CRITERIA[criterion](nearest, novelty),
        )

    return calibrate(run, novelty=novelty, alphas=alphas, criterion=criterion)
