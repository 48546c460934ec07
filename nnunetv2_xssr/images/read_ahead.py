"""Images read in threads, ahead of whoever waits for them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from nnunetv2_xssr.images.pools import Case


def read_ahead(read: Callable, cases: Iterable[Case]) -> Iterator[Future]:
    """``read(case)`` of every case, in order; what it raises is raised by ``result()`` of that case's future.

    As many threads as cores, at most ``nnUNet_def_n_proc``, nnU-Net's variable for this: each holds a case in memory.
    """
    from nnunetv2.configuration import default_num_processes

    n_threads = min(default_num_processes, os.cpu_count() or 1)
    cases = iter(cases)
    with ThreadPoolExecutor(n_threads) as threads:
        ahead = deque(threads.submit(read, case) for case in islice(cases, n_threads))
        try:
            while ahead:
                first = ahead.popleft()
                ahead.extend(threads.submit(read, case) for case in islice(cases, 1))
                yield first
        finally:
            for future in ahead:
                future.cancel()
