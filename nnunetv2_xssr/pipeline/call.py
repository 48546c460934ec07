"""A call of nnUNetv2_xssr_select: every mistake is found before any long work, and before anything is written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from nnunetv2_xssr.annotation.handover import check_no_labels, first_round
from nnunetv2_xssr.annotation.label_check import label_values
from nnunetv2_xssr.annotation.project import second_look
from nnunetv2_xssr.annotation.second_look import LookAgain, handed_out
from nnunetv2_xssr.annotation.sparse_labels import with_ignore
from nnunetv2_xssr.annotation.timesheets import filled_in
from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.encoders.predictor import Predictor
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.case_table import unknown_domains, with_case_table
from nnunetv2_xssr.images.new_dataset import new_dataset, planned_dataset
from nnunetv2_xssr.images.pools import ImagePool, dataset_pool, open_pools
from nnunetv2_xssr.images.regions import Regions
from nnunetv2_xssr.images.slices import volume_of
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pipeline.doubt import Asking
from nnunetv2_xssr.pipeline.embed import Embedded
from nnunetv2_xssr.pipeline.given import given_features
from nnunetv2_xssr.pipeline.minutes import with_minutes
from nnunetv2_xssr.pipeline.plan import Choice, SelectionPlan, describe_plan, make_plan
from nnunetv2_xssr.pipeline.prelabel import Prelabeller, open_prelabeller
from nnunetv2_xssr.pipeline.read import Seeing
from nnunetv2_xssr.pipeline.repeat import from_root
from nnunetv2_xssr.pipeline.scheduler import selector
from nnunetv2_xssr.pipeline.slice_plan import make_slice_plan
from nnunetv2_xssr.pipeline.vetoes import with_vetoes
from nnunetv2_xssr.records.files import is_there
from nnunetv2_xssr.records.locks import only_reads, selection_lock
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.manifest import Manifest
from nnunetv2_xssr.records.rounds import begins_round, groups_of_rounds, last_round, load_rounds, slices_of_rounds
from nnunetv2_xssr.records.selection import SelectionRecord, check_replaceable
from nnunetv2_xssr.records.split import Split, read_split
from nnunetv2_xssr.records.vetoes import Reason
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace, check_environment, find_dataset
from nnunetv2_xssr.selection import Selection


@dataclass(frozen=True, kw_only=True)
class Call:
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
    device: str
    prelabeller: Prelabeller | None = None
    again: Sequence[LookAgain] = ()

    def open_model(self) -> Predictor | None:
        """The model that is asked, if any: see `Asking.open`."""
        return self.asking.open(self.target, name=self.workspace.name, mode=self.plan.mode, device=self.device)

    def describe(self, plan: SelectionPlan) -> str:
        """What will be picked from what, in words."""
        return describe_plan(plan, self.target.name, has_source=bool(self.sources or self.seeing.source_embeddings))


@contextmanager
def opened_call(
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
    veto_reasons: Mapping[str, Reason | None] | None = None,
    forget_vetoes: bool = False,
    prelabel: Path | str | bool = False,
    device: str | None = None,
    **options,
) -> Iterator[Call]:
    """Check a call, and hold the lock of its selection for a block; where nothing may be written, nothing is.

    Parameters and errors are those of `nnunetv2_xssr.select_cases`. A dataset of ``images`` is made, and taken back if
    the block raises a `UserError`; where nothing may be written it is only planned.
    """
    check_environment()
    _check_lists(sources=sources, channel_names=channel_names, labels=labels, **options)
    images = Path(images) if isinstance(images, str) else images
    cases = Path(cases) if isinstance(cases, str) else cases
    prelabel = Path(prelabel) if isinstance(prelabel, str) else prelabel
    seen, asked = (
        {field.name: from_root(field.name, options.pop(field.name)) for field in fields(kind) if field.name in options}
        for kind in (Seeing, Asking)
    )
    seeing, asking = Seeing(**seen), Asking(**asked)
    picking = Choice(budget=str(budget), **options)
    seeing.check(picking.unit)
    picking.check(scheduler=bool(scheduler), prelabel=bool(prelabel))
    asking.check(picking, scheduler=bool(scheduler))
    folders = {"recursive": recursive, "patient_ids": patient_ids}
    if images is None and not sources and folders != {"recursive": False, "patient_ids": True}:
        raise UserError("--recursive and --no_patient_ids say how a folder is read; give one to -i or -s")
    with _target(target, images, channel_names=channel_names, labels=labels, **folders) as (dataset, planned):
        workspace = Workspace(dataset, name)
        _check_name(workspace)
        with selection_lock(workspace):
            call = _checked(
                workspace,
                planned or dataset_pool(dataset),
                picking,
                cases=cases,
                sources=sources,
                folders=folders,
                scheduler=scheduler,
                overwrite=overwrite,
                seeing=seeing,
                asking=asking,
                vetoing=partial(with_vetoes, reasons=veto_reasons or {}, forget=forget_vetoes),
                device=resolve_device(device),
            )
            _tell_of_labels(call)
            prelabeller = open_prelabeller(prelabel, call.target, workspace, mode=call.plan.mode, device=call.device)
            rounds = load_rounds(workspace) if call.last else []
            again = handed_out(second_look(workspace, call.target), rounds)
            yield replace(call, prelabeller=prelabeller, again=again)


def _check_name(workspace: Workspace) -> None:
    """Raise `UserError` if another selection's name differs in capitals only: where these are one, so are its files."""
    name, others = workspace.name, (path.name for path in workspace.selection.parent.glob("*"))
    if twin := next((other for other in others if other != name and other.casefold() == name.casefold()), None):
        raise UserError(
            f"--name {name} differs from the selection {twin} of {workspace.dataset} in upper and lower case only, "
            f"which many file systems do not keep apart; give another name"
        )


def _check_lists(**options) -> None:
    """Raise `UserError` where one text stands in the place of several, whose letters would count as names."""
    for name in ("sources", "channel_names", "labels", "labelled", "excluded", "raters", "domain_quota"):
        if isinstance(options.get(name), str):
            raise UserError(f"{name} must be a list of names; got the text {options[name][:50]!r}: put it into a list")


@contextmanager
def _target(target: str | int, images: Path | None, **options) -> Iterator[tuple[str, ImagePool | None]]:
    """The name of the dataset to pick from, and its pool where it is only planned."""
    if images is None:
        yield find_dataset(target), None
    elif only_reads():
        planned = planned_dataset(images, str(target), **options)
        yield planned.name, planned
    else:
        with new_dataset(images, str(target), **options) as dataset:
            yield dataset, None


def _checked(
    workspace: Workspace,
    target: ImagePool,
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
    device: str,
) -> Call:
    last, before = last_round(workspace, overwrite=overwrite), _manifest(workspace, overwrite=overwrite)
    rounds = load_rounds(workspace) if last else []
    target = _described(target, cases, known=groups_of_rounds(rounds) if folders["patient_ids"] else {})
    pools = _sources(target, sources, folders)
    choice = with_minutes(choice, before.minutes if before else ())
    choice, vetoes = vetoing(choice, target, last=last)
    if choice.unit == "slice":
        target = replace(target, dataset_json=with_ignore(target.dataset_json))
    elif any(case.slices for case in target.cases):
        raise UserError("slice_from and slice_to of --cases are about slices; leave them out, or give --unit slice")
    plan_for = partial(_plan, target, choice, slices_of_rounds(rounds))
    plan = plan_for()
    usable = target.only(set(target.identifiers) - set(choice.excluded))
    labelled = set(map(volume_of, plan.folds[0].labelled)) if plan.mode == "annotation" else target.identifiers
    new_round = begins_round(last, mode=plan.mode, labelled=labelled, vetoed=vetoes, overwrite=overwrite)
    call = Call(
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
        kept_split=_kept_split(workspace, plan, last),
        device=device,
    )
    _check_writable(call)
    return call


def _kept_split(workspace: Workspace, plan: SelectionPlan, last: SelectionRecord | None) -> Split | None:
    """The split that collect wrote, which an annotation keeps; that of a study is of its picks alone."""
    of_study = plan.mode == "study" or (last is not None and last.mode == "study")
    return None if of_study or not is_there(workspace.split) else read_split(workspace.split)


def _described(target: ImagePool, cases: Path | None, *, known: Mapping[str, str]) -> ImagePool:
    """The pool with what the table says, and the groups that earlier rounds knew where nothing else tells them."""
    if sentence := unknown_domains(target):
        logger.warning(sentence)
    told = with_case_table(target, cases) if cases else target
    remembered = {case.identifier for case in told.cases if case.group is None} & known.keys()
    if not remembered:
        return told
    count = f"{len(remembered)} of {len(told)} case{'s' * (len(told) > 1)}"
    logger.info(f"the group of {count} is that of an earlier select; --cases gives another one")
    groups = {case.identifier: case.group for case in told.cases} | {case: known[case] for case in remembered}
    return replace(told, cases=tuple(replace(case, group=groups[case.identifier]) for case in told.cases))


def _tell_of_labels(call: Call) -> None:
    """Warn of labels of the last round that do not count because ``--labelled`` does not name their cases."""
    if call.last is None or call.choice.labelled is None:
        return
    picked = call.target.only(set(call.last.picked) - set(call.choice.labelled)).cases
    if labelled := [case.identifier for case in picked if case.labelled]:
        logger.warning(
            f"{first_few(labelled)}, {len(labelled)} of the picks of round {call.last.round}, have a label that "
            f"--labelled does not name: they count as not labelled; name them there to choose the next ones"
        )


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


def _check_writable(call: Call) -> None:
    """Raise `UserError` where a control cannot be drawn, or writing would lose something or cannot work."""
    call.choice.check_control(call.plan)
    handover = call.workspace.handover(call.number)
    if call.same_round:
        check_replaceable(call.workspace.record, part="settings", new=call.settings)
    elif call.plan.mode == "annotation":
        check_no_labels(handover)
    if call.plan.mode == "annotation":
        label_values(call.target.dataset_json)  # of which the annotator is told
        for rater in (None, *(call.choice.raters or ())):
            filled_in(call.workspace.worklist(call.number, rater))  # what was filled in is kept
        if not only_reads():
            handover.parent.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is found now
