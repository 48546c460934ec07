"""The processes of a run: one or many, with the same code, and how they wait for each other.

On a CPU or one GPU there is one process. ``-num_gpus N`` starts N, one per GPU. Under ``torchrun`` or ``srun`` the
processes are there already, on one machine or many, on GPUs (nccl) or CPUs (gloo); machines share nnU-Net's folders.
"""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from nnunetv2_xssr.errors import Stopped, UserError, one_of
from nnunetv2_xssr.records.locks import reading_only, weights_lock

if TYPE_CHECKING:  # importing it takes seconds, which a select that finds its encoder must not
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import ClusterEnvironment

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
Result = TypeVar("Result")


def start(device: str, *, n_devices: int = 1, precision: str = "32-true") -> "Fabric":
    """The processes of this run, connected.

    Parameters
    ----------
    device : {"cpu", "cuda", "mps"}
    n_devices : int
        GPUs of this machine. Under torchrun or srun, which have started the processes, 1 or their number per machine.
    precision : {"32-true", "bf16-mixed", "16-mixed"}

    Raises
    ------
    UserError
        If there are not as many GPUs, the processes of torchrun or srun do not fit, or the device cannot compute in
        this precision.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment

    if precision not in PRECISIONS:
        raise one_of("precision", PRECISIONS, precision)
    if precision == "16-mixed" and device != "cuda":
        raise UserError(f"precision 16-mixed needs a CUDA GPU; got the device {device}; choose bf16-mixed or 32-true")
    devices, nodes, environment = _processes_here(n_devices)
    there = torch.cuda.device_count() if device == "cuda" else 1
    if environment is LightningEnvironment and not 1 <= n_devices <= there:
        raise UserError(
            f"num_gpus must be between 1 and {there} for the device {device} of this machine; got {n_devices}; "
            f"several processes on CPUs or on several machines are started by torchrun or srun"
        )
    # Fabric comments on every device that it does not use; the user has chosen one.
    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=cast(Any, precision),
        plugins=[environment()],
    )
    fabric.launch()
    return fabric


def _processes_here(n_devices: int) -> tuple[int, int, type["ClusterEnvironment"]]:
    """Processes per machine, machines, and what has started the processes; ``LightningEnvironment`` if nothing has."""
    from lightning_fabric.plugins.environments import (
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    # Only srun sets the number of tasks of a step. In a batch script without srun, SLURM_NTASKS may be 1 for four GPUs,
    # or 4 for what is one process.
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    found: tuple[int, int, type[ClusterEnvironment]]
    if TorchElasticEnvironment.detect():
        here, all_processes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        found = here, all_processes // here, TorchElasticEnvironment
    elif tasks > 1:
        if "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise UserError(
                f"srun has started {tasks} tasks without --ntasks-per-node; give it to sbatch or srun in place of "
                f"--ntasks, as the number of GPUs per machine"
            )
        found = int(os.environ["SLURM_NTASKS_PER_NODE"]), int(os.environ["SLURM_NNODES"]), SLURMEnvironment
    else:
        return n_devices, 1, LightningEnvironment
    if n_devices not in (1, found[0]):
        raise UserError(
            f"num_gpus must be 1 or {found[0]}, the processes per machine that torchrun or srun has started; "
            f"got {n_devices}; leave it out"
        )
    return found


def is_first_process() -> bool:
    """Whether this process is the one that writes and says something."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def first_on_rank_zero(fabric: "Fabric", work: Callable[[], Result]) -> Result:
    """Do ``work`` on the first process, which writes files, and then on the others, which find them written.

    An error in the first process ends the others without a message: the first one reports it.
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
        return cast(Result, result)
    with contextlib.redirect_stderr(io.StringIO()), reading_only():  # the first process shows the progress bars
        return work()


def on_first(fabric: "Fabric", work: Callable[[], Any]) -> None:
    """Do ``work`` on the first process alone, for which the others wait: for ever, if it ended without telling them.

    An error ends them without a message, as in `first_on_rank_zero`.
    """

    def done() -> contextlib.AbstractContextManager[None]:
        work()
        return contextlib.nullcontext()

    with first_holds(fabric, done):
        pass


@contextlib.contextmanager
def first_holds(
    fabric: "Fabric", make: Callable[[], contextlib.AbstractContextManager[Result]]
) -> Iterator[Result | None]:
    """Let the first process be in a context for a block, and tell all what it gave: a plain value.

    An error in entering it ends the others without a message, as in `first_on_rank_zero`.
    """
    with contextlib.ExitStack() as held:
        found, failure = None, None
        if fabric.is_global_zero:
            try:
                found = held.enter_context(make())
            except (UserError, OSError) as error:
                failure = error
        found, failure = fabric.broadcast((found, failure))
        if failure is not None:
            raise failure if fabric.is_global_zero else SystemExit(2)
        yield found


@contextlib.contextmanager
def first_holds_weights(fabric: "Fabric", folder: Path) -> Iterator[bool]:
    """Let the first process hold the lock of a folder for a block, and tell all whether it had to wait for it."""
    with first_holds(fabric, lambda: weights_lock(folder)) as waited:
        yield bool(waited)


@contextlib.contextmanager
def stop_reported_once(fabric: "Fabric") -> Iterator[None]:
    """Let only the first process report that all stopped; the others end with an exit code of the same kind."""
    try:
        yield
    except Stopped as stopped:
        if fabric.is_global_zero:
            raise
        raise SystemExit(128 + stopped.number) from None


class Whole:
    """The features of a whole batch, for a loss that compares samples of all processes and all parts.

    Every process computes the loss of all features for each of its parts. Gradients reach the features of the part at
    hand alone, and are multiplied by the number of processes and parts: averaging them over processes and parts, as is
    done with all gradients, then gives those of one process with the whole batch.

    Parameters
    ----------
    fabric : Fabric
        As `start` returns it.
    parts : sequence of dict
        What is compared of every part, of all processes; empty where there is one part only.
    part : int
        The number of the part at hand.
    """

    def __init__(self, fabric: "Fabric", parts: Sequence[dict[str, torch.Tensor]] = (), *, part: int = 0):
        self.fabric, self.parts, self.part = fabric, parts, part

    def __call__(self, name: str, features: torch.Tensor) -> torch.Tensor:
        """These features of all samples, in the order of the samples, in place of those of a part, shape (n, ...)."""
        weighed = _multiply_gradient(features, max(1, len(self.parts)))
        own = gather(self.fabric, weighed)
        return torch.cat([own if i == self.part else known[name] for i, known in enumerate(self.parts)] or [own])


def gather(fabric: "Fabric", features: torch.Tensor) -> torch.Tensor:
    """Features of all processes, in the order of the samples.

    Gradients reach the features of this process only, multiplied by the number of processes: see `Whole`.

    Parameters
    ----------
    features : tensor of shape (n, ...)
        Features of this process.

    Returns
    -------
    tensor of shape (processes * n, ...)
    """
    if fabric.world_size == 1:
        return features
    own = features.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(parts, own)
    parts[fabric.global_rank] = _multiply_gradient(features, fabric.world_size)
    return torch.cat(parts)


def _multiply_gradient(features: torch.Tensor, factor: int) -> torch.Tensor:
    if factor == 1 or not features.requires_grad:
        return features
    own = features.detach()
    return own + factor * (features - own)
