"""What lies in a folder of labels that came back: which file is whose label, and which of them fit."""

import difflib
import filecmp
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunetv2_xssr.annotation.cvat import is_coloured, returned_files
from nnunetv2_xssr.annotation.handover import drawn_files
from nnunetv2_xssr.annotation.label_check import IGNORE, UnfitLabel, check_label, shown
from nnunetv2_xssr.annotation.prelabels import Prelabels
from nnunetv2_xssr.annotation.replacing import check_replaceable_labels
from nnunetv2_xssr.annotation.segmentations import ENDINGS
from nnunetv2_xssr.annotation.sparse_labels import check_slices
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.records.workspace import Workspace

# What programs add to the name of an image when they save its label.
_ADDED = re.compile(r"(_\d{4}|[-_. ](labels?|masks?|seg|segmentation))$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FitLabel:
    """A label that can be taken.

    Attributes
    ----------
    file : Path
    plain : bool
        Whether nnU-Net reads from the file, as it is, what is to be taken.
    values : mapping from int to int
        What stored values are to be read as.
    stamp : tuple of int or None
        Bytes and time of the file before it was looked at; None where nobody else writes it.
    """

    file: Path
    plain: bool
    values: Mapping[int, int]
    stamp: tuple[int, int] | None = None


@dataclass
class Inspection:
    """What came back.

    Attributes
    ----------
    fit : dict
        Case to its `FitLabel`; none of them is in the dataset's table yet, but for those to replace.
    unfit : list of str
        One sentence per file that cannot be used.
    warnings : list of str
        One sentence per label that fits, though its origin or direction differs from its image's.
    missing : list of str
        Chosen cases without a label.
    equal : list of str
        Cases whose label was collected before and came again with the same voxels: in other bytes, or asked for as a
        replacement.
    agreements : dict
        Case to the Dice of its label with its pre-label, of those that fit and had one.
    not_asked : list of str
        Files with the names of other cases of the pool: they are left alone.
    """

    fit: dict[str, FitLabel] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    equal: list[str] = field(default_factory=list)
    agreements: dict[str, float] = field(default_factory=dict)
    not_asked: list[str] = field(default_factory=list)


def listed_cases(pool: ImagePool) -> list[str]:
    """The cases that nnU-Net knows to be labelled: those of the table ``dataset`` in dataset.json that have a label."""
    table = pool.dataset_json.get("dataset", {})
    return [case.identifier for case in pool.cases if case.labelled and "label" in table.get(case.identifier, {})]


def inspect_labels(
    pool: ImagePool,
    *,
    folder: Path,
    chosen: Collection[str],
    allow_empty: bool | Collection[str] = False,
    values: Mapping[int, int] | None = None,
    fix_names: bool = False,
    slices: Mapping[str, Sequence[Collection[int]]] | None = None,
    templates: Collection[str] = (),
    replace: Collection[str] = (),
    shared: Collection[str] = (),
    prelabels: Prelabels | None = None,
) -> Inspection:
    """Look through a folder of labels, and through what was put into ``labelsTr`` by hand; change nothing.

    Parameters
    ----------
    pool : ImagePool
    folder : Path
        Of label files, named like the cases.
    chosen : collection of str
        Cases whose label is wanted.
    allow_empty : bool or collection of str
        Whether labels in which nothing is drawn are fit, or for which cases.
    values : mapping from int to int, optional
        What to read stored values of the folder's labels as.
    fix_names : bool
        Whether to take a file whose name has an ending such as ``_0000`` or ``-label`` too much.
    slices : mapping, optional
        The slices of a case that alone are drawn, per round that asked for some, that of the last one first; the
        dataset has an ignore label then.
    templates : collection of str
        SHA-256 of labels that nobody has drawn in: they count as missing, unless ``allow_empty`` names their case.
    replace : collection of str
        Cases whose label is wanted though there is one already.
    shared : collection of str
        Cases whose label in ``labelsTr`` is made of those of several raters, and compared elsewhere.
    prelabels : Prelabels, optional
        An untouched one is fit only if it is accepted.

    Raises
    ------
    UserError
        If there is no such folder, or nothing to replace or to replace it with.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder of labels {folder}; give it with -l")
    cases = pool.by_identifier()
    wanted = sorted((set(chosen) & set(cases) - set(listed_cases(pool))) | set(replace))
    named = set() if isinstance(allow_empty, bool) else set(allow_empty)
    named |= prelabels.accepted if prelabels else set()
    found = Inspection()
    drawn = set(drawn_files(folder, templates))
    arrived = _by_case(pool, folder, drawn, wanted=wanted, fix_names=fix_names, unfit=found.unfit)
    arrived = {case: file for case, file in arrived.items() if file in drawn or case in named}
    check_replaceable_labels(replace, pool, arrived=arrived, folder=folder)
    home, values, slices = Workspace(pool.name).labels, values or {}, slices or {}
    for case in sorted(set(arrived) - set(replace)):
        if case not in wanted or (case not in shared and _is_another(arrived[case], home / _file_of(case, pool))):
            _compare_with_old(cases[case], arrived.pop(case), pool, values=values, found=found)
    for case in tqdm(wanted, desc="checking labels", unit="case", disable=None):
        file = arrived.get(case, home / _file_of(case, pool))
        if not file.is_file() and prelabels and case in prelabels.accepted:
            file = prelabels.files[case]  # of what is right as it was, nothing need come back
        if not file.is_file():
            found.missing.append(case)
            continue
        read_as = values if case in arrived else {}
        stamp = file_stamp(file)
        try:
            empty = allow_empty is True or case in named
            label = check_label(file, cases[case], pool, allow_empty=empty, values=read_as)
            if case in slices:
                ignore = pool.dataset_json["labels"][IGNORE]
                in_file = Geometry.of(label.grid).along_third(label.values)
                check_slices(shown(file, pool), in_file, asked=slices[case], ignore=ignore)
            if case in replace and _equals(home / _file_of(case, pool), label.values, cases[case], pool):
                found.equal.append(case)
                continue
            agreement = prelabels.agreement(case, label.values, file, pool) if prelabels else None
        except UnfitLabel as error:
            found.unfit.append(str(error))
        else:
            found.fit[case] = FitLabel(file=file, plain=label.plain, values=read_as, stamp=stamp)
            found.warnings += [label.warning] if label.warning else []
            found.agreements |= {} if agreement is None else {case: agreement}
    return found


def file_stamp(file: Path) -> tuple[int, int]:
    """Bytes and time of a file, which tell whether somebody has saved it since."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _file_of(case: str, pool: ImagePool) -> str:
    return f"{case}{pool.file_ending}"


def _is_another(file: Path, old: Path) -> bool:
    """Whether a label came though another one is there: somebody has put it into the dataset."""
    return old.is_file() and not file.samefile(old)


def _by_case(
    pool: ImagePool, folder: Path, drawn: Collection[Path], *, wanted: list[str], fix_names: bool, unfit: list[str]
) -> dict[str, Path]:
    """The files of a folder by the case that their names tell; sentences on the others are added to ``unfit``.

    A label in another format may lie beside the template of its case that nobody has drawn in.
    """
    known = set(pool.identifiers)
    named: dict[str, list[Path]] = {}
    fixed: dict[str, list[Path]] = {}
    for file in returned_files(folder):
        if case := case_named(file, pool, known):
            named.setdefault(case, []).append(file)
        elif pool.file_ending.lower() in (".tif", ".tiff") and file.suffix == ".json":
            pass  # the spacing of a stack
        elif (meant := _case_meant(file.name, pool)) and fix_names:
            fixed.setdefault(meant, []).append(file)
        else:
            there = {other.name for other in drawn}
            unfit.append(f"{shown(file, pool)}: {_name_words(file.name, meant, pool, wanted=wanted, there=there)}")
    found = {}
    for case in sorted({*named, *fixed}):
        right, longer = named.get(case, []), fixed.get(case, [])
        drawn_ones = [[file for file in files if file in drawn] for files in (right, longer)]
        files = next(filter(None, [*drawn_ones, right, longer]))
        if len(files) == 1:
            found[case] = files[0]
        files = files + [file for file in longer if file not in files]
        for file in files:
            if file != found.get(case):
                rival = next(other for other in files if other != file)
                unfit.append(f"{shown(file, pool)}: {rival.name} is there too; leave only the right one of the two")
    return found


def case_named(file: Path, pool: ImagePool, known: Collection[str]) -> str | None:
    """The case, of those that are known, whose label a file is by its name; None if it is no label of any."""
    stem = file.name.removesuffix(label_ending(file.name, pool))
    if is_coloured(file):  # called as the image
        stem = file.stem if file.stem in known else file.stem.removesuffix("_0000")
    return stem if stem != file.name and stem in known else None


def label_ending(name: str, pool: ImagePool) -> str:
    """The ending of the dataset's files, or of another format of labels, that a file has; else nothing.

    Of .seg.nrrd and .nrrd it is the longer one, unless the other leaves the name of a case.
    """
    found = sorted((one for one in {pool.file_ending, *ENDINGS} if name.endswith(one)), key=len, reverse=True)
    if len(found) > 1:
        found.sort(key=lambda ending: name.removesuffix(ending) not in pool.identifiers)
    return found[0] if found else ""


def _case_meant(name: str, pool: ImagePool) -> str | None:
    """The only case whose name is left when endings that programs add are taken off; None if there is none."""
    stem, known, found = name.removesuffix(label_ending(name, pool)), set(pool.identifiers), []
    while stem != name and (match := _ADDED.search(stem)):
        stem = stem[: match.start()]
        found += [stem] if stem in known else []
    return found[0] if len(found) == 1 else None


def _name_words(name: str, case: str | None, pool: ImagePool, *, wanted: list[str], there: Collection[str]) -> str:
    """What to do about a file whose name no case has; ``there`` are labels beside it, which none shall overwrite."""
    ending, formats = label_ending(name, pool) or pool.file_ending, (pool.file_ending, *ENDINGS)
    names = [f"{identifier}{ending}" for identifier in pool.identifiers]
    near = [f"{case}{ending}"] if case else difflib.get_close_matches(name, names, 1)
    if not name.lower().endswith(tuple(one.lower() for one in formats)):
        as_named = f", as {near[0]}" if near and near[0] not in there else ""
        return f"is none of {', '.join(formats)}; if it is a label, save it in one of them{as_named}, else move it away"
    if near and near[0] in there:
        return f"no case has this name; is it {near[0]}, which is there too? leave only the right one of the two"
    if near:
        known = "" if near[0].removesuffix(ending) in wanted else ", which needs no label"
        way_out = "rename it, or collect with --fix_names" if case else "rename it"
        return f"no case has this name; is it {near[0]}{known}? {way_out}"
    example = f"; the names are like {wanted[0]}{pool.file_ending}" if wanted else ", and no label is missing"
    return f"no case has this name{example}"


def _compare_with_old(case: Case, file: Path, pool: ImagePool, *, values: Mapping[int, int], found: Inspection) -> None:
    """What becomes of a label of a case that was not asked for, or has a label already, which stays."""
    old = Workspace(pool.name).labels / _file_of(case.identifier, pool)
    if not old.is_file():
        found.not_asked.append(file.name)
    elif not filecmp.cmp(file, old, shallow=False):
        try:
            new = check_label(file, case, pool, allow_empty=True, values=values)
        except UnfitLabel as error:
            found.unfit.append(str(error))
            return
        if _equals(old, new.values, case, pool):
            found.equal.append(case.identifier)
        else:  # the one in the dataset may have been corrected since: nothing tells which is the better one
            found.unfit.append(
                f"{shown(file, pool)}: differs from {old}, which is there already; to take it in its place, collect "
                f"with --replace {case.identifier}"
            )


def _equals(old: Path, new: np.ndarray, case: Case, pool: ImagePool) -> bool:
    """Whether a label in the dataset holds these voxels; one that cannot be used holds others."""
    try:
        return np.array_equal(new, check_label(old, case, pool, allow_empty=True).values)
    except UnfitLabel:
        return False
