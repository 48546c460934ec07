"""Small pictures of cases as data URIs, from the views that the encoder saw."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from nnunetv2_xssr.images.channels import normalisation_schemes
from nnunetv2_xssr.images.normalise import CT_WINDOWS

_SHOWN = 4  # views of a volume that are shown together, in two rows
_COLOURS = (["r", "g", "b"], ["red", "green", "blue"])


def data_uri(views: np.ndarray, channel_names: list[str], side: int, several: bool = False) -> str:
    """A WebP picture of one case as a data URI.

    Channels that are named as colours are shown in colour, of others the first; a volume by its middle view, or by four
    views in the order of its slices, row by row.

    Parameters
    ----------
    views : array of shape (views, channels, height, width)
    channel_names : list of str
        As in dataset.json.
    side : int
        Height and width of every view, in pixels.
    several : bool
        Show four views of a volume.
    """
    count, together = len(views), several and len(views) >= _SHOWN
    wanted = [int((i + 0.5) * count / _SHOWN) for i in range(_SHOWN)] if together else [count // 2]
    shown = list(_grey_or_colour(views[wanted].astype(np.float32), channel_names))
    picture = np.vstack([np.hstack(shown[:2]), np.hstack(shown[2:])]) if together else shown[0]
    size = (2 * side, 2 * side) if together else (side, side)
    image = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "WEBP", quality=75, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _grey_or_colour(views: np.ndarray, channel_names: list[str]) -> np.ndarray:
    """Windowed uint8 of shape (views, height, width) or (views, height, width, 3)."""
    names = [name.lower() for name in channel_names]
    if names == ["rgb_to_0_1"] * 3:
        return (255 * np.clip(views, 0, 1)).astype(np.uint8).transpose(0, 2, 3, 1)
    if names in _COLOURS:
        return np.stack([_window(views[:, channel]) for channel in range(3)], axis=-1)
    # Of the windows of CT the one for soft tissue.
    first = normalisation_schemes(channel_names[:1]) == ["CTNormalization"] and views.shape[1] > 1
    return _window(views[:, list(CT_WINDOWS).index("soft tissue") if first else 0])


def _window(values: np.ndarray) -> np.ndarray:
    """From the 0.5th to the 99.5th percentile of a case, as uint8: a few extreme pixels do not darken the rest."""
    low, high = np.percentile(values, (0.5, 99.5))
    return (255 * np.clip((values - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
