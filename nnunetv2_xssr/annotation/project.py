"""Where a project stands: rounds, labels, split, what nnU-Net has preprocessed and trained."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_xssr.annotation.handover import drawn_labels
from nnunetv2_xssr.annotation.inspecting import case_named, listed_cases
from nnunetv2_xssr.annotation.second_look import look_again
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.case_rows import read_index
from nnunetv2_xssr.images.pools import ImagePool, dataset_pool
from nnunetv2_xssr.records.files import is_there
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.manifest import Manifest
from nnunetv2_xssr.records.preprocessed import DEFAULT_PLANS, Plans, changed_labels, preprocessed_cases, read_plans
from nnunetv2_xssr.records.rounds import chosen_cases, interruption, load_rounds, vetoes_of
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.split import Split, cases_in, cases_of_fold, read_split
from nnunetv2_xssr.records.timesheet import mean_minutes
from nnunetv2_xssr.records.trained_fold import TrainedFold
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace, check_environment, find_dataset


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of annotation.

    Attributes
    ----------
    number : int
    budget : int
        How many cases were picked, or slices of them.
    picked : int
        How many cases were picked, whole or in slices.
    missing : list of str
        Picks without a label in the dataset, in order, for which somebody waits.
    vetoed : list of str
        Picks without a label that were vetoed later.
    returned : int
        Files that lie in the hand-over's ``labels`` and are not collected, templates that nobody has drawn in aside; 0
        once none is missing.
    handover : str
    """

    number: int
    budget: int
    picked: int
    missing: list[str]
    vetoed: list[str]
    returned: int
    handover: str


@dataclass(frozen=True, kw_only=True)
class FoldState:
    """A fold that nnU-Net trained with an XSSRTrainer of the selection.

    Attributes
    ----------
    name : str
        ``XSSRTrainer__nnUNetPlans__2d/fold_0``.
    finished : bool
    current : bool
        Whether it was trained on the cases that the split has for it now.
    """

    name: str
    finished: bool
    current: bool


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network to train: that of the fold trained last, else nnU-Net's default.

    Attributes
    ----------
    trainer, configuration : str
    fold : int
        The first one that has cases.
    plans, planner : str or None
        Their name, and the class that made them; None before nnU-Net has planned.
    preprocessed : dict
        Plans' name to the configurations whose data are there: those of the network first, each folder once.
    """

    trainer: str
    configuration: str
    fold: int
    plans: str | None
    planner: str | None
    preprocessed: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Project:
    """Where a target stands.

    Attributes
    ----------
    dataset : str
    name : str
        Of the selection.
    cases, domains : int
    volumes : bool
        Whether the images are volumes, as the last selection has read them.
    labelled : int
        Cases with a label file.
    left : int
        Cases to choose from in the next round: neither labelled nor vetoed.
    uncollected : int
        Those of the chosen ones that dataset.json does not tell nnU-Net of.
    mode : {"study", "annotation"} or None
        None before the first selection.
    unit : {"case", "slice"} or None
        What the last selection chose.
    settings : dict
        Of the last selection, ``skip_broken``, whether it has set cases aside, and ``no_thumbnails``, whether it shows
        none; empty before the first one.
    sources : list of str
    encoder : str or None
        As given, or the file of features; None for the one pretrained on the sources.
    rounds : list of Round
        Empty in a study.
    mean_distance, random_mean_distance : float or None
        Coverage of the last selection (of its first fold), and that of random draws.
    alpha : float or None
    alpha_curve : dict or None
        The lists of an `AlphaCurve`: see `nnunetv2_xssr.selection.alpha`.
    alpha_criterion : str or None
    folds : int
        Of the split.
    in_split, not_labelled, not_preprocessed : int
        Cases in the split, and those of them that have no label or that nnU-Net has not preprocessed.
    vetoes : dict
        Case to why it shall not be annotated, None where nobody said.
    look_again : dict
        Case to why its label deserves a second look: see `nnunetv2_xssr.annotation.second_look.look_again`.
    changed : list of str
        Cases in the split whose label is another one now than when nnU-Net preprocessed them.
    preprocessed_labels : str
        The folder of nnU-Net's copies of the labels.
    trained : list of FoldState
        By networks of this selection's trainers.
    network : Network
    interrupted : str or None
        What to type because files are not of one selection: see `nnunetv2_xssr.records.rounds.interruption`.
    """

    dataset: str
    name: str
    cases: int
    domains: int
    volumes: bool
    labelled: int
    left: int
    uncollected: int
    mode: str | None
    unit: str | None
    settings: dict
    sources: list[str]
    encoder: str | None
    rounds: list[Round]
    mean_distance: float | None
    random_mean_distance: float | None
    alpha: float | None
    alpha_curve: Mapping[str, Any] | None
    alpha_criterion: str | None
    folds: int
    in_split: int
    not_labelled: int
    not_preprocessed: int
    vetoes: Mapping[str, str | None]
    look_again: Mapping[str, list[str]]
    changed: list[str]
    preprocessed_labels: str
    trained: list[FoldState]
    network: Network
    interrupted: str | None


def project_status(target: str | int, *, name: str = DEFAULT_NAME) -> Project:
    """Where a target stands, by all that the commands and nnU-Net have written for it; no image is opened.

    Parameters
    ----------
    target : str or int
        nnU-Net raw dataset, by name or number.
    name : str
        Of the selection.

    Raises
    ------
    UserError
        If there is no such dataset, or one of its records cannot be read.
    """
    check_environment()
    pool = dataset_pool(find_dataset(target))
    workspace = Workspace(pool.name, name)
    records = load_rounds(workspace)
    last = records[-1] if records else None
    first = last.selections[0] if last else None
    labelled = {case.identifier for case in pool.cases if case.labelled}
    vetoes = vetoes_of(last)
    # Without a table nnU-Net takes every image for labelled.
    listed = labelled if len(labelled) == len(pool) else set(listed_cases(pool))
    split = read_split(workspace.split) if is_there(workspace.split) else []
    in_split = cases_in(split)
    plans, ending = read_plans(workspace), pool.file_ending
    folders, volumes = fold_folders(workspace), last is not None and _has_volumes(last)
    return Project(
        dataset=pool.name,
        name=name,
        cases=len(pool),
        domains=len({case.domain for case in pool.cases} - {None}),
        volumes=volumes,
        labelled=len(labelled),
        left=len(set(pool.identifiers) - labelled - set(vetoes)),
        uncollected=len(labelled & set(chosen_cases(records)) - listed),
        mode=last.mode if last else None,
        unit=last.settings["unit"] if last else None,
        settings=_settings(last) if last else {},
        sources=last.settings["source"] if last else [],
        encoder=(last.settings.get("embeddings") or last.settings["encoder"]) if last else None,
        rounds=[_round(record, labelled, vetoes, pool) for record in records if record.mode == "annotation"],
        mean_distance=first.mean_distance if first else None,
        random_mean_distance=first.random_mean_distance if first else None,
        alpha=first.alpha if first else None,
        alpha_curve=first.alpha_curve if first else None,
        alpha_criterion=last.settings["alpha_criterion"] if last else None,
        folds=len(split),
        in_split=len(in_split),
        not_labelled=len(in_split - listed),
        not_preprocessed=len(in_split - preprocessed_cases(workspace, in_split, plans=plans, file_ending=ending)),
        vetoes=vetoes,
        look_again=second_look(workspace, pool),
        changed=changed_labels(workspace, sorted(in_split & labelled), file_ending=ending),
        preprocessed_labels=str(workspace.preprocessed_labels),
        trained=[_fold_state(workspace, folder, split) for folder in folders],
        network=_network(workspace, folders, split=split, plans=plans, volumes=volumes),
        interrupted=interruption(workspace),
    )


def _settings(record: SelectionRecord) -> dict:
    """What the user chose; the minutes per case not where the collected worklists tell them."""
    manifest = Manifest.load(record.workspace.manifest)
    told = mean_minutes(manifest.minutes if manifest else (), unit=record.settings["unit"])
    options = {"skip_broken": bool(record.set_aside), "no_thumbnails": not record.pictured}
    return {**record.settings, **options, **({"minutes_per_case": None} if told else {})}


def _has_volumes(record: SelectionRecord) -> bool:
    key = record.provenance.get("views_cache", {}).get(record.dataset, "")
    try:
        settings = read_index(record.workspace.caches / "views", key)["settings"]
    except UserError:  # caches may be deleted
        return False
    return settings["views"] > 1 or record.settings["dim"] == 3


def _round(record: SelectionRecord, labelled: set[str], vetoes: Collection[str], pool: ImagePool) -> Round:
    handover = record.workspace.handover(record.round)
    open_ = [case for case in record.picked if case not in labelled]
    missing = [case for case in open_ if case not in vetoes]
    returned = sum(not case_named(file, pool, labelled) for file in drawn_labels(handover)) if missing else 0
    budget = len(record.selections[0].picks)
    return Round(
        number=record.round,
        budget=budget,
        picked=len(record.picked),
        missing=missing,
        vetoed=[case for case in open_ if case in vetoes],
        returned=returned,
        handover=str(handover),
    )


def _trainers(workspace: Workspace) -> tuple[str, str]:
    """What the names of this selection's trainers begin and end with; between them stands a length."""
    return "XSSRTrainer", "" if workspace.name == DEFAULT_NAME else f"_{workspace.name}"


def fold_folders(workspace: Workspace) -> list[Path]:
    """The folders of the folds that trainers of this selection have begun."""
    begin, end = _trainers(workspace)
    trainer = re.compile(rf"{begin}(_pretrained(_frozen)?)?(_\d+epochs|_demo)?{re.escape(end)}")
    folders = sorted(workspace.results.glob(f"{begin}*__*__*/fold_*"))
    return [folder for folder in folders if trainer.fullmatch(folder.parent.name.split("__")[0])]


def second_look(workspace: Workspace, pool: ImagePool) -> dict[str, list[str]]:
    """What `look_again` says of the labels and the networks of a selection."""
    return look_again(workspace, pool, sorted({folder.parent for folder in fold_folders(workspace)}))


def trained_folds(workspace: Workspace) -> tuple[Path | None, list[str]]:
    """The folder of the network trained last, and its finished folds that were trained on the present split.

    None where there are none; the log says so where folds are finished and were trained on another split.
    """
    folders = fold_folders(workspace)
    split = read_split(workspace.split) if is_there(workspace.split) else []
    finished = {folder: state for folder in folders if (state := _fold_state(workspace, folder, split)).finished}
    current = [folder for folder, state in finished.items() if state.current]
    if not current:
        if finished:
            names = [state.name for state in finished.values()]
            logger.info(f"trained on another split than the present one: {first_few(names)}")
        return None, []
    last = max(current, key=lambda folder: (folder.stat().st_mtime, folder)).parent
    return last, [folder.name.removeprefix("fold_") for folder in current if folder.parent == last]


def _fold_state(workspace: Workspace, folder: Path, split: Split) -> FoldState:
    trainer, plans_name, configuration = folder.parent.name.split("__", 2)
    fold = folder.name.removeprefix("fold_")
    record = workspace.trained_fold(trainer=trainer, plans_name=plans_name, configuration=configuration, fold=fold)
    current = False
    if is_there(record):
        trained = TrainedFold.load(record)
        try:
            now = cases_of_fold(split, fold=int(fold) if fold.isdigit() else fold, path=workspace.split)
        except UserError:  # the split has no such fold any more
            now = [], []
        current = [set(trained.train), set(trained.val)] == [*map(set, now)]
    return FoldState(
        name=f"{folder.parent.name}/{folder.name}",
        finished=(folder / "checkpoint_final.pth").is_file(),
        current=current,
    )


def _network(workspace: Workspace, folders: list[Path], *, split: Split, plans: list[Plans], volumes: bool) -> Network:
    trainer, configuration = "".join(_trainers(workspace)), "3d_fullres" if volumes else "2d"
    wanted = DEFAULT_PLANS
    if folders:
        last = max(folders, key=lambda folder: (folder.stat().st_mtime, folder))
        trainer, wanted, configuration = last.parent.name.split("__", 2)
    by_choice = sorted(plans, key=lambda one: (one.name != wanted, one.name != DEFAULT_PLANS, one.name))
    preprocessed: dict[str, list[str]] = {}
    seen = set()
    for one in by_choice:
        for name, folder in one.data.items():
            if folder.is_dir() and folder not in seen:
                seen.add(folder)
                preprocessed.setdefault(one.name, []).append(name)
    chosen = by_choice[0] if by_choice else None
    there = preprocessed.get(chosen.name, []) if chosen else []
    if not folders and there and configuration not in there:
        configuration = there[0]
    return Network(
        trainer=trainer,
        configuration=configuration,
        fold=next((number for number, fold in enumerate(split) if fold["val"]), 0),
        plans=chosen.name if chosen else None,
        planner=chosen.planner if chosen else None,
        preprocessed=preprocessed,
    )
