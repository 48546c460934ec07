"""CT beyond the body: padding of scanners and programs (-3024, -2000, 0) is air, and what is far from it is nothing."""

from collections.abc import Sequence

import numpy as np

from nnunetv2_xssr.images.channels import normalisation_schemes
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.normalise import AIR, nonzero_box

CT_RULES = 2  # of this module: views of CT that other ones made are made anew
_LEAST = -1200.0  # HU; below it lies neither air nor its noise
_SURE = -500.0  # HU; without anything darker the values are no Hounsfield units, and 0 may be air itself
_BODY = -400.0  # HU; air, foam and clothes are darker, fat is brighter
_COARSE = 128  # voxels along an axis at which the body is looked for
_RIM = 0.05  # of the voxels of the fullest slice of a body
_PART = 0.1  # of the size of the largest part of a body
_RUN = 4  # voxels of exactly 0 at a corner that are no chance


def is_above_zero(image: np.ndarray, channel_names: Sequence[str]) -> bool:
    """Whether a channel of CT in an array of shape (channels, z, y, x) holds nothing below 0."""
    schemes = normalisation_schemes(channel_names)
    return any(scheme == "CTNormalization" and image[c].min() >= 0 for c, scheme in enumerate(schemes))


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


def crop_to_body(image: np.ndarray, channel_names: Sequence[str], *, geometry: Geometry) -> np.ndarray:
    """The image of `air_for_padding` with 0 beyond the box of the body, by its first channel of CT.

    So the place and the scale of a view do not depend on the table, or on how much air was scanned. The body is what is
    brighter than air and thicker than a table at low resolution: the largest part, and those with a tenth of it,
    such as the other leg. Rows and corners are those of the patient, however the file lies in it.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
        As nnU-Net's readers give it; with CT it is changed if it may be written, else copied.
    channel_names : sequence of str
    geometry : Geometry
    """
    schemes = normalisation_schemes(channel_names)
    if "CTNormalization" not in schemes:
        return image
    image = image if image.flags.writeable else image.copy()
    canonical = air_for_padding(geometry.canonical(image), channel_names)
    body = None if 1 in image.shape[1:] else _body(canonical[schemes.index("CTNormalization")])
    for axis, (first, last) in enumerate(body or ()):
        turned = np.moveaxis(canonical, 1 + axis, 0)
        turned[:first] = 0
        turned[last:] = 0
    return image


def _body(volume: np.ndarray) -> list[tuple[int, int]] | None:
    """Where the body begins and ends along every axis; None where there is none."""
    from scipy import ndimage

    margins = nonzero_box(volume[None])
    volume = volume[margins]
    steps = [-(-size // _COARSE) for size in volume.shape]
    above = volume[tuple(slice(step // 2, None, step) for step in steps)] > _BODY
    thick = ndimage.binary_opening(above, iterations=2) if min(above.shape) > 5 else above
    parts, count = ndimage.label(thick)
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    body = np.isin(parts, 1 + np.flatnonzero(sizes >= _PART * sizes.max()))
    (found,) = ndimage.find_objects(body.astype(np.uint8))
    pairs = list(zip(found, steps, strict=True))
    box = [slice(max(0, (one.start - 1) * step), (one.stop + 1) * step, step) for one, step in pairs]
    ends = [_ends(volume, box, axis) for axis in range(3)]
    before = [one.start or 0 for one in margins]
    return [(first + start, last + start) for (first, last), start in zip(ends, before, strict=True)]


def _ends(volume: np.ndarray, box: list[slice], axis: int) -> tuple[int, int]:
    """Where along an axis the body in a coarse box begins and ends, to the voxel: with more than its rim there."""
    fine = [slice(one.start, one.stop) if i == axis else one for i, one in enumerate(box)]
    profile = np.moveaxis(volume[tuple(fine)] > _BODY, axis, 0).sum(axis=(1, 2))
    inside = np.flatnonzero(profile >= _RIM * profile.max())
    return box[axis].start + int(inside[0]), box[axis].start + int(inside[-1]) + 1


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
