"""Take labels back: check what came, copy what fits into the dataset, and tell nnU-Net which cases are labelled."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nnunetv2_xssr.annotation.control import Compared, compare_with_control
from nnunetv2_xssr.annotation.fusing import FIRST, FUSIONS
from nnunetv2_xssr.annotation.handover import images_drawn_over, template_hashes
from nnunetv2_xssr.annotation.inspecting import FitLabel, Inspection, file_stamp, inspect_labels, listed_cases
from nnunetv2_xssr.annotation.label_check import check_label, label_names, shown
from nnunetv2_xssr.annotation.label_facts import keep_label_facts, load_label_facts
from nnunetv2_xssr.annotation.label_files import copy_whole, write_label
from nnunetv2_xssr.annotation.prelabels import Prelabels, keep_agreements
from nnunetv2_xssr.annotation.rater_labels import RaterLabels, inspect_raters
from nnunetv2_xssr.annotation.raters import raters_of
from nnunetv2_xssr.annotation.replacing import keep_labels
from nnunetv2_xssr.annotation.second_look import names_of_values, odd_labels
from nnunetv2_xssr.annotation.sparse_labels import with_ignore
from nnunetv2_xssr.annotation.timesheets import read_minutes
from nnunetv2_xssr.errors import UserError, first_few, one_of
from nnunetv2_xssr.images.pools import Case, ImagePool, dataset_pool
from nnunetv2_xssr.images.reading import spacing_file
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.files import TEMPORARY, atomic, is_there, sha256_files, sha256_json, write_json
from nnunetv2_xssr.records.folds import grow_folds
from nnunetv2_xssr.records.locks import dataset_lock, selection_lock
from nnunetv2_xssr.records.manifest import Manifest
from nnunetv2_xssr.records.rounds import (
    chosen_cases,
    groups_of_rounds,
    interruption,
    load_rounds,
    raters_of_rounds,
    slices_by_round,
    vetoes_of,
)
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.split import Split, read_split, write_split
from nnunetv2_xssr.records.timesheet import Minutes
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace, check_environment, find_dataset


def take_in(pool: ImagePool, fit: Mapping[str, FitLabel]) -> list[str]:
    """Copy labels into ``labelsTr``, list them in dataset.json, and return all cases that are labelled now.

    Every file is written whole or not at all, dataset.json last: nnU-Net never learns of a label that is not there.

    Raises
    ------
    UserError
        If dataset.json lists a case without label whose image is not in ``imagesTr``: nnU-Net allows no such entry,
        and without it the image would leave the pool.
    """
    folder, home = Workspace(pool.name).raw, Workspace(pool.name).labels
    cases = pool.by_identifier()
    table, listed = {}, set(listed_cases(pool))
    for case, entry in pool.dataset_json.get("dataset", {}).items():
        if case in listed:
            table[case] = entry
        elif case not in fit and _entry(folder, cases[case], pool) is None:
            raise UserError(
                f"{folder / 'dataset.json'} lists case {case} without a label, which nnU-Net does not read; link its "
                f"image into imagesTr as {case}_0000{pool.file_ending} and remove the entry"
            )
    for case, label in fit.items():
        target = home / f"{case}{pool.file_ending}"
        _take(label, target, cases[case], pool)
        if sidecar := spacing_file(cases[case]):
            copy_whole(sidecar, home / f"{case}.json")
        table[case] = _entry(folder, cases[case], pool) or {"images": [str(path) for path in cases[case].files]}
        table[case] = {**table[case], "label": f"labelsTr/{target.name}"}
    table = {case: table[case] for case in sorted(table)}
    description = {**pool.dataset_json, "numTraining": len(table), "dataset": table}
    now = read_dataset_json(folder / "dataset.json")
    if pool.dataset_json not in (now, with_ignore(now)):
        raise UserError(f"{folder / 'dataset.json'} has changed while labels were collected; run the command again")
    if description != pool.dataset_json:
        write_json(folder / "dataset.json", description)
    return list(table)


def _take(label: FitLabel, target: Path, case: Case, pool: ImagePool) -> None:
    """Copy a label's bytes, or write it anew where nnU-Net would read something else from them."""
    if not label.plain:
        checked = check_label(label.file, case, pool, allow_empty=True, values=label.values)
        write_label(target, checked.values, checked.grid, reader=pool.reader())
    elif label.file.resolve() != target.resolve():
        with atomic(target) as temporary:
            shutil.copyfile(label.file, temporary)
            if label.stamp not in (None, file_stamp(label.file)):
                raise UserError(f"{shown(label.file, pool)}: was saved while it was collected; run the command again")


def _entry(folder: Path, case: Case, pool: ImagePool) -> dict | None:
    """The images of a case as the table names them; None if they are not in ``imagesTr`` under nnU-Net's names."""
    names = [f"imagesTr/{case.identifier}_{number:04d}{pool.file_ending}" for number in range(len(case.files))]
    # Others may lie there under these names, and the table decides.
    its_own = [(folder / name).resolve() == file.resolve() for name, file in zip(names, case.files, strict=True)]
    return {"images": names} if all(its_own) else None


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a call of `collect_labels` did.

    Attributes
    ----------
    workspace : Workspace
    folder : Path
        Where the labels came from.
    inspection : Inspection
    of_raters : RaterLabels
    cases : int
        Of the pool.
    labelled : list of str
        All cases that nnU-Net knows to be labelled now.
    missing : list of str
        Cases of the last round that still have no label.
    drawn_over : dict
        Those of them whose image in the hand-over is another one now, with it: somebody may have saved a label over it.
    train_on : list of str
        The chosen cases with a label that nobody has vetoed: those of the split.
    vetoed : list of str
        The chosen cases with a label that were vetoed all the same.
    folds : int
        Of the split; 0 where there is nothing to train on yet.
    templates : bool
        Whether there is a template of a missing case.
    minutes : list of Minutes
        Of all rounds.
    unfit_cells : list of str
        One sentence per cell of the worklist that cannot be used.
    control : Compared or None
        How the model of the round before did on the cases of the last one; None without cases drawn at random.
    replaced : dict
        Case to where its old label is kept.
    prelabels : bool
        Whether there is a pre-label of a missing case.
    agreements : dict
        Case to the Dice of its label with its pre-label, of all that were ever collected.
    odd : dict
        Case to what is odd about its label, of those that were taken: see `nnunetv2_xssr.annotation.second_look`.
    """

    workspace: Workspace
    folder: Path
    inspection: Inspection
    of_raters: RaterLabels
    cases: int
    labelled: list[str]
    missing: list[str]
    drawn_over: dict[str, Path]
    train_on: list[str]
    vetoed: list[str]
    folds: int
    templates: bool
    minutes: list[Minutes]
    unfit_cells: list[str]
    control: Compared | None
    replaced: dict[str, Path]
    prelabels: bool
    agreements: dict[str, float]
    odd: dict[str, list[str]]


def collect_labels(
    target: str | int,
    *,
    name: str = DEFAULT_NAME,
    labels: Path | str | None = None,
    allow_empty: bool | Collection[str] = False,
    values: Mapping[int, int] | None = None,
    fix_names: bool = False,
    fuse: str = FIRST,
    replace: Collection[str] = (),
    accept: Collection[str] = (),
) -> Collected:
    """Check the labels of chosen cases, take those that fit into the dataset, and write the split.

    The result tells what does not fit and what is missing; both can be collected later.

    Parameters
    ----------
    target : str or int
        nnU-Net raw dataset, by name or number.
    name : str
        Of the selection.
    labels : Path or str, optional
        Folder of labels, named like the cases; by default that of the last hand-over.
    allow_empty : bool or collection of str
        Whether labels in which nothing is drawn are taken, or the cases whose empty labels are.
    values : mapping from int to int, optional
        What to read stored values as: ``{255: 1}`` for masks that hold 0 and 255.
    fix_names : bool
        Whether a file counts as the label of the only case whose name is left when endings such as ``_0000`` or
        ``-label`` are taken off.
    fuse : {"first", "majority", "staple"}
        What is taken of cases that several raters drew: see `nnunetv2_xssr.annotation.fusing`.
    replace : collection of str
        Cases whose collected label gives way to the one that came; the old one is kept beside the hand-overs.
    accept : collection of str
        Cases whose pre-label is right as it was handed over; a worklist beside the labels may accept more.

    Raises
    ------
    UserError
        If nothing was chosen for annotation, or a name or a value is not in the dataset.
    """
    if fuse not in FUSIONS:
        raise one_of("--fuse", FUSIONS, fuse)
    check_environment()
    workspace = Workspace(find_dataset(target), name)
    _check_chosen(workspace)
    with dataset_lock(workspace), selection_lock(workspace):
        with TemporaryDirectory(dir=workspace.selection, prefix=TEMPORARY) as scratch:
            return _collect(
                workspace,
                labels=Path(labels) if labels else None,
                allow_empty=allow_empty,
                values=values or {},
                fix_names=fix_names,
                fuse=fuse,
                scratch=Path(scratch),
                replaced=replace,
                accept=accept,
            )


def _check_chosen(workspace: Workspace) -> list[SelectionRecord]:
    """The records of all rounds; a `UserError` if nothing was chosen for annotation, or a select was interrupted."""
    rounds = load_rounds(workspace)
    if sentence := interruption(workspace):
        raise UserError(sentence)
    if not rounds or rounds[-1].mode != "annotation":
        why = "nothing was chosen for annotation" if not rounds else "every case has a label already"
        raise UserError(
            f"there is nothing to collect for {workspace.dataset}: {why}; choose with nnUNetv2_xssr_select first"
        )
    return rounds


def _collect(
    workspace: Workspace,
    *,
    labels: Path | None,
    allow_empty: bool | Collection[str],
    values: Mapping[int, int],
    fix_names: bool,
    fuse: str,
    scratch: Path,
    replaced: Collection[str],
    accept: Collection[str],
) -> Collected:
    rounds, pool = _check_chosen(workspace), dataset_pool(workspace.dataset)
    last, chosen, slices = rounds[-1], chosen_cases(rounds), slices_by_round(rounds)
    handover = workspace.handover(last.round)
    folder = labels or handover / "labels"
    # Those of earlier rounds, too, whose labels may come late.
    templates = set().union(*map(template_hashes, workspace.handovers()))
    if slices:
        pool = replace(pool, dataset_json=with_ignore(pool.dataset_json))
    _check_names_and_values(pool, allow_empty, values, replaced)
    prelabels = Prelabels.load(workspace, pool, accepted=accept, folder=folder, round_number=last.round)
    options: dict[str, Any] = {
        "folder": folder,
        "allow_empty": allow_empty,
        "values": values,
        "fix_names": fix_names,
        "slices": slices,
        "templates": templates,
        "prelabels": prelabels,
    }
    of_raters = _inspect(pool, rounds, fuse=fuse, scratch=scratch, replaced=replaced, **options)
    found = of_raters.found
    labelled, told = _taken(workspace, pool, found, replaced)
    vetoed = sorted(set(labelled) & set(chosen) & set(vetoes_of(last)))
    train_on = sorted(set(labelled) & set(chosen) - set(vetoed))
    missing = [case for case in last.picked if case in found.missing]
    minutes, unfit_cells = _minutes(workspace, rounds, folder=folder, labelled=labelled)
    split = _split_of(workspace, pool, rounds, train_on, minutes) if train_on else []
    return Collected(
        workspace=workspace,
        folder=folder,
        inspection=found,
        of_raters=of_raters,
        cases=len(pool),
        labelled=labelled,
        missing=missing,
        drawn_over=images_drawn_over(folder.parent, pool, missing),
        train_on=train_on,
        vetoed=vetoed,
        folds=len(split),
        templates=any(case in slices for case in missing),
        minutes=minutes,
        unfit_cells=unfit_cells,
        control=compare_with_control(last, pool),
        prelabels=any(case in prelabels.files for case in missing),
        **told,
    )


def _split_of(
    workspace: Workspace, pool: ImagePool, rounds: list[SelectionRecord], train_on: list[str], minutes: list[Minutes]
) -> Split:
    """Write the split of the labelled cases, in which every case keeps its fold."""
    told = {case.identifier: case.group for case in pool.cases if case.group is not None}
    groups = told | groups_of_rounds(rounds)
    previous = read_split(workspace.split) if is_there(workspace.split) else None
    split = grow_folds(previous or None, train_on, groups=groups)
    _keep(workspace, pool, split, train_on, minutes)
    write_split(workspace.split, split)
    return split


def _inspect(
    pool: ImagePool,
    rounds: list[SelectionRecord],
    *,
    folder: Path,
    fuse: str,
    scratch: Path,
    replaced: Collection[str],
    **options,
) -> RaterLabels:
    """Look through the labels that came, of one annotator or of several."""
    chosen, dealt = chosen_cases(rounds), raters_of_rounds(rounds)
    by_rater = any((folder / rater).is_dir() for rater in raters_of(dealt))
    if dealt and (by_rater or not replaced):
        return inspect_raters(
            pool, folder=folder, chosen=chosen, dealt=dealt, how=fuse, scratch=scratch, replaced=replaced, **options
        )
    # Corrected labels may come in a plain folder: each is the one of its case, whoever drew the first. Another label of
    # a shared case is one rater's alone, and nothing tells whose.
    alone = {case for case in chosen if len(dealt.get(case, ())) < 2}
    return RaterLabels(inspect_labels(pool, folder=folder, chosen=alone, replace=replaced, **options))


def _taken(
    workspace: Workspace, pool: ImagePool, found: Inspection, replaced: Collection[str]
) -> tuple[list[str], dict[str, Any]]:
    """Take what fits: all cases that are labelled now, and what there is to tell of those that were taken."""
    # What is broken is found before the first label is taken.
    agreements, known = keep_agreements(workspace, found.agreements), load_label_facts(workspace)
    kept = keep_labels(workspace, set(found.fit) & set(replaced), pool)
    labelled = take_in(pool, found.fit)
    facts = keep_label_facts(workspace, pool, labelled, known=known)
    odd = odd_labels(facts, names_of_values(pool.dataset_json))
    odd = {case: words for case, words in odd.items() if case in found.fit}
    return labelled, {"replaced": kept, "agreements": agreements, "odd": odd}


def _minutes(
    workspace: Workspace, rounds: list[SelectionRecord], *, folder: Path, labelled: Collection[str]
) -> tuple[list[Minutes], list[str]]:
    """The minutes of labelled cases: those known so far, and what the worklist beside the labels says now."""
    asked = {(pick.case, pick.slice) for record in rounds for pick in record.selections[0].picks}
    manifest = Manifest.load(workspace.manifest)
    known = {(one.case, one.slice, one.rater): one for one in manifest.minutes} if manifest else {}
    found: dict[tuple, Minutes | None] = {**known}
    unfit = []
    for rater in (None, *raters_of(raters_of_rounds(rounds))):
        own = workspace.worklist(rounds[-1].round, rater)
        beside = folder.parent / own.name
        worklist = beside if beside.is_file() else own
        if worklist.is_file():
            now, sentences = read_minutes(worklist, asked=asked, rater=rater)
            found |= {(*place, rater): minutes for place, minutes in now.items()}
            unfit += sentences
    return [one for one in found.values() if one and one.case in set(labelled)], unfit


def _keep(workspace: Workspace, pool: ImagePool, split: Split, labelled: Sequence[str], minutes: list[Minutes]) -> None:
    """Say in the manifest what was collected; of a selection of an older version there is none."""
    manifest = Manifest.load(workspace.manifest)
    if manifest is not None:
        files = {case: workspace.labels / f"{case}{pool.file_ending}" for case in labelled}
        labels = {case: sha256_files([file]) for case, file in files.items() if file.is_file()}
        replace(manifest, split=sha256_json(split), labels=labels, minutes=minutes).write(workspace.manifest)


def _check_names_and_values(
    pool: ImagePool, allow_empty: bool | Collection[str], values: Mapping[int, int], replaced: Collection[str]
) -> None:
    named = {"--allow_empty": () if isinstance(allow_empty, bool) else allow_empty, "--replace": replaced}
    for option, cases in named.items():
        if unknown := sorted(set(cases) - set(pool.identifiers)):
            raise UserError(f"{option} names {first_few(unknown)}, which {pool.name} does not have; fix the name")
    known = label_names(pool.dataset_json)
    strange = [f"{old}={new}" for old, new in values.items() if new not in known]
    if strange:
        allowed = ", ".join(f"{value} ({name})" for value, name in known.items())
        raise UserError(f"--values must end in a label of {pool.name}, which are {allowed}; got {first_few(strange)}")
