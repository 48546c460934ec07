"""Images read ahead in threads, so that decoding does not wait for what is done with them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from nnunetv2_xssr.images.memory import available_memory
from nnunetv2_xssr.images.pools import Case

_SHARE = 0.5  # of the memory that is available may be taken


@contextmanager
def read_ahead(
    read: Callable[[Case], Any], cases: Iterable[Case], *, memory: Callable[[Case], int] | None = None
) -> Iterator[Iterator[Future]]:
    """``read(case)`` of every case, in order; ``result()`` of a case's future raises what reading it raised.

    As many threads as cores, at most ``nnUNet_def_n_proc``, nnU-Net's variable for this. At the end of the block no
    case is begun any more, and the threads have ended.

    Parameters
    ----------
    read : function
    cases : iterable of Case
    memory : function, optional
        Bytes that reading a case takes: together the cases that are being read take at most half of the memory that
        is available at the start, unless one alone takes more.
    """
    from nnunetv2.configuration import default_num_processes

    n_threads = min(default_num_processes, os.cpu_count() or 1)
    limit = _SHARE * available_memory()
    ahead: deque[tuple[Future, int]] = deque()

    def futures() -> Iterator[Future]:
        for case in cases:
            n_bytes = memory(case) if memory else 0
            while ahead and (len(ahead) > n_threads or _taken(ahead) + n_bytes > limit):
                yield ahead[0][0]
                ahead.popleft()
            ahead.append((threads.submit(read, case), n_bytes))
        while ahead:
            yield ahead[0][0]
            ahead.popleft()

    with ThreadPoolExecutor(n_threads) as threads:
        try:
            yield futures()
        finally:
            for future, _ in ahead:
                future.cancel()


def _taken(begun: Iterable[tuple[Future, int]]) -> int:
    return sum(n_bytes for future, n_bytes in begun if not future.done())
