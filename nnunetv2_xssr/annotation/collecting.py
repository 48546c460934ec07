"""Take labels back: check what came, move what fits into the dataset, and tell nnU-Net which cases are labelled."""

import difflib
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from nnunetv2_xssr.annotation.handover import drawn_files, spacing_file
from nnunetv2_xssr.annotation.label_check import UnfitLabel, check_label
from nnunetv2_xssr.annotation.sparse_labels import IGNORE, check_slices
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.records.files import atomic, write_json
from nnunetv2_xssr.records.workspace import nnunet_folder, visible_files


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
    return nnunet_folder("nnUNet_raw") / pool.name / "labelsTr"


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
    folder, home = nnunet_folder("nnUNet_raw") / pool.name, _home(pool)
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
