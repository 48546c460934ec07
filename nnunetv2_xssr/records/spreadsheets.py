"""Tables in .csv files: what spreadsheets write, and text that they would take for a formula and run."""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunetv2_xssr.records.files import atomic, read_file

_DELIMITERS = ",;\t"
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# As OWASP lists what begins a formula. Apostrophes before it stand for themselves, so that reading is exact.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table, whole or not at all, in UTF-8 with commas, as scripts read it; texts by `safe_cell`.

    The mark at its beginning tells spreadsheets that it is UTF-8.
    """
    text = io.StringIO()
    table = csv.writer(text)
    table.writerows([safe_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    with atomic(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8-sig", newline="")


def safe_cell(text: str) -> str:
    """The text with an apostrophe ahead where a spreadsheet would run it; `plain_cell` gives the text back."""
    return f"'{text}" if _FORMULA.match(text) else text


def plain_cell(cell: str) -> str:
    """The text of a cell that `safe_cell` made, or of any other cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def table_rows(path: Path) -> tuple[str, list[tuple[int, list[str]]]]:
    """Read a table with a column "case", as any spreadsheet writes it.

    Returns
    -------
    delimiter : str
        A comma, a semicolon or a tab.
    rows : list of tuple
        Line number and cells of every row that is not empty, the header first; cells are as they were meant, without
        spaces around them, and without the empty ones at the end of a row.

    Raises
    ------
    ValueError, csv.Error
        If it is no table.
    """
    text = table_text(path)
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    return delimiter, [(reader.line_num, cells) for row in reader if (cells := _cells(row))]


def table_text(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or Windows-1252; a `ValueError` if it is none."""
    content = read_file(path)
    encoding = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise
        text = content.decode("cp1252")  # what spreadsheets on Windows write without being asked
    if "\0" in text:
        raise ValueError("it is no text")
    return text


def _delimiter(text: str) -> str:
    """The delimiter that finds a column "case" in the header, and among these the most columns."""
    header = next((line for line in text.splitlines() if line.strip(f"{_DELIMITERS} ")), "")

    def fit(delimiter: str) -> tuple[bool, int]:
        names = [name.casefold() for name in _cells(next(csv.reader([header], delimiter=delimiter), []))]
        return "case" in names, len(names)

    return max(_DELIMITERS, key=fit)


def _cells(row: Sequence[str]) -> list[str]:
    cells = [plain_cell(cell.strip()) for cell in row]
    while cells and not cells[-1]:
        cells.pop()
    return cells
