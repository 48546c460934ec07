"""Images in the type that their files store, with the properties that nnU-Net's readers tell of them.

The readers make float32 of everything by way of up to four copies. What is not of an ordinary kind is left to them.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunetv2_xssr.images.nifti import KEPT, is_nifti, read_voxels

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

Decoded = tuple[np.ndarray, dict]


def decode(files: Sequence[Path], reader: "BaseReaderWriter") -> Decoded | None:
    """The image and the properties that ``reader.read_images(files)`` gives, but as stored and with less memory.

    Parameters
    ----------
    files : sequence of Path
        Of one case.
    reader : nnU-Net's reader

    Returns
    -------
    (array of shape (channels, z, y, x), dict) or None
        Integers of up to 16 bits are kept, everything else is float32. NaN and infinity are what they are, which the
        readers do not always tell. None if only the reader itself can tell.

    Raises
    ------
    Exception
        Whatever the library that decodes raises, of a file that is cut off or no image.
    """
    decoder = decoder_of(reader)
    return decoder(files) if decoder else None


def decoder_of(reader: "BaseReaderWriter") -> Callable[[Sequence[Path]], Decoded | None] | None:
    """How the files of a reader are decoded here; a class that is derived from nnU-Net's may do other things."""
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    decoders: dict[type, Callable[[Sequence[Path]], Decoded | None]] = {
        SimpleITKIO: _by_itk,
        NibabelIO: partial(_by_nibabel, reorient=False),
        NibabelIOWithReorient: partial(_by_nibabel, reorient=True),
        NaturalImage2DIO: _pictures,
    }
    return decoders.get(type(reader))


def shape_and_properties(files: Sequence[Path], reader: "BaseReaderWriter") -> tuple[tuple[int, ...], dict]:
    """The shape (z, y, x) and the properties of a case, by headers alone where these tell."""
    told = told_by_header(files, reader)
    if told is None:
        image, properties = reader.read_images([str(file) for file in files])
        told = image.shape[1:], properties
    return told


def told_by_header(files: Sequence[Path], reader: "BaseReaderWriter") -> tuple[tuple[int, ...], dict] | None:
    """The shape (z, y, x) and the properties of `decode` by the headers of files alone.

    Returns
    -------
    (tuple of int, dict) or None
        None if only the reader itself can tell.

    Raises
    ------
    Exception
        Whatever the library that reads headers raises.
    """
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    if type(reader) is SimpleITKIO:
        return _itk_grid([itk_header(file) for file in files])
    if type(reader) in (NibabelIO, NibabelIOWithReorient):
        return _nibabel_grid(files, reorient=type(reader) is NibabelIOWithReorient)
    return None


def itk_header(file: Path) -> Any:
    """What ITK tells of a file without decoding it."""
    import SimpleITK as sitk

    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    header.ReadImageInformation()
    return header


def _itk_grid(headers: Sequence[Any]) -> tuple[tuple[int, ...], dict] | None:
    grids = {(one.GetSize(), one.GetSpacing(), one.GetOrigin(), one.GetDirection()) for one in headers}
    if len(grids) > 1 or any(one.GetNumberOfComponents() > 1 or one.GetDimension() > 3 for one in headers):
        return None
    ((size, spacing, origin, direction),) = grids
    # As in SimpleITKIO.read_images.
    spacing_zyx = [max(spacing) * 999, *spacing[::-1]] if len(size) == 2 else spacing[::-1]
    return (*[1] * (3 - len(size)), *size[::-1]), {
        "sitk_stuff": {"spacing": spacing, "origin": origin, "direction": direction},
        "spacing": list(np.abs(spacing_zyx)),
    }


def _check_plain(header: Any) -> None:
    """Raise `ValueError` unless a file has one real number per voxel: nnU-Net's reader misreads others."""
    import SimpleITK as sitk

    if "complex" in sitk.GetPixelIDValueAsString(header.GetPixelID()):
        raise ValueError("it holds complex numbers; store their magnitude")
    if (n := header.GetNumberOfComponents()) > 1:
        raise ValueError(f"it holds {n} values per voxel, such as colours; store each channel in a file of its own")


def _by_itk(files: Sequence[Path]) -> Decoded | None:
    headers = [itk_header(file) for file in files]
    for header in headers:
        _check_plain(header)
    grid = _itk_grid(headers)
    if grid is None:
        return None
    image = read_voxels(files) if all(map(is_nifti, files)) else _joined(map(_itk_array, files), len(files))
    if image is None or image.shape[1:] != grid[0][4 - image.ndim :]:
        return None
    return image.reshape(len(image), *grid[0]), grid[1]


class _Pixels:
    """The memory of an ITK image by numpy's protocol: its array keeps the image, which ITK's own does not."""

    def __init__(self, image: Any):
        import SimpleITK as sitk

        self.image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def _itk_array(file: Path) -> np.ndarray:
    import SimpleITK as sitk

    return np.asarray(_Pixels(sitk.ReadImage(str(file))))[None]


def _nibabel_grid(files: Sequence[Path], *, reorient: bool) -> tuple[tuple[int, ...], dict] | None:
    import nibabel
    from nibabel.orientations import io_orientation

    images: list[Any] = [nibabel.load(file) for file in files]
    first = images[0]
    if any(one.ndim != 3 or not np.array_equal(one.affine, first.affine) for one in images):
        return None
    if any(one.header.get_zooms() != first.header.get_zooms() for one in images):
        return None
    stuff, grid = {"original_affine": first.affine}, first
    if reorient:
        orientation = io_orientation(first.affine)
        nothing = np.broadcast_to(np.uint8(0), first.shape)  # takes no memory, whatever its shape
        grid = type(first)(nothing, first.affine, first.header).as_reoriented(orientation)
        stuff["reoriented_affine"] = grid.affine
    return grid.shape[::-1], {"nibabel_stuff": stuff, "spacing": [float(mm) for mm in grid.header.get_zooms()[::-1]]}


def _by_nibabel(files: Sequence[Path], *, reorient: bool) -> Decoded | None:
    from nibabel.orientations import apply_orientation, io_orientation

    grid = _nibabel_grid(files, reorient=reorient)
    image = read_voxels(files) if grid else None
    if grid is None or image is None:
        return None
    if reorient:
        orientation = io_orientation(grid[1]["nibabel_stuff"]["original_affine"])
        image = apply_orientation(image.transpose(3, 2, 1, 0), orientation).transpose(3, 2, 1, 0)
    return image, grid[1]


def _pictures(files: Sequence[Path]) -> Decoded | None:
    image = _joined(map(_picture, files), len(files))
    return None if image is None or image.ndim != 4 else (image, {"spacing": (999, 1, 1)})


def _picture(file: Path) -> np.ndarray:
    from imagecodecs import png_decode
    from skimage import io

    if _ordinary_png(file):  # Pillow, by which skimage reads, holds a picture three times
        with open(file, "rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
            pixels = png_decode(content)
    else:
        pixels = io.imread(str(file))
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        return pixels.transpose(2, 0, 1)[:, None]
    return pixels[None, None]


def _ordinary_png(file: Path) -> bool:
    """Whether decoders agree about a file: grey or colours with 8 bits, no other transparency, one picture."""
    from PIL.PngImagePlugin import PngImageFile

    try:
        with PngImageFile(file) as header:
            plain = "transparency" not in header.info and not header.is_animated
            stored = [tile[3] for tile in header.tile]  # of 2, 4 or 16 bits another mode than what Pillow makes of it
            return plain and header.mode in ("L", "RGB", "RGBA") and stored == [header.mode]
    except SyntaxError:  # Pillow's word for a file of another kind
        return False


def _joined(parts: Iterable[np.ndarray], n: int) -> np.ndarray | None:
    """The channels of n files; None if they differ in size or type. One file's are not copied."""
    joined: np.ndarray | None = None
    for i, part in enumerate(parts):
        part = part if part.dtype.name in KEPT and part.dtype.isnative else part.astype(np.float32)
        if n == 1:
            return part
        if joined is None:
            joined = np.empty((n, *part.shape), part.dtype)
        if (part.shape, part.dtype) != (joined.shape[1:], joined.dtype):
            return None
        joined[i] = part
    return None if joined is None else joined.reshape(-1, *joined.shape[2:])
