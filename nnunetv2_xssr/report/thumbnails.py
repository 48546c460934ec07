"""Small pictures of cases as data URIs, from the views that the encoder saw."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

_STRIP = 4  # views of a volume that are shown side by side
_COLOURS = (["r", "g", "b"], ["red", "green", "blue"])


def data_uri(views: np.ndarray, channel_names: list[str], side: int, strip: bool = False) -> str:
    """A WebP picture of one case as a data URI.

    Channels that are named as colours are shown in colour, of others the first; a volume by its middle view, or by four
    views in the order of its slices.

    Parameters
    ----------
    views : array of shape (views, channels, height, width)
    channel_names : list of str
        As in dataset.json.
    side : int
        Height in pixels, and width of every view.
    strip : bool
        Show four views of a volume side by side.
    """
    count = len(views)
    wanted = [int((i + 0.5) * count / _STRIP) for i in range(_STRIP)] if strip and count >= _STRIP else [count // 2]
    picture = np.concatenate(list(_grey_or_colour(views[wanted].astype(np.float32), channel_names)), axis=1)
    image = Image.fromarray(picture).resize((side * len(wanted), side), Image.Resampling.LANCZOS)
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
    return _window(views[:, 0])


def _window(values: np.ndarray) -> np.ndarray:
    """From the 0.5th to the 99.5th percentile of a case, as uint8: a few extreme pixels do not darken the rest."""
    low, high = np.percentile(values, (0.5, 99.5))
    return (255 * np.clip((values - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
