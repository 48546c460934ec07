"""Contours of radiotherapy (DICOM RTSTRUCT) as voxels: those whose centre lies within."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nnunetv2_xssr.errors import UserError

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"  # RT Structure Set Storage
_OFF = 0.1  # of a slice: how far a contour may lie from it
_DIGITS = 3  # of a voxel: what files keep of a place, so that a contour through centres goes through them
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def drawn_structures(structures: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    """Name and contours of every structure of a pydicom dataset that has some."""
    names = {roi.ROINumber: roi.ROIName for roi in structures.StructureSetROISequence}
    for drawn in structures.get("ROIContourSequence", ()):
        if contours := drawn.get("ContourSequence"):
            yield str(names[drawn.ReferencedROINumber]), contours


def filled(contours: Sequence[Any], *, shape: tuple[int, ...], of_image: np.ndarray) -> np.ndarray:
    """The voxels of a structure.

    A voxel counts where its centre lies within an odd number of the contours of its slice, so that one inside another
    is a hole, or on a contour.

    Parameters
    ----------
    contours : sequence of pydicom datasets
    shape : tuple of int
        Of the image, (z, y, x).
    of_image : array of shape (4, 4)
        From its indices (x, y, z) to millimetres in the patient (LPS).

    Returns
    -------
    bool array of this shape

    Raises
    ------
    UserError
        If contours are no closed curves on slices of the image.
    """
    if strange := {one.ContourGeometricType for one in contours} - set(_CLOSED):
        raise UserError(f"has contours of the type {min(strange)}; draw closed ones on the slices of the image")
    to_index = np.linalg.inv(of_image)
    points = [np.reshape(np.array(one.ContourData, float), (-1, 3)) for one in contours]
    indices = [np.round(one @ to_index[:3, :3].T + to_index[:3, 3], _DIGITS) for one in points]
    across = int(np.argmin([max(np.ptp(one[:, axis]) for one in indices) for axis in range(3)]))
    size = np.array(shape[::-1])
    inside, on = np.zeros((2, *size), bool)
    for one in indices:
        place = round(one[:, across].mean())
        if np.abs(one[:, across] - place).max() > _OFF:
            raise UserError(
                f"has a contour between the slices of its image, near slice {place}; draw it over that image"
            )
        if (one < -0.5).any() or (one > size - 0.5).any():
            raise UserError("has a contour beyond its image; draw it over that image")
        within, at = _in_polygon(np.delete(one, across, axis=1), np.delete(size, across))
        np.moveaxis(inside, across, 0)[place] ^= within
        np.moveaxis(on, across, 0)[place] |= at
    return (inside | on).transpose(2, 1, 0)


def _in_polygon(points: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels lie within a polygon, and which on it."""
    from skimage.measure import grid_points_in_poly

    low = np.maximum(np.floor(points.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, shape)
    where = grid_points_in_poly(tuple(high - low), points - low, binarize=False)  # 1 within, 2 a vertex, 3 an edge
    found = np.zeros((2, *shape), bool)
    found[:, low[0] : high[0], low[1] : high[1]] = where == 1, where > 1
    return found[0], found[1]
