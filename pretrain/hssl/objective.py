"""The objective of HSSL: contrast and classification at the bottleneck, restoration in the decoder."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_xssr.pretrain.health import LEAST_VIEWS, embedding_health
from nnunetv2_xssr.pretrain.hssl.losses import hierarchical_contrast, image_contrast, restoration
from nnunetv2_xssr.pretrain.hssl.network import HSSLNetwork
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.processes import Whole

# L = L_image + w_t L_task + w_g L_group + w_d L_decoder. The two contrasts start at about log(batch), the
# classifications at the log of a few classes, restoration at the variance 1 of normalised images: all have one size.
TASK_WEIGHT = 0.5
GROUP_WEIGHT = 0.5
DECODER_WEIGHT = 1.0
LEARNING_RATE = 1e-3
N_HEALTH = 64  # images on which the health is measured, if their patches are small
_HEALTH_VALUES = 2**26  # of their noisy and clean views: 256 MiB


class HSSLObjective:
    """The `nnunetv2_xssr.pretrain.objective.Objective` of HSSL.

    Parameters
    ----------
    plans : TargetPlans
    channels : int
        Of the images.
    pairs, held_out : PatchPairs
        Of the images to learn from, and of those on which the health is measured.
    groups : sequence of int
        Group of every dataset.
    health_note : str
        On which images the health is measured, for the figure.
    """

    compares_samples = True
    recall = "a view's nearest is the other view of its patch"
    decoder_loss = staticmethod(restoration)

    def __init__(
        self,
        plans: TargetPlans,
        *,
        channels: int,
        pairs: PatchPairs,
        held_out: PatchPairs,
        groups: Sequence[int],
        health_note: str,
    ):
        self.plans, self.channels = plans, channels
        self.pairs, self.held_out = pairs, held_out
        self.groups = torch.tensor(list(groups))
        self.health_note = health_note

    def describe(self) -> dict[str, Any]:
        """Plain values for the checkpoint: see `objective.Objective`."""
        return {
            "plans": self.plans.identity,
            "channels": self.channels,
            "tasks": [pool.name for pool in self.pairs.pools],
            "sources": {pool.name: [pool.key, *sorted(pool.hashes.values())] for pool in self.pairs.pools},
            "groups": self.groups.tolist(),
        }

    def build_model(self) -> HSSLNetwork:
        """A new model: see `objective.Objective`."""
        unet = self.plans.build_network(self.channels)
        for parameter in unet.decoder.seg_layers.parameters():
            parameter.requires_grad_(False)  # they belong to the labels, which come later
        return HSSLNetwork(unet, n_tasks=len(self.groups), n_groups=len(set(self.groups.tolist())))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a model: see `objective.Objective`."""
        return torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=0.01
        )

    def batch(self, samples: range) -> tuple[torch.Tensor, ...]:
        """Noisy and clean views, shape (n, 2, channels, ...), and the dataset of every sample, shape (n,)."""
        return self._draw(self.pairs, samples)

    @staticmethod
    def _draw(pairs: PatchPairs, samples: range) -> tuple[torch.Tensor, ...]:
        noisy, clean = zip(*(pairs.pair(i) for i in samples), strict=True)
        return torch.stack(noisy), torch.stack(clean), torch.tensor([pairs.task(i) for i in samples])

    def compared(self, model: HSSLNetwork, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        """What the contrasts compare: see `objective.Objective`."""
        noisy, _, task = batch
        _, pooled = model.encode(noisy.flatten(0, 1))
        return {"task": task} | {name: _by_image(one) for name, one in model.project(pooled).items()}

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, ...], whole: Whole) -> dict[str, torch.Tensor]:
        """The weighted sum ``loss`` and its parts. With one dataset only there is no contrast of tasks."""
        noisy, clean, task = batch
        found = model(noisy.flatten(0, 1))
        # Of all images: the first views of all, then the second ones.
        of_image, of_task = (
            whole(name, _by_image(found[name])).transpose(0, 1).flatten(0, 1) for name in ("of_image", "of_task")
        )
        every_task, twice = whole("task", task).repeat(2), task.repeat_interleave(2)
        groups = self.groups.to(task.device)
        # Times zero, because processes wait for the gradients of all parameters.
        contrast = (
            hierarchical_contrast(of_task, every_task, groups[every_task]) if len(groups) > 1 else 0 * of_task.sum()
        )
        parts = {
            "image_loss": image_contrast(of_image),
            "task_loss": F.cross_entropy(found["task"], twice),
            "group_loss": F.cross_entropy(found["group"], groups[twice]) + contrast,
            "decoder_loss": self.decoder_loss(found["restored"], clean.flatten(0, 1)),
        }
        total = parts["image_loss"] + TASK_WEIGHT * parts["task_loss"] + GROUP_WEIGHT * parts["group_loss"]
        return {"loss": total + DECODER_WEIGHT * parts["decoder_loss"], **parts}

    def shown(self, samples: range) -> list[tuple[str, list[tuple[str, torch.Tensor]]]]:
        """Both views, as they are restored and as the network is shown them: see `objective.Objective`."""
        noisy, clean, _ = self.batch(samples)
        return [
            (self.pairs.title(i), [("clean", a[0]), ("shown", b[0]), ("clean", a[1]), ("shown", b[1])])
            for i, a, b in zip(samples, clean, noisy, strict=True)
        ]

    def health(self, model: HSSLNetwork) -> dict[str, float]:
        """The restoration loss of held-out images, and the health of the embeddings of their pairs of views."""
        device = next(model.parameters()).device
        noisy, clean, _ = self._health_batch
        pooled, losses = [], []
        for views, images in zip(noisy.split(self.health_pairs), clean.split(self.health_pairs), strict=True):
            skips, features = model.encode(views.flatten(0, 1).to(device))
            losses.append(len(views) * self.decoder_loss(model.decode(skips), images.flatten(0, 1).to(device)))
            pooled.append(_by_image(features))
        first, second = torch.cat(pooled).unbind(dim=1)
        health = embedding_health(first, second, torch.arange(len(noisy)))
        return {"held_out_loss": torch.stack(losses).sum().item() / len(noisy), **health}

    @cached_property
    def _health_batch(self) -> tuple[torch.Tensor, ...]:
        """Always the same pairs, as many as fit into `_HEALTH_VALUES`: of large patches fewer than of small ones."""
        values_per_pair = 4 * self.channels * math.prod(self.plans.patch_size)
        return self._draw(self.held_out, range(min(N_HEALTH, max(LEAST_VIEWS, _HEALTH_VALUES // values_per_pair))))

    @property
    def health_pairs(self) -> int:
        """Pairs that go through the network at once: as many views as the batch that nnU-Net planned."""
        return max(1, self.plans.configuration.batch_size // 2)

    def finish(self, model: nn.Module, folder: Path) -> None:
        """Nothing to draw besides the progress."""


def _by_image(of_views: torch.Tensor) -> torch.Tensor:
    """Features of views, shape (2 * n, ...), as (n, 2, ...)."""
    return of_views.unflatten(0, (-1, 2))
