"""Pictures in .png row by row into one plane per channel: libraries hold large ones three times over.

Of https://www.w3.org/TR/png-3 only what takes no conversion is read: 8 bits per sample, grey, RGB or RGBA.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numba import njit

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 6: 4}  # by colour type: grey, RGB, RGBA
_MEANT = (b"tRNS", b"acTL")  # chunks that make other pixels or pictures of the samples: transparency, animation
_PIECE = 2**18  # bytes


def read_png(file: Path) -> np.ndarray | None:
    """The samples of a picture, uint8 of shape (channels, height, width); None if it is of another kind.

    Raises
    ------
    EOFError
        If the file is cut off.
    OSError, isal_zlib.error
        If a check sum does not fit.
    """
    with open(file, "rb") as stream:
        if stream.read(8) != _SIGNATURE:
            return None
        length, kind = _next_chunk(stream)
        if (length, kind) != (13, b"IHDR"):
            return None
        width, height, *rest = struct.unpack(">IIBBBBB", b"".join(_content(stream, length, kind)))
        bits, colour, *methods = rest
        if bits != 8 or colour not in _CHANNELS or any(methods) or 0 in (width, height):  # the last one is interlaced
            return None
        while kind != b"IDAT":
            length, kind = _next_chunk(stream)
            if kind in _MEANT:
                return None
            if kind != b"IDAT":
                stream.seek(length + 4, 1)
        planes = np.empty((_CHANNELS[colour], height, width), np.uint8)
        _fill(planes, _inflated(_image_data(stream, length)))
        return planes


def _fill(planes: np.ndarray, pieces: Iterator[bytes]) -> None:
    """Undo the filters of all rows, each of which follows the number of its filter."""
    n_channels, height, width = planes.shape
    row_size = 1 + n_channels * width
    before, waiting, done = np.zeros(row_size, np.uint8), bytearray(), 0
    for piece in pieces:
        waiting += piece
        n_rows = min(len(waiting) // row_size, height - done)
        if n_rows:
            rows = np.frombuffer(waiting[: n_rows * row_size], np.uint8).reshape(n_rows, row_size)
            if rows[:, 0].max() > 4:
                raise OSError("a row has an unknown filter")
            _unfilter(rows, before, planes[:, done : done + n_rows])
            before, done = rows[-1], done + n_rows
            del waiting[: n_rows * row_size]
    if done < height:
        raise EOFError("the picture is cut off")


def _next_chunk(stream: BinaryIO) -> tuple[int, bytes]:
    return struct.unpack(">I4s", _exactly(stream, 8))


def _content(stream: BinaryIO, length: int, kind: bytes) -> Iterator[bytes]:
    """What a chunk holds, in pieces; its check sum is looked at in the end."""
    found = zlib.crc32(kind)
    while length:
        piece = _exactly(stream, min(length, _PIECE))
        found, length = zlib.crc32(piece, found), length - len(piece)
        yield piece
    if struct.unpack(">I", _exactly(stream, 4)) != (found,):
        raise OSError("a check sum does not fit")


def _exactly(stream: BinaryIO, n: int) -> bytes:
    content = stream.read(n)
    if len(content) < n:
        raise EOFError("the picture is cut off")
    return content


def _image_data(stream: BinaryIO, length: int) -> Iterator[bytes]:
    kind = b"IDAT"
    while kind == b"IDAT":
        yield from _content(stream, length, kind)
        length, kind = _next_chunk(stream)


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    from isal import isal_zlib

    inflating = isal_zlib.decompressobj()
    for piece in pieces:
        while piece and not inflating.eof:
            yield inflating.decompress(piece, 4 * _PIECE)  # a piece of a blank picture is a thousand times as large
            piece = inflating.unconsumed_tail
        if inflating.eof:
            return
    raise EOFError("the picture is cut off")


@njit(cache=True, nogil=True)
def _unfilter(rows, before, planes):
    """Undo the filters of some rows in place, and put their samples into planes of shape (channels, rows, width)."""
    step = planes.shape[0]
    n = rows.shape[1]
    for r in range(rows.shape[0]):
        row, kind = rows[r], rows[r, 0]
        if kind == 1:
            for i in range(1 + step, n):
                row[i] += row[i - step]
        elif kind == 2:
            for i in range(1, n):
                row[i] += before[i]
        elif kind == 3:
            for i in range(1, n):
                left = np.int32(row[i - step]) if i > step else np.int32(0)
                row[i] += np.uint8((left + np.int32(before[i])) >> 1)
        elif kind == 4:
            for i in range(1, 1 + step):
                row[i] += before[i]
            for i in range(1 + step, n):
                a, b, c = np.int32(row[i - step]), np.int32(before[i]), np.int32(before[i - step])
                to_a, to_b, to_c = abs(b - c), abs(a - c), abs(a + b - 2 * c)
                row[i] += np.uint8(a if to_a <= to_b and to_a <= to_c else b if to_b <= to_c else c)
        for channel in range(step):
            for i in range(planes.shape[2]):
                planes[channel, r, i] = row[1 + i * step + channel]
        before = row
