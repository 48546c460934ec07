"""Locks: of two commands that write into one folder, the second waits until the first has ended.

The operating system holds a lock for a process, and frees it however the process ends. The words beside it, which say
who holds it, are read only while it is held. Whoever only reads needs no lock, because every file is replaced whole.
"""

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock, Timeout

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import leftovers, read_json, remove, write_json
from nnunetv2_xssr.records.logs import command_line, logger
from nnunetv2_xssr.records.workspace import Workspace

LOCK, HOLDER = ".xssr.lock", ".xssr.lock.json"
# Who holds one of these takes only those after it, and never two of a kind: no two processes wait for each other.
ORDER = ("output", "job", "dataset", "selection", "weights", "caches")
# What file systems without locks say: network drives, such as Lustre without the option flock, and some of FUSE.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_MOMENT = 1.0  # seconds that nobody needs to be told of

_held: ContextVar[Mapping[Path, tuple[str, bool]]] = ContextVar("held", default=MappingProxyType({}))
_waits: ContextVar[bool] = ContextVar("waits", default=True)
_reads: ContextVar[bool] = ContextVar("reads", default=False)


@contextmanager
def no_waiting(wanted: bool = True) -> Iterator[None]:
    """In this block a folder that another command writes is a `UserError`, and nothing to wait for."""
    token = _waits.set(not wanted)
    try:
        yield
    finally:
        _waits.reset(token)


@contextmanager
def reading_only() -> Iterator[None]:
    """In this block no lock is taken: for a process that only reads, such as all but the first of a run."""
    token = _reads.set(True)
    try:
        yield
    finally:
        _reads.reset(token)


def only_reads() -> bool:
    """Whether this is a block that must not write: caches are read there, and neither made nor filled."""
    return _reads.get()


def output_lock(folder: Path) -> AbstractContextManager[bool]:
    """For whoever fills a folder that the user has named, such as a benchmark: see `_locked`."""
    return _locked(folder, "output", leftovers(folder))


def job_lock(folder: Path) -> AbstractContextManager[bool]:
    """For whoever trains a job of a benchmark in a folder of its own: see `_locked`."""
    return _locked(folder, "job", leftovers(folder))


def dataset_lock(workspace: Workspace) -> AbstractContextManager[bool]:
    """For whoever changes a raw dataset: see `_locked`."""
    flat = (workspace.raw, workspace.images, workspace.labels)
    return _locked(workspace.raw, "dataset", (file for folder in flat for file in leftovers(folder)))


def selection_lock(workspace: Workspace) -> AbstractContextManager[bool]:
    """For whoever writes a record, its split, its hand-overs or its report: see `_locked`."""
    return _locked(workspace.selection, "selection", _of_selection(workspace))


def _of_selection(workspace: Workspace) -> Iterator[Path]:
    yield from leftovers(workspace.selection, below=True)
    yield from leftovers(workspace.split.parent, of=workspace.split)
    yield from leftovers(workspace.replaced)
    yield from leftovers(workspace.corrections.parent, of=workspace.corrections)
    for handover in workspace.handovers():
        yield from leftovers(handover, below=True)


def weights_lock(folder: Path) -> AbstractContextManager[bool]:
    """For whoever pretrains into a folder: see `_locked`."""
    return _locked(folder, "weights", leftovers(folder))


def caches_lock(pool: str) -> AbstractContextManager[bool]:
    """For whoever fills or cleans the caches of a pool: see `_locked`."""
    folder = Workspace(pool).caches
    return _locked(folder, "caches", leftovers(folder, below=True))


@contextmanager
def _locked(folder: Path, kind: str, unfinished: Iterable[Path]) -> Iterator[bool]:
    """Hold the lock of a folder for a block, and tell whether another command held it first.

    Within one process (and thread) it may be taken again. Where the folder cannot be written there is none to take.

    Parameters
    ----------
    folder : Path
        Is made if it is missing.
    kind : str
        One of `ORDER`.
    unfinished : iterable of Path
        Temporary files of all that write under this lock: once it is taken their writers are dead, and they go.

    Raises
    ------
    UserError
        If another command holds it, and `no_waiting` is wanted.
    """
    path, held = folder.resolve(), _held.get()
    if _reads.get() or path in held:
        yield path in held and held[path][1]
        return
    if any(ORDER.index(kind) <= ORDER.index(other) for other, _ in held.values()):
        raise RuntimeError(f"the lock of {kind} {folder} must be taken before {dict(held)}")
    path.mkdir(parents=True, exist_ok=True)
    # Whoever may write into the folder must be able to take its lock.
    lock = FileLock(path / LOCK, mode=0o600 | path.stat().st_mode & 0o066)
    waited = False
    try:
        waited = _acquire(lock, path)
    except (OSError, NotImplementedError) as error:
        lacks_locks = isinstance(error, NotImplementedError) or error.errno in _NO_LOCKS
        if os.access(path, os.W_OK) and not lacks_locks:
            raise
        if lacks_locks:
            logger.info("the file system of %s has no locks: let one command at a time write there", folder)
        yield False
        return
    token = _held.set({**held, path: (kind, waited)})
    try:
        for left in unfinished:
            remove(left)
        write_json(path / HOLDER, {"host": socket.gethostname(), "pid": os.getpid(), "command": command_line()})
        yield waited
    finally:
        _held.reset(token)
        with suppress(OSError):
            (path / HOLDER).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> bool:
    """Take a lock, and tell whether that took waiting."""
    if _taken(lock, folder, seconds=0):
        return False
    if _taken(lock, folder, seconds=_MOMENT):
        return True
    holder = _holder(folder)
    if not _waits.get():
        raise UserError(f"{folder} is being written by {holder}; wait until it has ended, or leave --no_wait out")
    logger.info("waiting for %s, which is being written by %s", folder, holder)
    while not _taken(lock, folder, seconds=3600):
        pass
    return True


def _taken(lock: FileLock, folder: Path, *, seconds: float) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=seconds, poll_interval=min(seconds, 0.25))
    except (Timeout, FileNotFoundError):  # the holder may have removed a folder that it had made
        return False
    return True


def _holder(folder: Path) -> str:
    """Who holds the lock, in words."""
    try:
        words = read_json(folder / HOLDER)
        return f"{words['command']} (process {words['pid']} on {words['host']})"
    except (UserError, TypeError, KeyError):
        return "another command"
