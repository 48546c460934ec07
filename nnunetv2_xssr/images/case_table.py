"""The table of cases: domain, group (patient) and cost of every case, from a CSV file."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import Case, ImagePool


def with_case_table(pool: ImagePool, path: Path) -> ImagePool:
    """Add ``domain``, ``group`` (or ``patient``) and ``cost`` from a CSV file with a column ``case``."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the table of cases {path} cannot be read ({error})") from None
    if not rows or "case" not in rows[0]:
        raise UserError(f"the table of cases {path} must have a column 'case'; got {list(rows[0]) if rows else []}")
    table = {}
    for row in rows:
        if row["case"] in table:
            raise UserError(f"the table of cases {path} names case {row['case']} twice; keep one row")
        table[row["case"]] = row
    known = pool.identifiers
    if not set(table) & set(known):
        raise UserError(f"the table of cases {path} names no case of {pool.name}; its first case is {rows[0]['case']}")

    def described(case: Case) -> Case:
        row = table.get(case.identifier, {})
        group = row.get("group") or row.get("patient")
        cost = _cost(case, row.get("cost"), path) if "cost" in rows[0] else None
        return replace(case, domain=row.get("domain") or case.domain, group=group or case.group, cost=cost)

    return replace(pool, cases=tuple(described(case) for case in pool.cases))


def _cost(case: Case, text: str | None, path: Path) -> float:
    try:
        cost = float(text or "")
    except ValueError:
        cost = np.nan
    if not 0 < cost < np.inf:
        raise UserError(
            f"the table of cases {path} must give every case a cost above 0, or have no column 'cost'; "
            f"got {text or 'none'!r} for case {case.identifier}"
        )
    return cost


def read_names(path: Path | None) -> list[str] | None:
    """Names of cases from a text file, one a line; None for no file."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list of cases {path} cannot be read ({error}); give text, one case a line") from None
    return sorted({line.strip() for line in lines if line.strip()})
