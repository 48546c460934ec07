"""The log: what long work says on its way, and the file beside the records that keeps it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("nnunetv2_xssr")


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append what is logged in this block to a file, with the time, the command and whatever ends the block early.

    A run that fails on a cluster, whose terminal nobody sees, is found there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        handler.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, "began: %s", (" ".join(sys.argv),), None))
        yield
    except BaseException as error:
        ended = logger.makeRecord(logger.name, logging.ERROR, "", 0, "ended: %r", (error,), None)
        handler.handle(ended)
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


@contextmanager
def log_to_terminal() -> Iterator[None]:
    """Print what is logged in this block, as it is: for commands."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
