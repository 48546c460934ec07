"""Stopping when the cluster asks for it: the training loop finishes its step, saves a checkpoint and ends."""

import signal
import threading

# Clusters send SIGTERM before they kill, or SIGUSR1 some time before the wall time is over (sbatch --signal=USR1@120).
# Windows has no SIGUSR1.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequest:
    """While the block runs, the signals only set ``number``; afterwards the former handlers are back.

    Attributes
    ----------
    number : int
        Number of the first signal that came; 0 before one came.
    """

    def __init__(self):
        self.number = 0
        self._before = {}

    def __enter__(self) -> "StopRequest":
        # Python lets no other thread set handlers; who calls from another thread has to stop it.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        self.number = self.number or number
