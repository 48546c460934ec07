"""One array row a case, on disk, filled case by case, so that an interrupted run resumes where it stopped."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.records.files import atomic, check_format, read_json, sha256_files, sha256_json, write_json

KIND, FORMAT_VERSION = "case rows", 1


def file_hashes(pool: ImagePool, cache: Path, progress) -> dict[str, str]:
    """SHA-256 of every case's files; a file whose size and time have not changed is not read again.

    Parameters
    ----------
    pool : ImagePool
    cache : Path
        JSON file that remembers the hashes.
    progress : callable
        Wraps the iterable of cases, as ``tqdm`` does.
    """
    known = read_json(cache) if cache.is_file() else {}
    hashes = {}
    for case in progress(pool.cases):
        stats = [file.stat() for file in case.files]
        stamp = [[str(f), s.st_size, s.st_mtime_ns] for f, s in zip(case.files, stats, strict=True)]
        entry = known.get(case.identifier)
        if entry is None or entry["stamp"] != stamp:
            entry = {"stamp": stamp, "sha256": sha256_files(case.files)}
        hashes[case.identifier] = entry
    if hashes != known:
        write_json(cache, hashes)
    return {identifier: entry["sha256"] for identifier, entry in hashes.items()}


def _map(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise UserError(f"{path} is cut off or gone ({error}); delete it and run the command again") from None


@dataclass
class CaseRows:
    """A float array of shape (cases, *row_shape) in a folder: ``rows_<hash>.npy`` and ``index.json``.

    A row of NaN is not written yet. Rows of cases whose files and settings have not changed are carried over when
    the pool changes.

    Attributes
    ----------
    path : Path
        The ``.npy`` file.
    identifiers : list of str
        The case of every row.
    rows : memory-mapped array, read-only
    """

    path: Path
    identifiers: list[str]
    rows: np.ndarray

    @classmethod
    def open(
        cls, folder: Path, hashes: dict[str, str], settings: dict, row_shape: tuple[int, ...], dtype
    ) -> "CaseRows":
        """Open the rows of these cases, with what earlier runs wrote for the same files and settings.

        Parameters
        ----------
        hashes : dict
            SHA-256 of the files of every case, in the order of the rows.
        settings : dict
            Plain values that decide what a row holds.
        row_shape : tuple of int
        dtype : float type
        """
        identity = {"settings": settings, "cases": hashes, "row_shape": list(row_shape), "dtype": np.dtype(dtype).name}
        index_file = folder / "index.json"
        path = folder / f"rows_{sha256_json(identity)[:12]}.npy"
        index = None
        if index_file.is_file():
            index = read_json(index_file)
            check_format(index, KIND, FORMAT_VERSION, index_file)
        if index is None or index["rows"] != path.name or not path.is_file():
            cls._create(path, identity, index, folder)
            # The rows first, then the index that names them: a crash in between leaves the old pair whole.
            write_json(
                index_file,
                {"kind": KIND, "format_version": FORMAT_VERSION, "rows": path.name, **identity},
            )
            for old in folder.glob("rows_*.npy"):
                if old != path:
                    old.unlink()
        return cls(path, list(hashes), _map(path))

    @classmethod
    def load(cls, folder: Path) -> tuple["CaseRows", dict]:
        """The rows that a folder holds, with its index: ``cases`` (hashes), ``settings``; nothing is written.

        Raises
        ------
        UserError
            If the folder has no rows or they are cut off.
        """
        index_file = folder / "index.json"
        index = read_json(index_file)
        check_format(index, KIND, FORMAT_VERSION, index_file)
        path = folder / index["rows"]
        return cls(path, list(index["cases"]), _map(path)), index

    @staticmethod
    def _create(path: Path, identity: dict, index: dict | None, folder: Path) -> None:
        reusable = {}
        same = index is not None and all(index[k] == identity[k] for k in ("settings", "row_shape", "dtype"))
        if same and (folder / index["rows"]).is_file():
            old = _map(folder / index["rows"])
            for row, (identifier, digest) in zip(old, index["cases"].items(), strict=True):
                if identity["cases"].get(identifier) == digest:
                    reusable[identifier] = row
        nothing = np.full(identity["row_shape"], np.nan, identity["dtype"])
        with atomic(path) as temporary, open(temporary, "wb") as file:
            header = {
                "shape": (len(identity["cases"]), *identity["row_shape"]),
                "fortran_order": False,
                "descr": np.lib.format.dtype_to_descr(nothing.dtype),
            }
            np.lib.format.write_array_header_1_0(file, header)
            # Every byte is written now, so that a full disk is an error here and not a crash in a memory map later.
            for identifier in identity["cases"]:
                file.write(np.ascontiguousarray(reusable.get(identifier, nothing)).tobytes())

    def missing(self) -> list[int]:
        """Rows that are not written, or were cut off while they were."""
        return [i for i, row in enumerate(self.rows) if np.isnan(row).any()]

    def write(self, i: int, row: np.ndarray) -> None:
        """Write row i."""
        with open(self.path, "r+b") as file:
            file.seek(self.rows.offset + i * self.rows[0].nbytes)
            file.write(np.ascontiguousarray(row, self.rows.dtype).tobytes())
