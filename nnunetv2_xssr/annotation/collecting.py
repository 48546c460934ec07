"""Take labels back: check what came, move what fits into the dataset, and tell nnU-Net which cases are labelled."""

import difflib
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from nnunetv2_xssr.annotation.handover import drawn_files, spacing_file, template_hashes
from nnunetv2_xssr.annotation.label_check import UnfitLabel, check_label
from nnunetv2_xssr.annotation.sparse_labels import IGNORE, check_slices, with_ignore
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.pools import Case, ImagePool, dataset_pool
from nnunetv2_xssr.records.files import atomic, write_json
from nnunetv2_xssr.records.folds import grow_folds, split_in_use
from nnunetv2_xssr.records.rounds import chosen_cases, load_rounds, slices_of_rounds
from nnunetv2_xssr.records.split import read_split, write_split
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace, check_environment, find_dataset, visible_files


@dataclass
class Inspection:
    """What came back.

    Attributes
    ----------
    fit : dict
        Case to label file, checked and not in the dataset's table yet.
    unfit : list of str
        A sentence for every file that cannot be used.
    missing : list of str
        Chosen cases without a label.
    not_asked : list of str
        Files with the names of other cases of the pool: they are left alone.
    """

    fit: dict[str, Path] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)


def listed_cases(pool: ImagePool) -> list[str]:
    """The cases that nnU-Net knows to be labelled: those of the table ``dataset`` in dataset.json that have a label."""
    table = pool.dataset_json.get("dataset", {})
    return [case.identifier for case in pool.cases if case.labelled and "label" in table.get(case.identifier, {})]


def inspect_labels(
    pool: ImagePool,
    folder: Path,
    chosen: Collection[str],
    allow_empty: bool | Collection[str] = False,
    slices: Mapping[str, Collection[int]] | None = None,
    templates: Collection[str] = (),
) -> Inspection:
    """Look through a folder of labels, and through what was put into ``labelsTr`` by hand; change nothing.

    Parameters
    ----------
    pool : ImagePool
    folder : Path
        Of label files, named like the case.
    chosen : collection of str
        Cases whose label is wanted.
    allow_empty : bool or collection of str
        Whether labels without anything drawn are fit, or for which cases.
    slices : mapping, optional
        The slices of a case that alone are drawn; the dataset has an ignore label then.
    templates : collection of str
        SHA-256 of labels that nobody has drawn in: they count as missing, unless ``allow_empty`` names their case.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder of labels {folder}; give it with -l")
    ending, home = pool.file_ending, _home(pool)
    cases = {case.identifier: case for case in pool.cases}
    wanted = sorted(set(chosen) & set(cases) - set(listed_cases(pool)))
    found = Inspection()
    arrived, untouched = {}, set(visible_files(folder)) - set(drawn_files(folder, templates))
    named = set() if isinstance(allow_empty, bool) else set(allow_empty)
    for file in visible_files(folder):
        case = file.name[: -len(ending)] if file.name.endswith(ending) else None
        if file in untouched and case not in named:
            continue
        if case in wanted:
            arrived[case] = file
        elif case in cases:
            _compare_with_old(file, home / file.name, found)
        elif not (ending.lower() in (".tif", ".tiff") and file.suffix == ".json"):
            names = [f"{case}{ending}" for case in cases]
            found.unfit.append(_name_sentence(file.name, names, [f"{case}{ending}" for case in wanted]))
    for case in tqdm(wanted, desc="checking labels", unit="case", disable=None):
        file = arrived.get(case, home / f"{case}{ending}")
        if not file.is_file():
            found.missing.append(case)
            continue
        try:
            label = check_label(file, cases[case], pool, allow_empty is True or case in named)
            if case in (slices or {}):
                check_slices(file, label, slices[case], pool.dataset_json["labels"][IGNORE])
        except UnfitLabel as error:
            found.unfit.append(str(error))
        else:
            found.fit[case] = file
    return found


def _home(pool: ImagePool) -> Path:
    return Workspace(pool.name).labels


def _compare_with_old(file: Path, old: Path, found: Inspection) -> None:
    if not old.is_file():
        found.not_asked.append(file.name)
    elif old.read_bytes() != file.read_bytes():
        # The one in the dataset may have been corrected since: nothing tells which of the two is the better one.
        found.unfit.append(f"{file.name}: differs from {old}, collected before; to replace that, delete it first")


def _name_sentence(name: str, names: list[str], expected: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    if near:
        known = "" if near[0] in expected else ", of which no label is missing"
        return f"{name}: no case has this name; is it {near[0]}{known}?"
    example = f"; the names are like {expected[0]}" if expected else ", and no label is missing"
    return f"{name}: no case has this name{example}"


def take_in(pool: ImagePool, fit: dict[str, Path]) -> list[str]:
    """Copy labels into ``labelsTr``, list them in dataset.json, and return all cases that are labelled now.

    Every file is written whole or not at all, dataset.json last: nnU-Net never learns of a label that is not there.

    Raises
    ------
    UserError
        If dataset.json lists a case without label whose image is not in ``imagesTr``: nnU-Net allows no such entry,
        and without it the image would leave the pool.
    """
    folder, home = Workspace(pool.name).raw, _home(pool)
    cases = {case.identifier: case for case in pool.cases}
    table, listed = {}, set(listed_cases(pool))
    for case, entry in pool.dataset_json.get("dataset", {}).items():
        if case in listed:
            table[case] = entry
        elif case not in fit and _entry(folder, cases[case], pool) is None:
            raise UserError(
                f"{folder / 'dataset.json'} lists case {case} without a label, which nnU-Net does not read; link its "
                f"image into imagesTr as {case}_0000{pool.file_ending} and remove the entry"
            )
    for case, file in fit.items():
        target = home / f"{case}{pool.file_ending}"
        if file.resolve() != target.resolve():
            _copy(file, target)
        if sidecar := spacing_file(cases[case], pool):
            _copy(sidecar, home / f"{case}.json")
        table[case] = _entry(folder, cases[case], pool) or {"images": [str(path) for path in cases[case].files]}
        table[case] = {**table[case], "label": f"labelsTr/{target.name}"}
    table = {case: table[case] for case in sorted(table)}
    description = {**pool.dataset_json, "numTraining": len(table), "dataset": table}
    if description != pool.dataset_json:
        write_json(folder / "dataset.json", description)
    return list(table)


def _copy(old: Path, new: Path) -> None:
    with atomic(new) as temporary:
        shutil.copyfile(old, temporary)


def _entry(folder: Path, case: Case, pool: ImagePool) -> dict | None:
    """The images of a case as the table names them; None if they are not in ``imagesTr`` under nnU-Net's names."""
    names = [f"imagesTr/{case.identifier}_{number:04d}{pool.file_ending}" for number in range(len(case.files))]
    return {"images": names} if all((folder / name).is_file() for name in names) else None


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a call of `collect_labels` did.

    Attributes
    ----------
    workspace : Workspace
    folder : Path
        Where the labels came from.
    inspection : Inspection
    cases : int
        Of the pool.
    labelled : list of str
        All cases that nnU-Net knows to be labelled now.
    missing : list of str
        Cases of the last round that still have no label.
    train_on : list of str
        The chosen cases with a label: those of the split.
    folds : int
        Of the split; 0 where there is nothing to train on yet.
    templates : bool
        Whether the annotator got labels to draw in.
    """

    workspace: Workspace
    folder: Path
    inspection: Inspection
    cases: int
    labelled: list[str]
    missing: list[str]
    train_on: list[str]
    folds: int
    templates: bool


def collect_labels(
    target: str,
    *,
    name: str = DEFAULT_NAME,
    labels: Path | None = None,
    allow_empty: bool | Collection[str] = False,
) -> Collected:
    """Check the labels of chosen cases, take those that fit into the dataset, and write the split.

    What does not fit is told in the result and can be collected later, as can what is still missing.

    Parameters
    ----------
    target : str
        nnU-Net raw dataset, by name or number.
    name : str
        Of the selection.
    labels : Path, optional
        Folder of labels, named like the cases; by default that of the last hand-over.
    allow_empty : bool or collection of str
        Whether labels without anything drawn are taken, or of which cases.

    Raises
    ------
    UserError
        If nothing was chosen for annotation, or a name is not in the pool.
    """
    check_environment()
    pool = dataset_pool(find_dataset(target))
    workspace = Workspace(pool.name, name)
    rounds = load_rounds(workspace)
    if not rounds or rounds[-1].mode != "annotation":
        why = "nothing was chosen for annotation" if not rounds else "every case has a label already"
        raise UserError(f"there is nothing to collect for {pool.name}: {why}; choose with nnUNetv2_xssr_select first")
    last, chosen, slices = rounds[-1], chosen_cases(rounds), slices_of_rounds(rounds)
    handover = workspace.handover(last.round)
    folder, templates = labels or handover / "labels", template_hashes(handover)
    if slices:
        pool = replace(pool, dataset_json=with_ignore(pool.dataset_json))
    unknown = sorted(set(() if isinstance(allow_empty, bool) else allow_empty) - set(pool.identifiers))
    if unknown:
        raise UserError(f"--allow_empty names {first_few(unknown)}, which {pool.name} does not have; fix the name")
    found = inspect_labels(pool, folder, chosen, allow_empty, slices, templates)
    labelled = take_in(pool, found.fit)
    train_on = sorted(set(labelled) & set(chosen))
    groups = {case: group for record in rounds for case, group in record.groups.items()}
    return Collected(
        workspace=workspace,
        folder=folder,
        inspection=found,
        cases=len(pool),
        labelled=labelled,
        missing=[case for case in last.picked if case in found.missing],
        train_on=train_on,
        folds=_split(workspace, labelled, train_on, groups) if train_on else 0,
        templates=bool(templates),
    )


def _split(workspace: Workspace, labelled: list[str], train_on: list[str], groups: dict[str, str]) -> int:
    """Write the split of the labelled cases, and return how many folds it has."""
    split = grow_folds(split_in_use(workspace, labelled), train_on, groups=groups)
    # An unchanged split keeps its date, by which status tells whether a fold was trained on it.
    if not workspace.split.is_file() or read_split(workspace.split) != split:
        write_split(workspace.split, split)
    return len(split)
