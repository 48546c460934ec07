"""What annotators fill into a worklist: it is read back, and kept when the worklist is written anew."""

import csv
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.spreadsheets import table_rows
from nnunetv2_xssr.records.timesheet import Minutes

MINUTES = "minutes"  # the column
_CELL = re.compile(r"([0-9]{1,4})(?:[.,]([0-9]{1,2}))?")  # three digits behind a comma might be thousands

Place = tuple[str, int | None]  # a case, and its slice if only that is drawn


def read_worklist(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells by column of every row, whichever spreadsheet has saved it.

    Raises
    ------
    UserError
        If it is no table with a column "case".
    """
    try:
        _, rows = table_rows(path)
    except (ValueError, csv.Error) as error:
        raise UserError(f"the worklist {path} cannot be read ({error}); save it as CSV") from None
    columns = [name.casefold() for name in rows[0][1]] if rows else []
    if "case" not in columns:
        raise UserError(f"the worklist {path} has no column case; restore its header, or delete the file")
    return [(line, dict(zip(columns, cells, strict=False))) for line, cells in rows[1:]]


def filled_in(path: Path) -> dict[tuple[str, str], str]:
    """The minutes as they were written, by case and slice; none where there is no worklist."""
    if not path.is_file():
        return {}
    rows = [row for _, row in read_worklist(path)]
    return {(row.get("case", ""), row.get("slice", "")): row[MINUTES] for row in rows if row.get(MINUTES)}


def added_cells(rows: Sequence[Sequence[str]], *, ours: Collection[str]) -> dict[tuple[str, str], set[str]]:
    """What people have written into a worklist, by case and slice.

    Parameters
    ----------
    rows : sequence of sequences of str
        The header first.
    ours : collection of str
        The columns in which nothing counts, but in rows that are not of select: they do not tell the selection.
    """
    found: dict[tuple[str, str], set[str]] = {}
    header = [name.casefold() for name in rows[0]]
    for cells in rows[1:]:
        named = dict(zip(header, cells, strict=False))
        foreign = "selection" in header and not named.get("selection")
        others = [cell for i, cell in enumerate(cells) if foreign or i >= len(header) or header[i] not in ours]
        if added := set(filter(None, others)):
            found.setdefault((named.get("case", ""), named.get("slice", "")), set()).update(added)
    return found


def read_minutes(
    path: Path, *, asked: Collection[Place], rater: str | None = None
) -> tuple[dict[Place, Minutes | None], list[str]]:
    """Read the column ``minutes`` of a worklist.

    Parameters
    ----------
    path : Path
    asked : collection of tuple
        Case and slice (None for a whole case) of everything that was chosen.
    rater : str, optional
        Whose worklist it is.

    Returns
    -------
    minutes : dict
        Of every row that fits; None where nothing is filled in.
    unfit : list of str
        One sentence per cell that cannot be read, and per file that is no table.
    """
    found: dict[Place, Minutes | None] = {}
    unfit = []
    try:
        rows = read_worklist(path)
    except UserError as error:
        return found, [str(error)]
    for line, row in rows:
        case, cell, text = row.get("case", ""), row.get("slice", ""), row.get(MINUTES, "")
        place, number = (case, int(cell) if re.fullmatch(r"[0-9]{1,9}", cell) else None), _CELL.fullmatch(text)
        where = f"{path}, row {line}, column"
        if not text:
            found.setdefault(place, None)
        elif place not in asked or (cell and place[1] is None):
            column, name = ("slice", cell) if any(case == one for one, _ in asked) else ("case", case)
            unfit.append(f"{where} {column}: {name[:50]!r} was not chosen; restore what stood there")
        elif found.get(place):
            unfit.append(f"{where} case: {case} has minutes in a row above, too; leave one of the two")
        elif not number or not float(f"{number[1]}.{number[2] or 0}"):
            unfit.append(f"{where} {MINUTES}: must be a number above 0 such as 7.5; got {text[:50]!r}")
        else:
            minutes = float(f"{number[1]}.{number[2] or 0}")
            found[place] = Minutes(case=case, slice=place[1], rater=rater, minutes=minutes)
    return found, unfit
