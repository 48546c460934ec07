"""Batches that worker processes make ahead of the training, so that a GPU does not wait for them."""

import multiprocessing
import signal
import sys
from collections.abc import Generator, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pretrain.objective import Objective


def worker_count(device: torch.device) -> int:
    """The number of workers: as many as nnU-Net uses for augmentation (``nnUNet_n_proc_DA``), none to train on a CPU.

    Workers are forked, so that the images are not copied to them; on macOS and Windows there are none.
    """
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

    can_fork = sys.platform != "darwin" and "fork" in multiprocessing.get_all_start_methods()
    return get_allowed_n_proc_DA() if device.type != "cpu" and can_fork else 0


class _Batches(Dataset):
    def __init__(self, objective: Objective):
        self.objective = objective

    def __getitem__(self, samples: range) -> Any:
        try:
            return self.objective.batch(samples)
        except UserError as error:
            return error  # raised in the training process; torch would bury the sentence in the worker's traceback


def batches(objective: Objective, samples: Iterable[range], *, n_workers: int) -> Generator[Any, None, None]:
    """``objective.batch`` of every range, in order; the batches do not depend on the number of workers.

    To close the generator ends the workers.

    Raises
    ------
    UserError
        As ``objective.batch`` raises it.
    """
    loader = DataLoader(
        _Batches(objective),
        sampler=samples,
        batch_size=None,
        num_workers=n_workers,
        multiprocessing_context="fork" if n_workers else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # torch's global one stays as it was
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _start_worker(_: int) -> None:
    # The training process turns these signals into a request to stop, and then ends its workers by SIGTERM.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
