"""Images read ahead in threads, so that decoding does not wait for what is done with them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

from nnunetv2_xssr.images.pools import Case


@contextmanager
def read_ahead(read: Callable[[Case], Any], cases: Iterable[Case]) -> Iterator[Iterator[Future]]:
    """``read(case)`` of every case, in order; ``result()`` of a case's future raises what reading it raised.

    As many threads as cores, at most ``nnUNet_def_n_proc``, nnU-Net's variable for this: each holds one case in memory.
    At the end of the block no case is begun any more, and the threads have ended.
    """
    from nnunetv2.configuration import default_num_processes

    n_threads = min(default_num_processes, os.cpu_count() or 1)
    cases = iter(cases)
    ahead: deque[Future] = deque()

    def futures() -> Iterator[Future]:
        ahead.extend(threads.submit(read, case) for case in islice(cases, n_threads))
        while ahead:
            first = ahead.popleft()
            ahead.extend(threads.submit(read, case) for case in islice(cases, 1))
            yield first

    with ThreadPoolExecutor(n_threads) as threads:
        try:
            yield futures()
        finally:
            for future in ahead:
                future.cancel()
