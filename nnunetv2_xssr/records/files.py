"""Records on disk: written whole or not at all, read back with one clear sentence when they do not fit."""

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunetv2_xssr.errors import UserError

TEMPORARY = ".xssr_tmp_"  # begins the names of temporary files and folders, by which those of killed runs are known


@contextmanager
def atomic(path: Path, *, keep_existing: bool = False) -> Iterator[Path]:
    """Yield a temporary name in the same folder that takes the place of ``path`` when the block ends well.

    A reader, a full disk or a power cut sees the old file or the new one, never half of one. With ``keep_existing`` a
    file that another process has put there meanwhile stays.
    """
    temporary = _temporary(path)
    try:
        with naming(path):
            yield temporary
            _complete(temporary)
        if keep_existing:
            with suppress(FileExistsError):
                _link(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary names that take the places of ``paths``, one after the other, when the block ends well.

    Their temporary names go after all are there. So a file that a killed run has put there alone is the same as a
    temporary one, by which `put_alone` knows it.

    Raises
    ------
    FileExistsError
        If there is one of the files; what somebody else has put there stays.
    """
    temporary, there = [_temporary(path) for path in paths], []
    try:
        yield temporary
        for one, path in zip(temporary, paths, strict=True):
            with naming(path):
                _complete(one)
        for one, path in zip(temporary, paths, strict=True):
            _link(one, path)
            there.append(path)
    except BaseException:
        for path in there:
            path.unlink()
        raise
    finally:
        for one in temporary:
            one.unlink(missing_ok=True)


def put_alone(path: Path) -> bool:
    """Whether a killed run has put a file there before the others of `atomic_together`."""
    return any(left.samefile(path) for left in leftovers(path.parent, of=path))


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stem, ending = _stem_and_ending(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY}{stem}_", suffix=ending)
    os.close(handle)
    return Path(name)


def _complete(temporary: Path) -> None:
    """Have a file on the disk, with the rights of other files: mkstemp makes some that only their owner can read."""
    with open(temporary, "r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())
    os.chmod(temporary, 0o666 & ~_umask())


def _stem_and_ending(path: Path) -> tuple[str, str]:
    """What a temporary name keeps of a file's: its beginning and its ending, as writers go by it (.nii.gz is one)."""
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    return path.name.removesuffix(ending)[:50], ending


def leftovers(folder: Path, *, of: Path | None = None, below: bool = False) -> Iterator[Path]:
    """Temporary files and folders in a folder, which killed runs have left if nobody writes there now.

    Parameters
    ----------
    folder : Path
    of : Path, optional
        Only those of this file.
    below : bool
        In all folders below, too.
    """
    name = f"{TEMPORARY}*"
    if of is not None:
        stem, ending = _stem_and_ending(of)
        name = f"{TEMPORARY}{glob.escape(stem)}_{'?' * 8}{glob.escape(ending)}"  # mkstemp draws eight characters
    yield from list(folder.rglob(name) if below else folder.glob(name))


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of a file that killed runs have left, before it is written anew."""
    for left in leftovers(path.parent, of=path):
        remove(left)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an `OSError` in the block that tells no file, such as one of a read or a write, tell this one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _link(temporary: Path, path: Path) -> None:
    """Let a file that is not there yet be the same as a temporary one."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write bytes, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content) -> None:
    """Write ``content`` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_file(path: Path) -> bytes:
    """What a file holds; a `UserError` says if there is none, or a folder, pipe or device in its place."""
    if not is_there(path):
        raise UserError(f"{path} does not exist")
    with naming(path):
        return path.read_bytes()


def is_there(path: Path) -> bool:
    """Whether there is such a file; a `UserError` says if something else is in its place.

    Reading a pipe would wait for ever, and a device may have no end.
    """
    if path.is_file():
        return True
    if not os.path.lexists(path):
        return False
    kind = "a folder" if path.is_dir() else "a pipe or device" if path.exists() else "a link that leads nowhere"
    raise UserError(f"{path} must be a file, but is {kind}; move it away, or give another")


def read_json(path: Path):
    """Read JSON; a `UserError` names the file when it is missing, cut off or not JSON."""
    content = read_file(path)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not a whole JSON file ({reason}); restore it or delete it") from None


def check_format(record, kind: str, version: int, path: Path) -> None:
    """Check that ``record`` is of this kind and not of a newer format than this version of the package writes."""
    if not isinstance(record, dict) or record.get("kind") != kind:
        raise UserError(f"{path} is not an nnunetv2_xssr {kind}; give another file or delete it")
    found = record.get("format_version")
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= version:
        raise UserError(
            f"{path} has format version {found!r} but this version of nnunetv2_xssr reads up to {version}; "
            f"upgrade nnunetv2_xssr"
        )


def sha256(parts: Iterable[bytes]) -> str:
    """Hexadecimal SHA-256 of the parts, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sha256_json(content) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    return sha256([json.dumps(content, sort_keys=True).encode()])


def sha256_files(paths: Iterable[Path]) -> str:
    """SHA-256 of what files hold, one after the other; a `UserError` says if something else is in the place of one."""

    def chunks():
        for path in paths:
            is_there(path)
            with open(path, "rb") as file:
                while chunk := file.read(2**20):
                    yield chunk

    return sha256(chunks())
