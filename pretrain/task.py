"""What is learned and what a user chooses: all that a training loop must be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pretrain.schedule import AUTO


@dataclass(frozen=True)
class Settings:
    """What a user chooses; the rest is fixed by the engine or the task.

    Attributes
    ----------
    epochs : int or "auto"
        ``"auto"``: until the held-out loss stops falling.
    batch_size : int
        Samples of a step, those of all processes together.
    seed : int
    accumulate : int
        Parts in which a process computes its share of the batch, to save memory.
    """

    epochs: int | str = 24
    batch_size: int = 32
    seed: int = 0
    accumulate: int = 1

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("accumulate", 1)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least or (name, value) == ("epochs", AUTO)):
                raise UserError(f"{name} must be {least} or more{' or auto' * (name == 'epochs')}; got {value}")


class Task(Protocol):
    """What is learned. Every process makes its own, from the same arguments.

    Attributes
    ----------
    health_note : str
        On which views the health is measured, for the figure.
    """

    health_note: str

    def describe(self) -> dict[str, Any]:
        """Plain values that the checkpoint holds, and that must be the same when a run is continued."""

    def build_model(self) -> nn.Module:
        """A new model; torch's random numbers come from the seed. Every parameter must have a part in the loss."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Its learning rates are the peaks of the schedule."""

    def batch(self, samples: range) -> Any:
        """These samples of the endless stream: a tensor or a tuple of tensors, on the CPU.

        Sample i depends on the seed and i alone, not on which others are asked for: see `sample_generator`.
        """

    def loss(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """Scalars: ``"loss"`` is minimised, other names are logged.

        Call ``model(...)`` once, and no other method of it: so the processes learn of each other's gradients. Two
        crops of every sample go through it in one batch.
        """

    def health(self, model: nn.Module) -> dict[str, float]:
        """``"held_out_loss"``, and what `health.embedding_health` tells, on the same views after every epoch.

        Runs in the first process alone, on the bare model in evaluation mode, without gradients.
        """

    def finish(self, model: nn.Module, folder: Path) -> None:
        """Pictures and other files of the trained model; runs in the first process, before the last checkpoint."""


def sample_generator(*numbers: int) -> torch.Generator:
    """Random numbers that depend on these numbers alone, such as the seed and the number of a sample."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
