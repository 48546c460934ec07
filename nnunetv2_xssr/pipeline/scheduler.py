"""Where nnUNetv2_xssr_select selects: in its own process, or on a Dask cluster."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pipeline.plan import FoldPlan
from nnunetv2_xssr.selection import Constraints, Selection, select

PARTITION_BYTES = 2**26  # two such partitions and all that is made of them fit into a worker of 1 GiB


def selector(scheduler: str | None, strategy: str, fold: FoldPlan, folder: Path) -> Callable:
    """What to call in the place of `nnunetv2_xssr.selection.select`, with the same arguments.

    Parameters
    ----------
    scheduler : str or None
        An address, ``local``, or None for this process.
    strategy : str
    fold : FoldPlan
    folder : Path
        Where the partitions are kept, in ``partitions``.

    Raises
    ------
    UserError
        If a scheduler is asked for and cannot be used: now, and not after hours of pretraining.
    """
    if scheduler is None:
        return select
    from nnunetv2_xssr.selection.distributed import connect

    if strategy != "xssr_sum":
        raise UserError(f"--scheduler works with --strategy xssr_sum only; got {strategy}")
    if fold.budget is None:
        raise UserError("--scheduler does not look for the knee of the coverage; give a number to -b")
    if fold.constraints.limiting:
        raise UserError(
            "--scheduler knows no costs, --domain_quota, --max_per_group or --min_distance; leave these out, or "
            "--scheduler"
        )
    with connect(scheduler):
        return partial(_select_on, scheduler, folder / "partitions")


def _select_on(
    scheduler: str,
    folder: Path,
    pool: np.ndarray,
    budget: int,
    *,
    source: np.ndarray | None,
    strategy: str,
    labelled: np.ndarray,
    alpha: float | None,
    density_weight: float,
    seed: int,
    alpha_criterion: str,
    constraints: Constraints,
    horizon: int,
    components: int | None,
    widths: Sequence[int] | None,
    wholes: None,
    doubt: None,
    control: Literal[0],
) -> Selection:
    # Strategy, constraints and control were checked, and no model was asked; of slices the constraints limit those of a
    # volume, so there are none here. The curve up to the horizon would need every partition at every step: it is left
    # out, and the record says None.
    from nnunetv2_xssr.selection.distributed import connect, select_partitions
    from nnunetv2_xssr.selection.partitions import write_partitions

    # By the size of the pool and not of the cluster, which must not change the picks.
    n_partitions = -(-pool.nbytes // PARTITION_BYTES)
    write_partitions(
        folder, pool, n_partitions=n_partitions, source=source, seed=seed, components=components, widths=widths
    )
    with connect(scheduler) as client:
        return select_partitions(
            folder,
            budget,
            client=client,
            labelled=labelled,
            alpha=alpha,
            density_weight=density_weight,
            seed=seed,
            alpha_criterion=alpha_criterion,
        )
