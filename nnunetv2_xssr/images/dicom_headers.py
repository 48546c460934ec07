"""What the header of one DICOM file says, as far as a volume needs it; read by GDCM through SimpleITK."""

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Objects of DICOM that are no picture of a patient, by the beginning of their SOP class.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_PICTURES = {
    "1.2.840.10008.1.3.10": "a DICOMDIR, an index of other files",
    _STORAGE + "9.": "a waveform",
    _STORAGE + "11.": "a presentation state",
    _STORAGE + "66": "a registration, segmentation or surface",
    _STORAGE + "67": "a table of real-world values",
    _STORAGE + "88.": "a structured report",
    _STORAGE + "104.": "a document",
    _STORAGE + "481.": "a plan, structure set or dose of radiotherapy",
}
_LONGEST = 1024  # bytes of a value: DICOM allows 16 per number, and 64 of an identifier
_AHEAD = 2**16  # bytes of a header; elements with high numbers, such as private ones, may follow
# By these two images of one place are told apart.
TELLING_APART = {
    "0018|0081": "echo time",
    "0020|0100": "temporal position",
    "0018|1060": "trigger time",
    "0018|9087": "b-value",
    "0020|0012": "acquisition number",
    "0008|0032": "acquisition time",
    "0008|0008": "image type",
}


class NoImage(Exception):
    """A DICOM file that holds no image; the message is the reason."""


class Unreadable(NoImage):
    """A DICOM file whose image, if it holds one, GDCM does not read."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """One DICOM file with an image of one or more frames.

    Attributes
    ----------
    file : Path
    patient : str
        PatientID as it stands there. It goes into a hash, and nowhere else.
    series : tuple of str
        Patient, study and series: what belongs together.
    instance : str
        SOP Instance UID.
    number : str
        Of the series.
    image_type : tuple of str
    size : tuple of int
        Columns, rows, frames.
    colours : int
        Values per pixel.
    inverted : bool
        Whether high values are meant to be dark, so that GDCM turns all values round.
    rescale : (str, str)
        Slope and intercept as they stand there, empty where there is none; of frames those of the whole file.
    has_table : bool
        Whether a table of values takes their place, which GDCM leaves out.
    positions : (frames, 3) array or None
        Centre of the first pixel, in mm, in the patient.
    orientations : (frames, 6) array or None
        Unit vectors along a row and along a column.
    pixel_spacings : (frames, 2) array or None
        In mm, between rows and between columns, as DICOM has it.
    rescaled_alike : bool
        Whether one slope and one intercept hold for all frames.
    telling_apart : dict
        Values of the elements `TELLING_APART`.
    """

    file: Path
    patient: str
    series: tuple[str, str, str]
    instance: str
    number: str
    image_type: tuple[str, ...]
    size: tuple[int, int, int]
    colours: int
    inverted: bool
    rescale: tuple[str, str]
    has_table: bool
    positions: np.ndarray | None
    orientations: np.ndarray | None
    pixel_spacings: np.ndarray | None
    rescaled_alike: bool
    telling_apart: dict[str, str]


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM by its first bytes: with the mark ``DICM``, or, as older ones, without a preamble.

    A file that cannot be opened is not.
    """
    try:
        with open(file, "rb") as opened:
            start = opened.read(132)
    except OSError:
        return False
    # Without a preamble the file begins with an element of group 0002 or 0008 whose number is low: tag, type, length.
    tag = start[:2] in (b"\x02\x00", b"\x08\x00") and start[2:3] <= b"\x18" and start[3:4] == b"\x00"
    typed = start[4:6].isalpha() and start[4:6].isupper()
    short = start[:1] == b"\x08" and int.from_bytes(start[4:8], "little") in range(2, 256, 2)
    return start[128:] == b"DICM" or (len(start) == 132 and tag and (typed or short))


def read_header(file: Path) -> Header:
    """Read the header of a DICOM file.

    Raises
    ------
    NoImage
        If the object is no picture; `Unreadable` if the file is cut off or damaged.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # which does not say what is wrong
        if reason := _no_picture(_uid(file, 0x0002, 0x0002)):
            raise NoImage(reason) from None
        raise Unreadable("cut off, damaged or without an image") from None

    def value(tag: str) -> str:
        return reader.GetMetaData(tag).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    if reason := _no_picture(value("0008|0016")):
        raise NoImage(reason)
    columns, rows, frames = (*reader.GetSize(), 1)[:3]

    def table(group: int, element: int, n: int, *, shared: bool) -> np.ndarray | None:
        text = value(f"{group:04x}|{element:04x}") if frames == 1 else ""
        values = [text.encode(errors="replace")] if text else _values(file, group, element)
        if shared and len(values) == 1:  # for all frames, of which a damaged header may tell of billions
            found = _table(values, n, frames=1)
            return None if found is None else np.broadcast_to(found, (frames, n))
        return _table(values, n, frames=frames)

    return Header(
        file=file,
        patient=value("0010|0020"),
        series=(value("0010|0020"), value("0020|000d"), value("0020|000e")),
        instance=value("0008|0018"),
        number=value("0020|0011"),
        image_type=tuple(part.strip() for part in value("0008|0008").split("\\")),
        size=(columns, rows, frames),
        colours=reader.GetNumberOfComponents(),
        inverted=value("0028|0004") == "MONOCHROME1",
        rescale=(value("0028|1053"), value("0028|1052")),
        has_table=_has_sequence(file, 0x0028, 0x3000),
        positions=table(0x0020, 0x0032, 3, shared=False),
        orientations=table(0x0020, 0x0037, 6, shared=True),
        pixel_spacings=table(0x0028, 0x0030, 2, shared=True),
        rescaled_alike=frames == 1 or all(len(set(_values(file, 0x0028, e))) <= 1 for e in (0x1052, 0x1053)),
        telling_apart={name: value(tag) for tag, name in TELLING_APART.items()},
    )


def series_uid(file: Path) -> str:
    """The Series Instance UID of a file that GDCM does not read; empty if it is not found."""
    return _uid(file, 0x0020, 0x000E)


def _no_picture(sop_class: str) -> str:
    kinds = [kind for start, kind in _NO_PICTURES.items() if sop_class.startswith(start)]
    return kinds[0] if kinds else ""


def _table(values: list[bytes], n: int, *, frames: int) -> np.ndarray | None:
    """One row of n numbers per frame; None if that is not what stands there."""
    try:
        rows = [[float(part) for part in value.split(b"\\")] for value in values]
    except ValueError:
        return None
    fits = len(rows) == frames and all(len(row) == n for row in rows) and np.isfinite(rows).all()
    return np.array(rows) if fits else None


def _uid(file: Path, group: int, element: int) -> str:
    found = _values(file, group, element)
    return found[0].decode("ascii", "replace").strip(" \0") if found else ""


def _has_sequence(file: Path, group: int, element: int) -> bool:
    """Whether a sequence stands ahead of the pixels, in a file that tells the types of its elements."""
    with open(file, "rb") as opened:
        return group.to_bytes(2, "little") + element.to_bytes(2, "little") + b"SQ" in opened.read(_AHEAD)


def _values(file: Path, group: int, element: int) -> list[bytes]:
    """The values of a short element wherever it stands in a little-endian file, in sequences too.

    SimpleITK shows no element of a sequence, where files of several frames keep the place of each, and none of a file
    that is cut off. What is found here only ever sets aside or confirms: a stray match makes a wrong number of values.
    """
    tag = re.escape(group.to_bytes(2, "little") + element.to_bytes(2, "little"))
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = []
        for match in re.finditer(tag + rb"(?:(?:DS|UI)(..)|(..)\0\0)", data, re.DOTALL):
            length = min(int.from_bytes(match[1] or match[2], "little"), _LONGEST)
            found.append(bytes(data[match.end() : match.end() + length]))
    return found
