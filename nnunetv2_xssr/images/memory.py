"""How much memory an image takes while it is read, and how much there is."""

import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_xssr.images.decoding import decoder_of, itk_header
from nnunetv2_xssr.images.nifti import is_nifti
from nnunetv2_xssr.images.pools import Case

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


def memory_of(case: Case, reader: "BaseReaderWriter") -> int:
    """Bytes that reading a case and making its views takes for a while, roughly, by the header of its first file."""
    n_bytes = 0
    with suppress(Exception):  # libraries raise whatever they like; reading will say what is wrong
        n_bytes = sum(file.stat().st_size for file in case.files)  # of formats whose headers are not known here
        n_bytes = len(case.files) * _stored_bytes(case.files[0], reader)
    # A NIfTI file is read into its place. Libraries need a copy or two, and what nnU-Net reads becomes float32.
    in_place = is_nifti(case.files[0]) and decoder_of(reader)
    return int(n_bytes * (1.3 if in_place else 5))


def _stored_bytes(file: Path, reader: "BaseReaderWriter") -> int:
    import nibabel
    import SimpleITK as sitk
    import tifffile
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    if is_nifti(file):
        image: Any = nibabel.load(file)
        return math.prod(image.shape) * image.get_data_dtype().itemsize
    if isinstance(reader, Tiff3DIO):
        with tifffile.TiffFile(file) as stack:
            return stack.series[0].nbytes
    header = itk_header(file)
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(header.GetPixelIDValue()))
    return math.prod(header.GetSize()) * header.GetNumberOfComponents() * int(bits[1] if bits else 32) // 8


def available_memory() -> float:
    """Bytes that programs can still take of this machine; infinity where the system does not tell."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    with suppress(AttributeError, OSError, ValueError):  # without /proc: as if half of it were taken
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    return math.inf
