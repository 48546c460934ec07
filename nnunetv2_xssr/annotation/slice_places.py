"""Where a slice to draw is found in each tool, all of which count in their own way."""

from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.images.decoding import shape_and_properties
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.grids import patient_affine, stored_axes
from nnunetv2_xssr.images.pools import Case, ImagePool

NAPARI_NIFTI = (".nii", ".nii.gz", ".nrrd")  # what this plugin reads
_HIGH, _LOW = "RAS", "LPI"  # letters of the patient's axes, in millimetres above and below 0


@dataclass(frozen=True, kw_only=True)
class SlicePlace:
    """A slice of a file, as tools count it.

    Attributes
    ----------
    itk_snap : int
        From 1 along the third axis of the file.
    napari : int or None
        From 0 on its slider. napari-nifti, which reads NIfTI and NRRD, counts from the head; None where it cannot be
        used: see `is_turned_by_napari`.
    position : str
        Of its middle, as 3D Slicer shows it: the letter of the patient's axis along which the slices lie, and
        millimetres; empty where the file does not tell.
    """

    itk_snap: int
    napari: int | None
    position: str


def slice_places(case: Case, pool: ImagePool, slices: list[int]) -> dict[int, SlicePlace]:
    """The places of slices of a volume, which are counted from 0 along the third axis of its file."""
    shape, properties = shape_and_properties(case.files, pool.reader())
    by_plugin = pool.file_ending.lower() in NAPARI_NIFTI
    return {place: _place(place, shape, properties, by_plugin) for place in slices}


def is_turned_by_napari(case: Case, pool: ImagePool) -> bool:
    """Whether napari-nifti shows an image with its axes mixed up, and cannot save its label.

    It does so (0.0.20, with MedVol 0.0.22) with most files whose axes do not run between right and left, front and
    back, head and foot, in this order, such as those of sagittal and coronal acquisitions.
    """
    if pool.file_ending.lower() not in NAPARI_NIFTI:
        return False
    return not _runs_as_patient(shape_and_properties(case.files, pool.reader())[1])


def _place(place: int, shape: tuple[int, ...], properties: dict, by_plugin: bool) -> SlicePlace:
    lps = patient_affine(properties)
    if lps is None:
        return SlicePlace(itk_snap=place + 1, napari=place, position="")
    from nibabel.orientations import io_orientation

    axis, reverse = Geometry.of(properties).third
    size = shape[axis]
    middle = (np.array(shape) - 1) / 2
    middle[axis] = size - 1 - place if reverse else place
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    world, sign = io_orientation(ras)[2 - axis]
    world, upwards = int(world), (sign > 0) != reverse
    napari = size - 1 - place if by_plugin and upwards else place
    mm = round(float((ras @ [*middle[::-1], 1])[world]), 1)
    letter = _HIGH[world] if mm >= 0 else _LOW[world]
    return SlicePlace(
        itk_snap=place + 1,
        napari=None if by_plugin and not _runs_as_patient(properties) else napari,
        position=f"{letter} {abs(mm):.1f}",
    )


def _runs_as_patient(properties: dict) -> bool:
    """Whether the axes of a file run between right and left, front and back, head and foot, in this order."""
    stored = stored_axes(properties)
    return stored is None or [axis for axis, _ in stored] == [0, 1, 2]
