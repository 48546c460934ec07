"""What CVAT exports as "Segmentation mask": one coloured picture per image, and a text that names the colours."""

import re
from pathlib import Path

import numpy as np

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.records.workspace import visible_files

NAMES, MASKS = "labelmap.txt", "SegmentationClass"
_FOLDERS = (MASKS, "SegmentationObject", "ImageSets")  # of an export
_LINE = re.compile(r"(.+):(\d{1,3}),(\d{1,3}),(\d{1,3}):[^:]*:[^:]*")  # label:color_rgb:parts:actions
_BACKGROUND = "background"


def returned_files(folder: Path) -> list[Path]:
    """The files of a folder in which labels come back: of an export of CVAT its masks."""
    files, names = visible_files(folder), folder / NAMES
    return [file for file in files if file != names] + visible_files(folder / MASKS) if names in files else files


def is_exported(folder: Path) -> bool:
    """Whether a folder is part of an export of CVAT; the folder of labels is then the one above it."""
    return folder.name in _FOLDERS and (folder.parent / NAMES).is_file()


def is_coloured(file: Path) -> bool:
    """Whether a file is a mask in such an export."""
    return file.parent.name == MASKS and (file.parent.parent / NAMES).is_file()


def read_coloured(file: Path) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """The labels of a mask by their colours.

    Returns
    -------
    voxels : int array of shape (1, height, width)
        0 for background, and one value per label.
    segments : list of (int, str)
        Value and name of each.

    Raises
    ------
    UserError
        If the text is none of CVAT's, or a colour has no name.
    """
    from PIL import Image

    with Image.open(file) as picture:
        colours = np.asarray(picture.convert("RGB")).astype(np.int32) @ (1 << 16, 1 << 8, 1)
    named = _named_colours(file.parent.parent / NAMES)
    unknown = sorted(set(np.unique(colours).tolist()) - set(named))
    if unknown:
        shown = [f"{one >> 16},{one >> 8 & 255},{one & 255}" for one in unknown]
        raise UserError(f"has the colour {first_few(shown)}, which {NAMES} does not name; export it again")
    voxels, segments = np.zeros((1, *colours.shape), np.int32), []
    for value, (colour, name) in enumerate(named.items(), start=1):
        if name != _BACKGROUND:
            voxels[0, colours == colour] = value
            segments.append((value, name))
    return voxels, segments


def _named_colours(path: Path) -> dict[int, str]:
    """Colour, as one number, to its name."""
    found: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        colour = match and int(match[2]) << 16 | int(match[3]) << 8 | int(match[4])
        if match is None or colour is None or colour in found:
            raise UserError(f"has a {NAMES} with the line {line[:50]!r}; it must be label:r,g,b::, each colour once")
        found[colour] = match[1]
    return found
