"""CT beyond what was scanned: scanners and programs store -3024, -2000 or 0 there, and it is seen as air."""

from collections.abc import Sequence

import numpy as np

from nnunetv2_xssr.images.channels import normalisation_schemes
from nnunetv2_xssr.images.normalise import AIR

_LEAST = -1200.0  # HU; below it lies neither air nor its noise
_SURE = -500.0  # HU; without anything darker the values are no Hounsfield units, and 0 may be air itself
_RUN = 4  # voxels of exactly 0 at a corner that are no chance


def air_for_padding(image: np.ndarray, channel_names: Sequence[str]) -> np.ndarray:
    """The image with air in the place of padding in its channels of CT, and 0 in the margins that are nothing else.

    Padding is what is darker than any air, and 0 from the end of a row on, where a corner of the volume holds 0. So the
    statistics of a CT, its crop and its views do not depend on what was stored beyond the scanner's circle.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
        It is changed where it is padded and may be written, else copied.
    channel_names : sequence of str

    Returns
    -------
    array of shape (channels, z, y, x)
        The image itself where nothing is padded.
    """
    schemes = normalisation_schemes(channel_names)
    padded = [c for c, scheme in enumerate(schemes) if scheme == "CTNormalization" and _is_padded(image[c])]
    if padded and not image.flags.writeable:
        image = image.copy()
    for channel in padded:
        _fill(image[channel])
    return image


def _is_padded(volume: np.ndarray) -> bool:
    lowest = volume.min()
    ends = volume[:: max(1, len(volume) - 1), :: max(1, volume.shape[1] - 1)]
    zeros = (ends[..., :_RUN] == 0).all(axis=-1) | (ends[..., -_RUN:] == 0).all(axis=-1)
    return bool(lowest < _LEAST or (lowest < _SURE and zeros.any()))


def _fill(volume: np.ndarray) -> None:
    inside = [np.zeros(size, bool) for size in volume.shape]
    for i, part in enumerate(volume):  # slice by slice, so that no mask of the size of the volume is made
        dark = part < _LEAST
        nothing = dark | (part == 0)
        inside[0][i] = not nothing.all()
        inside[1] |= ~nothing.all(axis=1)
        inside[2] |= ~nothing.all(axis=0)
        from_ends = [np.logical_and.accumulate(nothing[:, ::way], axis=1)[:, ::way] for way in (1, -1)]
        part[dark | from_ends[0] | from_ends[1]] = AIR
    if not inside[0].any():
        return
    for axis, hits in enumerate(inside):
        ends = np.flatnonzero(hits)
        turned = np.moveaxis(volume, axis, 0)
        turned[: ends[0]] = 0
        turned[ends[-1] + 1 :] = 0
