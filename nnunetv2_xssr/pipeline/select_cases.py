"""What nnUNetv2_xssr_select does, for Python: pick the cases of a target that are worth annotating."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from nnunetv2_xssr.annotation.handover import check_no_labels, first_round, write_handover
from nnunetv2_xssr.annotation.label_check import label_values
from nnunetv2_xssr.annotation.sparse_labels import with_ignore
from nnunetv2_xssr.annotation.timesheets import filled_in
from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import rows_hash
from nnunetv2_xssr.images.case_table import unknown_domains, with_case_table
from nnunetv2_xssr.images.new_dataset import new_dataset
from nnunetv2_xssr.images.pools import ImagePool, dataset_pool, open_pools
from nnunetv2_xssr.images.regions import Regions
from nnunetv2_xssr.images.slices import volume_of
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pipeline.choose import make_record
from nnunetv2_xssr.pipeline.doubt import Asking, measure_doubt
from nnunetv2_xssr.pipeline.embed import Embedded, embed_pools
from nnunetv2_xssr.pipeline.given import given_features
from nnunetv2_xssr.pipeline.minutes import with_minutes
from nnunetv2_xssr.pipeline.plan import Choice, SelectionPlan, describe_plan, make_plan
from nnunetv2_xssr.pipeline.prelabel import Prelabeller, open_prelabeller
from nnunetv2_xssr.pipeline.read import Seeing, read_pools
from nnunetv2_xssr.pipeline.scheduler import selector
from nnunetv2_xssr.pipeline.slice_plan import make_slice_plan
from nnunetv2_xssr.pipeline.vetoes import with_vetoes
from nnunetv2_xssr.records.files import is_there, sha256_json
from nnunetv2_xssr.records.locks import selection_lock
from nnunetv2_xssr.records.logs import log_to, logger
from nnunetv2_xssr.records.manifest import Manifest
from nnunetv2_xssr.records.rounds import begins_round, keep_round, last_round, load_rounds, slices_of_rounds
from nnunetv2_xssr.records.selection import SelectionRecord, check_replaceable
from nnunetv2_xssr.records.split import Split, read_split, write_split
from nnunetv2_xssr.records.vetoes import Reason
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace, check_environment, find_dataset
from nnunetv2_xssr.report.page import write_page
from nnunetv2_xssr.selection import Selection


def select_cases(
    target: str,
    *,
    budget: str | int,
    sources: Sequence[str] = (),
    name: str = DEFAULT_NAME,
    images: Path | None = None,
    channel_names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    recursive: bool = False,
    patient_ids: bool = True,
    cases: Path | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    skip_broken: bool = False,
    veto_reasons: Mapping[str, Reason | None] | None = None,
    forget_vetoes: bool = False,
    prelabel: Path | bool = False,
    device: str | None = None,
    **options,
) -> SelectionRecord:
    """Pick the cases of a target that are worth annotating, and write record, split, hand-over and report.

    Progress is logged to the logger ``nnunetv2_xssr`` and to ``select.log`` beside the record.

    Parameters
    ----------
    target : str
        nnU-Net raw dataset, by name or number; with ``images`` the name of a new one, such as ``123_Name``.
    budget : str or int
        Cases, a percentage such as ``"5%"``, ``"auto"``, or a total cost: see `Choice`.
    sources : sequence of str
        Datasets or folders of unlabelled images from the place where a model or an archive exists.
    name : str
        Of the selection: two names of one dataset share neither record nor split nor hand-over.
    images : Path, optional
        Plain folder of unlabelled images to make the dataset of, with ``channel_names`` and ``labels``.
    recursive, patient_ids : bool
        How folders are read, ``images`` and those among the sources: `nnunetv2_xssr.images.pools.folder_pool`.
    cases : Path, optional
        CSV table: see `nnunetv2_xssr.images.case_table.with_case_table`.
    scheduler : str, optional
        Address of a Dask scheduler, or ``local``.
    overwrite : bool
        Replace a selection that was made with other settings or images.
    skip_broken : bool
        Set cases aside that cannot be read.
    veto_reasons : mapping, optional
        Why cases of ``excluded`` shall not be annotated.
    forget_vetoes : bool
        Let ``excluded`` stand alone: otherwise, in annotation, what the last record vetoes stays out too.
    prelabel : Path or bool
        Folder of a trained model whose predictions the annotator corrects; True for the network trained last.
    device : {"cuda", "cpu", "mps"}, optional
        The best there is by default.
    **options
        Fields of `nnunetv2_xssr.pipeline.read.Seeing`, what is seen of the images: ``encoder``, ``embedding``, ``dim``,
        ...; of `nnunetv2_xssr.pipeline.doubt.Asking`, which trained model is asked: ``model``; and of
        `nnunetv2_xssr.pipeline.plan.Choice`, how cases are picked: ``strategy``, ``alpha``, ``unit``, ...

    Returns
    -------
    SelectionRecord
        Its ``workspace`` tells where the files lie.

    Raises
    ------
    UserError
        If anything does not fit; nothing is written then, and a dataset that was made of ``images`` is taken back.
    """
    check_environment()
    seen, asked = (
        {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}
        for kind in (Seeing, Asking)
    )
    seeing, asking = Seeing(**seen), Asking(**asked)
    picking = Choice(budget=str(budget), **options)
    seeing.check(picking.unit)
    folders = {"recursive": recursive, "patient_ids": patient_ids}
    if images is None and not sources and folders != {"recursive": False, "patient_ids": True}:
        raise UserError("--recursive and --no_patient_ids say how a folder is read; give one to -i or -s")
    made = (
        nullcontext(None)
        if images is None
        else new_dataset(images, target, channel_names=channel_names, labels=labels, **folders)
    )
    with made as dataset:
        workspace = Workspace(dataset or find_dataset(target), name)
        with selection_lock(workspace):
            call = _checked(
                workspace,
                picking,
                cases=cases,
                sources=sources,
                folders=folders,
                scheduler=scheduler,
                overwrite=overwrite,
                seeing=seeing,
                asking=asking,
                vetoing=partial(with_vetoes, reasons=veto_reasons or {}, forget=forget_vetoes),
            )
            device = resolve_device(device)
            raters = call.choice.raters or ()
            prelabeller = open_prelabeller(
                prelabel, call.target, workspace, mode=call.plan.mode, raters=raters, device=device
            )
            with log_to(workspace.log):
                return _run(call, prelabeller, skip_broken=skip_broken, device=device)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A call whose every mistake was found, before any long work and before anything was written."""

    workspace: Workspace
    target: ImagePool
    sources: list[ImagePool]
    choice: Choice
    settings: dict
    plan: SelectionPlan
    plan_for: Callable[[Views], SelectionPlan]  # the same plan with what could be read
    seeing: Seeing
    asking: Asking
    given: Embedded | None  # features made elsewhere
    regions: Regions
    vetoes: dict[str, Reason | None]
    select: Callable[..., Selection]
    last: SelectionRecord | None
    new_round: bool
    same_round: bool
    number: int
    before: Manifest | None  # of which the next one keeps what was collected
    kept_split: Split | None  # that collect wrote; None in a study


def _checked(
    workspace: Workspace,
    choice: Choice,
    *,
    cases: Path | None,
    sources: Sequence[str],
    folders: dict[str, bool],
    scheduler: str | None,
    overwrite: bool,
    seeing: Seeing,
    asking: Asking,
    vetoing: Callable[..., tuple[Choice, dict[str, Reason | None]]],
) -> _Call:
    target = _target(workspace, cases)
    pools = _sources(target, sources, folders)
    last, before = last_round(workspace, overwrite=overwrite), _manifest(workspace, overwrite=overwrite)
    choice = with_minutes(choice, before.minutes if before else ())
    picked = slices_of_rounds(load_rounds(workspace)) if last else {}
    choice, vetoes = vetoing(choice, target, last=last)
    if choice.unit == "slice":
        target = replace(target, dataset_json=with_ignore(target.dataset_json))
    elif any(case.slices for case in target.cases):
        raise UserError("slice_from and slice_to of --cases are about slices; leave them out, or give --unit slice")
    plan_for = partial(_plan, target, choice, picked)
    plan = plan_for()
    usable = target.only(set(target.identifiers) - set(choice.excluded))
    labelled = set(map(volume_of, plan.folds[0].labelled)) if plan.mode == "annotation" else target.identifiers
    new_round = begins_round(last, mode=plan.mode, labelled=labelled, vetoed=vetoes, overwrite=overwrite)
    call = _Call(
        workspace=workspace,
        target=target,
        sources=pools,
        choice=choice,
        settings={
            "source": [pool.name for pool in pools],
            **choice.settings(),
            **seeing.settings(),
            **asking.settings(),
            **_whether(sources, folders, scheduler=scheduler, cases=cases),
        },
        plan=plan,
        plan_for=plan_for,
        seeing=seeing,
        asking=asking,
        given=given_features(target, pools, seeing),
        regions=Regions.of(usable, slice_range=seeing.slice_range, roi=seeing.roi),
        vetoes=vetoes,
        select=selector(scheduler, choice.strategy, plan.folds[0], workspace.selection),
        last=last,
        new_round=new_round,
        same_round=not overwrite and not new_round,
        number=last.round + new_round if last else first_round(workspace),
        before=before,
        kept_split=read_split(workspace.split) if plan.mode == "annotation" and is_there(workspace.split) else None,
    )
    _check_writable(call)
    return call


def _target(workspace: Workspace, cases: Path | None) -> ImagePool:
    target = dataset_pool(workspace.dataset)
    if sentence := unknown_domains(target):
        logger.warning(sentence)
    return with_case_table(target, cases) if cases else target


def _sources(target: ImagePool, sources: Sequence[str], folders: dict[str, bool]) -> list[ImagePool]:
    pools = open_pools(list(sources), channel_names=target.channel_names, **folders)
    if target.name in [pool.name for pool in pools]:
        raise UserError(f"the source {target.name} is the target itself; leave -s out to learn from the pool alone")
    return pools


def _manifest(workspace: Workspace, *, overwrite: bool) -> Manifest | None:
    try:
        return Manifest.load(workspace.manifest)
    except UserError:
        if overwrite:
            return None
        raise


def _whether(sources: Sequence[str], folders: dict[str, bool], **options) -> dict[str, bool | None]:
    """Whether options were given, not how: which scheduler changes no picks, and what a table says has its hash."""
    if sources:  # of -i they say nothing any more once the dataset is made
        options |= {"recursive": folders["recursive"], "no_patient_ids": not folders["patient_ids"]}
    known = ("scheduler", "cases", "recursive", "no_patient_ids")
    return {name: True if options.get(name) else None for name in known}


def _plan(target: ImagePool, choice: Choice, picked: dict[str, list[int]], views: Views | None = None) -> SelectionPlan:
    """The plan of cases or slices; without views as if all can be read, and of as many slices as there can be."""
    if choice.unit == "slice":
        candidates = {volume: list(facts.candidates) for volume, facts in views.facts.items()} if views else None
        return make_slice_plan(target, choice, picked, candidates)
    return make_plan(target, choice, set(target.identifiers) - set(views.pool.identifiers) if views else ())


def _check_writable(call: _Call) -> None:
    """Raise `UserError` where a control cannot be drawn, or writing would lose something or cannot work."""
    call.choice.check_control(call.plan, scheduler=bool(call.settings["scheduler"]))
    handover = call.workspace.handover(call.number)
    if call.same_round:
        check_replaceable(call.workspace.record, part="settings", new=call.settings)
    elif call.plan.mode == "annotation":
        check_no_labels(handover)
    if call.plan.mode == "annotation":
        label_values(call.target.dataset_json)  # of which the annotator is told
        for rater in (None, *(call.choice.raters or ())):
            filled_in(call.workspace.worklist(call.number, rater))  # what was filled in is kept
        handover.parent.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is found now


def _run(call: _Call, prelabeller: Prelabeller | None, *, skip_broken: bool, device: str) -> SelectionRecord:
    """Read, embed, choose and write."""
    workspace, choice = call.workspace, call.choice
    predictor = call.asking.open(
        call.target,
        name=workspace.name,
        mode=call.plan.mode,
        choice=choice,
        scheduler=bool(call.settings["scheduler"]),
        device=device,
    )
    plan, embedded = _embedded(call, skip_broken=skip_broken, device=device)
    if predictor:
        of_model = {"predictions_cache": {call.target.name: predictor.identity}}
        embedded = replace(embedded, provenance={**embedded.provenance, **of_model})
    if call.same_round:
        check_replaceable(workspace.record, part="provenance", new=embedded.provenance)
    to_choose_from = {volume_of(one) for fold in plan.folds for one in set(fold.pool) - set(fold.labelled)}
    record = make_record(
        call.target,
        plan,
        embedded,
        choice=choice,
        settings=call.settings,
        select=call.select,
        round_number=call.number,
        name=workspace.name,
        doubt=measure_doubt(call.target, to_choose_from, predictor) if predictor else None,
    )
    record = replace(record, vetoes=call.vetoes)
    with tempfile.TemporaryDirectory() as scratch:  # what takes long comes before the first file is written
        picks = record.selections[0].picks
        prelabels = prelabeller.draw(call.target, picks, folder=Path(scratch)) if prelabeller else {}
        _write(call, plan, record, prelabels)
    return record


def _write(call: _Call, plan: SelectionPlan, record: SelectionRecord, prelabels: Mapping[str, Path]) -> None:
    """Write what belongs to a selection: the manifest first and the record last, so that what it tells of is there.

    In annotation collect alone writes the split, of labelled cases: folds may be trained on the one that is there.
    """
    workspace, split = call.workspace, call.kept_split
    if plan.mode == "study":
        split = plan.study_split([[pick.case for pick in one.picks] for one in record.selections])
    views = {
        pool: rows_hash(Workspace(pool).caches / "views", key) for pool, key in record.provenance["views_cache"].items()
    }
    Manifest(
        selection=record.id,
        split=None if split is None else sha256_json(split),
        views=views,
        labels=call.before.labels if call.before else {},
        minutes=call.before.minutes if call.before else [],
    ).write(workspace.manifest)
    if split and plan.mode == "study":
        write_split(workspace.split, split)
        logger.info(f"wrote {workspace.split}")
    elif split:
        logger.info(f"kept {workspace.split}, on which folds may be trained; nnUNetv2_xssr_collect adds the new cases")
    if plan.mode == "annotation" and record.picked:
        only = record.selections[0]
        folder = workspace.handover(call.number)
        write_handover(
            folder,
            call.target,
            only.picks,
            alpha=only.alpha,
            selection=record.id,
            prelabels=prelabels,
            dealt=record.raters,
        )
    if call.new_round and call.last:
        keep_round(workspace, call.last)
    write_page(record, selection=record.id)
    record.write(workspace.record)


def _embedded(call: _Call, *, skip_broken: bool, device: str) -> tuple[SelectionPlan, Embedded]:
    """Read and embed, unless features are given; the plan is of what could be read."""
    unit = call.choice.unit
    has_source = bool(call.sources or call.seeing.source_embeddings)

    def tell(plan: SelectionPlan) -> None:
        logger.info(describe_plan(plan, call.target.name, has_source=has_source))

    if unit == "case":
        tell(call.plan)
    if call.given is not None:
        return call.plan, call.given
    read = read_pools(
        call.target,
        call.sources,
        seeing=call.seeing,
        unit=unit,
        regions=call.regions,
        skip_broken=skip_broken,
        device=device,
    )
    plan = call.plan_for(read.target)
    if unit == "slice":  # how many there are is known now
        tell(plan)
    return plan, embed_pools(read, embedding=call.seeing.embedding, unit=unit, seed=call.choice.seed)
