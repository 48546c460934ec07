"""Labels of several raters: one folder each; those of shared cases are compared, and become one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunetv2_xssr.annotation.agreement import Agreement, Comparison
from nnunetv2_xssr.annotation.fusing import FIRST, fuse
from nnunetv2_xssr.annotation.inspecting import FitLabel, Inspection, inspect_labels, label_ending, listed_cases
from nnunetv2_xssr.annotation.label_check import (
    IGNORE,
    CheckedLabel,
    UnfitLabel,
    check_label,
    label_names,
    label_regions,
)
from nnunetv2_xssr.annotation.label_files import write_label
from nnunetv2_xssr.annotation.raters import Dealt, cases_of, raters_of
from nnunetv2_xssr.annotation.replacing import check_replaceable_labels
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.records.workspace import Workspace


@dataclass
class RaterLabels:
    """What came back from several raters.

    Attributes
    ----------
    found : Inspection
        As of one annotator; `FitLabel.file` of a fused label lies in the scratch folder.
    agreement : list of Agreement
    fused : list of str
        One sentence per shared case that is taken.
    missing : dict
        Rater to the cases that wait for a label of theirs.
    """

    found: Inspection
    agreement: list[Agreement] = field(default_factory=list)
    fused: list[str] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)


def inspect_raters(
    pool: ImagePool,
    *,
    folder: Path,
    chosen: Collection[str],
    dealt: Dealt,
    how: str,
    scratch: Path,
    allow_empty: bool | Collection[str] = False,
    replaced: Collection[str] = (),
    **options,
) -> RaterLabels:
    """Look through a folder with a folder of labels per rater; change nothing.

    A shared case is taken from its first rater, or, fused, when the labels of all its raters are there. One that was
    taken before is compared with what would be taken now, and gives way to it where it is to be replaced.

    Parameters
    ----------
    pool : ImagePool
    folder : Path
        The labels of cases that were not dealt out lie in it itself. A rater without a folder has sent none.
    chosen : collection of str
    dealt : mapping
        Case to raters.
    how : {"first", "majority", "staple"}
        What is taken of shared cases: see `nnunetv2_xssr.annotation.fusing`.
    scratch : Path
        Empty folder for fused labels.
    replaced : collection of str
        Cases whose label is wanted though there is one already.
    allow_empty, **options
        Of `inspect_labels`.

    Raises
    ------
    UserError
        If there is nothing to replace, or to replace it with.
    """
    raters = raters_of(dealt)
    shared = {case: names for case, names in dealt.items() if len(names) > 1}
    if allow_empty is not True:  # what was taken so is not asked for again
        allow_empty = {*(allow_empty or []), *_taken_empty(shared, pool)}
    options = {**options, "allow_empty": allow_empty}
    others = set(chosen) - set(dealt)
    undealt = set(replaced) - set(dealt)
    result = RaterLabels(inspect_labels(pool, folder=folder, chosen=others, replace=undealt, **options))
    _name_misplaced(result.found, pool, folder, dealt)
    table = pool.dataset_json.get("dataset", {})
    # Shared cases are looked at again, though nnU-Net may know one of their labels already.
    unlisted = {**pool.dataset_json, "dataset": {case: table[case] for case in table if case not in shared}}
    home, came = Workspace(pool.name).labels, {case: dict[str, FitLabel]() for case in shared}
    unfit: set[tuple[str, str]] = set()  # shared cases and raters whose label is there and does not fit
    (scratch / "nothing").mkdir()
    for rater in raters:
        own, asked = folder / rater if (folder / rater).is_dir() else scratch / "nothing", cases_of(dealt, rater)
        again = set(replaced) & set(asked) - set(shared)
        if not (folder / rater).is_dir():
            check_replaceable_labels(again, pool, arrived=(), folder=folder / rater)
        options |= {"folder": own, "chosen": asked, "replace": again, "shared": set(shared)}
        one = inspect_labels(replace(pool, dataset_json=unlisted), **options)
        for case, label in one.fit.items():
            if case not in shared:
                result.found.fit[case] = label
            elif label.file.parent.resolve() != home.resolve():
                came[case][rater] = label
            elif case not in table:
                result.found.fit[case] = label  # somebody has put it there
        unfit |= {(case, rater) for case in asked if case in shared and case not in {*one.fit, *one.missing}}
        result.found.unfit += [sentence for sentence in one.unfit if sentence not in result.found.unfit]
        result.found.warnings += one.warnings
        result.found.missing += [case for case in one.missing if case not in shared]
        result.found.equal += one.equal
        result.found.not_asked += [name for name in one.not_asked if name not in result.found.not_asked]
    again = set(replaced) & set(shared)
    complete = {case for case in again if set(_needed(shared[case], how)) <= set(came[case])}
    check_replaceable_labels(again, pool, arrived=complete, folder=folder)
    _take_shared(result, pool, shared, came, how=how, scratch=scratch, allow_empty=allow_empty, replaced=again)
    waiting = set(result.found.missing)
    for rater in raters:
        there = {case for case in waiting if rater in came.get(case, {}) or (case, rater) in unfit}
        if lacking := [case for case in cases_of(dealt, rater) if case in waiting - there]:
            result.missing[rater] = lacking
    lacked = {case for cases in result.missing.values() for case in cases}
    result.found.missing = [case for case in result.found.missing if case in lacked or case not in dealt]
    return result


def _name_misplaced(found: Inspection, pool: ImagePool, folder: Path, dealt: Dealt) -> None:
    """Labels of cases that were dealt out, beside the folders of the raters: nothing tells whose they are."""
    for name in list(found.not_asked):
        case = name.removesuffix(label_ending(name, pool))
        if case in dealt:
            found.not_asked.remove(name)
            whose = " or ".join(dealt[case])
            found.unfit.append(f"{folder / name}: lies beside the folders of the raters; move it into {whose}")


def _take_shared(
    result: RaterLabels,
    pool: ImagePool,
    shared: Dealt,
    came: dict[str, dict[str, FitLabel]],
    *,
    how: str,
    scratch: Path,
    allow_empty: bool | Collection[str],
    replaced: Collection[str],
) -> None:
    """Compare the labels of shared cases, and add those to take, or what is missing or does not fit, to the result."""
    cases, listed, found = pool.by_identifier(), set(listed_cases(pool)), result.found
    ignore, drawn = pool.dataset_json["labels"].get(IGNORE), _drawn(pool)
    comparison, regions = Comparison(_compared(pool), ignore=ignore), label_regions(pool.dataset_json)
    empty = [] if isinstance(allow_empty, bool) else allow_empty
    for case, raters in shared.items():
        labels = {rater: _read(label, cases[case], pool) for rater, label in came[case].items()}
        comparison.add({rater: label.values for rater, label in labels.items()})
        if not set(_needed(raters, how)) <= set(labels):
            if case not in listed and case not in found.fit:
                found.missing.append(case)
            continue
        first, taken, words = came[case][raters[0]], labels[raters[0]].values, f"{case}: taken from {raters[0]}"
        if how != FIRST:
            taken, undecided = fuse(
                [label.values for label in labels.values()], how=how, regions=dict(regions.values())
            )
            words = f"{case}: {how} of {', '.join(raters)}; undecided and so background: {undecided} voxels"
        old = _label_there(cases[case], pool)
        equal = old is not None and old.checked is not None and np.array_equal(taken, old.checked.values)
        if equal and case in listed:
            found.equal += [case] if case in replaced else []
            continue
        if old is not None and not equal and case not in replaced:
            found.unfit.append(
                f"{words}; this differs from its label in labelsTr, which is there already; to take it in its place, "
                f"collect with --replace {case}"
            )
            if case not in listed and old.checked is not None:  # somebody has put it there
                found.fit.setdefault(case, FitLabel(file=old.file, plain=old.checked.plain, values={}))
            continue
        if how != FIRST and not (allow_empty is True or case in empty or np.isin(taken, [*drawn]).any()):
            found.unfit.append(f"{words}; nothing is left: look at it together, or collect with --fuse {FIRST}")
            continue
        result.fused.append(words)
        found.fit[case] = first
        if how != FIRST:
            file = scratch / f"{case}{pool.file_ending}"
            write_label(file, taken, labels[raters[0]].grid, reader=pool.reader())
            found.fit[case] = FitLabel(file=file, plain=True, values={})
    result.agreement += comparison.result()


def _taken_empty(shared: Collection[str], pool: ImagePool) -> list[str]:
    """The shared cases whose label in the dataset has nothing drawn."""
    cases, listed = pool.by_identifier(), set(listed_cases(pool))
    empty = []
    for case in sorted(listed & set(shared)):
        file = Workspace(pool.name).labels / f"{case}{pool.file_ending}"
        try:
            label = check_label(file, cases[case], pool, allow_empty=True)
        except UnfitLabel:
            continue
        if not np.isin(label.values, [*_drawn(pool)]).any():
            empty.append(case)
    return empty


def _drawn(pool: ImagePool) -> dict[int, str]:
    """What raters draw, by value: all but the background and what is ignored."""
    return {value: name for value, name in label_names(pool.dataset_json).items() if value and name != IGNORE}


def _compared(pool: ImagePool) -> Mapping[int, str] | Mapping[tuple[int, ...], str]:
    """What raters are compared by: labels, or regions, by their values."""
    regions = label_regions(pool.dataset_json)
    return {values: name for name, (_, values) in regions.items()} if regions else _drawn(pool)


def _needed(raters: Sequence[str], how: str) -> Sequence[str]:
    """Whose labels a shared case is made of."""
    return raters[:1] if how == FIRST else raters


def _read(label: FitLabel, case: Case, pool: ImagePool) -> CheckedLabel:
    return check_label(label.file, case, pool, allow_empty=True, values=label.values)


@dataclass(frozen=True, kw_only=True)
class _LabelThere:
    """A label in the dataset; None is checked of one that cannot be used."""

    file: Path
    checked: CheckedLabel | None


def _label_there(case: Case, pool: ImagePool) -> _LabelThere | None:
    """The label of a case in the dataset, listed or not; None if there is none."""
    file = Workspace(pool.name).labels / f"{case.identifier}{pool.file_ending}"
    if not file.is_file():
        return None
    try:
        return _LabelThere(file=file, checked=check_label(file, case, pool, allow_empty=True))
    except UnfitLabel:
        return _LabelThere(file=file, checked=None)
