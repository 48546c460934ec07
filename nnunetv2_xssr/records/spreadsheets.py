"""Text in cells of .csv files, which spreadsheets take for a formula and run if it begins like one."""

import re

# As OWASP lists what begins a formula. Apostrophes before it stand for themselves, so that reading is exact.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def safe_cell(text: str) -> str:
    """The text with an apostrophe ahead where a spreadsheet would run it; `plain_cell` gives the text back."""
    return f"'{text}" if _FORMULA.match(text) else text


def plain_cell(cell: str) -> str:
    """The text of a cell that `safe_cell` made, or of any other cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
