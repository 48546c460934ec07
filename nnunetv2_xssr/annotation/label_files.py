"""Label files on disk: what programs save beside nnU-Net's way is read too, and written as nnU-Net reads it."""

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_xssr.records.files import TEMPORARY, atomic


def read_label(file: Path, reader) -> tuple[np.ndarray, dict, bool]:
    """Read a label with nnU-Net's reader, and with what that reader does not know.

    A picture with a palette holds its indices; NIfTI files of two axes, or with further axes of length 1, are read by
    nnU-Net's NibabelIO, too.

    Parameters
    ----------
    file : Path
    reader
        See `nnunetv2_xssr.images.pools.ImagePool.reader`.

    Returns
    -------
    label : float array of shape (channels, z, y, x)
    properties : dict
        What the reader tells of the grid.
    plain : bool
        Whether nnU-Net reads the same from the file without help.
    """
    indices = _palette_indices(file)
    if indices is not None:
        return indices[None, None].astype(np.float32), {"spacing": (999, 1, 1)}, False
    if _is_nibabel(reader) and (image := _in_three_axes(file)):
        with tempfile.TemporaryDirectory() as scratch:
            image.to_filename(Path(scratch) / file.name)
            return *reader.read_seg(str(Path(scratch) / file.name)), False
    return *reader.read_seg(str(file)), True


def _palette_indices(file: Path) -> np.ndarray | None:
    if file.suffix.lower() not in (".png", ".bmp"):
        return None
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture) if picture.mode == "P" else None


def _is_nibabel(reader) -> bool:
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient

    return isinstance(reader, NibabelIO | NibabelIOWithReorient)


def _in_three_axes(file: Path):
    """A NIfTI file in three axes as nibabel has it, if it has two, or more of length 1; else None."""
    import nibabel

    image: Any = nibabel.load(file)
    if len(image.shape) == 3 or math.prod(image.shape) != math.prod(image.shape[:3]):
        return None
    return nibabel.Nifti1Image(np.asanyarray(image.dataobj).reshape((*image.shape, 1)[:3]), image.affine)


def write_label(path: Path, label: np.ndarray, grid: dict, *, reader) -> None:
    """Write a label of shape (z, y, x) as nnU-Net writes its own: whole numbers on this grid, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=TEMPORARY) as scratch:
        # nnU-Net's writers tell the format by the ending, which a name of `atomic` need not keep.
        written = Path(scratch) / path.name
        reader.write_seg(label, str(written), grid)
        copy_whole(written, path)


def copy_whole(old: Path, new: Path) -> None:
    """Copy a file, whole or not at all."""
    with atomic(new) as temporary:
        shutil.copyfile(old, temporary)
