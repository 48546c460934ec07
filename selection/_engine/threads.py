"""Calls side by side: the compiled loops release Python's lock."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from numba import config

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(call: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """``[call(item) for item in items]``, on as many threads as numba may use."""
    with ThreadPoolExecutor(config.NUMBA_NUM_THREADS) as threads:  # type: ignore[attr-defined]
        return list(threads.map(call, items))
