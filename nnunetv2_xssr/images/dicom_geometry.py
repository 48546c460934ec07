"""How the images of one DICOM series lie in space, and whether they make a volume."""

from dataclasses import dataclass

import numpy as np

_SAME_DIRECTION = 1e-3  # difference of unit vectors, about 0.06 degrees
_SAME_SPACING = 1e-3  # relative
_SAME_PLACE = 1e-3  # of the largest gap between slices
# Of the spacing: how far a slice may lie from where even spacing puts it. Headers often round places to 0.1 mm.
_OFF = 0.2


class NoVolume(Exception):
    """Why a series cannot be a volume."""


class SamePlace(NoVolume):
    """Several images lie at one place.

    Attributes
    ----------
    together : list of int
        The images at the first such place.
    """

    def __init__(self, reason: str, together: list[int]):
        super().__init__(reason)
        self.together = together


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A volume's place in the patient, in the coordinates of DICOM, which are ITK's.

    Attributes
    ----------
    order : list of int
        The images as slices, along the normal.
    spacing : tuple of float
        Of columns, rows and slices, in mm.
    origin : tuple of float
        Centre of the first voxel, in mm.
    direction : tuple of float
        3 x 3, row by row; its columns are the axes of x, y and z.
    """

    order: list[int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]


def grid_of(positions: np.ndarray, *, orientations: np.ndarray, pixel_spacings: np.ndarray) -> Grid:
    """The grid of images that lie in space like this.

    Slices run along the normal of the image plane, cross product of row and column, at the mean distance of their
    positions, whatever the header says of slice thickness and spacing.

    Parameters
    ----------
    positions : (n, 3) array
        ImagePositionPatient, in mm.
    orientations : (n, 6) array
        ImageOrientationPatient.
    pixel_spacings : (n, 2) array
        PixelSpacing: between rows, between columns, in mm.

    Raises
    ------
    NoVolume
        If planes differ in direction or spacing, several images lie at one place, slices are missing or unevenly
        spaced, or shifted against each other as under gantry tilt.
    """
    if np.ptp(orientations, axis=0).max() > _SAME_DIRECTION:
        several = max(2, len(np.unique(orientations.round(2), axis=0)))
        raise NoVolume(f"images of {several} orientations, as localizers have")
    if (np.ptp(pixel_spacings, axis=0) > _SAME_SPACING * pixel_spacings[0]).any():
        raise NoVolume("images of several pixel spacings")
    row, column = orientations[0, :3], orientations[0, 3:]
    normal = np.cross(row, column)
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > _SAME_DIRECTION or abs(row @ column) > _SAME_DIRECTION:
        raise NoVolume("rows and columns are not at right angles")
    if (pixel_spacings[0] <= 0).any():
        raise NoVolume("the pixel spacing is not above 0")
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    _check_places(along[order], order)
    first, last = positions[order[0]], positions[order[-1]]
    sideways = positions - first - np.outer(along - along[order[0]], normal)
    shift = np.linalg.norm(sideways, axis=1).max()
    if shift > pixel_spacings[0].min() / 2:
        angle = np.degrees(np.arctan2(np.linalg.norm(sideways[order[-1]]), (last - first) @ normal))
        raise NoVolume(f"slices are shifted sideways by up to {shift:.1f} mm (gantry tilt of {angle:.1f} degrees)")
    # At right angles exactly, which the rounded vectors of a header are not.
    row = row / np.linalg.norm(row)
    normal = normal / np.linalg.norm(normal)
    axes = np.stack([row, np.cross(normal, row), normal], axis=1)
    between_rows, between_columns = pixel_spacings[0]
    return Grid(
        order=order.tolist(),
        spacing=(float(between_columns), float(between_rows), float((last - first) @ normal / (len(order) - 1))),
        origin=tuple(first.tolist()),
        direction=tuple(axes.ravel().tolist()),
    )


def _check_places(along: np.ndarray, order: np.ndarray) -> None:
    """Raise `NoVolume` unless places along the normal, sorted, are distinct and evenly spaced."""
    gaps = np.diff(along)
    new_place = np.r_[True, gaps > _SAME_PLACE * gaps.max()]
    if not new_place.all() or gaps.max() == 0:
        place = np.cumsum(new_place) if gaps.max() > 0 else np.ones(len(along), int)
        counts = np.bincount(place)[1:]
        together = order[place == 1 + int(np.argmax(counts > 1))]
        number = str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        raise SamePlace(f"{number} images at each of {len(counts)} places", together.tolist())
    step = (along[-1] - along[0]) / len(gaps)
    if np.abs(along - along[0] - step * np.arange(len(along))).max() <= _OFF * step:
        return
    usual = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    multiples = np.round(gaps / usual)
    missing = int((multiples - 1).sum())
    if np.abs(gaps - multiples * usual).max() <= _OFF * usual and multiples.min() >= 1 and missing < len(along):
        raise NoVolume(f"{missing} of {len(along) + missing} slices are missing ({usual:.2f} mm apart)")
    raise NoVolume(f"slices at uneven distances ({gaps.min():.2f} to {gaps.max():.2f} mm)")
