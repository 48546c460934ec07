"""The fast judge: a small U-Net at 64 x 64 pixels, which takes seconds per training on one core.

It stands in for nnU-Net where hundreds of selections are compared. It is weaker than nnU-Net, so a gain that it sees
tells the order of selections, not the Dice that nnU-Net would reach.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch.nn import functional as F

SIZE = 64  # pixels, height and width
ITERATIONS, BATCH_SIZE, LEARNING_RATE = 300, 8, 5e-3
FEATURES = (16, 32, 64, 128)
BLOCK = 2  # the network works on blocks of 2 x 2 pixels, which takes a quarter of the time
SETTINGS = {
    "version": 1,  # raise it with any change here or in small_cases that changes results
    "size": SIZE,
    "iterations": ITERATIONS,
    "batch_size": BATCH_SIZE,
    "learning_rate": LEARNING_RATE,
    "features": list(FEATURES),
}


def judge(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    n_labels: int,
    seed: int,
) -> np.ndarray:
    """Train on some cases and return the Dice of every test case.

    The result depends on the arguments alone: one thread, and random numbers of the seed.

    Parameters
    ----------
    train_images, test_images : float32 arrays of shape (cases, slices, channels, SIZE, SIZE)
        Normalised; a 2D case has one slice.
    train_labels, test_labels : integer arrays of shape (cases, slices, SIZE, SIZE)
        0 for background, else 1 to ``n_labels``.
    n_labels : int
        Labels of the task without background.
    seed : int

    Returns
    -------
    float64 array of shape (test cases,)
        Mean over the labels of the Dice over all slices of the case; 1 for a label that neither the truth nor the
        prediction has.
    """
    (predicted,) = predictions(train_images, train_labels, [test_images], n_labels=n_labels, seed=seed)
    return dice_per_case(predicted, test_labels, n_labels=n_labels)


def predictions(
    train_images: np.ndarray, train_labels: np.ndarray, stacks: Sequence[np.ndarray], *, n_labels: int, seed: int
) -> list[np.ndarray]:
    """Train on some cases, as `judge` does, and return the labels that are predicted of every stack of others.

    Parameters
    ----------
    train_images, train_labels, n_labels, seed
        As in `judge`.
    stacks : sequence of float32 arrays of shape (cases, slices, channels, SIZE, SIZE)

    Returns
    -------
    list of int64 arrays of shape (cases, slices, SIZE, SIZE)
    """
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images = torch.from_numpy(train_images).flatten(0, 1)
        labels = torch.from_numpy(np.asarray(train_labels, np.int64)).flatten(0, 1)
        network = _Network(images.shape[1], n_labels + 1)
        _train(network, images, labels)
        found = [_predict(network, torch.from_numpy(stack).flatten(0, 1)) for stack in stacks]
    return [labels.reshape(*stack.shape[:2], SIZE, SIZE) for labels, stack in zip(found, stacks, strict=True)]


def dice_per_case(predicted: np.ndarray, truth: np.ndarray, *, n_labels: int) -> np.ndarray:
    """Mean Dice over the labels 1 to ``n_labels`` of every case, array of shape (cases,); two empty masks have 1.

    Parameters
    ----------
    predicted, truth : integer arrays of shape (cases, ...)
    """
    found = []
    for label in range(1, n_labels + 1):
        p, t = ((array == label).reshape(len(array), -1) for array in (predicted, truth))
        total = p.sum(axis=1) + t.sum(axis=1)
        found.append(np.where(total > 0, 2 * (p & t).sum(axis=1) / np.maximum(total, 1), 1.0))
    return np.mean(found, axis=0)


class _Network(nn.Module):
    """A U-Net of nnU-Net's blocks that sees blocks of pixels as channels."""

    def __init__(self, n_channels: int, n_classes: int):
        super().__init__()
        n_stages, pixels = len(FEATURES), BLOCK**2
        self.unet = PlainConvUNet(
            n_channels * pixels,
            n_stages,
            list(FEATURES),
            nn.Conv2d,
            3,
            [1] + [2] * (n_stages - 1),
            1,
            n_classes * pixels,
            1,
            conv_bias=True,
            norm_op=nn.InstanceNorm2d,
            norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={},
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (n, classes, SIZE, SIZE) of images of shape (n, channels, SIZE, SIZE)."""
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(images, BLOCK)), BLOCK)


def _train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, ITERATIONS, pct_start=0.1)
    passes = -(-ITERATIONS * BATCH_SIZE // len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(passes)])
    for rows in order[: ITERATIONS * BATCH_SIZE].split(BATCH_SIZE):
        x, y = _augment(images[rows], labels[rows])
        optimizer.zero_grad()
        _loss(network(x), y).backward()
        optimizer.step()
        schedule.step()


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and soft Dice over the batch, as in nnU-Net."""
    p = logits.softmax(dim=1)[:, 1:]
    target = F.one_hot(labels, logits.shape[1]).movedim(3, 1)[:, 1:].float()
    overlap, total = (p * target).sum((0, 2, 3)), (p + target).sum((0, 2, 3))
    return F.cross_entropy(logits, labels) + 1 - ((2 * overlap + 1) / (total + 1)).mean()


def _augment(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror left and right, scale and shift by a little, change contrast and brightness, drawn image by image."""
    n = len(images)
    u = torch.rand(n, 6)
    scale, mirror = 0.8 + 0.4 * u[:, 0], torch.where(u[:, 1] < 0.5, 1.0, -1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, 0.3 * (u[:, 2:4] - 0.5)
    grid = F.affine_grid(theta, [n, 1, SIZE, SIZE], align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    moved = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    contrast, brightness = 0.75 + 0.5 * u[:, 4, None, None, None], 0.4 * (u[:, 5, None, None, None] - 0.5)
    return images * contrast + brightness, moved[:, 0].long()


@torch.inference_mode()
def _predict(network: nn.Module, images: torch.Tensor) -> np.ndarray:
    network.eval()
    return torch.cat([network(part).argmax(dim=1) for part in images.split(64)]).numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """More threads would change the order of summation, and with it the result, from machine to machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
