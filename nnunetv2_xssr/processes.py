"""Other processes that a command starts: they end with it."""

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import IO

from nnunetv2_xssr.interrupts import end_what_runs, ending_too


def run_program(command: Sequence[str], *, environment: Mapping[str, str], output: IO[str]) -> int:
    """Run a program to its end and return its exit code; all that it prints goes to a file."""
    with subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT) as program:
        with ending_too(program.terminate):
            return program.wait()


class _Worker(SpawnProcess):
    """A process that Ctrl-C leaves alone, and that ends with the one that started it, however that ends."""

    def start(self) -> None:
        with _held_back():
            super().start()

    def run(self) -> None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        super().run()


class Workers(SpawnContext):
    """The context of such processes, for what takes one: `concurrent.futures.ProcessPoolExecutor`."""

    Process = _Worker  # type: ignore[assignment]

    def __init__(self):
        super().__init__()
        # A process of Python's own frees what they share if this one is ended, and would warn of it.
        os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")


@contextmanager
def _held_back() -> Iterator[None]:
    """Have Ctrl-C wait for the end of the block; in processes that are started here it waits for ever."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    end_what_runs()  # Ctrl-C, which a worker leaves alone, does not reach the programs that it has started either
    os._exit(1)
