"""A look at what a network's input really shows: a picture of a batch, and the share of values that are all one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nnunetv2_xssr.errors import one_of
from nnunetv2_xssr.images.sheets import contact_sheet
from nnunetv2_xssr.pretrain.objective import Objective

MOST_SAMPLES = 16  # of a batch are drawn
SAME = 0.02  # of a standard deviation: resampling leaves ripples around what was clipped to one value


def check_picture(path: Path | None) -> None:
    """Raise `UserError` unless a picture can be saved by this name, if there is one."""
    from matplotlib.backend_bases import FigureCanvasBase

    endings = [f".{ending}" for ending in FigureCanvasBase.get_supported_filetypes()]
    if path is not None and path.suffix.lower() not in endings:
        raise one_of("--show_batch, by its ending,", endings, str(path))


def draw_batch(path: Path, objective: Objective, *, batch_size: int) -> None:
    """Draw the first samples of the first batch, one row each: all channels of all images, of volumes the middle slice.

    All images of a channel share one window, so that images of other scales are told apart and clipped ones are flat.
    The captions give the lowest and the highest value.

    Parameters
    ----------
    path : Path
        Its ending gives the format, for example `.png`.
    objective : Objective
    batch_size : int
    """
    shown = objective.shown(range(min(MOST_SAMPLES, batch_size)))
    n_channels = len(shown[0][1][0][1])
    windows = [
        np.percentile(torch.cat([image[c].flatten() for _, images in shown for _, image in images]), (0.5, 99.5))
        for c in range(n_channels)
    ]
    contact_sheet(path, [(title, _cells(images, windows)) for title, images in shown])


def _cells(images: Sequence[tuple[str, torch.Tensor]], windows: Sequence[np.ndarray]) -> list[tuple[np.ndarray, str]]:
    cells = []
    for name, image in images:
        for number, (channel, (low, high)) in enumerate(zip(image, windows, strict=True)):
            flat = channel[len(channel) // 2] if channel.ndim == 3 else channel
            grey = ((flat - low) / max(high - low, 1e-6)).clamp(0, 1).numpy()
            which = f" {number}" * (len(image) > 1)
            caption = f"{name}{which}: {channel.min():.3g} to {channel.max():.3g}"
            cells.append((np.repeat(grey[..., None], 3, axis=2), caption))
    return cells


def share_of_one_value(image: torch.Tensor) -> float:
    """Share of a normalised image within `SAME` of its most frequent value, in (0, 1]; in the channel where most is."""
    shares = []
    for channel in image:
        values, counts = channel.half().unique(return_counts=True)
        shares.append(((channel - values[counts.argmax()]).abs() <= SAME).float().mean().item())
    return max(shares)
