"""The log: what long work says on its way, and the file beside the records that keeps it."""

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunetv2_xssr.records.files import is_there

logger = logging.getLogger("nnunetv2_xssr")
_BEGAN = "began: "


def command_line() -> str:
    """What was typed, as a shell takes it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def duration(seconds: float) -> str:
    """A time in words, such as ``6.0 min``."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def last_command(path: Path) -> str | None:
    """The command that wrote into a log last; None where none of ours did."""
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    typed = [line.partition(_BEGAN)[2] for line in lines if _BEGAN + "nnUNetv2_" in line]
    return typed[-1] if typed else None


class _LogFile(logging.FileHandler):
    """A file that says so when it cannot be written, where logging would print a traceback and go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            error.filename = error.filename or self.baseFilename
        raise

    def close(self) -> None:
        with suppress(OSError):  # what is left to write is what could not be written
            super().close()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append what is logged in this block to a file, with the time, the command and whatever ends the block early.

    A run that fails on a cluster, whose terminal nobody sees, is found there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_dir():  # which the system refuses itself
        is_there(path)  # and no pipe, which would let it wait
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        handler.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, _BEGAN + "%s", (command_line(),), None))
        yield
    except BaseException as error:
        ended = logger.makeRecord(logger.name, logging.ERROR, "", 0, "ended: %r", (error,), None)
        with suppress(OSError):  # the error itself is what must be heard
            handler.handle(ended)
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


class _Terminal(logging.StreamHandler):
    """The output, where what cannot be written is told of in the end, and stands in the log: the work goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextmanager
def log_to_terminal() -> Iterator[None]:
    """Print what is logged in this block, as it is: for commands."""
    handler = _Terminal(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
