"""Slices and volumes at another size, normalised and resampled part by part: no float copy of the whole is made.

Resampling works along one axis after the other, so a part can lose its other axes before the parts are put together.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

Finish = Callable[[np.ndarray], np.ndarray]
_PART = 2**17  # pixels that are resampled at a time: they stay in a processor's cache


def resample_slice(slice_: np.ndarray, size: tuple[int, int], finish: Finish) -> torch.Tensor:
    """A slice at another size, with antialiasing.

    Parameters
    ----------
    slice_ : array of shape (channels, 1, rows, columns)
    size : (int, int)
    finish : function
        Makes float32 of some rows, such as `normalise`; it looks at every pixel alone.

    Returns
    -------
    tensor of shape (1, finished channels, *size)
    """
    step = max(1, _PART // slice_.shape[3])
    parts = (finish(slice_[:, :, start : start + step])[:, 0] for start in range(0, slice_.shape[2], step))
    narrow = [_shrink(torch.from_numpy(part)[None], (part.shape[1], size[1])) for part in parts]
    return _shrink(torch.cat(narrow, dim=2), size)


def _shrink(slices: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if slices.shape[2:] == size:
        return slices
    return F.interpolate(slices, size, mode="bilinear", antialias=True, align_corners=False)


def resample_volume(volume: np.ndarray, size: tuple[int, int, int], finish: Finish) -> torch.Tensor:
    """A volume at another size: by averages where it gets smaller, linear where it gets larger.

    Parameters
    ----------
    volume : array of shape (channels, z, y, x)
    size : (int, int, int)
    finish : function
        Makes float32 of some slices, such as `normalise`; it looks at every voxel alone.

    Returns
    -------
    tensor of shape (1, finished channels, *size)
    """
    step = max(1, _PART // volume[0, 0].size)
    parts = (finish(volume[:, start : start + step]) for start in range(0, volume.shape[1], step))
    narrow = [_fit(torch.from_numpy(part)[None], (part.shape[1], *size[1:])) for part in parts]
    return _fit(torch.cat(narrow, dim=2), size)


def _fit(volume: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    # First up, then down by averages: trilinear interpolation alone would skip voxels.
    larger = [max(have, want) for have, want in zip(volume.shape[2:], size, strict=True)]
    if larger != list(volume.shape[2:]):
        volume = F.interpolate(volume, larger, mode="trilinear", align_corners=False)
    return F.interpolate(volume, size, mode="area")
