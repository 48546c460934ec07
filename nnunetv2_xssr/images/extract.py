"""Views: the small square pictures of one case that the encoder learns from and embeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.images.geometry import Geometry, display, plane_spacing
from nnunetv2_xssr.images.normalise import Statistics, Window, nonzero_box, normalise
from nnunetv2_xssr.images.resampling import resample_slice, resample_volume

VIEW_SIZE = 128  # pixels, height and width
VOLUME_SIZE = 64  # voxels along every axis of a volume that is one view
LEAST_VIEWS, MOST_VIEWS = 8, 32  # of a volume
EVERY = 8.0  # millimetres from one view of a volume to the next, as far as these numbers allow
ACQUIRED, FILE = "acquired", "file"
PLANES = ("axial", "coronal", "sagittal")  # slices along the canonical axes 0, 1, 2
AXES = (ACQUIRED, *PLANES, FILE)
UNKNOWN = Geometry((1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Look:
    """What decides about the views of a pool, besides the rules.

    Attributes
    ----------
    pixel : float or None
        Millimetres per pixel of a view; what is larger than the view is cut off, what is smaller is padded. None fits
        every slice into the view, as for pictures that tell no size. The aspect is kept in both cases.
    axis : {"acquired", "axial", "coronal", "sagittal", "file"}
        Along what slices are taken: the axis of acquisition, one of the patient, or the third axis of each file, on
        whose slices annotators draw. A single slice is what it is.
    views : int
        Rows of views per volume. A volume with fewer slices at the distance ``EVERY`` repeats them.
    window : (float, float) or None
        Centre and width of the only window in which CT is shown; None for the usual ones.
    """

    pixel: float | None = None
    axis: str = ACQUIRED
    views: int = LEAST_VIEWS
    window: Window | None = None

    def axis_of(self, geometry: Geometry, shape: Sequence[int]) -> int:
        """The canonical axis along which slices of a canonical volume of this shape (z, y, x) are taken."""
        if self.axis == FILE:
            return geometry.stored
        if 1 in shape:
            return list(shape).index(1)
        return geometry.acquired if self.axis == ACQUIRED else PLANES.index(self.axis)


def check_axis(axis: str | None, *, dim: int, unit: str = "case") -> None:
    """Raise `UserError` unless slices can be taken along an axis that a user asks for."""
    if axis is None:
        return
    if axis not in (*PLANES, FILE):
        raise one_of("--axis", (*PLANES, FILE), axis)
    if dim == 3:
        raise UserError("--axis is about slices, which --dim 3 does not see; leave it out")
    if unit == "slice" and axis != FILE:
        raise UserError(f"--unit slice takes the slices of the file, on which annotators draw; leave --axis {axis} out")


def check_volumes(axis: str | None, n_views: Iterable[int]) -> None:
    """Raise `UserError` if a user asks for an axis, but no pool has more than one view per case."""
    if axis is not None and max(n_views) == 1:
        raise UserError(f"--axis is about volumes, but all images are flat; leave --axis {axis} out")


def views_for(extent: float) -> int:
    """The least number of views per volume, of 8, 16 and 32, at which so many millimetres are seen at ``EVERY``."""
    return next((n for n in (LEAST_VIEWS, 2 * LEAST_VIEWS) if n * EVERY >= extent), MOST_VIEWS)


def foreground(volume: np.ndarray, axis: int = 0) -> slice:
    """Where along an axis the foreground of a volume of shape (z, y, x) lies.

    Foreground is what is brighter than the volume's mean; a slice belongs to it with at least a tenth of the
    foreground of the fullest slice.
    """
    if volume.shape[axis] == 1:
        return slice(0, 1)
    mean = volume.mean(dtype=np.float64)
    mean = mean if volume.dtype.kind == "f" else int(np.floor(mean))  # whole numbers are compared as they are
    per_slice = np.array([np.count_nonzero(one > mean) for one in np.moveaxis(volume, axis, 0)])
    inside = np.flatnonzero(per_slice >= 0.1 * per_slice.max())
    return slice(int(inside[0]), int(inside[-1]) + 1)


def evenly_spaced(inside: slice, n: int) -> np.ndarray:
    """The middles of n equal parts of a range of slices, so that its ends, which show least, are not among them."""
    return np.floor(inside.start + (np.arange(n) + 0.5) / n * (inside.stop - inside.start)).astype(int)


def at_density(inside: np.ndarray, n: int, *, spacing: float) -> np.ndarray:
    """One slice every ``EVERY`` millimetres, at least ``LEAST_VIEWS`` and at most n, repeated evenly to n.

    Parameters
    ----------
    inside : int array
        The slices to choose from, ascending.
    n : int
    spacing : float
        Millimetres from slice to slice.
    """
    distinct = min(n, len(inside), max(LEAST_VIEWS, round(len(inside) * spacing / EVERY)))
    return inside[evenly_spaced(slice(0, len(inside)), distinct)][np.arange(n) * distinct // n]


@dataclass(frozen=True)
class Limits:
    """Which slices of a volume are candidates, as far as somebody has said so; along the third axis of its file.

    Attributes
    ----------
    within : bool array of shape (slices,)
    region : bool array of shape (slices,) or None
        Those with something of a region of interest, which is looked at in the place of the foreground.
    """

    within: np.ndarray
    region: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The slices of a case that become its views.

    Attributes
    ----------
    axis : int
        Canonical.
    places : int array of shape (n,)
        Along that axis of the whole canonical volume, from 0.
    in_file : int array of shape (n,)
        The same as the file counts them, where its third axis is that axis; -1 where limits leave no candidate.
    box : tuple of slice
        What is not zero, in the canonical volume.
    extent : (float, float)
        Millimetres of their rows and of their columns inside of the box.
    open, of : int
        Slices to choose from, and how many they would be without a region of interest.
    """

    axis: int
    places: np.ndarray
    in_file: np.ndarray
    box: tuple[slice, slice, slice]
    extent: tuple[float, float]
    open: int
    of: int


def choose_slices(
    image: np.ndarray,
    n_views: int,
    *,
    geometry: Geometry = UNKNOWN,
    look: Look | None = None,
    limits: Limits | None = None,
) -> Slices:
    """Evenly spaced slices inside of the foreground of the first channel, or of a region of interest.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
        As nnU-Net's readers give it.
    n_views : int
    geometry : Geometry
    look : Look
    limits : Limits, optional
        For slices along the third axis of the file. Where they leave none, those without limits are shown.
    """
    image = geometry.canonical(image)
    axis, box = (look or Look()).axis_of(geometry, image.shape[1:]), nonzero_box(image)
    size, first = image.shape[1 + axis], box[axis].start or 0
    shown = foreground(image[0][box], axis)
    inside = np.zeros(size, bool)
    inside[first + shown.start : first + shown.stop] = True
    in_file = geometry.in_file(np.arange(size), size) if axis == geometry.stored else np.arange(size)
    of = wanted = inside
    if limits is not None:
        of = wanted = inside & limits.within[in_file]
        if limits.region is not None:
            wanted = (limits.within & limits.region)[in_file]
    candidates = np.flatnonzero(wanted if wanted.any() else inside)
    places = at_density(candidates, n_views, spacing=geometry.canonical_spacing[axis])
    sizes = [len(range(whole)[part]) for part, whole in zip(box, image.shape[1:], strict=True)]
    rows, columns = np.multiply(np.delete(sizes, axis), plane_spacing(geometry.canonical_spacing, axis)).tolist()
    return Slices(
        axis=axis,
        places=places,
        in_file=in_file[places] if wanted.any() else np.full(n_views, -1),
        box=box,
        extent=(rows, columns),
        open=int((wanted & of).sum()),
        of=int(of.sum()),
    )


def slice_extents(image: np.ndarray, *, geometry: Geometry) -> dict[str, tuple[float, float]]:
    """Millimetres of the larger side of slices, and of all slices together, without margins of zeros, per axis.

    A single slice has no extent across, whatever its file says.
    """
    image = geometry.canonical(image)
    extent = [
        (part.stop - part.start) * mm if part.stop else size * mm
        for part, size, mm in zip(nonzero_box(image), image.shape[1:], geometry.canonical_spacing, strict=True)
    ]
    along = {name: Look(axis=name).axis_of(geometry, image.shape[1:]) for name in AXES}
    depth = [mm if size > 1 else 0.0 for mm, size in zip(extent, image.shape[1:], strict=True)]
    return {name: (float(max(np.delete(extent, axis))), float(depth[axis])) for name, axis in along.items()}


def extract_views(
    image: np.ndarray,
    channel_names: tuple[str, ...],
    n_views: int,
    *,
    geometry: Geometry = UNKNOWN,
    look: Look | None = None,
) -> np.ndarray:
    """Views of one case: slices in one orientation, cropped, normalised, at one scale and with their aspect.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
        As nnU-Net's readers give it.
    channel_names : tuple of str
    n_views : int
        1 for a 2D case; for a volume the number of slices.
    geometry : Geometry
        How the array lies in the patient; as it is, by default.
    look : Look

    Returns
    -------
    array of shape (n_views, view channels, VIEW_SIZE, VIEW_SIZE), float16
        The channels are those of `nnunetv2_xssr.images.normalise.view_channels`.
    """
    look = look or Look()
    chosen = choose_slices(image, n_views, geometry=geometry, look=look)
    return show_slices(image, channel_names, chosen, geometry=geometry, look=look)


def show_slices(
    image: np.ndarray, channel_names: tuple[str, ...], chosen: Slices, *, geometry: Geometry, look: Look
) -> np.ndarray:
    """The views of slices that were chosen: see `extract_views`."""
    canonical = geometry.canonical(image)
    statistics = Statistics.of(canonical[:, chosen.box[0], chosen.box[1], chosen.box[2]], channel_names)
    finish = partial(normalise, channel_names=channel_names, statistics=statistics, window=look.window)
    z, y, x = (slice(None) if axis == chosen.axis else part for axis, part in enumerate(chosen.box))
    along = display(np.moveaxis(canonical[:, z, y, x], 1 + chosen.axis, 1), chosen.axis)
    pixel = look.pixel or max(chosen.extent) / VIEW_SIZE
    rows, columns = (max(1, round(mm / pixel)) for mm in chosen.extent)
    places, which = np.unique(chosen.places, return_inverse=True)  # short volumes show a slice in several views
    views = [resample_slice(along[:, place : place + 1], (rows, columns), finish) for place in places]
    return _pad_or_cut(torch.cat(views), [VIEW_SIZE] * 2).to(torch.float16).numpy()[which]


def _pad_or_cut(image: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Centre an image of shape (n, channels, ...) in another size: what lies beyond is cut, what is missing is 0."""
    padding = []
    for have, want in zip(reversed(image.shape[2:]), reversed(size), strict=True):  # torch pads from the last axis on
        before = (want - have) // 2
        padding += [before, want - have - before]
    return F.pad(image, padding)


def extract_volume(
    image: np.ndarray, channel_names: tuple[str, ...], *, geometry: Geometry = UNKNOWN, window: Window | None = None
) -> np.ndarray:
    """A volume as one view: the box around its foreground, in one orientation, fitted into a cube with its aspect.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
    channel_names : tuple of str
    geometry : Geometry
    window : (float, float), optional
        See `Look`.

    Returns
    -------
    array of shape (1, view channels, VOLUME_SIZE, VOLUME_SIZE, VOLUME_SIZE), float16
    """
    canonical = geometry.canonical(image)
    box = nonzero_box(canonical)
    canonical = canonical[:, box[0], box[1], box[2]]
    statistics = Statistics.of(canonical, channel_names)
    z, y, x = (foreground(canonical[0], axis) for axis in range(3))
    finish = partial(normalise, channel_names=channel_names, statistics=statistics, window=window)
    extent = [size * mm for size, mm in zip(canonical[0, z, y, x].shape, geometry.canonical_spacing, strict=True)]
    depth, rows, columns = (max(1, round(VOLUME_SIZE * mm / max(extent))) for mm in extent)
    tensor = resample_volume(canonical[:, z, y, x], (depth, rows, columns), finish)
    return _pad_or_cut(tensor, [VOLUME_SIZE] * 3).to(torch.float16).numpy()
