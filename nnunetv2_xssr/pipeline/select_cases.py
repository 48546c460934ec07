"""What nnUNetv2_xssr_select does, for Python: pick the cases of a target that are worth annotating."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunetv2_xssr.annotation.handover import write_handover
from nnunetv2_xssr.images.case_rows import rows_hash
from nnunetv2_xssr.images.slices import volume_of
from nnunetv2_xssr.pipeline.call import Call, opened_call
from nnunetv2_xssr.pipeline.choose import make_record
from nnunetv2_xssr.pipeline.doubt import measure_doubt
from nnunetv2_xssr.pipeline.embed import Embedded, embed_pools
from nnunetv2_xssr.pipeline.plan import SelectionPlan
from nnunetv2_xssr.pipeline.read import read_pools
from nnunetv2_xssr.records.config import config_bytes
from nnunetv2_xssr.records.files import TEMPORARY, sha256, sha256_json, write_bytes
from nnunetv2_xssr.records.logs import log_to, logger
from nnunetv2_xssr.records.manifest import Manifest
from nnunetv2_xssr.records.rounds import keep_round
from nnunetv2_xssr.records.selection import SelectionRecord, check_replaceable
from nnunetv2_xssr.records.split import write_split
from nnunetv2_xssr.records.vetoes import Reason
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace
from nnunetv2_xssr.report.page import write_page


def select_cases(
    target: str | int,
    *,
    budget: str | int,
    sources: Sequence[str] = (),
    name: str = DEFAULT_NAME,
    images: Path | str | None = None,
    channel_names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    recursive: bool = False,
    patient_ids: bool = True,
    cases: Path | str | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    skip_broken: bool = False,
    veto_reasons: Mapping[str, Reason | None] | None = None,
    forget_vetoes: bool = False,
    prelabel: Path | str | bool = False,
    thumbnails: bool = True,
    device: str | None = None,
    config: Mapping[str, Any] | None = None,
    **options,
) -> SelectionRecord:
    """Pick the cases of a target that are worth annotating, and write record, split, hand-over and report.

    Progress is logged to the logger ``nnunetv2_xssr`` and to ``select.log`` beside the record.

    Parameters
    ----------
    target : str or int
        nnU-Net raw dataset, by name or number; with ``images`` the name of a new one, such as ``123_Name``.
    budget : str or int
        Cases, a percentage such as ``"5%"``, ``"auto"``, or a total cost: see `Choice`.
    sources : sequence of str
        Datasets or folders of unlabelled images from the place where a model or an archive exists.
    name : str
        Of the selection: two names of one dataset share neither record nor split nor hand-over.
    images : Path or str, optional
        Plain folder of unlabelled images to make the dataset of, with ``channel_names`` and ``labels``.
    recursive, patient_ids : bool
        How folders are read, ``images`` and those among the sources: `nnunetv2_xssr.images.pools.folder_pool`.
    cases : Path or str, optional
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
    prelabel : Path, str or bool
        Folder of a trained model whose predictions the annotator corrects; True for the network trained last.
    thumbnails : bool
        Show cases in the report and beside the worklist.
    device : {"cuda", "cpu", "mps"}, optional
        The best there is by default.
    config : mapping, optional
        Options of nnUNetv2_xssr_select that make the same call, to be kept in ``select.yaml`` beside the record.
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
    with opened_call(
        target,
        budget=budget,
        sources=sources,
        name=name,
        images=images,
        channel_names=channel_names,
        labels=labels,
        recursive=recursive,
        patient_ids=patient_ids,
        cases=cases,
        scheduler=scheduler,
        overwrite=overwrite,
        veto_reasons=veto_reasons,
        forget_vetoes=forget_vetoes,
        prelabel=prelabel,
        device=device,
        **options,
    ) as call:
        with log_to(call.workspace.log):
            return _run(call, skip_broken=skip_broken, thumbnails=thumbnails, config=config)


def _run(call: Call, *, skip_broken: bool, thumbnails: bool, config: Mapping[str, Any] | None) -> SelectionRecord:
    """Read, embed, choose and write."""
    workspace, choice = call.workspace, call.choice
    predictor = call.open_model()
    plan, embedded = _embedded(call, skip_broken=skip_broken)
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
    record = replace(record, vetoes=call.vetoes, pictured=thumbnails)
    # What takes long comes before the first file is written. Where this lies the next run removes what Ctrl-C leaves.
    with tempfile.TemporaryDirectory(dir=workspace.selection, prefix=TEMPORARY) as scratch:
        picks = record.selections[0].picks
        prelabels = call.prelabeller.draw(call.target, picks, folder=Path(scratch)) if call.prelabeller else {}
        _write(call, plan, record, prelabels, config=config)
    return record


def _write(
    call: Call,
    plan: SelectionPlan,
    record: SelectionRecord,
    prelabels: Mapping[str, Path],
    *,
    config: Mapping[str, Any] | None,
) -> None:
    """Write what belongs to a selection: the manifest first and the record last, so that what it tells of is there.

    In annotation collect alone writes the split, of labelled cases: folds may be trained on the one that is there.
    That of a study does not stay: nobody shall train on its picks as if they were those of the record.
    """
    workspace, split = call.workspace, call.kept_split
    options = None if config is None else config_bytes(config, selection=record.id)
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
        config=None if options is None else sha256([options]),
    ).write(workspace.manifest)
    if split and plan.mode == "study":
        write_split(workspace.split, split)
        logger.info(f"wrote {workspace.split}")
    elif split is None:
        workspace.split.unlink(missing_ok=True)  # of a study, whose picks are others
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
            again=call.again,
            pictured=record.pictured,
        )
    if call.new_round and call.last:
        keep_round(workspace, call.last)
    _write_options(workspace.config, options)
    write_page(record, selection=record.id, thumbnails=record.pictured)
    record.write(workspace.record)


def _write_options(path: Path, options: bytes | None) -> None:
    """Write the file of options; one of another call does not stay."""
    if options is None:
        path.unlink(missing_ok=True)
    else:
        write_bytes(path, options)


def _embedded(call: Call, *, skip_broken: bool) -> tuple[SelectionPlan, Embedded]:
    """Read and embed, unless features are given; the plan is of what could be read."""
    unit = call.choice.unit
    if unit == "case":
        logger.info(call.describe(call.plan))
    if call.given is not None:
        return call.plan, call.given
    read = read_pools(
        call.target,
        call.sources,
        seeing=call.seeing,
        unit=unit,
        regions=call.regions,
        skip_broken=skip_broken,
        device=call.device,
    )
    plan = call.plan_for(read.target)
    if unit == "slice":  # how many there are is known now
        logger.info(call.describe(plan))
    return plan, embed_pools(read, embedding=call.seeing.embedding, unit=unit, seed=call.choice.seed)
