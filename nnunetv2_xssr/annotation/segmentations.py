"""Labels that come back in another format than the dataset's: NRRD, 3D Slicer's .seg.nrrd, DICOM, CVAT's masks.

Segments that have a name are matched by it, not by their value, which tools number as they like. Where the image tells
its place in the patient, the label is laid on the image's grid by it: files may lack empty margins, or run the other
way, but their voxels must be those of the image.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_xssr.annotation.contours import SOP_CLASS, drawn_structures, filled
from nnunetv2_xssr.annotation.cvat import is_coloured, read_coloured
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.grids import patient_affine

ENDINGS = (".seg.nrrd", ".nrrd", ".dcm")
_OFF = 0.05  # of a voxel: what geometry in single precision loses over the size of a volume


def is_segmentation(file: Path, ending: str) -> bool:
    """Whether a label has another format than the files of its dataset, which have this ending."""
    name = file.name.lower()
    return (
        is_coloured(file) or name.endswith(ENDINGS[0]) or (name.endswith(ENDINGS) and not name.endswith(ending.lower()))
    )


def names_its_labels(file: Path) -> bool:
    """Whether a file of one of the `ENDINGS` has named segments, so that its values mean nothing by themselves."""
    return is_coloured(file) or _is_dicom(file) or bool(_nrrd_segments(_nrrd_header(file)))


def read_segmentation(file: Path, *, shape: tuple[int, ...], grid: dict, names: Mapping[int, str]) -> np.ndarray:
    """The label in the values of the dataset, on the grid of its image.

    Parameters
    ----------
    file : Path
    shape : tuple of int
        Of the image as nnU-Net's reader gives it, (z, y, x).
    grid : dict
        What the reader tells of the image.
    names : mapping from int to str
        Of the labels: see `nnunetv2_xssr.annotation.label_check.label_names`.

    Returns
    -------
    array of shape (z, y, x)
        Of the image, or of the file where the image does not tell its place.

    Raises
    ------
    UserError
        If segments overlap or have unknown names, or voxels are not those of the image.
    Exception
        Whatever the library that reads it raises.
    """
    if is_coloured(file):
        return _by_name(*read_coloured(file), names)
    of_image = patient_affine(grid)
    if _is_dicom(file) and (structures := _structures(file)):
        return _by_contours(structures, shape, of_image, names)
    voxels, affine, segments = _read_dicom(file) if _is_dicom(file) else _read_nrrd(file)
    if segments:
        voxels = _by_name(voxels, segments, names)
    return voxels if of_image is None else _laid_on(voxels, affine, shape, of_image)


def in_order_of(
    voxels: np.ndarray, of_label: np.ndarray | None, *, shape: tuple[int, ...], of_image: np.ndarray | None
) -> np.ndarray | None:
    """A label in the order in which its image is stored; None if its voxels are not all those of the image.

    Some programs, such as the plugin napari-nifti, save every volume from left to right, from back to front and from
    foot to head, however the image is stored.

    Parameters
    ----------
    voxels : array of shape (z, y, x)
    of_label, of_image : array of shape (4, 4) or None
        From indices (x, y, z) to millimetres.
    shape : tuple of int
        Of the image, (z, y, x).
    """
    if of_label is None or of_image is None or voxels.size != np.prod(shape):
        return None
    try:
        everywhere = _laid_on(np.ones(voxels.shape, np.uint8), of_label, shape, of_image)
    except UserError:
        return None
    return _laid_on(voxels, of_label, shape, of_image) if everywhere.all() else None


def _is_dicom(file: Path) -> bool:
    return file.name.lower().endswith(".dcm")


def _nrrd_header(file: Path) -> Mapping[str, str]:
    import SimpleITK as sitk

    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    header.SetImageIO("NrrdImageIO")
    header.ReadImageInformation()
    return {key: header.GetMetaData(key) for key in header.GetMetaDataKeys() if key.startswith("Segment")}


def _nrrd_segments(header: Mapping[str, str]) -> list[tuple[int, str]]:
    """Value and name of every segment."""
    numbers = sorted(int(match[1]) for key in header if (match := re.fullmatch(r"Segment(\d+)_ID", key)))
    return [
        (int(header.get(f"Segment{n}_LabelValue", n + 1)), header.get(f"Segment{n}_Name", header[f"Segment{n}_ID"]))
        for n in numbers
    ]


def _read_nrrd(file: Path) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    import SimpleITK as sitk

    header = _nrrd_header(file)
    image = sitk.ReadImage(str(file), imageIO="NrrdImageIO")
    if image.GetNumberOfComponentsPerPixel() > 1 or len({header[key] for key in header if key.endswith("_Layer")}) > 1:
        raise UserError("has segments in several layers, because they overlap; give every voxel one segment only")
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    if image.GetDimension() > 3:
        raise UserError(f"has {image.GetDimension()} axes; save a label of three")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), affine, _nrrd_segments(header)


def _read_dicom(file: Path) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    highdicom = _library("highdicom")
    segmentation = highdicom.seg.segread(file)
    described = [segmentation.get_segment_description(number) for number in segmentation.segment_numbers]
    try:
        volume = segmentation.get_volume(combine_segments=True)
    except RuntimeError as error:
        if "overlap" not in str(error).lower():
            raise
        raise UserError("has segments that overlap; give every voxel one segment only") from None
    affine = volume.affine[:, [2, 1, 0, 3]]  # its array is (frames, rows, columns)
    return volume.array, affine, [(one.segment_number, one.segment_label) for one in described]


def _structures(file: Path) -> Any:
    """The contours of an RTSTRUCT; None of another DICOM file."""
    read = _library("pydicom").dcmread(file)
    return read if read.get("SOPClassUID") == SOP_CLASS else None


def _by_contours(
    structures: Any, shape: tuple[int, ...], of_image: np.ndarray | None, names: Mapping[int, str]
) -> np.ndarray:
    """The voxels within contours in the dataset's values, on the image's grid."""
    if of_image is None:
        raise UserError("holds contours, and its image does not tell where it lies in the patient; save voxels")
    drawn = [(_meant(name, names), contours) for name, contours in drawn_structures(structures)]
    label = np.zeros(shape, np.int32)
    for value, contours in drawn:
        voxels = filled(contours, shape=shape, of_image=of_image)
        if label[voxels].any():
            raise UserError("has structures that overlap; give every voxel one of them only")
        label[voxels] = value
    return label


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise UserError(
            'is DICOM, which needs the extra "dicom"; type: pip install "nnunetv2_xssr[dicom]", then collect again'
        ) from None


def _by_name(voxels: np.ndarray, segments: list[tuple[int, str]], names: Mapping[int, str]) -> np.ndarray:
    """The voxels in the dataset's values."""
    drawn = set(np.unique(voxels).tolist()) - {0}
    called = {value: name for value, name in segments if value in drawn}
    unnamed = sorted(drawn - set(called))
    if unnamed:
        raise UserError(f"has no segment for the voxels of {first_few(unnamed, 5)}; save it again")
    label = np.zeros(voxels.shape, np.int32)
    for value, name in called.items():
        label[voxels == value] = _meant(name, names)
    return label


def _meant(name: str, names: Mapping[int, str]) -> int:
    """The only label of this name, or of the same one but for capitals, blanks and underscores."""
    exact = [value for value, known in names.items() if known == name]
    found = exact or [value for value, known in names.items() if _loosely(known) == _loosely(name)]
    if len(found) == 1:
        return found[0]
    raise UserError(
        f"has a segment {name[:100]!r}, which is no label; rename or remove it: the labels are "
        f"{first_few([known for new, known in names.items() if new], 10)}"
    )


def _loosely(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _laid_on(voxels: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], of_image: np.ndarray) -> np.ndarray:
    """The voxels on the image's grid, where they are voxels of it."""
    to_image = np.linalg.inv(of_image) @ affine  # from indices (x, y, z) to indices
    size = np.array(voxels.shape[::-1])
    for axis in np.flatnonzero(size == 1):  # whose spacing moves nothing
        column = to_image[:3, axis]
        to_image[:3, axis] = np.where(np.abs(column) == np.abs(column).max(), np.sign(column), 0)
    whole = np.rint(to_image)
    corners = np.array(np.meshgrid(*((0, n - 1) for n in size), [1], indexing="ij")).reshape(4, -1)
    off = np.abs((to_image - whole)[:3] @ corners).max()
    turn = whole[:3, :3]
    if off > _OFF or not np.array_equal(np.abs(turn) @ np.abs(turn).T, np.eye(3)):
        raise UserError(
            f"does not lie on the voxels of its image ({_words(affine, of_image)}); draw it over that image"
        )
    order = np.abs(turn).argmax(axis=1)  # for every axis of the image that of the file
    signs = turn[range(3), order].astype(int)
    moved = voxels.transpose(2, 1, 0).transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    start = whole[:3, 3].astype(int) - np.where(signs < 0, np.array(moved.shape) - 1, 0)
    low = np.clip(start, 0, shape[::-1])
    high = np.clip(start + moved.shape, low, shape[::-1])
    inside = moved[tuple(map(slice, low - start, high - start))]
    beyond = np.count_nonzero(moved) - np.count_nonzero(inside)
    if beyond:
        raise UserError(f"has {beyond} voxels beyond its image; draw it over that image")
    label = np.zeros(shape, voxels.dtype)
    label.transpose(2, 1, 0)[tuple(map(slice, low, high))] = inside
    return label


def _words(affine: np.ndarray, of_image: np.ndarray) -> str:
    def told(one: np.ndarray) -> str:
        spacing = ", ".join(f"{mm:.5g}" for mm in np.linalg.norm(one[:3, :3], axis=0))
        return f"spacing {spacing}, first voxel at {', '.join(f'{mm:.5g}' for mm in one[:3, 3])}"

    return f"{told(affine)}; of the image {told(of_image)}"
