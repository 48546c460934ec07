"""Where in volumes candidate slices may lie: a share of each file, a range per case, a rough region of interest."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_xssr.errors import UserError, first_few, reason_of
from nnunetv2_xssr.images.extract import Limits
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.grids import differences, image_grid
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.trees import check_alone
from nnunetv2_xssr.records.files import sha256_files, sha256_json

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


@dataclass(frozen=True, kw_only=True)
class Regions:
    """What limits the candidate slices of the volumes of a pool.

    Attributes
    ----------
    share : (float, float)
        Of the slices of every file, counted along its third axis: those whose middle lies between.
    masks : dict
        The mask of every case; none without a region of interest.
    hashes : dict
        SHA-256 of the masks.
    """

    share: tuple[float, float] = (0.0, 1.0)
    masks: dict[str, Path] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, pool: ImagePool, *, slice_range: str | None, roi: Path | None) -> "Regions":
        """The regions of a pool as they were asked for.

        Parameters
        ----------
        pool : ImagePool
        slice_range : str, optional
            Such as ``20%-80%``.
        roi : Path, optional
            Folder with a mask per case.

        Raises
        ------
        UserError
            If the range is none, or a case has no mask.
        """
        masks = {} if roi is None else _masks(roi, pool)
        hashes = {case: sha256_files([mask]) for case, mask in masks.items()}
        return cls(share=parse_range(slice_range), masks=masks, hashes=hashes)

    def digest(self, pool: ImagePool) -> str | None:
        """What the candidates of a pool depend on besides its images; None for nothing."""
        ranges = {case.identifier: case.slices for case in pool.cases if case.slices is not None}
        if not ranges and self == Regions():
            return None
        return sha256_json([self.share, ranges, self.hashes])

    def limits(self, case: Case, shape: tuple[int, ...], properties: dict, reader: "BaseReaderWriter") -> Limits | None:
        """The slices of a case that may be candidates; None where nothing limits them.

        Parameters
        ----------
        case : Case
        shape : tuple of int
            Of its image as read, (z, y, x).
        properties : dict
            What the reader tells of it.
        reader : BaseReaderWriter
            For the mask.

        Raises
        ------
        UserError
            If the case's own range goes beyond its slices, or the mask cannot be read or lies on another grid.
        """
        mask = self.masks.get(case.identifier)
        if mask is None and case.slices is None and self.share == (0.0, 1.0):
            return None
        geometry = Geometry.of(properties)
        size = shape[geometry.third[0]]
        middles = (np.arange(size) + 0.5) / size
        within = (middles >= self.share[0]) & (middles <= self.share[1])
        first, last = case.slices or (0, None)
        if max(first, last or 0) >= size:
            raise UserError(
                f"case {case.identifier} has the slices 0 to {size - 1}, but --cases has slice_from {first} and "
                f"slice_to {'the end' if last is None else last}; fix them"
            )
        within[:first] = False
        within[size if last is None else last + 1 :] = False
        if mask is None:
            return Limits(within)
        inside = _read_mask(mask, shape, properties, reader)
        return Limits(within, np.asarray(geometry.along_third(inside).any(axis=(1, 2))))


def parse_range(text: str | None) -> tuple[float, float]:
    """Two shares from a text such as ``20%-80%``; all of a file for None."""
    if text is None:
        return 0.0, 1.0
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*-\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    low, high = (float(number) / 100 for number in found.groups()) if found else (1.0, 0.0)
    if not 0 <= low < high <= 1:
        raise UserError(f"--slice_range must be two percentages that rise, such as 20%-80%; got {text[:50]!r}")
    return low, high


def _masks(folder: Path, pool: ImagePool) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"--roi must be a folder of masks, one per case; got {folder}")
    endings = dict.fromkeys([pool.file_ending, *pool.reader().supported_file_endings])
    found = {}
    for case in pool.identifiers:
        files = (folder / f"{case}{ending}" for ending in endings)
        if file := next((file for file in files if file.is_file()), None):
            found[case] = file
    check_alone(found.values())
    missing = [case for case in pool.identifiers if case not in found]
    if missing:
        raise UserError(
            f"--roi {folder} has no mask of {len(missing)} of {len(pool)} cases ({first_few(missing)}); add them, as "
            f"{missing[0]}{pool.file_ending}, or --exclude these cases"
        )
    return found


def _read_mask(file: Path, shape: tuple[int, ...], of_image: dict, reader: "BaseReaderWriter") -> np.ndarray:
    """Where a mask is not zero, bool array of shape (z, y, x)."""
    try:
        mask, of_mask = reader.read_seg(str(file))
        mask = np.asarray(mask)
        shifted = list(differences(image_grid(of_image), of_mask).values()) if mask.shape[1:] == shape else []
    except Exception as error:  # readers raise whatever their library raises
        raise UserError(f"the mask {file} cannot be read ({reason_of(error)}); replace it") from None
    if mask.shape != (1, *shape):
        ours, theirs = (" x ".join(map(str, reversed(size))) for size in (shape, mask.shape[1:]))
        raise UserError(f"the mask {file} has the size {theirs}, its image {ours}; make it on its image's grid")
    if shifted:
        raise UserError(f"the mask {file} {'; '.join(shifted)}; make it on its image's grid")
    return mask[0] != 0
