"""A pool as partitions on disk, so that no process ever holds all its features."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from pydantic import with_config
from typing_extensions import NotRequired, TypedDict

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import is_there, read_json, sha256, write_json
from nnunetv2_xssr.records.schema import OURS, Count, read_as
from nnunetv2_xssr.selection.standardise import Scale, blocks, check_features

RECORD_FILE = "partitions.json"
KIND, FORMAT_VERSION = "partitions", 1


@with_config(OURS)
class _Record(TypedDict):
    n_cases: Annotated[Count, Ge(1)]
    n_features: Annotated[Count, Ge(1)]
    n_partitions: Annotated[Count, Ge(1)]
    n_source: Count
    seed: int
    widths: NotRequired[list[Count] | None]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """A standardised pool in a folder, and the source against which its novelty is measured.

    Each case is in one partition, drawn at random; the sizes of partitions differ by at most one. Partition 7 has

        rows_00007.npy      float32, shape (n_7, d): rows as `standardise` gives them, in the order of the pool
        numbers_00007.npy   int64, shape (n_7,), ascending: which rows of the pool these are
        distances_00007.npy float64, shape (n_7, 2), once they are measured: mean distance to the nearest neighbours in
                            the pool and in the source

    and the source has, in its own order, source_00000.npy and so on.

    Attributes
    ----------
    folder : Path
    n_cases, n_features, n_partitions : int
    n_source : int
        0 without a source.
    """

    folder: Path
    n_cases: int
    n_features: int
    n_partitions: int
    n_source: int

    @classmethod
    def open(cls, folder: Path) -> "Partitions":
        """Read the record of a folder that `write_partitions` wrote.

        Raises
        ------
        UserError
            If it is missing, broken or of another format; the sentence names it.
        """
        folder = Path(folder).absolute()  # workers start elsewhere
        advice = f"delete the folder {folder}"
        record = read_as(folder / RECORD_FILE, _Record, kind=KIND, version=FORMAT_VERSION, advice=advice)
        return cls(
            folder=folder,
            n_cases=record["n_cases"],
            n_features=record["n_features"],
            n_partitions=record["n_partitions"],
            n_source=record["n_source"],
        )

    def rows(self, p: int) -> np.ndarray:
        """Rows of partition p, shape (n_p, d), memory-mapped."""
        return self._load("rows", p, (self.size(p), self.n_features), np.float32)

    def numbers(self, p: int) -> np.ndarray:
        """The row in the pool of each row of partition p, shape (n_p,), memory-mapped."""
        return self._load("numbers", p, (self.size(p),), np.int64)

    def distances(self, p: int) -> np.ndarray:
        """Mean distances to the neighbours in the pool and in the source, shape (n_p, 2), memory-mapped."""
        return self._load("distances", p, (self.size(p), 2), np.float64)

    def source(self) -> Iterator[np.ndarray]:
        """The source, file by file."""
        for s, part in enumerate(self.source_slices()):
            yield self._load("source", s, (part.stop - part.start, self.n_features), np.float32)

    def source_slices(self) -> list[slice]:
        """Which rows of the source lie in which file: as many per file as in the largest partition."""
        size = self.size(0)
        return [slice(start, min(start + size, self.n_source)) for start in range(0, self.n_source, size)]

    def take(self, values: Callable[[int], np.ndarray], chosen: np.ndarray) -> np.ndarray:
        """Gather what ``values``, `rows` or `distances`, holds for these rows of the pool, in their order."""
        first = values(0)
        found = np.empty((len(chosen), first.shape[1]), first.dtype)
        for p in range(self.n_partitions):
            numbers = self.numbers(p)
            at = np.minimum(np.searchsorted(numbers, chosen), len(numbers) - 1)
            here = numbers[at] == chosen
            found[here] = values(p)[at[here]]
        return found

    def file(self, name: str, p: int) -> Path:
        """The file of partition p with this name."""
        return self.folder / f"{name}_{p:05d}.npy"

    def size(self, p: int) -> int:
        """n_p, the number of cases in partition p."""
        return len(range(p, self.n_cases, self.n_partitions))

    def _load(self, name: str, p: int, shape: tuple[int, ...], dtype) -> np.ndarray:
        path = self.file(name, p)
        remedy = f"delete the folder {self.folder} and write the partitions again"
        try:
            array = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            raise UserError(
                f"{path} does not exist; let all workers see the folder under this path, or, if it is lost, {remedy}"
            ) from None
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}); {remedy}") from None
        if array.shape != shape or array.dtype != dtype:
            raise UserError(
                f"{path} must have the shape {shape} and type {np.dtype(dtype)}, as {RECORD_FILE} says; "
                f"got {array.shape} and {array.dtype}; {remedy}"
            )
        return array


def write_partitions(
    folder: Path,
    pool: np.ndarray,
    *,
    n_partitions: int,
    source: np.ndarray | None = None,
    seed: int = 0,
    components: int | None = None,
    widths: Sequence[int] | None = None,
) -> Partitions:
    """Standardise a pool and write it as random partitions, block by block: arrays may be larger than the memory.

    The partitions must be random: the guarantees of the two-round greedy rest on it (Barbosa et al. 2015), and
    neighbouring rows of a pool are often alike. A folder that holds the same partitions already is left as it is, with
    what was measured in it; other partitions are replaced. The record is written last; a folder without it is invalid.

    Parameters
    ----------
    folder : Path
        All workers must see it under this path.
    pool : array of shape (n, d)
        Features as the encoder gives them; may be a memory map.
    n_partitions : int
        Between 1 and n. A worker holds two partitions at a time.
    source : array of shape (m, d), optional
    seed : int
    components : int, optional
    widths : sequence of int, optional
        See `nnunetv2_xssr.selection.select`.

    Raises
    ------
    UserError
        If an array does not fit or holds NaN or infinity; the sentence names the row.
    """
    folder = Path(folder).absolute()
    check_features(pool, source)
    if not 1 <= n_partitions <= len(pool):
        raise UserError(f"n_partitions must be between 1 and {len(pool)}, the number of cases; got {n_partitions}")
    scale = Scale.of(pool, components=components, widths=widths)
    partitions = Partitions(
        folder=folder,
        n_cases=len(pool),
        n_features=scale.width,
        n_partitions=n_partitions,
        n_source=0 if source is None else len(source),
    )
    record = {"kind": KIND, "format_version": FORMAT_VERSION, "seed": seed}
    record["widths"] = None if widths is None else list(widths)
    record |= {name: value for name, value in vars(partitions).items() if name != "folder"}
    arrays = [pool] if source is None else [pool, source]
    record["sha256"] = sha256(block.tobytes() for features in arrays for block in blocks(features))
    if is_there(folder / RECORD_FILE) and read_json(folder / RECORD_FILE) == record:
        return partitions
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    for name in ("rows", "numbers", "distances", "source"):
        for old in folder.glob(f"{name}_*.npy"):
            old.unlink()
    _write_pool(partitions, pool, scale=scale, seed=seed)
    if source is not None:
        _write_source(partitions, source, scale=scale)
    write_json(folder / RECORD_FILE, record)
    return partitions


def _write_pool(partitions: Partitions, pool: np.ndarray, *, scale: Scale, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for p in range(partitions.n_partitions):
        _begin(partitions.file("rows", p), (partitions.size(p), partitions.n_features), np.float32)
        _begin(partitions.file("numbers", p), (partitions.size(p),), np.int64)
    start = 0
    for block in blocks(pool):
        numbers = np.arange(start, start + len(block))
        of = rng.permutation(numbers % partitions.n_partitions)
        rows = scale.apply(block)
        for p in np.unique(of):
            _append(partitions.file("rows", p), rows[of == p])
            _append(partitions.file("numbers", p), numbers[of == p])
        start += len(block)


def _write_source(partitions: Partitions, source: np.ndarray, *, scale: Scale) -> None:
    for s, part in enumerate(partitions.source_slices()):
        path = partitions.file("source", s)
        _begin(path, (len(source[part]), partitions.n_features), np.float32)
        for block in blocks(source[part]):
            _append(path, scale.apply(block))


def _begin(path: Path, shape: tuple[int, ...], dtype) -> None:
    """Write the head of a ``.npy`` file; rows follow as bytes, so that a full disk is an error and not a crash."""
    header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(dtype))}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)


def _append(path: Path, rows: np.ndarray) -> None:
    with open(path, "ab") as file:
        file.write(np.ascontiguousarray(rows).tobytes())
