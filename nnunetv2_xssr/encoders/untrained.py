"""The ensemble of autoencoders with its first weights: what a trained one must beat."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nnunetv2_xssr.encoders.encoder import Opened, Request
from nnunetv2_xssr.encoders.mae import Autoencoder
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.training import MaskedAutoencoding


@dataclass(frozen=True)
class Untrained(Opened):
    """Nothing is learned; the sources only tell the channels."""

    device: str

    def ready(self, sources: Sequence[Views], *, seed: int) -> Autoencoder:
        """The weights with which a pretraining of this seed begins: see `Opened`."""
        objective = MaskedAutoencoding(list(sources), seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weights = objective.build_model().state_dict()
        content = {**objective.describe(), "weights": weights}
        return Autoencoder.of(content, name="untrained", where="untrained", device=self.device)


def open_untrained(request: Request) -> Untrained:
    """Open the encoder: see `nnunetv2_xssr.encoders.registry`."""
    return Untrained(request.device)
