"""Pictures of a pretraining: the curve of the loss, and the reconstructions of the autoencoder."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.nn import functional as F

from nnunetv2_xssr.images.sheets import contact_sheet
from nnunetv2_xssr.pretrain.mae import CELL, MaskedAutoencoder, cell_pixels, from_cells, random_visible, to_cells
from nnunetv2_xssr.records.files import atomic

_LABELS = {
    "held_out_loss": "held-out loss",
    "spread": "spread of the embeddings (near 0: collapsed)",
}


def draw_progress(path: Path, history: dict[str, list[float]], *, note: str, recall: str) -> None:
    """Draw ``progress.png``, which shows whether the model still learns and whether its embeddings are healthy.

    Parameters
    ----------
    path : Path
    history : dict of lists of float
        One value per epoch. Names that end with ``loss`` share a panel, the effective rank has one, and all others,
        which lie between 0 and 1, share one. The learning rate is a dotted line, the speed is in the title.
    note : str
        On which views the health was measured.
    recall : str
        What ``recall_at_1`` counts.
    """
    rank, rate, speed = "effective_rank", "learning_rate", "images_per_second"
    losses = [name for name in history if name.endswith("loss")]
    fractions = [name for name in history if name not in (rank, rate, speed, *losses)]
    panels = {"loss": losses, "effective rank (near 1: collapsed)": [rank], "between 0 and 1": fractions}
    panels = {label: [n for n in names if n in history] for label, names in panels.items()}
    panels = {label: names for label, names in panels.items() if names}

    labels = {**_LABELS, "recall_at_1": f"{recall} (recall@1)"}
    figure = Figure(figsize=(9, 9), layout="constrained")
    epochs = range(1, len(history[rate]) + 1)
    all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (label, names) in zip(all_axes, panels.items(), strict=True):
        for name in names:
            axes.plot(epochs, history[name], marker=".", label=labels.get(name, name.replace("_", " ")))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if names != [rank]:
            axes.legend()
        if names != losses:
            axes.set_ylim(bottom=0)
    rates = all_axes[0].twinx()
    rates.plot(epochs, history[rate], ":", color="grey")
    rates.set_ylabel("learning rate (dotted)", color="grey")
    all_axes[-1].set_xlabel("epoch")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    figure.suptitle(f"{note}; {np.median(history[speed]):.1f} images/s")
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)


def draw_reconstructions(
    path: Path, model: MaskedAutoencoder, images: torch.Tensor, *, mask_ratio: float, seed: int
) -> None:
    """Draw ``reconstructions.png``: image, masked image and reconstruction of a few views.

    Parameters
    ----------
    path : Path
    model : MaskedAutoencoder
    images : tensor of shape (n, channels, ...)
        The figure shows the first channel, or three as colours; of a volume the middle slice.
    mask_ratio : float
    seed : int
        Of the mask.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = tuple(size // CELL for size in images.shape[2:])
    visible = random_visible(len(images), shape, mask_ratio=mask_ratio, generator=generator)
    device = next(model.parameters()).device
    with torch.no_grad():
        predicted = model.reconstruct(images.to(device), visible.to(device)).cpu()
    filled = torch.where(visible.bool(), to_cells(images), cell_pixels(predicted))
    pixels = F.interpolate(visible, images.shape[2:], mode="nearest")
    low = images.flatten(2).amin(dim=2).reshape(*images.shape[:2], *[1] * len(shape))
    panels = {
        "image": images,
        "masked": torch.where(pixels.bool(), images, low),
        "reconstructed": from_cells(filled),
    }
    contact_sheet(path, [(title, [(shown, "") for shown in _pictures(panel)]) for title, panel in panels.items()])


def _pictures(images: torch.Tensor):
    if images.ndim == 5:
        images = images[:, :, images.shape[2] // 2]
    for image in images:
        if len(image) == 3:
            low, high = image.amin(), image.amax()
            yield ((image - low) / (high - low).clamp(min=1e-6)).permute(1, 2, 0).numpy()
        else:
            yield image[0].numpy()
