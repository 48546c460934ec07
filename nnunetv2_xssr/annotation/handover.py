"""The hand-over folder: what an annotator needs, and nothing else.

It holds ``images/``, ``labels/`` (empty, or with templates), ``worklist.csv``, the same to print, colour tables and
``README.txt``. The images are copies: a link would not survive a USB stick, and a tool that saves over an image would
change the dataset.
"""

import filecmp
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from nnunetv2_xssr.annotation.colour_tables import write_colour_tables
from nnunetv2_xssr.annotation.cvat import is_exported, returned_files
from nnunetv2_xssr.annotation.label_files import copy_whole
from nnunetv2_xssr.annotation.prelabels import ACCEPTED, keep_prelabels, still_accepted
from nnunetv2_xssr.annotation.printing import write_printable
from nnunetv2_xssr.annotation.raters import BETWEEN, RATER, Dealt, raters_of
from nnunetv2_xssr.annotation.readme import readme
from nnunetv2_xssr.annotation.reasons import reason
from nnunetv2_xssr.annotation.second_look import LookAgain
from nnunetv2_xssr.annotation.slice_places import is_turned_by_napari, slice_places
from nnunetv2_xssr.annotation.sparse_labels import write_template
from nnunetv2_xssr.annotation.timesheets import MINUTES, added_cells, filled_in, read_worklist
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.reading import spacing_file
from nnunetv2_xssr.records.files import TEMPORARY, atomic, is_there, sha256_files, write_json
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.manifest import id_in_worklist
from nnunetv2_xssr.records.schema import read_as
from nnunetv2_xssr.records.selection import Pick, picked_slices
from nnunetv2_xssr.records.spreadsheets import table_rows, write_table
from nnunetv2_xssr.records.workspace import Workspace, is_visible, visible_files, worklist_name

_TEMPLATES = "templates.json"
_ADVICE = "restore it: it tells which templates nobody has drawn in"
_SLICE = ("slice", "slice_itksnap", "slice_napari", "position")
_COLUMNS = ("rank", "case", *_SLICE, "files", "label", "domain", "group", "reason", MINUTES, "selection")
_OURS = {*_COLUMNS, RATER, ACCEPTED} - {MINUTES}  # the columns that people leave alone, or that a model takes back


def template_hashes(folder: Path) -> set[str]:
    """SHA-256 of the templates that a hand-over was given; empty where whole cases are drawn."""
    path = folder / _TEMPLATES
    return set(read_as(path, dict[str, str], advice=_ADVICE).values()) if is_there(path) else set()


def drawn_files(labels: Path, templates: Collection[str]) -> list[Path]:
    """The visible files of a folder of labels, without templates that nobody has changed."""
    return [file for file in returned_files(labels) if not templates or sha256_files([file]) not in templates]


def drawn_labels(folder: Path) -> list[Path]:
    """The labels of a hand-over that somebody has added, and the templates that somebody has drawn in."""
    templates = template_hashes(folder)
    return [file for labels in _label_folders(folder) for file in drawn_files(labels, templates)]


def _label_folders(folder: Path) -> list[Path]:
    """Where the labels of a hand-over lie: those of several raters in a folder each."""
    labels = folder / "labels"
    inner = sorted(path for path in labels.glob("*") if path.is_dir() and is_visible(path))
    return [labels, *(path for path in inner if not is_exported(path))]


def first_round(workspace: Workspace) -> int:
    """The number of the first round: the lowest whose hand-over holds no labels, from a record that is gone."""
    number = 1
    while drawn_labels(workspace.handover(number)):
        number += 1
    return number


def check_no_labels(folder: Path) -> None:
    """Raise `UserError` if a hand-over already holds labels."""
    found = drawn_labels(folder)
    if found:
        raise UserError(
            f"{folder / 'labels'} holds {len(found)} labels of the selection that --overwrite would replace "
            f"({found[0].name}); collect them first with nnUNetv2_xssr_collect, or move them away"
        )


def write_handover(
    folder: Path,
    pool: ImagePool,
    picks: list[Pick],
    *,
    alpha: float | None,
    selection: str,
    prelabels: Mapping[str, Path] | None = None,
    dealt: Dealt | None = None,
    again: Sequence[LookAgain] = (),
    pictured: bool = True,
) -> None:
    """Write the hand-over of these picks, and remove the images of earlier picks whose label nobody has begun.

    Whatever else lies beside the images belongs to the annotator, and stays.

    Parameters
    ----------
    folder : Path
    pool : ImagePool
    picks : list of Pick
    alpha : float or None
        Of their selection: see `nnunetv2_xssr.annotation.reasons.reason`.
    selection : str
        Its id.
    prelabels : mapping, optional
        Case to the folder of the label that a model has drawn in it, to be corrected.
    dealt : mapping, optional
        Case to its raters; without it there is one annotator.
    again : sequence of LookAgain
        Labels of earlier rounds that deserve a second look.
    pictured : bool
        Whether the worklist to print has a picture of every pick.
    """
    dealt, prelabels = dealt or {}, prelabels or {}
    cases = pool.by_identifier()
    files = {pick.case: _image_names(cases[pick.case], pool) for pick in picks}
    images = folder / "images"
    wanted = {name: file for names in files.values() for name, file in names.items()}
    _remove_earlier(images, pool, wanted)
    for rater in raters_of(dealt) or ["."]:
        (folder / "labels" / rater).mkdir(parents=True, exist_ok=True)
    for name, file in wanted.items():
        copy_whole(file, images / name)
    accepted = still_accepted(folder, prelabels)
    drawn = [file.name for file in drawn_labels(folder)]
    keep_prelabels(folder, prelabels, drawn=drawn, templates=template_hashes(folder))
    _write_templates(folder, pool, picks, dealt, prelabels)
    write_colour_tables(folder, pool.dataset_json)
    note = readme(
        pool,
        picks[0],
        images=[name for name, file in next(iter(files.values())).items() if file in cases[picks[0].case].files],
        dealt=dealt,
        prelabelled=bool(prelabels),
        turned=[f"images/{next(iter(files[case]))}" for case in files if is_turned_by_napari(cases[case], pool)],
        again=again,
        pictured=pictured,
    )
    with atomic(folder / "README.txt") as temporary:
        temporary.write_text(note, encoding="utf-8")
    rows = _rows(pool, picks, files, alpha=alpha, selection=selection)
    _write_worklists(folder, rows, dealt, accepted)
    write_printable(folder, pool, rows, again=again, pictured=pictured)


def images_drawn_over(folder: Path, pool: ImagePool, cases: Collection[str]) -> dict[str, Path]:
    """Case to the first of its images in a hand-over that is not that of the pool: a label may be saved over it."""
    found: dict[str, Path] = {}
    for case in pool.only(cases).cases:
        for name, file in _image_names(case, pool).items():
            copy = folder / "images" / name
            if copy.is_file() and not filecmp.cmp(copy, file, shallow=False):
                found.setdefault(case.identifier, copy)
    return found


def _remove_earlier(images: Path, pool: ImagePool, wanted: Collection[str]) -> None:
    """Remove the copies of other images of the pool and nothing else; keep what was drawn over one that is wanted."""
    copied = {name: file for case in pool.cases for name, file in _image_names(case, pool).items()}
    there = visible_files(images)
    copies = {old for old in there if old.name in copied and filecmp.cmp(old, copied[old.name], shallow=False)}
    drawn_over = [old for old in there if old.name in wanted and old not in copies]
    for old in drawn_over:
        number = next(n for n in count(1) if not old.with_name(f"{old.name}.kept_{n}").exists())
        old.rename(old.with_name(f"{old.name}.kept_{number}"))
        logger.warning(f"{old} is not the image that the pool has; it is kept as {old.name}.kept_{number}")
    there = [old for old in there if old not in drawn_over]
    # Through a link, of this folder or of one above it, they may be the only ones, such as those of imagesTr itself.
    of_pool = {file.resolve() for file in copied.values()}
    earlier = {old for old in copies if old.name not in wanted and old.resolve() not in of_pool}
    earlier = set() if images.is_symlink() else earlier
    for old in earlier:
        old.unlink()
    if kept := [old.name for old in there if old not in earlier and old.name not in wanted]:
        logger.warning(f"{images} also holds {first_few(kept)}, which select did not put there; they stay")


def _write_templates(
    folder: Path, pool: ImagePool, picks: list[Pick], dealt: Dealt, prelabels: Mapping[str, Path]
) -> None:
    """Write what is to be drawn in, and remove earlier templates that nobody has drawn in; those that fit stay."""
    cases = pool.by_identifier()
    slices = picked_slices(picks)
    drawn, handed_out = set(drawn_labels(folder)), template_hashes(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY) as scratch:
        for case in {**slices, **prelabels}:
            # nnU-Net's writers choose the format by the ending, and write a spacing beside a stack in .tif.
            of_case = Path(scratch) / case
            if case in prelabels:
                shutil.copytree(prelabels[case], of_case)
                continue
            of_case.mkdir()
            write_template(of_case / f"{case}{pool.file_ending}", cases[case], pool, slices=slices[case])
        files = sorted(Path(scratch).glob("*/*"))
        hashes = {file.name: sha256_files([file]) for file in files}
        wanted = {
            labels / file.name: file
            for file in files
            for labels in (folder / "labels" / rater for rater in dealt.get(file.parent.name, ["."]))
            if labels / f"{file.parent.name}{pool.file_ending}" not in drawn
        }
        for old in {file for labels in _label_folders(folder) for file in visible_files(labels)} - drawn:
            digest = sha256_files([old])
            if digest in handed_out and not (old in wanted and digest == hashes[old.name]):
                old.unlink()
        if not files:
            (folder / _TEMPLATES).unlink(missing_ok=True)
            return
        # Before the templates: one that no hash tells of would count as drawn in.
        write_json(folder / _TEMPLATES, hashes)
        for path, file in wanted.items():
            if not path.is_file():
                copy_whole(file, path)


def _image_names(case: Case, pool: ImagePool) -> dict[str, Path]:
    names = {f"{case.identifier}_{number:04d}{pool.file_ending}": file for number, file in enumerate(case.files)}
    sidecar = spacing_file(case)
    return names if sidecar is None else {**names, f"{case.identifier}.json": sidecar}


def _write_worklists(folder: Path, rows: list[dict[str, Any]], dealt: Dealt, accepted: Collection[str] | None) -> None:
    """Write the list of all rows and, where they were dealt out, one per rater, in which minutes are filled in."""
    lists: dict[Path, tuple[list[dict[str, Any]], Sequence[str]]] = {}
    for rater in raters_of(dealt):
        own = [{**row, "label": _label_of(row, rater)} for row in rows if rater in dealt[row["case"]]]
        lists[folder / worklist_name(rater)] = own, _COLUMNS
    if dealt:
        for row in rows:
            raters = dealt[row["case"]]
            row |= {RATER: BETWEEN.join(raters), "label": BETWEEN.join(_label_of(row, rater) for rater in raters)}
    shown = [RATER if dealt and name == MINUTES else name for name in _COLUMNS]
    lists[folder / worklist_name()] = rows, [*shown, *([] if accepted is None else [ACCEPTED])]
    for old in folder.glob(worklist_name("*")):
        if old not in lists and id_in_worklist(old) and not _notes(old):
            old.unlink()
    for path, (of_list, columns) in lists.items():
        filled, (names, remarks) = filled_in(path), _added(path)
        table = [[*columns, *names]]
        for row in of_list:
            place = row["case"], "" if row["slice"] is None else str(row["slice"])
            row[MINUTES] = filled.get(place)
            if accepted is not None:
                row[ACCEPTED] = "yes" if row["case"] in accepted else ""
            table.append([*(row[name] for name in columns), *remarks.get(place, [])])
        _keep_notes(path, [["" if cell is None else str(cell) for cell in row] for row in table])
        write_table(path, table)


def _notes(path: Path) -> dict[tuple[str, str], set[str]]:
    """What people have written into a worklist, by case and slice; nothing where there is none."""
    return added_cells([cells for _, cells in table_rows(path)[1]], ours=_OURS) if path.is_file() else {}


def _keep_notes(path: Path, table: Sequence[Sequence[str]]) -> None:
    """Keep a worklist under another name where the table that takes its place lacks what people have written into it.

    Such as in rows of cases that are picked no longer, in rows whose case a spreadsheet has changed, and beside the
    columns.
    """
    stay = added_cells(table, ours=_OURS)
    if all(cells <= stay.get(place, set()) for place, cells in _notes(path).items()):
        return
    names = (path.with_name(f"{path.name}.kept_{number}") for number in count(1))
    kept = next(name for name in names if not name.exists() or filecmp.cmp(name, path, shallow=False))
    if not kept.exists():
        copy_whole(path, kept)
    logger.warning(f"the new {path} has no place for some of the notes in the old one, which is kept as {kept.name}")


def _added(path: Path) -> tuple[list[str], dict[tuple[str, str], list[str]]]:
    """The columns that an annotator has added to a worklist, and their cells by case and slice."""
    if not path.is_file():
        return [], {}
    rows = [row for _, row in read_worklist(path)]
    header = table_rows(path)[1][0][1]
    names = [name for name in header if name and name.casefold() not in (*_COLUMNS, RATER, ACCEPTED)]
    cells = [[row.get(name.casefold(), "") for name in names] for row in rows]
    return names, {(row.get("case", ""), row.get("slice", "")): own for row, own in zip(rows, cells, strict=True)}


def _label_of(row: dict[str, Any], rater: str) -> str:
    return row["label"].replace("labels/", f"labels/{rater}/", 1)


def _rows(
    pool: ImagePool, picks: list[Pick], files: dict[str, dict[str, Path]], *, alpha: float | None, selection: str
) -> list[dict[str, Any]]:
    """What a worklist says of every pick, by column."""
    cases, slices = pool.by_identifier(), picked_slices(picks)
    places = {case: slice_places(cases[case], pool, of_case) for case, of_case in slices.items()}
    rows = []
    for pick in picks:
        place = places[pick.case][pick.slice] if pick.slice is not None else None
        rows.append(
            {
                "rank": pick.rank,
                "case": pick.case,
                "slice": pick.slice,
                "slice_itksnap": place and place.itk_snap,
                "slice_napari": place and place.napari,
                "position": place and place.position,
                "files": "; ".join(f"images/{name}" for name in files[pick.case]),
                "label": f"labels/{pick.case}{pool.file_ending}",
                "domain": pick.domain,
                "group": pick.group,
                "reason": reason(pick, alpha=alpha),
                "selection": selection,
            }
        )
    return rows
