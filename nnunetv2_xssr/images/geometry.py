"""Where a volume lies in the patient: one orientation for all files, the slicing axis, and the way back to the file.

Arrays are brought to the order (inferior to superior, anterior to posterior, right to left): the order of ITK's LPS
space, and for slices the radiological convention, in which the patient's right is on the left of a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnunetv2_xssr.images.grids import axes

FLAT_RULES = 2  # of how flat files are turned: views of them that other ones made are made anew
# A volume whose spacing along one axis is so many times the next one was acquired in slices along it.
_THICK = 1.2


@dataclass(frozen=True)
class Geometry:
    """How an array of shape (z, y, x), as nnU-Net's reader gives it, lies in the patient.

    Attributes
    ----------
    spacing : tuple of float
        Millimetres along the array's own axes.
    source : tuple of int
        For every canonical axis the array's axis that runs along it.
    flipped : tuple of bool
        For every canonical axis whether the array runs the other way.
    known : bool
        Whether the file tells the directions; pictures and stacks in .tif do not, and stay as they are. Flat files tell
        how their two axes are turned, but not which of the patient's they are.
    third : (int, bool)
        The array's axis that runs along the third axis of the file, and whether it runs the other way: readers may turn
        what they read.
    """

    spacing: tuple[float, float, float]
    source: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)
    known: bool = False
    third: tuple[int, bool] = (0, False)

    @classmethod
    def of(cls, properties: dict) -> "Geometry":
        """The geometry that a reader's properties tell.

        Parameters
        ----------
        properties : dict
            Of nnU-Net's readers: ``spacing``, and ``sitk_stuff`` or ``nibabel_stuff``.

        Raises
        ------
        ValueError
            If the spacing is not three numbers above 0, or the axes do not run in three directions.
        """
        millimetres = [float(abs(value)) for value in properties["spacing"]]
        if len(millimetres) != 3 or not all(0 < mm < np.inf for mm in millimetres):
            raise ValueError(f"its spacing must be three numbers above 0; got {', '.join(map(str, millimetres))}")
        z, y, x = millimetres
        spacing = z, y, x
        columns = _directions(properties)
        if columns is None:
            return cls(spacing)
        from nibabel.orientations import io_orientation

        # For every axis of the array the patient's axis (0 right-left, 1 posterior-anterior, 2 inferior-superior).
        affine = np.eye(4)
        affine[:3, :3] = columns
        runs = io_orientation(affine) if np.isfinite(columns).all() else np.full((3, 2), np.nan)
        if np.isnan(runs).any():
            raise ValueError("its axes must run in three directions")
        source, flipped = [0, 0, 0], [False, False, False]
        for axis, (world, sign) in enumerate(runs):
            canonical = 2 - int(world)
            source[canonical] = axis
            # Canonical axes run to superior (+z of RAS), posterior (-y) and left (-x).
            flipped[canonical] = bool(sign != (1 if canonical == 0 else -1))
        (a, b, c), (flip_a, flip_b, flip_c) = source, flipped
        return cls(spacing, (a, b, c), (flip_a, flip_b, flip_c), axes(properties) != 2, _third_axis(properties))

    def canonical(self, image: np.ndarray) -> np.ndarray:
        """A view of an array of shape (channels, z, y, x) in the canonical order."""
        image = image.transpose(0, *(axis + 1 for axis in self.source))
        z, y, x = (-1 if flip else 1 for flip in self.flipped)
        return image[:, ::z, ::y, ::x]

    @cached_property
    def canonical_spacing(self) -> tuple[float, float, float]:
        """Millimetres along the canonical axes."""
        z, y, x = (self.spacing[axis] for axis in self.source)
        return z, y, x

    @property
    def acquired(self) -> int:
        """The canonical axis along which the volume was acquired in slices: that of the largest spacing, else axial."""
        spacing = np.array(self.canonical_spacing)
        largest = int(spacing.argmax())
        others = np.delete(spacing, largest)
        return largest if self.known and spacing[largest] >= _THICK * others.max() else 0

    @property
    def stored(self) -> int:
        """The canonical axis that runs along the third axis of the file, on whose slices annotators draw."""
        return self.source.index(self.third[0])

    def in_file(self, places: np.ndarray, size: int) -> np.ndarray:
        """Slices along the axis `stored`, as the file counts them along its third axis.

        Parameters
        ----------
        places : int array
            From 0, in the canonical array.
        size : int
            Slices along that axis.
        """
        return size - 1 - places if self.flipped[self.stored] != self.third[1] else places

    def along_third(self, array: np.ndarray) -> np.ndarray:
        """A view of an array of shape (z, y, x) as read, whose first axis is the third one of the file."""
        axis, reverse = self.third
        return np.moveaxis(array, axis, 0)[:: -1 if reverse else 1]


def stored_orientation(properties: dict) -> str | None:
    """Where the axes x, y and z of a file run in the patient, such as ``LPS``; None where it does not tell.

    Parameters
    ----------
    properties : dict
        Of nnU-Net's readers.
    """
    from nibabel.orientations import aff2axcodes

    stuff = {key: value for key, value in properties.get("nibabel_stuff", {}).items() if key == "original_affine"}
    columns = _directions({**properties, "nibabel_stuff": stuff} if stuff else properties)
    if columns is None or axes(properties) == 2:
        return None
    affine = np.eye(4)
    affine[:3, :3] = columns[:, ::-1]
    return "".join(code or "?" for code in aff2axcodes(affine))


def _directions(properties: dict) -> np.ndarray | None:
    """Directions of the array's axes (z, y, x) in RAS, one per column; None where the format tells none."""
    if "sitk_stuff" in properties:
        direction = np.asarray(properties["sitk_stuff"]["direction"], float)
        size, lps = int(np.sqrt(direction.size)), np.eye(3)
        lps[:size, :size] = direction.reshape(size, size)[:3, :3]
        return np.diag([-1.0, -1.0, 1.0]) @ lps[:, ::-1]
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), float)
        columns = affine[:3, :3][:, ::-1]
        length = np.linalg.norm(columns, axis=0)
        with np.errstate(invalid="ignore"):  # of infinity
            return columns / length if length.all() else None
    return None


def _third_axis(properties: dict) -> tuple[int, bool]:
    """Where a reader has put the third axis of the file: see `Geometry.third`."""
    stuff = properties.get("nibabel_stuff", {})
    if "reoriented_affine" not in stuff:
        return 0, False
    from nibabel.orientations import io_orientation

    world, sign = io_orientation(stuff["original_affine"])[2]
    return 2 - int(world), bool(sign < 0)  # the array has the axes of RAS, the last one first


def display(slice_: np.ndarray, axis: int) -> np.ndarray:
    """A slice as radiologists look at it, from an array of shape (..., rows, columns) cut along a canonical axis.

    Axial slices have anterior above; coronal and sagittal ones the head. The patient's right is on the left.
    """
    return slice_ if axis == 0 else slice_[..., ::-1, :]


def plane_spacing(spacing: Sequence[float], axis: int) -> tuple[float, float]:
    """Millimetres per row and per column of a slice along a canonical axis."""
    rows, columns = (value for other, value in enumerate(spacing) if other != axis)
    return rows, columns
