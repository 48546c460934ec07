"""Caches of one array row per case, filled case by case, so that an interrupted run resumes where it stopped."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from annotated_types import Ge, Len
from isal import isal_zlib
from numpy.typing import DTypeLike
from pydantic import with_config
from tqdm import tqdm
from typing_extensions import TypedDict

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import files_read
from nnunetv2_xssr.records.files import atomic, is_there, naming, sha256_files, sha256_json, write_json
from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.schema import OURS, Count, read_as
from nnunetv2_xssr.records.workspace import Workspace

KIND, FORMAT_VERSION = "case rows", 2
_HEAD = {"kind": KIND, "format_version": FORMAT_VERSION}
_SAVE_EVERY = 10.0  # seconds from one file of hashes to the next
_SUM = np.dtype("<u4")
_AGAIN = "run nnUNetv2_xssr_select again, which makes it anew"
_ADVICE = f"delete it and {_AGAIN}"


@with_config(OURS)
class FileHash(TypedDict):
    """The hash of a case's files, and by what they are known to be the same."""

    stamp: list[Annotated[list[str | int], Len(3, 3)]]  # path, bytes and nanoseconds of every file
    sha256: str


@with_config(OURS)
class Index(TypedDict):
    """What rows hold, beside them."""

    settings: dict[str, Any]
    row_shape: Annotated[list[Annotated[Count, Ge(1)]], Len(1)]
    dtype: Literal["float16", "float32", "float64"]
    cases: dict[str, str]


def file_hashes(pool: ImagePool) -> dict[str, str]:
    """SHA-256 of every case's files; a file whose size and time have not changed is not read again.

    They are kept as they come: an interrupted run has lost nothing, and one that was killed only the last seconds.
    """
    with caches_lock(pool.name):
        return _file_hashes(pool, Workspace(pool.name).caches / "files.json")


def known_hashes(pool: ImagePool) -> dict[str, str]:
    """`file_hashes` of the cases whose files need not be read for it; nothing is written."""
    cache = Workspace(pool.name).caches / "files.json"
    known = read_file_hashes(cache) if is_there(cache) else {}
    return {
        case.identifier: known[case.identifier]["sha256"]
        for case in pool.cases
        if case.identifier in known and known[case.identifier]["stamp"] == _stamp(case)
    }


def check_unchanged(pool: ImagePool) -> Callable[[Case], None]:
    """A function that raises `UserError` if a case's files have changed since `file_hashes` hashed them.

    It is called once a case was read: what was made of another image would be kept under the hash of the old one.
    """
    known = read_file_hashes(Workspace(pool.name).caches / "files.json") if pool.cases else {}

    def check(case: Case) -> None:
        entry = known.get(case.identifier)  # which another command may have removed where there are no locks
        if entry and entry["stamp"] != _stamp(case):
            raise UserError(
                f"case {case.identifier}: {case.files[0]} has changed while it was read; run the command again "
                f"when nobody writes it"
            )

    return check


def _file_hashes(pool: ImagePool, cache: Path) -> dict[str, str]:
    known = read_file_hashes(cache) if is_there(cache) else {}
    stamps = {case.identifier: _stamp(case) for case in pool.cases}
    hashes = {name: known[name] for name, stamp in stamps.items() if name in known and known[name]["stamp"] == stamp}
    new = [case for case in pool.cases if case.identifier not in hashes]
    progress = tqdm(new, desc=f"checking {pool.name}", unit="case", disable=None)
    saved = time.monotonic()
    try:
        with read_ahead(lambda case: sha256_files(files_read(case)), new) as digests:
            for case, digest in zip(progress, digests, strict=True):
                hashes[case.identifier] = {"stamp": stamps[case.identifier], "sha256": digest.result()}
                if time.monotonic() - saved > _SAVE_EVERY:
                    write_json(cache, {**known, **hashes})
                    saved = time.monotonic()
    except BaseException:
        write_json(cache, {**known, **hashes})
        raise
    hashes = {name: hashes[name] for name in stamps}
    if hashes != known:
        write_json(cache, hashes)
    return {name: entry["sha256"] for name, entry in hashes.items()}


def _stamp(case: Case) -> list[list]:
    stats = [(file, file.stat()) for file in files_read(case)]
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


@dataclass
class CaseRows:
    """A float array of shape (cases, *row_shape) in a folder: ``rows_<key>.npy`` and ``index_<key>.json``.

    The key is a hash of what the rows hold: the settings, and the cases with their files. So caches of several settings
    and pools lie side by side, and none takes the place of another; `nnunetv2_xssr.images.caches` removes old ones.
    A row of NaN is not written yet.

    After the rows the file holds a CRC-32 per row, each written after its row: a row that was cut off, or has changed
    or moved since, does not fit it and is missing. In one file with the rows, the sums cannot be lost or of other rows.

    Attributes
    ----------
    path : Path
        The ``.npy`` file.
    identifiers : list of str
        The case of every row.
    rows : memory-mapped array, read-only
    sums : memory-mapped uint32 array of shape (cases,), read-only
        0 where no row is written yet.
    """

    path: Path
    identifiers: list[str]
    rows: np.ndarray
    sums: np.ndarray

    @property
    def key(self) -> str:
        """What addresses the rows in their folder."""
        return self.path.stem.removeprefix("rows_")

    @classmethod
    def open(
        cls, folder: Path, hashes: dict[str, str], settings: dict, row_shape: tuple[int, ...], dtype: DTypeLike
    ) -> "CaseRows":
        """Open the rows of these cases, with what earlier runs wrote for the same files and settings.

        A file that is not whole, or of an older version without sums, is made anew, as a line of the log says.

        Parameters
        ----------
        folder : Path
        hashes : dict
            SHA-256 of the files of every case, in the order of the rows.
        settings : dict
            Plain values that decide what a row holds.
        row_shape : tuple of int
        dtype : float type
        """
        index = _index(hashes, settings, row_shape, dtype)
        key = _key(index)
        path, index_file = _files(folder, key)
        if not _is_whole(path, index):
            _create(path, index, _earlier_rows(folder, index))
        if not is_there(index_file):
            write_json(index_file, {**_HEAD, **index})  # after the rows, so that an index tells of rows that are there
        return cls(path, list(hashes), *_map(path, index))

    @classmethod
    def written(
        cls, folder: Path, hashes: dict[str, str], settings: dict, row_shape: tuple[int, ...], dtype: DTypeLike
    ) -> set[str]:
        """The cases whose rows `open` would find, with its arguments; nothing is written."""
        return set(_earlier_rows(folder, _index(hashes, settings, row_shape, dtype)))

    @classmethod
    def load(cls, folder: Path, key: str) -> tuple["CaseRows", Index]:
        """The rows with this key, and their index: ``cases`` (hashes), ``settings``, ...; nothing is written.

        Raises
        ------
        UserError
            If there are none, or the file or a row is not as it was written; the sentence names the cases.
        """
        found, index = cls._found(folder, key)
        if damaged := found._damaged(found._unfit()):
            raise UserError(f"{found.path}: {damaged}; {_AGAIN}")
        return found, index

    @classmethod
    def _found(cls, folder: Path, key: str) -> tuple["CaseRows", Index]:
        """As `load`, whatever the rows hold."""
        index, (path, _) = read_index(folder, key), _files(folder, key)
        try:
            return cls(path, list(index["cases"]), *_map(path, index)), index
        except ValueError as error:
            raise UserError(f"{path} {error}; {_AGAIN}") from None

    def missing(self) -> list[int]:
        """Rows that are not written, or are not as they were written; a line of the log names the latter."""
        missing = self._unfit()
        if damaged := self._damaged(missing):
            logger.warning(f"{self.path}: {damaged}, and are made anew")
        return missing

    def write(self, i: int, row: np.ndarray) -> None:
        """Write row i."""
        row = np.ascontiguousarray(row, self.rows.dtype)
        rows, sums = cast(np.memmap, self.rows), cast(np.memmap, self.sums)
        with naming(self.path), open(self.path, "r+b") as file:
            file.seek(rows.offset + i * row.nbytes)
            file.write(row.tobytes())
            file.seek(sums.offset + i * _SUM.itemsize)
            file.write(np.array(_sum(self.key, self.identifiers[i], row), _SUM).tobytes())

    def fits(self, i: int) -> bool:
        """Whether row i is written, and as it was."""
        return _sum(self.key, self.identifiers[i], self.rows[i]) == self.sums[i]

    def _unfit(self) -> list[int]:
        return [i for i in range(len(self.rows)) if not self.fits(i)]

    def _damaged(self, unfit: list[int]) -> str:
        """What is to be said of those that were written; empty if none was."""
        cases = [self.identifiers[i] for i in unfit if self.sums[i] or not np.isnan(self.rows[i]).all()]
        return cases and f"{len(cases)} rows do not fit their checksums ({first_few(cases)})" or ""


def read_index(folder: Path, key: str) -> Index:
    """The index of the rows with this key.

    Raises
    ------
    UserError
        If there is none, or it is not the one that the key was made of.
    """
    _, index_file = _files(folder, key)
    if not is_there(index_file):
        raise UserError(f"the cache {index_file} is gone; {_AGAIN}")
    index = read_as(index_file, Index, kind=KIND, version=FORMAT_VERSION, advice=_ADVICE)
    if _key(index) != key:
        raise UserError(f"{index_file} has changed since it was written; {_ADVICE}")
    return index


def read_file_hashes(path: Path) -> dict[str, FileHash]:
    """What `file_hashes` has kept of every case; a `UserError` says if it does not fit."""
    return read_as(path, dict[str, FileHash], advice=_ADVICE)


def rows_hash(folder: Path, key: str) -> str:
    """SHA-256 of the rows with this key."""
    return sha256_files([_files(folder, key)[0]])


def _index(hashes: dict[str, str], settings: dict, row_shape: tuple[int, ...], dtype: DTypeLike) -> Index:
    return cast(
        Index, {"settings": settings, "row_shape": list(row_shape), "dtype": np.dtype(dtype).name, "cases": hashes}
    )


def _key(index: Index) -> str:
    return sha256_json([_without_cases(index), list(index["cases"].items())])[:12]


def _files(folder: Path, key: str) -> tuple[Path, Path]:
    return folder / f"rows_{key}.npy", folder / f"index_{key}.json"


def _without_cases(index: Index) -> dict:
    return {**_HEAD, **{part: value for part, value in index.items() if part != "cases"}}


def _sum(key: str, case: str, row: np.ndarray) -> int:
    """CRC-32 of a row and of where it belongs: the row of another case, or of another cache, does not fit."""
    return isal_zlib.crc32(row, isal_zlib.crc32(f"{key} {case}".encode()))


def _is_whole(path: Path, index: Index) -> bool:
    """Whether there is a file for these rows and sums; one that does not fit goes."""
    if not is_there(path):
        return False
    try:
        _map(path, index)
    except ValueError as error:
        logger.warning(f"{path} {error}, and is made anew")
        path.unlink()
        return False
    return True


def _map(path: Path, index: Index) -> tuple[np.ndarray, np.ndarray]:
    """The rows and their sums; a `ValueError` says what is wrong with the file."""
    n = len(index["cases"])
    is_there(path)
    try:
        rows = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises whatever it meets
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"is cut off or gone ({error})") from None
    # The type too, not only its name, which does not tell in which order the bytes of a number lie.
    if (rows.shape, rows.dtype) != ((n, *index["row_shape"]), np.dtype(index["dtype"])) or not rows.flags.c_contiguous:
        raise ValueError("does not fit its index beside it")
    end = rows.offset + rows.nbytes
    if path.stat().st_size != end + n * _SUM.itemsize:
        raise ValueError("is not as long as its rows and their checksums, which older versions did not write")
    return rows, np.memmap(path, _SUM, "r", offset=end, shape=n)


def _earlier_rows(folder: Path, index: Index) -> dict[str, np.ndarray]:
    """Whole rows of these cases that lie in the folder with the same settings, whatever pool they were made for."""
    found = {}
    for file in folder.glob("index_*.json"):
        with suppress(UserError):  # one that is broken or of another version
            old, of_old = CaseRows._found(folder, file.stem.removeprefix("index_"))
            if sha256_json(_without_cases(of_old)) != sha256_json(_without_cases(index)):
                continue
            for i, (case, digest) in enumerate(of_old["cases"].items()):
                if index["cases"].get(case) == digest and old.fits(i):
                    found[case] = old.rows[i]
    return found


def _create(path: Path, index: Index, rows: dict[str, np.ndarray]) -> None:
    nothing = np.full(index["row_shape"], np.nan, index["dtype"])
    # Another run that makes the same rows may be first: then its file is taken, which it has mapped already.
    with atomic(path, keep_existing=True) as temporary, open(temporary, "wb") as file:
        header = {
            "shape": (len(index["cases"]), *nothing.shape),
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(nothing.dtype),
        }
        np.lib.format.write_array_header_1_0(file, header)
        # Every byte is written now, so that a full disk is an error here and not a crash in a memory map later.
        for case in index["cases"]:
            file.write(np.ascontiguousarray(rows.get(case, nothing)).tobytes())
        key = _key(index)
        sums = [_sum(key, case, rows[case]) if case in rows else 0 for case in index["cases"]]
        file.write(np.array(sums, _SUM).tobytes())
