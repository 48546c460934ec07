"""What nnUNetv2_xssr_select --dry_run tells, for Python: what a select would do and how long it would take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_xssr.encoders.embedding import kept_layout
from nnunetv2_xssr.encoders.encoder import Encoder
from nnunetv2_xssr.encoders.pooling import check_embedding, compare
from nnunetv2_xssr.images.slices import candidate_rows
from nnunetv2_xssr.pipeline.call import Call, opened_call
from nnunetv2_xssr.pipeline.glance import Glance
from nnunetv2_xssr.pipeline.plan import FoldPlan
from nnunetv2_xssr.pipeline.read import open_and_see
from nnunetv2_xssr.records.files import is_there
from nnunetv2_xssr.records.locks import reading_only
from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.report.facts import POOL_DOTS
from nnunetv2_xssr.report.thumbnails import view_thumbnail
from nnunetv2_xssr.selection import select

_MOST_ROWS = 1000  # among which a selection is timed: of more it takes longer in proportion to their square


@dataclass(frozen=True, kw_only=True)
class PoolForecast:
    """What is to be done with the images of a pool.

    Attributes
    ----------
    name : str
    cases : int
    to_read : int
        Cases whose views are not in the caches.
    n_bytes : int
        Of the files of these.
    to_embed : int
        Cases whose features are not in the caches.
    """

    name: str
    cases: int
    to_read: int
    n_bytes: int
    to_embed: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a select would do.

    Attributes
    ----------
    plan : str
        What would be picked from what, in words.
    round : int or None
        None in a study.
    budgets : list of float or None
        Of every fold; None for the knee of the coverage.
    pools : list of PoolForecast
        The target, then the sources; none where features are given.
    encoder : str
        Whether it is there, in words.
    files : list of Path
        What would be written or replaced; of caches and hand-overs the folders.
    seconds : dict
        Stage to what it would take, by what a few images and batches take on this machine now.
    asks_model : bool
        Whether a trained model would predict cases, too, which the seconds do not hold.
    """

    plan: str
    round: int | None
    budgets: list[float | None]
    pools: list[PoolForecast]
    encoder: str
    files: list[Path]
    seconds: dict[str, float]
    asks_model: bool


def foresee_selection(target: str | int, *, skip_broken: bool = False, **options) -> Forecast:
    """Say what `nnunetv2_xssr.select_cases` would do with these arguments, and write nothing.

    Raises
    ------
    UserError
        As select would, as far as that can be known by a few of the images.
    """
    with reading_only(), opened_call(target, **options) as call:
        asks_model = call.open_model() is not None or call.prelabeller is not None
        pools, encoder, seconds, files = _foreseen(call, skip_broken=skip_broken)
        return Forecast(
            plan=call.describe(call.plan),
            round=None if call.plan.mode == "study" else call.number,
            budgets=[fold.budget for fold in call.plan.folds],
            pools=pools,
            encoder=encoder,
            files=[*files, *_of_selection(call)],
            seconds=seconds,
            asks_model=asks_model,
        )


def _foreseen(call: Call, *, skip_broken: bool) -> tuple[list[PoolForecast], str, dict[str, float], list[Path]]:
    """Pools, encoder, seconds and files of what comes before the selection, and the seconds of that."""
    if call.given is not None:
        source = call.given.source
        seconds = {"selecting": _selecting(call, call.given.pool.shape, None if source is None else len(source))}
        return [], "features are given in its place", seconds, []
    unit = call.choice.unit
    encoder, seen = open_and_see(
        call.target, call.sources, seeing=call.seeing, unit=unit, device=call.device, regions=call.regions
    )
    glances = [Glance.at(one, skip_broken=skip_broken) for one in seen]
    learned, pretraining = encoder.rehearse([one.views for one in glances[1:] or glances], seed=call.choice.seed)
    check_embedding(call.seeing.embedding, learned.layout, encoder=learned.name)
    pools = [_pool(glance, learned) for glance in glances]
    rows, embedding = zip(*(glance.embed(learned) for glance in glances), strict=True)
    of_one = rows[0] if unit == "case" else rows[0][:, :1]
    layout = kept_layout(learned, glances[0].views.rows.shape[2])
    compared = compare([of_one], layout, embedding=call.seeing.embedding, unit=unit)
    size = len(call.target) if unit == "case" else _slices(glances[0])
    sources = sum(pool.cases for pool in pools[1:]) or None
    seconds = {
        "reading": sum(glance.seconds * len(glance.to_read) for glance in glances),
        "pretraining": pretraining,
        "embedding": sum(each * pool.to_embed for each, pool in zip(embedding, pools, strict=True)),
        "selecting": _selecting(call, (size, compared.features[0].shape[1]), sources, **compared.how),
        "pictures": _pictures(call, glances[0]),
    }
    caches = [Workspace(pool.name).caches for pool in pools]
    return pools, encoder.describe(), seconds, [*encoder.writes(), *caches]


def _pool(glance: Glance, encoder: Encoder) -> PoolForecast:
    return PoolForecast(
        name=glance.seen.pool.name,
        cases=len(glance.seen.pool),
        to_read=len(glance.to_read),
        n_bytes=sum(file.stat().st_size for case in glance.to_read for file in case.files),
        to_embed=glance.to_embed(encoder),
    )


def _slices(glance: Glance) -> int:
    """About how many slices may be chosen."""
    facts = glance.views.facts
    return max(1, len(list(candidate_rows(facts))) * len(glance.seen.pool) // len(facts))


def _selecting(call: Call, shape: Sequence[int], sources: int | None, **how) -> float:
    """Seconds of the selections of all folds, by one among random rows of this shape."""
    size, width = shape
    n, m = min(size, _MOST_ROWS), min(sources or 0, _MOST_ROWS)
    rng, choice, fold = np.random.default_rng(0), call.choice, call.plan.folds[0]
    rows = rng.standard_normal((n + m, width), dtype=np.float32)
    budget = max(1, min(n - 1, _picks(fold) * n // size))
    began = time.perf_counter()
    select(
        rows[:n],
        budget,
        source=rows[n:] if m else None,
        strategy=choice.strategy,
        alpha=choice.alpha,
        density_weight=choice.density_weight,
        alpha_criterion=choice.alpha_criterion,
        seed=choice.seed,
        **how,
    )
    return (time.perf_counter() - began) * (size / n) ** 2 * len(call.plan.folds)


def _picks(fold: FoldPlan) -> int:
    """How many picks there are, at most where costs or the knee decide."""
    known = fold.budget is not None and fold.constraints.cost is None
    return int(fold.budget) if known and fold.budget else fold.most()


def _pictures(call: Call, glance: Glance) -> float:
    """Seconds of the pictures of the picks, in the report and in the hand-over, and of the small ones of the rest."""
    folds = call.plan.folds
    drawn = sum(map(_picks, folds)) * (2 if call.plan.mode == "annotation" else 1)
    view = glance.views.rows[0][0]
    began = time.perf_counter()
    view_thumbnail(view if view.ndim == 3 else view[:, len(view[0]) // 2], list(glance.seen.channel_names))
    small = time.perf_counter() - began
    return drawn * glance.seconds_to_draw() + min(len(call.target), POOL_DOTS) * small


def _of_selection(call: Call) -> list[Path]:
    """What the selection itself writes."""
    workspace, mode = call.workspace, call.plan.mode
    dataset = [] if is_there(workspace.dataset_json) else [workspace.dataset_json, workspace.images]
    earlier = []
    if call.last and call.new_round:
        earlier = [workspace.round_record(call.last.round), workspace.round_config(call.last.round)]
    own = workspace.split if mode == "study" else workspace.handover(call.number)
    files = [workspace.log, workspace.manifest, own, *earlier, workspace.config, workspace.report, workspace.record]
    return [*dataset, *files]
