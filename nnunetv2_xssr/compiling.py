"""Compilation of loops, kept on disk where that is possible."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(*, fastmath: bool = False) -> Callable[[Callable], Any]:
    """Decorate a loop: numba compiles it when it is first called, and keeps the result for the next process.

    Where neither the folder of this package nor one of the user's can be written, as in containers of a foreign user,
    every process compiles anew.
    """

    def decorate(loop: Callable) -> Any:
        try:
            return njit(cache=True, fastmath=fastmath, nogil=True)(loop)
        except RuntimeError:  # numba's word for having found no folder
            return njit(fastmath=fastmath, nogil=True)(loop)

    return decorate
