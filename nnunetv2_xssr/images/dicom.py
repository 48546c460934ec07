"""DICOM in: each series in a tree of folders becomes one volume with its geometry, or is named with a reason."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import with_config
from tqdm import tqdm
from typing_extensions import TypedDict

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.dicom_geometry import Grid, NoVolume
from nnunetv2_xssr.images.dicom_headers import Header, is_dicom
from nnunetv2_xssr.images.dicom_series import Series, case_names, find_series, place
from nnunetv2_xssr.images.trees import files_below
from nnunetv2_xssr.records.files import atomic, is_there, sha256, sha256_json, write_json
from nnunetv2_xssr.records.locks import only_reads
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.schema import OURS, FileName, read_as

_KIND, _FORMAT = "dicom_conversion", 1
_RULES = 1  # of the conversion: volumes that other rules made are converted again
_MOST_LINES = 20  # of the log; the record holds all


@with_config(OURS)
class _Volume(TypedDict):
    series: str
    files: str


@with_config(OURS)
class _Conversion(TypedDict):
    volumes: dict[FileName, _Volume]
    set_aside: list[dict[str, str | list[str]]]  # written anew every time


@dataclass(frozen=True)
class DicomVolume:
    """A series as a volume.

    Attributes
    ----------
    case : str
    image : Path
        ``CASE_0000.nii.gz``
    group : str or None
        Stands for the patient.
    """

    case: str
    image: Path
    group: str | None


def holds_dicom(tree: Path) -> bool:
    """Whether a folder, or one below it, holds a DICOM file."""
    return any(is_dicom(file) for file in files_below(tree))


def convert_dicom(tree: Path, into: Path, *, patient_ids: bool = True) -> list[DicomVolume]:
    """Convert every DICOM series below a folder that is a volume to ``.nii.gz``, and say what becomes of all others.

    GDCM reads the images and applies RescaleSlope and RescaleIntercept. Origin, spacing and direction come from the
    position and orientation of every image. Whole numbers stay whole; others are stored as float32, as nnU-Net reads
    them. Nothing else of a header is kept.

    A case is named after the folder of its series (`case_names`). ``into/dicom.json`` records what became of every
    file; a series that was converted from the same files before is not converted again.

    Parameters
    ----------
    tree : Path
    into : Path
        Folder for the volumes and the record.
    patient_ids : bool
        Group the cases by the first 12 hexadecimal digits of the SHA-256 of their PatientID. That is a pseudonym and no
        anonymisation: no secret goes into it, so whoever has a list of PatientIDs can find which one it is.

    Returns
    -------
    list of DicomVolume
        Sorted by case.

    Raises
    ------
    UserError
        If no series is a volume, or the record cannot be read.
    """
    record_path = into / "dicom.json"
    record = _read_record(record_path)
    every, reasons = find_series(tree)
    names = case_names(every, tree, known={entry["series"]: case for case, entry in record["volumes"].items()})
    volumes, aside, n_before = [], [], 0
    for series, case in zip(tqdm(every, desc="converting DICOM", unit="series", disable=None), names, strict=True):
        image, entry = into / f"{case}_0000.nii.gz", {"series": series.identity, "files": _checksum(series)}
        try:
            grid = series.grid()
            if record["volumes"].get(case) == entry and image.is_file():
                n_before += 1
            elif only_reads():
                raise UserError(f"DICOM is converted first, {place(series.folder, tree)} too; leave --dry_run out")
            else:
                _write(series.headers, grid, image)
                record["volumes"][case] = entry
                write_json(record_path, record)  # an interrupted conversion goes on here
        except NoVolume as reason:
            aside.append((series, str(reason)))
        else:
            volumes.append(DicomVolume(case, image, _group(series.headers[0].patient) if patient_ids else None))
    record["set_aside"] = _set_aside(tree, aside, reasons)
    if not only_reads():
        write_json(record_path, record)
    if not volumes:
        first = record["set_aside"][0]
        raise UserError(
            f"none of {len(every)} DICOM series in {tree} is a volume ({first['where']}: {first['reason']}); "
            f"every reason stands in {record_path}"
        )
    n_folders = len({header.file.parent for series in every for header in series.headers})
    logger.info(
        f"{tree}: {len(every)} DICOM series in {n_folders} folders; {len(volumes)} are converted, {n_before} of them "
        f"before, and {len(aside)} set aside; every file that is set aside stands in {record_path}"
    )
    _tell(record["set_aside"])
    groups = {volume.group for volume in volumes}
    if len(volumes) > 1 and len(groups) == 1 and None not in groups:
        logger.info(f"{tree}: all {len(volumes)} volumes have one PatientID, which says nothing: it is left out")
        volumes = [replace(volume, group=None) for volume in volumes]
    return sorted(volumes, key=lambda volume: volume.case)


def _read_record(path: Path) -> dict:
    head = {"kind": _KIND, "format_version": _FORMAT}
    if not is_there(path):
        return {**head, "volumes": {}, "set_aside": []}
    advice = "delete it to convert anew"
    return {**head, **read_as(path, _Conversion, kind=_KIND, version=_FORMAT, advice=advice)}


def _checksum(series: Series) -> str:
    """Stands for the files of a series: others, or the same ones written anew, make another volume."""
    stats = [(header.instance or header.file.name, header.file.stat()) for header in series.headers]
    images = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return sha256_json([_RULES, sorted(images)])


def _group(patient: str) -> str | None:
    return sha256([patient.encode(errors="surrogateescape")])[:12] if patient else None


def _write(headers: list[Header], grid: Grid, path: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(_slices(headers, grid.order))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    with atomic(path) as temporary:
        sitk.WriteImage(image, str(temporary))


def _slices(headers: list[Header], order: list[int]) -> np.ndarray:
    frames = [frame for header in headers for frame in _frames(header)]
    return np.stack([frames[i] for i in order])


def _frames(header: Header) -> np.ndarray:
    """The frames of a file, (frames, rows, columns), as int16 where that holds them."""
    import SimpleITK as sitk

    try:
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(header.file), imageIO="GDCMImageIO"))
    except RuntimeError:
        raise NoVolume(f"GDCM cannot decode {header.file.name}") from None
    frames = image.reshape(header.size[::-1])
    if frames.dtype.kind == "f":
        return frames.astype(np.float32)
    small = frames.itemsize > 2 and frames.min() >= -(2**15) and frames.max() < 2**15
    return frames.astype(np.int16) if small else frames


def _set_aside(tree: Path, series: Sequence[tuple[Series, str]], others: Mapping[Path, str]) -> list[dict]:
    """What was not converted: per series, then per folder and reason."""
    rows = [(one.folder, f", series {one.number}" * bool(one.number), reason, one.files) for one, reason in series]
    grouped: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file, reason in others.items():
        grouped[file.parent.relative_to(tree), reason].append(file)
    rows += [(folder, "", reason, files) for (folder, reason), files in grouped.items()]
    return [
        {
            "where": place(folder, tree) + number,
            "reason": reason,
            "files": [str(file.relative_to(tree)) for file in files],
        }
        for folder, number, reason, files in rows
    ]


def _tell(set_aside: list[dict]) -> None:
    for one in set_aside[:_MOST_LINES]:
        n, names = len(one["files"]), first_few([Path(file).name for file in one["files"]])
        logger.info(f"set aside: {one['where']} ({n} file{'s' * (n > 1)}: {names}): {one['reason']}")
    if len(set_aside) > _MOST_LINES:
        logger.info(f"set aside: {len(set_aside) - _MOST_LINES} more")
