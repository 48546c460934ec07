"""HSSL in two phases, the encoder alone and then encoder and decoder, for hssl.py to compare it with one.

python benchmarks/two_phases.py -d TARGET -c 2d -s D1 D2 ...      takes what nnUNetv2_hssl_pretrain takes
"""

import sys

import torch

from nnunetv2_xssr.commands import hssl_pretrain
from nnunetv2_xssr.pretrain.hssl import pretrain
from nnunetv2_xssr.pretrain.hssl.losses import restoration
from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
from nnunetv2_xssr.pretrain.processes import Whole

FIRST_PHASE = 150  # batches: half of those of hssl.py's short schedule


class TwoPhasesObjective(HSSLObjective):
    """The decoder learns nothing, and teaches the encoder nothing, in the first phase."""

    batches = 0

    def loss(self, model: torch.nn.Module, batch: tuple[torch.Tensor, ...], whole: Whole) -> dict[str, torch.Tensor]:
        losses = super().loss(model, batch, whole)
        self.batches += 1
        return losses

    def decoder_loss(self, features: list[torch.Tensor], clean: torch.Tensor) -> torch.Tensor:
        loss = restoration(features, clean)
        return loss if self.batches >= FIRST_PHASE else 0 * loss


if __name__ == "__main__":
    pretrain.HSSLObjective = TwoPhasesObjective
    sys.exit(hssl_pretrain.main())
