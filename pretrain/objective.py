"""The interface between what is learned and the training loop."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from nnunetv2_xssr.pretrain.processes import Whole


class Objective(Protocol):
    """What is learned. Every process makes its own objective, from the same arguments.

    ``model`` is what `build_model` returns; in `loss` it may be wrapped for several processes.

    Attributes
    ----------
    compares_samples : bool
        Whether the loss compares the samples of the batch with each other. Such a batch needs at least two samples.
    health_note : str
        On which views the health is measured, for the figure.
    recall : str
        What the ``recall_at_1`` of the health counts, for the figure.
    """

    compares_samples: bool
    health_note: str
    recall: str

    def describe(self) -> dict[str, Any]:
        """Plain values that the checkpoint holds, and that must be the same when a run is continued."""
        ...

    def build_model(self) -> nn.Module:
        """A new model; torch's random numbers come from the seed. Every parameter must contribute to the loss."""
        ...

    def build_optimizer(self, model: Any) -> torch.optim.Optimizer:
        """The optimizer; its learning rates are the peaks of the schedule."""
        ...

    def batch(self, samples: range) -> Any:
        """These samples of the endless stream: a tensor or a tuple of tensors, on the CPU.

        Sample i depends on the seed and i alone, not on which others are asked for: see `sample_generator`.
        """
        ...

    def compared(self, model: Any, batch: Any) -> dict[str, torch.Tensor]:
        """What the loss compares of the samples of a part, by the names by which `loss` asks ``whole`` for them.

        Called without gradients, with the bare model, and only if the loss ``compares_samples``.
        """
        ...

    def loss(self, model: Any, batch: Any, whole: Whole) -> dict[str, torch.Tensor]:
        """Scalars: ``"loss"`` is minimised, other names are logged.

        What compares samples is computed from ``whole(name, features)``: those of the whole batch in place of a part's.

        It calls ``model(...)`` once and no other method of it, because only this call averages gradients over the
        processes. An objective that needs two crops per sample puts both into one batch.
        """
        ...

    def shown(self, samples: range) -> list[tuple[str, list[tuple[str, torch.Tensor]]]]:
        """What the model is shown of these samples: of each a title, and named images of shape (channels, ...)."""
        ...

    def health(self, model: Any) -> dict[str, float]:
        """``"held_out_loss"`` and what `health.embedding_health` returns, on the same views after every epoch.

        The engine calls it in the first process only, with the bare model in evaluation mode and without gradients.
        """
        ...

    def finish(self, model: Any, folder: Path) -> None:
        """Write pictures and other files of the model; runs in the first process, before the final checkpoint."""
        ...


def sample_generator(*numbers: int) -> torch.Generator:
    """A generator that depends on these numbers alone, such as the seed and the number of a sample."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
