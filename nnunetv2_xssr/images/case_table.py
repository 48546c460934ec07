"""What a user says about cases in a file: the table of domains, groups and costs, and lists of names."""

import csv
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.names import check_line, refuse_names
from nnunetv2_xssr.records.spreadsheets import plain_cell, table_rows, table_text
from nnunetv2_xssr.records.vetoes import REASONS, Reason


def with_case_table(pool: ImagePool, path: Path) -> ImagePool:
    """Add ``domain``, ``group`` (or ``patient``), ``cost``, ``slice_from`` and ``slice_to`` from a table of cases.

    Slices are counted as the worklist does: from 0, along the third axis of the file; both belong to the range.

    The table may be what a spreadsheet writes: comma, semicolon or tab between columns, in UTF-8, UTF-16 or
    Windows-1252; where no comma separates the columns, costs may have a decimal comma. Other columns are left alone.
    The log tells how many cases have a group, a domain, a cost and a range of slices.

    Raises
    ------
    UserError
        If the file is no such table, or it names a case twice or a case that the pool does not have.
    """
    table = _Table.read(path)
    check_names(f"the table of cases {path}", list(table.rows), pool)
    texts = [row[column] for row in table.rows.values() for column in ("domain", "group", "patient") if row.get(column)]
    refuse_names(f"a domain or group in {path}", texts, check=check_line)

    def described(case: Case) -> Case:
        row = table.rows.get(case.identifier, {})
        group = row.get("group") or row.get("patient")
        cost = table.cost(case.identifier) if "cost" in table.columns else None
        domain, slices = row.get("domain") or case.domain, table.slices(case.identifier)
        return replace(case, domain=domain, group=group or case.group, cost=cost, slices=slices)

    cases = tuple(described(case) for case in pool.cases)
    groups, domains, costs, slices = (
        sum(getattr(case, fact) is not None for case in cases) or "none"
        for fact in ("group", "domain", "cost", "slices")
    )
    logger.info(
        "%s: %s of %d cases have a group, %s a domain, %s a cost", path.name, groups, len(cases), domains, costs
    )
    if slices != "none":
        logger.info("%s: %s of %d cases have a range of slices", path.name, slices, len(cases))
    return replace(pool, cases=cases)


def check_names(where: str, names: Collection[str], pool: ImagePool) -> None:
    """Raise `UserError` if one of the names, which were found ``where``, is no case of the pool."""
    known = set(pool.identifiers)
    unknown = sorted(set(names) - known)
    if not unknown:
        return
    hint = f"its cases look like {pool.identifiers[0]}"
    stored = {unicodedata.normalize("NFC", case) for case in known}
    for name in unknown:
        if unicodedata.normalize("NFC", name) in stored:
            hint = f"{name} has its accents stored otherwise than the files have, as macOS does: copy the files' names"
            break
        bare = name[: -len(pool.file_ending)] if name.lower().endswith(pool.file_ending.lower()) else name
        found = next((likely for likely in (bare, re.sub(r"_\d{4}$", "", bare)) if likely in known), None)
        if found:
            hint = f"{name} looks like {found}: drop the ending"
            break
    count = f"{len(unknown)} case{'s' * (len(unknown) > 1)}"
    raise UserError(f"{where} names {count} that {pool.name} does not have ({first_few(unknown)}); {hint}")


def unknown_domains(pool: ImagePool) -> str | None:
    """A sentence about the cases that ``domains`` in dataset.json names and the pool does not have."""
    domains = pool.dataset_json.get("domains", {})
    unknown = sorted(set(domains) - set(pool.identifiers))
    if not unknown:
        return None
    count = f"{len(unknown)} of {len(domains)} cases"
    return f"domains in dataset.json names {count} that {pool.name} does not have ({first_few(unknown)}); fix the names"


@dataclass(frozen=True, kw_only=True)
class _Table:
    path: Path
    columns: list[str]  # their names in lower case
    rows: dict[str, dict[str, str]]  # per case
    decimal: str

    @classmethod
    def read(cls, path: Path) -> "_Table":
        try:
            delimiter, lines = table_rows(path)
        except (ValueError, csv.Error) as error:
            raise UserError(f"the table of cases {path} cannot be read ({error}); save it as CSV") from None
        columns = [name.casefold() for name in lines[0][1]] if lines else []
        named = [name for name in columns if name]
        if "case" not in named or len(set(named)) < len(named):
            raise UserError(
                f"the table of cases {path} must have a column 'case', and no column twice; got {first_few(named)}"
            )
        rows: dict[str, dict[str, str]] = {}
        for number, cells in lines[1:]:
            row = dict(zip(columns, cells, strict=False))
            case = row.get("case")
            if len(cells) > len(columns) or not case:
                what = "has no case" if not case else f"has {len(cells)} cells for {len(columns)} columns"
                raise UserError(f"line {number} of the table of cases {path} {what}; fix it")
            if case in rows:
                raise UserError(f"the table of cases {path} names case {first_few([case])} twice; keep one row")
            rows[case] = row
        comma = delimiter != "," and any("," in row.get("cost", "") for row in rows.values())
        return cls(path=path, columns=columns, rows=rows, decimal="," if comma else ".")

    def cost(self, case: str) -> float:
        text = self.rows.get(case, {}).get("cost", "")
        try:
            # Beside decimal commas a point would be one between thousands, or a slip.
            cost = np.nan if self.decimal == "," and "." in text else float(text.replace(self.decimal, "."))
        except ValueError:
            cost = np.nan
        if not 0 < cost < np.inf:
            raise UserError(
                f"the table of cases {self.path} must give every case a cost above 0, or have no column 'cost'; "
                f"got {text[:50] or 'none'!r} for case {case}"
            )
        return cost

    def slices(self, case: str) -> tuple[int, int | None] | None:
        texts = [self.rows.get(case, {}).get(column, "") for column in ("slice_from", "slice_to")]
        if not any(texts):
            return None
        if all(re.fullmatch(r"\d{0,9}", text) for text in texts):
            first, last = int(texts[0] or 0), int(texts[1]) if texts[1] else None
            if last is None or first <= last:
                return first, last
        raise UserError(
            f"the table of cases {self.path} must have whole numbers from 0 in slice_from and slice_to, which rise; "
            f"got {texts[0][:50]!r} and {texts[1][:50]!r} for case {case}"
        )


def read_names(path: Path | None) -> list[str] | None:
    """Names of cases from a text file, one per line, sorted; None for no file."""
    if path is None:
        return None
    try:
        lines = table_text(path).splitlines()
    except ValueError as error:
        raise UserError(f"the list of cases {path} cannot be read ({error}); give text, one case per line") from None
    return sorted({plain_cell(line.strip()) for line in lines if line.strip()})


def read_vetoes(path: Path | None) -> dict[str, Reason | None]:
    """Cases from a text file, one per line, and why they are vetoed: behind a tab, None where nothing stands there.

    Raises
    ------
    UserError
        If the file cannot be read, a reason is none of `REASONS`, or a case has two.
    """
    vetoes: dict[str, Reason | None] = {}
    for line in read_names(path) or ():
        case, tab, text = (part.strip() for part in line.partition("\t"))
        reason = next((known for known in REASONS if known == text), None)
        if text and not reason:
            raise UserError(
                f"{path} has {text[:50]!r} as the reason for {case}; it must be {', '.join(REASONS)}, or left out"
            )
        if vetoes.get(case, reason) != reason:
            raise UserError(f"{path} has two reasons for {case}, {vetoes[case]} and {reason}; leave one")
        vetoes[case] = reason
    return vetoes
