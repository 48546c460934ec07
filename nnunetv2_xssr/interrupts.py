"""Ctrl-C in a command: the process ends at once, with one sentence, wherever it is.

Python would raise an exception in whatever line the main thread is in. While Python forks or frees an object, or a
library has called back, nobody can catch that: it is lost, or taken for another error, or leaves a lock taken for ever.
Every file is written whole or not at all, so a command may end anywhere, and the next one removes what is unfinished.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

CODE = 130  # 128 + the signal's number, as shells count
_sentence = "interrupted; run the same command again"
_ends: list[Callable[[], object]] = []


def end_on_ctrl_c() -> None:
    """From now on Ctrl-C ends this process, unless it ignores it, as what a shell runs in the background does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, partial(_end, os.getpid()))


def announce(sentence: str) -> None:
    """What Ctrl-C will print from now on."""
    global _sentence
    _sentence = sentence


@contextmanager
def ending_too(end: Callable[[], object]) -> Iterator[None]:
    """Call a function if this process is to end before the block has: by Ctrl-C, or by an error."""
    _ends.append(end)
    try:
        yield
    except BaseException:
        end()
        raise
    finally:
        _ends.remove(end)


def end_what_runs() -> None:
    """Call the functions of all `ending_too`, for a process that is about to end without an error."""
    for end in _ends:
        with suppress(Exception):
            end()


def _end(pid: int, number: int, frame: object) -> None:
    if os.getpid() == pid:  # and not in a process that was forked from it
        end_what_runs()
        with suppress(Exception):
            sys.stdout.flush()
        with suppress(OSError):
            os.write(2, f"\n{_sentence}\n".encode(errors="replace"))
    os._exit(CODE)
