"""Files of features, one row per case: those that were made elsewhere are read, our own are written."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nnunetv2_xssr.errors import UserError, first_few, one_of
from nnunetv2_xssr.records.files import is_there
from nnunetv2_xssr.records.names import check_line, refuse_names
from nnunetv2_xssr.records.spreadsheets import plain_cell, safe_cell

_LOST = 1e-3  # of the range of a feature
WRITTEN = (".npz", ".csv")


class FeatureFile(NamedTuple):
    """What a file of features holds.

    Attributes
    ----------
    cases : list of str
    features : array of shape (cases, d)
    widths : list of int or None
        How many features there are of each of several sorts, which count equally; None where all are of one.
    """

    cases: list[str]
    features: np.ndarray
    widths: list[int] | None = None


def read_features(path: Path, *, option: str, cases: Sequence[str] | None) -> FeatureFile:
    """The features of every case of a pool.

    Parameters
    ----------
    path : Path
        ``.npz`` with the arrays ``cases`` and ``features``, and ``widths`` where there are several sorts; ``.npy`` with
        the cases in a ``.txt`` beside it, one per line; ``.csv`` or ``.parquet`` with a column ``case``, whose other
        columns are features.
    option : str
        That named the file.
    cases : sequence of str or None
        The cases of the pool, in whose order rows are returned; None takes those of the file.

    Returns
    -------
    FeatureFile
        With the features as float32.

    Raises
    ------
    UserError
        If the file cannot be read, or does not hold every case exactly once, or holds what is not a finite number, what
        single precision cannot tell apart, or the same for all cases, or widths that do not fit.
    """
    where = f"{option} {path}"
    if path.suffix not in _READERS:
        raise one_of(f"{option}, by its ending,", _READERS, str(path))
    if not is_there(path):
        raise UserError(f"there is no file {where}")
    try:
        found = _READERS[path.suffix](path)
    except ImportError as error:
        raise UserError(f"{where} needs a package that is not there ({error}); install pandas and pyarrow") from None
    except Exception as error:  # readers raise whatever they meet
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        reason = "it holds Python objects, or nothing of numpy" if "pickle" in reason else reason
        raise UserError(f"{where} is not as docs/encoders.md has it: {reason}") from None
    names, rows = found.cases, found.features
    _check(names, rows, where, cases)
    if found.widths is not None and (sum(found.widths) != rows.shape[1] or min(found.widths, default=0) < 1):
        raise UserError(f"widths in {where} must be 1 or more each and add up to {rows.shape[1]}; got {found.widths}")
    refuse_names(f"a case in {where}", names, check=check_line)
    if cases is not None:
        row = {name: i for i, name in enumerate(names)}
        names, rows = list(cases), rows[[row[case] for case in cases]]
    return FeatureFile(names, rows.astype(np.float32), found.widths)


def write_features(path: Path, content: FeatureFile) -> None:
    """Write a ``.npz`` or a ``.csv`` that `read_features` reads back to the last digit; ``path`` may be temporary."""
    cases, features, widths = content
    if path.suffix == ".npz":
        if widths is None:
            np.savez(path, cases=np.array(cases), features=features)
        else:
            np.savez(path, cases=np.array(cases), features=features, widths=np.array(widths))
        return
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", *_columns(features.shape[1], widths)])
        for case, row in zip(cases, features, strict=True):
            writer.writerow([safe_cell(case), *(f"{value:.9g}" for value in row)])


def _columns(number: int, widths: Sequence[int] | None) -> list[str]:
    """Names of features; those of several sorts tell them: ``sort1_feature_0``."""
    if widths is None:
        return [f"feature_{i}" for i in range(number)]
    return [f"sort{sort}_feature_{i}" for sort, width in enumerate(widths, start=1) for i in range(width)]


def _widths(columns: Sequence[str]) -> list[int] | None:
    """What `_columns` tells of several sorts, or None where names are others."""
    sorts = [int(match[1]) for name in columns if (match := re.fullmatch(r"sort(\d+)_feature_\d+", name))]
    widths = [sorts.count(sort) for sort in sorted(set(sorts))]
    return widths if widths and _columns(len(columns), widths) == list(columns) else None


def _check(names: list[str], rows: np.ndarray, where: str, cases: Sequence[str] | None) -> None:
    if rows.ndim != 2 or 0 in rows.shape or len(rows) != len(names):
        raise UserError(f"{where} must hold one row of features per case; got {len(names)} cases and {rows.shape}")
    if rows.dtype.kind not in "fiu":
        raise UserError(f"{where} must hold numbers; got values of the type {rows.dtype}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{where} holds {len(repeated)} cases more than once ({first_few(repeated)}); name each once")
    with np.errstate(over="ignore"):
        finite = np.isfinite(rows.astype(np.float32)).all(axis=1)
    if not finite.all():
        broken = [names[i] for i in np.flatnonzero(~finite)]
        size = "; numbers beyond 3e38 are too large for float32" if np.isfinite(rows).all() else ""
        raise UserError(f"{where} holds NaN or infinity in {len(broken)} cases ({first_few(broken)}){size}; leave none")
    _check_differences(rows, where)
    if cases is None:
        return
    missing, unknown = sorted(set(cases) - set(names)), sorted(set(names) - set(cases))
    if missing:
        hint = "" if len(missing) < len(cases) else f", by these names: its own look like {first_few(names, 1)}"
        raise UserError(
            f"{where} lacks {len(missing)} of {len(cases)} cases ({first_few(missing)}); add their features{hint}"
        )
    if unknown:
        raise UserError(f"{where} holds {len(unknown)} cases that the pool does not have ({first_few(unknown)})")


def _check_differences(rows: np.ndarray, where: str) -> None:
    """Raise `UserError` if all cases are alike, or become so, or nearly, as float32."""
    if len(rows) > 1 and (rows == rows[0]).all():
        raise UserError(f"{where} holds the same features for all {len(rows)} cases; they must differ")
    exact = rows.astype(np.longdouble)
    lost, spread = np.abs(exact - exact.astype(np.float32)).max(axis=0), np.ptp(exact, axis=0)
    if (columns := np.flatnonzero((spread > 0) & (lost > _LOST * spread))).size:
        raise UserError(
            f"{where} holds numbers that differ by too little for single precision in {len(columns)} of "
            f"{rows.shape[1]} features, the first of them number {columns[0] + 1}; take the mean off each, and scale it"
        )


def _from_npz(path: Path) -> FeatureFile:
    with np.load(path) as arrays:
        lacking = {"cases", "features"} - set(arrays)
        if lacking:
            raise ValueError(f"it has no array {' or '.join(sorted(lacking))}")
        if arrays["cases"].ndim != 1:
            raise ValueError(f"cases must be one name after the other; got an array of shape {arrays['cases'].shape}")
        widths = [int(width) for width in arrays["widths"]] if "widths" in arrays else None
        return FeatureFile([str(name) for name in arrays["cases"]], arrays["features"], widths)


def _from_npy(path: Path) -> FeatureFile:
    names = path.with_suffix(".txt")
    if not names.is_file():
        raise ValueError(f"the names of its cases are missing, {names.name} beside it")
    lines = names.read_text(encoding="utf-8-sig").splitlines()
    rows = np.load(path)
    if not isinstance(rows, np.ndarray):
        raise ValueError("it holds several arrays, as a .npz does")
    return FeatureFile([line.strip() for line in lines if line.strip()], rows)


def _from_csv(path: Path) -> FeatureFile:
    with open(path, newline="", encoding="utf-8-sig") as file:
        header, *lines = [line for line in csv.reader(file) if line] or [[]]
    if header.count("case") != 1:
        found = "several columns" if "case" in header else "no column"
        raise ValueError(f"it has {found} case; columns are separated by commas")
    if nameless := [i for i, name in enumerate(header, start=1) if re.fullmatch(r"\s*|Unnamed: \d+", name)]:
        # to_csv of pandas writes the numbers of the rows so, which would count as a feature.
        raise ValueError(f"its column {nameless[0]} has no name, as numbers of rows have none; leave it out")
    at, names, rows = header.index("case"), [], []
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"a row has {len(line)} columns in place of {len(header)}: {', '.join(line)[:40]}")
        names.append(plain_cell(line[at]))
        rows.append([float(value) for i, value in enumerate(line) if i != at])
    return FeatureFile(names, np.array(rows), _widths([name for i, name in enumerate(header) if i != at]))


def _from_parquet(path: Path) -> FeatureFile:
    import pandas

    table = pandas.read_parquet(path)
    cases = [str(name) for name in table.pop("case")]
    return FeatureFile(cases, table.to_numpy(), _widths([str(name) for name in table.columns]))


_READERS = {".npz": _from_npz, ".npy": _from_npy, ".csv": _from_csv, ".parquet": _from_parquet}
