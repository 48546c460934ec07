"""Reading of one case as nnU-Net's reader reads it, with the checks that the reader leaves out."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunetv2_xssr.errors import UserError, reason_of
from nnunetv2_xssr.images.decoding import decode, itk_header, shape_and_properties
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.nifti import is_nifti
from nnunetv2_xssr.images.pools import Case, ImagePool

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


_ASIDE = "set it aside with --skip_broken"


class BrokenImage(UserError):
    """One case cannot be used; the others may be."""

    @classmethod
    def advising(cls, reason: str, *advice: str) -> "BrokenImage":
        """With what to do about this one case: the advice, or to set it aside."""
        return cls(f"{reason}; {', '.join(advice)}{',' * (len(advice) > 1)} or {_ASIDE}")


def none_usable(name: str, sentences: Sequence[str]) -> UserError:
    """The error where no case of a pool can be used, with the sentence of the first one: none is left to set aside."""
    first = sentences[0].removesuffix(f" or {_ASIDE}").removesuffix(",")
    return UserError(f"no case of {name} can be used; the first: {first}")


def read_case(case: Case, reader: "BaseReaderWriter") -> np.ndarray:
    """The image of `read_image` alone."""
    return read_image(case, reader)[0]


def read_image(case: Case, reader: "BaseReaderWriter") -> tuple[np.ndarray, dict]:
    """Read one case as nnU-Net's reader does: array of shape (channels, z, y, x), with z = 1 in 2D.

    Its type is that of the files, of integers of up to 16 bits, else float32. With it come the reader's properties,
    such as ``spacing``.

    Raises
    ------
    BrokenImage
        If a file is cut off, empty, no image, does not lie in three directions, or holds NaN, infinity or one value
        only, or one in every channel.
    """

    def broken(reason: str) -> BrokenImage:
        files = ", ".join(str(file) for file in case.files)
        return BrokenImage.advising(f"case {case.identifier}: {files} {reason}", "replace it")

    try:
        image, properties, finite = _read(case, reader)
    except Exception as error:  # readers raise whatever their library raises
        unlike = "" if str(error).strip() else _unlike(case.files, reader)
        raise broken(f"cannot be read ({unlike or reason_of(error)})") from None
    if image.ndim != 4 or 0 in image.shape:
        raise broken(f"must be an image of 2 or 3 dimensions; got shape {image.shape}")
    if not finite:
        raise broken("holds NaN or infinity")
    if all(is_constant(channel[None]) for channel in image):
        values = " or ".join(f"{value:g}" for value in dict.fromkeys(image[:, 0, 0, 0].tolist()))
        raise broken(f"is constant (every value is {values})")
    return image, properties


def _unlike(files: Sequence[Path], reader: "BaseReaderWriter") -> str | None:
    """Which channel has another grid than the first: nnU-Net's readers raise errors without a word about that."""

    def grid(file: Path) -> str:
        shape, properties = shape_and_properties([file], reader)
        flat = shape[0] == 1  # whose spacing across is nnU-Net's invention
        told = ([f"{n:g}" for n in numbers[::-1]][: 2 if flat else 3] for numbers in (shape, properties["spacing"]))
        size, spacing = map(" x ".join, told)
        return f"{size} voxels of {spacing} mm"

    with suppress(Exception):  # readers raise whatever their library raises
        first, *others = map(grid, files)
        for file, other in zip(files[1:], others, strict=True):
            if other != first:
                return f"its channels differ: {first} in {files[0].name}, {other} in {file.name}"
    return None


def spacing_file(case: Case) -> Path | None:
    """The file that tells the spacing of a stack in .tif, ``CASE.json`` beside it as nnU-Net has it, if it is there."""
    file, name = case.files[0], case.files[0].stem
    if file.suffix.lower() not in (".tif", ".tiff"):
        return None
    # In a plain folder a name may end like that of a channel and be none.
    whole = case.identifier.endswith("_0000") and not name.endswith("_0000_0000")
    beside = file.with_name(f"{name if whole else name.removesuffix('_0000')}.json")
    return beside if beside.is_file() else None


def files_read(case: Case) -> list[Path]:
    """All files that decide what is read of a case."""
    beside = spacing_file(case)
    return [*case.files, *([beside] if beside else [])]


def _read_as_nnunet(case: Case, reader: "BaseReaderWriter", files: Sequence[Path]) -> tuple[np.ndarray, dict]:
    """What nnU-Net's reader tells; beside names of stacks without ``_0000`` it would not find the spacing."""
    import tifffile
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    beside = spacing_file(case)
    if not beside or type(reader) is not Tiff3DIO:
        return reader.read_images([str(file) for file in files])
    told = json.loads(beside.read_text(encoding="utf-8"))
    if not isinstance(told, dict) or "spacing" not in told:
        raise ValueError(f"{beside.name} beside it tells no spacing")
    return np.stack([tifffile.imread(file) for file in files]), {"spacing": told["spacing"]}


def _read(case: Case, reader: "BaseReaderWriter") -> tuple[np.ndarray, dict, bool]:
    """The image, its properties, and whether all of its values are finite."""
    if decoded := decode(case.files, reader):
        image, properties = decoded
        stored_as_read = True
    else:
        image, properties = _read_as_nnunet(case, reader, case.files)
        image = np.asarray(image, dtype=np.float32)
        stored_as_read = all(stored_finite(file) for file in case.files)
    Geometry.of(properties)  # which says what of it cannot be
    # The lowest and the highest value are NaN where one is, and make no array of the size of the image.
    finite = image.dtype.kind != "f" or bool(np.isfinite([image.min(initial=0), image.max(initial=0)]).all())
    return image, properties, finite and stored_as_read


def is_constant(image: np.ndarray) -> bool:
    """Whether all values of an array of shape (channels, z, y, x) are one."""
    # Mostly the first row or slice tells that they are not.
    return all(part.min() == image.flat[0] == part.max() for part in (image[:, 0, 0], image[:, 0], image))


def first_readable(pool: ImagePool) -> tuple[Case, np.ndarray]:
    """The first case of a pool that can be read, and its image.

    Raises
    ------
    UserError
        With the reason of the first case, if none can be read.
    """
    sentences = []
    for case in pool.cases:
        try:
            return case, read_case(case, pool.reader())
        except BrokenImage as error:
            sentences.append(str(error))
    raise none_usable(pool.name, sentences)


def stored_finite(file: Path) -> bool:
    """Whether a NIfTI file holds no NaN or infinity; true of other files. nibabel raises an error if it is cut off."""
    # ITK, and with it nnU-Net's reader, silently reads NaN, infinity and the missing part of a cut-off NIfTI file as 0.
    if not is_nifti(file):
        return True
    import nibabel

    stored: Any = nibabel.load(file)
    return bool(np.isfinite(np.asanyarray(stored.dataobj)).all())


def is_volume(case: Case, reader: "BaseReaderWriter") -> bool:
    """Whether a case has several slices: see `third_axis`."""
    return third_axis(case, reader)[0] > 1


def third_axis(case: Case, reader: "BaseReaderWriter") -> tuple[int, float]:
    """Slices along the third axis of a case's file, and their distance in millimetres; by its header, if that tells.

    A file that cannot be read has none; reading it will say why.
    """
    import nibabel
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    file = case.files[0]
    try:
        if isinstance(reader, NaturalImage2DIO):
            return 1, 1.0
        if isinstance(reader, SimpleITKIO):  # ITK, unlike nibabel, heeds the unit of a NIfTI file, such as micrometres
            information = itk_header(file)
            size, spacing = information.GetSize(), information.GetSpacing()
        elif is_nifti(file):
            header: Any = nibabel.load(file)
            size, spacing = header.shape, header.header.get_zooms()
        else:
            image, properties = _read_as_nnunet(case, reader, [file])
            size, spacing = image.shape[:0:-1], properties["spacing"][::-1]
    except Exception:  # readers raise whatever their library raises
        return 0, 0.0
    return (int(size[2]), abs(float(spacing[2]))) if len(size) > 2 else (1, 1.0)
