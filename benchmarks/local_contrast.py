"""HSSL with local contrast in its decoder in the place of restoration, for hssl.py to compare them.

    python benchmarks/local_contrast.py -d TARGET -c 2d -s D1 D2 ...      takes what nnUNetv2_hssl_pretrain takes

Local contrast (Chaitanya et al. 2020): a cell of one view must find the cell of the other view that shows the same
place, among all cells of that view. The views are turned, mirrored and shifted, so every voxel carries its place along.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_xssr.commands import hssl_pretrain
from nnunetv2_xssr.pretrain.hssl import pretrain
from nnunetv2_xssr.pretrain.hssl.losses import TEMPERATURE
from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs

CELLS = 8  # per axis of a view
FEATURES = 32
AXES = 3  # of a preprocessed image


class LocatedPairs(PatchPairs):
    """Views with three more channels, the place of every voxel in its image: 1, 2, ... along each axis, 0 outside."""

    @staticmethod
    def _open(file):
        image = PatchPairs._open(file)[:]
        return np.concatenate([image, np.indices(image.shape[1:], dtype=np.float32) + 1])


class LocalContrastObjective(HSSLObjective):
    """The decoder's stages give features of places, where they restored the image."""

    def build_model(self) -> nn.Module:
        model = super().build_model()
        model.restore = nn.ModuleList(type(head)(head.in_channels, FEATURES, 1) for head in model.restore)
        return model

    @staticmethod
    def _draw(pairs: PatchPairs, samples: range) -> tuple[torch.Tensor, ...]:
        noisy, clean, task = HSSLObjective._draw(pairs, samples)
        return noisy[:, :, :-AXES], clean[:, :, -AXES:], task

    @staticmethod
    def decoder_loss(features: list[torch.Tensor], places: torch.Tensor) -> torch.Tensor:
        """Mean over stages and both directions; the two views of an image follow each other."""
        pool = F.adaptive_avg_pool2d if places.ndim == 4 else F.adaptive_avg_pool3d
        cells = (CELLS,) * (places.ndim - 2)
        where = pool(places, cells).flatten(2).transpose(1, 2)
        inside = pool((places > 0.5).all(dim=1, keepdim=True).float(), cells).flatten(1) > 0.99
        side = max(places.shape[2:]) / CELLS
        losses = []
        for stage in features:
            unit = F.normalize(pool(stage, cells).flatten(2), dim=1)
            for a, b in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
                distance = torch.cdist(where[a], where[b]).masked_fill(~inside[b][:, None], torch.inf)
                nearest, match = distance.min(dim=2)
                likeness = unit[a].transpose(1, 2) @ unit[b] / TEMPERATURE
                likeness = likeness.masked_fill(~inside[b][:, None], -torch.inf)
                shown = inside[a] & (nearest < side)
                losses.append(F.cross_entropy(likeness[shown], match[shown]))
        return torch.stack(losses).mean()


if __name__ == "__main__":
    pretrain.PatchPairs, pretrain.HSSLObjective = LocatedPairs, LocalContrastObjective
    sys.exit(hssl_pretrain.main())
