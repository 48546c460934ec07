"""Folders in folders: the files below one, and how a case is named after its path."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import sha256
from nnunetv2_xssr.records.workspace import VARIABLES, is_visible

_LONGEST = 150  # bytes of a case's name: file systems allow 255, and endings follow


def files_in(folder: Path) -> list[Path]:
    """The files that a person put into a folder, sorted; links to nowhere too, so that these can be named."""
    return sorted(path for path in folder.iterdir() if is_visible(path) and not path.is_dir())


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and all folders below it, one folder after the other, sorted.

    Links to folders are followed, each folder once. What begins with a dot is the system's and left out.
    """
    found: list[Path] = []
    seen: set[Path] = set()

    def visit(path: Path) -> None:
        if (real := path.resolve()) not in seen:
            seen.add(real)
            found.extend(files_in(path))
            for inner in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
                visit(inner)

    try:
        visit(folder)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be listed ({error.strerror}); get permission or move it away"
        ) from None
    return found


def check_images(folder: Path, images: Iterable[Path]) -> None:
    """Raise `UserError` if a file below a folder is no image of it: a label, or what nnU-Net or select has made."""
    homes = [Path(os.environ[variable]).resolve() for variable in VARIABLES if os.environ.get(variable)]
    inner = [home for home in homes if home.is_relative_to(folder.resolve())]
    for image in images:
        if labels := {"labelsTr", "labelsTs", "labelsVal"} & set(image.relative_to(folder).parts):
            raise UserError(
                f"{image} lies in a folder {min(labels)} of labels, and would be taken for an image; give a folder of "
                f"images alone"
            )
        if home := next((one for one in inner if image.resolve().is_relative_to(one)), None):
            raise UserError(
                f"{folder} holds nnU-Net's folder {home}, whose files, such as {image}, would be taken for further "
                f"images; give a folder without it"
            )


@cache
def readable_endings() -> tuple[str, ...]:
    """The endings of files that nnU-Net reads, by length."""
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    return tuple(sorted({ending for io in LIST_OF_IO_CLASSES for ending in io.supported_file_endings}, key=len))


def check_alone(files: Iterable[Path]) -> None:
    """Raise `UserError` if a file of one name lies beside another in the same folder, such as a.nii beside a.nii.gz.

    ITK, and with it nnU-Net, takes the voxels of a.nii where a.nii.gz is asked for, and nothing tells which is meant.
    """
    there: dict[Path, set[str]] = {}
    for file in files:
        if file.parent not in there:
            there[file.parent] = {path.name for path in file.parent.iterdir()}
        ending = next((one for one in reversed(readable_endings()) if file.name.lower().endswith(one)), file.suffix)
        stem = file.name[: len(file.name) - len(ending)]
        for twin in sorted({stem + one for one in readable_endings()} & there[file.parent] - {file.name}):
            raise UserError(f"{file} and {twin} beside it would be one image or label; move one of them away")


def case_name(parts: Sequence[str]) -> str:
    """The name of a case after the parts of its path: letters, digits, ``.``, ``-`` and ``_``, not too long for a file.

    Other characters become ``-``; letters of any script stay.
    """
    name = "_".join(re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", part)).strip(".") or "-" for part in parts)
    if len(name.encode()) <= _LONGEST:
        return name
    digest = sha256(["/".join(parts).encode()])[:8]
    return f"{name.encode()[: _LONGEST - 9].decode(errors='ignore')}-{digest}"
