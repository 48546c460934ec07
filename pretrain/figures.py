"""Pictures of a pretraining: the curve of the loss, and what the autoencoder fills in."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from nnunetv2_xssr.pretrain.mae import CELL, MaskedAutoencoder, cell_targets, random_visible
from nnunetv2_xssr.records import atomic
from nnunetv2_xssr.sheets import contact_sheet


def draw_progress(path: Path, history: dict[str, list[float]]) -> None:
    """``progress.png``: loss, speed and learning rate over the epochs, as nnU-Net draws its own."""
    figure = Figure(figsize=(9, 9), layout="constrained")
    panels = (("loss", "loss"), ("images_per_second", "images/s"), ("learning_rate", "learning rate"))
    for axes, (key, label) in zip(figure.subplots(3, sharex=True), panels, strict=True):
        axes.plot(range(1, len(history[key]) + 1), history[key], color="tab:blue")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    axes.set_xlabel("epoch")
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)


def draw_reconstructions(
    path: Path, model: MaskedAutoencoder, images: torch.Tensor, mask_ratio: float, seed: int
) -> None:
    """``reconstructions.png``: image, masked image and reconstruction of a few views.

    Parameters
    ----------
    images : tensor of shape (n, channels, height, width)
        The first channel is shown, or three as colours.
    """
    generator = torch.Generator().manual_seed(seed)
    visible = random_visible(len(images), images.shape[2] // CELL, images.shape[3] // CELL, mask_ratio, generator)
    device = next(model.parameters()).device
    with torch.no_grad():
        predicted = model.reconstruct(images.to(device), visible.to(device)).cpu()
    # The target is normalised per cell; to be looked at, every cell gets its own mean and deviation back.
    _, mean, std = cell_targets(images)
    filled = torch.where(visible.bool(), F.pixel_unshuffle(images, CELL), predicted * std + mean)
    pixels = F.interpolate(visible, images.shape[2:], mode="nearest")
    low = images.amin(dim=(2, 3), keepdim=True)
    panels = {
        "image": images,
        "masked": torch.where(pixels.bool(), images, low),
        "reconstructed (mean and contrast of each cell from the image)": F.pixel_shuffle(filled, CELL),
    }
    contact_sheet(path, [(title, [(shown, "") for shown in _pictures(panel)]) for title, panel in panels.items()])


def _pictures(images: torch.Tensor):
    for image in images:
        if len(image) == 3:
            low, high = image.amin(), image.amax()
            yield ((image - low) / (high - low).clamp(min=1e-6)).permute(1, 2, 0).numpy()
        else:
            yield image[0].numpy()
