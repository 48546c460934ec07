"""Batches made ahead of the training, so that a GPU does not wait for them."""

import multiprocessing
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pretrain.task import Task


def worker_count(device: torch.device) -> int:
    """As many processes as nnU-Net takes for its augmentation (``nnUNet_n_proc_DA``); none where cores are what trains.

    They are forked, so that the images are not copied to them; macOS and Windows do without.
    """
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

    can_fork = sys.platform != "darwin" and "fork" in multiprocessing.get_all_start_methods()
    return get_allowed_n_proc_DA() if device.type != "cpu" and can_fork else 0


class _Batches(Dataset):
    def __init__(self, task: Task):
        self.task = task

    def __getitem__(self, samples: range) -> Any:
        try:
            return self.task.batch(samples)
        except UserError as error:
            return error  # raised in the training process; torch would bury the sentence in the worker's traceback


def batches(task: Task, samples: Iterable[range], n_workers: int) -> Iterator[Any]:
    """``task.batch`` of every range, in order; what it gives does not depend on the number of workers.

    Raises
    ------
    UserError
        What ``task.batch`` raises.
    """
    loader = DataLoader(
        _Batches(task),
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
    # The training process turns these into a request to stop; a worker simply ends, when that process tells it to.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
