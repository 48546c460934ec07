"""One process or many, with the same code: which processes there are, and how they wait for each other.

On a CPU or one GPU there is one process. ``-num_gpus N`` starts N, one a GPU. Under ``torchrun`` or ``srun`` the
processes are there already, on one machine or many, on GPUs (nccl) or CPUs (gloo); machines share nnU-Net's folders.
"""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from nnunetv2_xssr.errors import Stopped, UserError, one_of

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
Result = TypeVar("Result")


def start(device: str, n_devices: int = 1, precision: str = "32-true") -> Fabric:
    """The processes of this run, connected.

    Parameters
    ----------
    device : {"cpu", "cuda", "mps"}
    n_devices : int
        GPUs of this machine; under torchrun or srun their number of processes counts instead.
    precision : {"32-true", "bf16-mixed", "16-mixed"}

    Raises
    ------
    UserError
        If there are not as many GPUs, or the device cannot compute in this precision.
    """
    if precision not in PRECISIONS:
        raise one_of("precision", PRECISIONS, precision)
    if precision == "16-mixed" and device != "cuda":
        raise UserError(f"precision 16-mixed needs a CUDA GPU; got the device {device}; choose bf16-mixed or 32-true")
    devices, nodes = _processes_here(n_devices)
    there = torch.cuda.device_count() if device == "cuda" else 1
    if n_devices < 1 or (devices == n_devices and n_devices > there):
        raise UserError(
            f"num_gpus must be between 1 and {there} for the device {device} of this machine; got {n_devices}; "
            f"several processes on CPUs or on several machines are started by torchrun or srun"
        )
    # Fabric tells about every device that it does not use; nnU-Net's user has chosen one.
    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


def _processes_here(n_devices: int) -> tuple[int, int]:
    """Processes on every machine, and machines."""
    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    with contextlib.redirect_stderr(io.StringIO()):
        under_srun = SLURMEnvironment.detect()
    if under_srun:
        return int(os.environ.get("SLURM_NTASKS_PER_NODE", "1")), int(os.environ.get("SLURM_NNODES", "1"))
    return n_devices, 1


def is_first_process() -> bool:
    """Whether this process is the one that writes and says something."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def first_on_rank_zero(fabric: Fabric, work: Callable[[], Result]) -> Result:
    """Do ``work`` on the first process, which writes files, and then on the others, which find them written.

    What stops the first one ends the others without a word: the first one has said it.
    """
    result, failure = None, None
    with fabric.rank_zero_first():
        if fabric.is_global_zero:
            try:
                result = work()
            except (UserError, OSError) as error:
                failure = error
    failure = fabric.broadcast(failure)
    if failure is not None:
        raise failure if fabric.is_global_zero else SystemExit(2)
    if fabric.is_global_zero:
        return result
    with contextlib.redirect_stderr(io.StringIO()):  # the progress bars of the first process say it all
        return work()


@contextlib.contextmanager
def stop_told_once(fabric: Fabric) -> Iterator[None]:
    """All processes stop together: the first one says so, the others end with the same kind of exit code."""
    try:
        yield
    except Stopped as stopped:
        if fabric.is_global_zero:
            raise
        raise SystemExit(128 + stopped.number) from None


def gather(fabric: Fabric, features: torch.Tensor) -> torch.Tensor:
    """Features of all processes, in the order of the samples, for a loss that every process computes alike from them.

    Gradients reach the features of this process only, and are multiplied by the number of processes: averaging them
    over the processes, as is done with all gradients, then gives those of one process with the whole batch.

    Parameters
    ----------
    features : tensor of shape (n, ...)
        Of this process.

    Returns
    -------
    tensor of shape (processes * n, ...)
    """
    if fabric.world_size == 1:
        return features
    own = features.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(parts, own)
    if features.requires_grad:
        parts[fabric.global_rank] = own + fabric.world_size * (features - own)
    return torch.cat(parts)
