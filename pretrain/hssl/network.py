"""The U-Net of a target's plans with the heads for HSSL's losses."""

from typing import TypeAlias

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

UNet: TypeAlias = PlainConvUNet | ResidualEncoderUNet
PROJECTION = 128  # features in each contrast, as in SimCLR


class HSSLNetwork(nn.Module):
    """nnU-Net's network and the heads, which are discarded after pretraining.

    Parameters
    ----------
    unet : UNet
        2D or 3D.
    n_tasks, n_groups : int
        One task per dataset; a group is a modality or an anatomy.
    n_stages : int
        Number of decoder stages that restore the image, from the full resolution as in nnU-Net's deep supervision.
    """

    def __init__(self, unet: UNet, *, n_tasks: int, n_groups: int, n_stages: int = 3):
        super().__init__()
        self.unet: UNet = unet
        features = unet.encoder.output_channels[-1]
        # One per contrast: features that separate two images of a task must have no part in the contrast of tasks.
        self.project_image, self.project_task = (
            nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, PROJECTION)) for _ in range(2)
        )
        self.task_head = nn.Linear(features, n_tasks)
        self.group_head = nn.Linear(features, n_groups)
        n_stages = min(n_stages, len(unet.decoder.stages))
        channels = next(unet.encoder.parameters()).shape[1]
        # A decoder stage has as many features as the encoder stage of its resolution.
        self.restore = nn.ModuleList(
            unet.encoder.conv_op(unet.encoder.output_channels[i], channels, 1) for i in range(n_stages)
        )

    def encode(self, views: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Skips of all encoder stages, and the bottleneck pooled over its positions, shape (n, features).

        Pooled is the mean plus the standard deviation. Instance norm, nnU-Net's choice, makes the mean of every map
        nearly the same for all images; the standard deviation carries the rest. Their sum has one size in all networks.
        """
        skips = self.unet.encoder(views)
        flat = skips[-1].flatten(2)
        return skips, flat.mean(dim=2) + flat.std(dim=2, unbiased=False)

    def decode(self, skips: list[torch.Tensor]) -> list[torch.Tensor]:
        """Restored images from the last decoder stages, full resolution first."""
        decoder, x, features = self.unet.decoder, skips[-1], []
        for up, stage, skip in zip(decoder.transpconvs, decoder.stages, skips[-2::-1], strict=True):
            x = stage(torch.cat((up(x), skip), dim=1))
            features.append(x)
        return [head(feature) for head, feature in zip(self.restore, features[::-1], strict=False)]

    def project(self, pooled: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the contrasts compare, of pooled features of shape (n, features)."""
        return {"of_image": self.project_image(pooled), "of_task": self.project_task(pooled)}

    def forward(self, views: torch.Tensor) -> dict:
        """Everything the losses need of views of shape (n, channels, ...)."""
        skips, pooled = self.encode(views)
        return {
            **self.project(pooled),
            "task": self.task_head(pooled),
            "group": self.group_head(pooled),
            "restored": self.decode(skips),
        }
