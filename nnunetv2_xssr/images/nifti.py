"""Voxels of NIfTI files in the type that they are stored in, decompressed once into the place where they stay.

ITK, and with it nnU-Net's reader, silently reads NaN, infinity and the missing part of a cut-off file as 0, needs twice
the volume for it, and takes longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Types that float32 holds exactly and that take no more memory than it; what has another one becomes float32.
KEPT = ("uint8", "int8", "uint16", "int16", "float32")
_CAST = ("uint32", "int32", "float64")
_BLOCK = 2**17  # voxels that are read at a time: they stay in a processor's cache


def is_nifti(file: Path) -> bool:
    """Whether a file is NIfTI by its name."""
    return file.name.lower().endswith((".nii", ".nii.gz"))


def read_voxels(files: Sequence[Path]) -> np.ndarray | None:
    """The voxels of the channels of a case in the order of their files; shape (channels, z, y, x), ... as stored.

    Returns
    -------
    array or None
        None if the files differ in size or type, or are stored as nnU-Net's readers do not agree to read them.

    Raises
    ------
    EOFError
        If a file is cut off.
    OSError
        If it cannot be read, or its check sum does not fit.
    """
    import nibabel

    images: list[Any] = [nibabel.load(file) for file in files]
    stored = [one for image, file in zip(images, files, strict=True) if (one := _Stored.of(image, file))]
    if len(stored) < len(files) or len({(one.shape, one.kept) for one in stored}) > 1:
        return None
    voxels = np.empty((len(files), *stored[0].shape), stored[0].kept)
    for one, channel in zip(stored, voxels, strict=True):
        one.read_into(channel.reshape(-1))
    return voxels


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """How one file stores its voxels: ``slope * stored + inter``."""

    file: Path
    shape: tuple[int, ...]
    offset: int
    dtype: np.dtype
    slope: float
    inter: float

    @classmethod
    def of(cls, image: Any, file: Path) -> "_Stored | None":
        """None if nnU-Net's readers do not agree, or it is too rare a kind."""
        import nibabel

        if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is one
            return None
        with open_nifti(file) as stream:
            header: Any = image.header_class.from_fileobj(stream)  # nibabel forgets the scale when it loads an image
        slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
        voxels: Any = image.dataobj
        if inter == 0 and (slope in (0, 1) or np.isnan(slope)):
            slope = 1.0
        elif slope == 0 or not np.isfinite([slope, inter]).all() or voxels.dtype.name not in KEPT:
            return None
        if voxels.dtype.name not in KEPT + _CAST:
            return None
        shape = image.shape[::-1]
        return cls(file=file, shape=shape, offset=int(voxels.offset), dtype=voxels.dtype, slope=slope, inter=inter)

    @property
    def scaled(self) -> bool:
        return (self.slope, self.inter) != (1, 0)

    @property
    def kept(self) -> np.dtype:
        """The type of the array."""
        return np.dtype("float32" if self.scaled or self.dtype.name not in KEPT else self.dtype.name)

    def read_into(self, voxels: np.ndarray) -> None:
        """Read all voxels into a flat array of the type that is kept, block by block."""
        as_they_are = self.dtype == self.kept and not self.scaled
        buffer = np.empty(_BLOCK, self.dtype)
        with open_nifti(self.file) as stream:
            _read_exactly(stream, memoryview(bytearray(self.offset)))
            for start in range(0, len(voxels), _BLOCK):
                part = voxels[start : start + _BLOCK]
                block: Any = part if as_they_are else buffer[: len(part)]
                _read_exactly(stream, memoryview(block).cast("B"))
                if self.scaled:
                    part[...] = block.astype(np.float64) * self.slope + self.inter
                elif not as_they_are:
                    part[...] = block
            stream.read(1)  # at its end a compressed file tells its check sum


def open_nifti(file: Path) -> Any:
    """The decompressed bytes of a file."""
    from isal import igzip

    return igzip.open(file, "rb") if file.name.lower().endswith(".gz") else open(file, "rb", buffering=0)


def _read_exactly(stream: Any, target: memoryview) -> None:
    while target:
        count = stream.readinto(target)
        if not count:
            raise EOFError("the file is cut off")
        target = target[count:]
