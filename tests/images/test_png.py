"""Pictures in .png: every filter, as other decoders read them, and nothing of what is damaged."""

import io
import struct
import zlib

import numpy as np
import pytest
from isal import isal_zlib
from PIL import Image

from nnunetv2_xssr.images import png
from nnunetv2_xssr.images.png import read_png

RNG = np.random.default_rng(0)
COLOURS = {1: 0, 3: 2, 4: 6}


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(size, channels, *, bits=8, interlaced=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, COLOURS[channels], 0, 0, interlaced))


def encoded(filters, *, size=(9, 40), channels=3, parts=1, more=b""):
    """A file of random bytes whose rows have these filters in turn."""
    rows = RNG.integers(0, 256, (size[1], size[0] * channels), dtype=np.uint8)
    raw = b"".join(bytes([filters[i % len(filters)]]) + row.tobytes() for i, row in enumerate(rows))
    data = zlib.compress(raw)
    step = -(-len(data) // parts)
    pieces = b"".join(chunk(b"IDAT", data[i : i + step]) for i in range(0, len(data), step))
    return png._SIGNATURE + header(size, channels) + more + pieces + chunk(b"IEND", b"")


def read(path, content):
    path.write_bytes(content)
    return read_png(path)


def by_pillow(content):
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


@pytest.mark.parametrize("filters", [(0,), (1,), (2,), (3,), (4,), (4, 3, 2, 1, 0), (2, 4, 4, 3)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(9, 40), (1, 5), (300, 700), (7, 1)])
def test_every_filter(tmp_path, filters, channels, size):
    content = encoded(filters, channels=channels, size=size)
    assert np.array_equal(read(tmp_path / "a.png", content), by_pillow(content))


@pytest.mark.parametrize("parts", [1, 2, 50])
def test_data_in_several_chunks_and_chunks_that_change_no_sample(tmp_path, parts):
    content = encoded((4, 1), parts=parts, more=chunk(b"gAMA", bytes([0, 1, 0, 0])) + chunk(b"tEXt", b"a\0b"))
    assert np.array_equal(read(tmp_path / "a.png", content), by_pillow(content))


def test_a_blank_picture_is_read_in_pieces(tmp_path):
    Image.fromarray(np.zeros((4000, 3000, 3), np.uint8)).save(tmp_path / "a.png")
    assert not read_png(tmp_path / "a.png").any()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        encoded((0,), more=chunk(b"tRNS", bytes(6))),
        encoded((0,), more=chunk(b"acTL", bytes(8))),
        png._SIGNATURE + header((9, 9), 3, bits=16),
        png._SIGNATURE + header((9, 9), 1, bits=4),
        png._SIGNATURE + header((9, 9), 3, interlaced=1),
    ],
)
def test_other_kinds_are_left_to_others(tmp_path, content):
    assert read(tmp_path / "a.png", content) is None


WHOLE = encoded((4, 3, 2, 1, 0), parts=3)


@pytest.mark.parametrize("length", [20, 40, 60, len(WHOLE) // 2, len(WHOLE) - 40, len(WHOLE) - 17])
def test_cut_off(tmp_path, length):
    with pytest.raises(EOFError):
        read(tmp_path / "a.png", WHOLE[:length])


@pytest.mark.parametrize("place", [20, 60, len(WHOLE) // 2, len(WHOLE) - 20])
def test_another_byte(tmp_path, place):
    with pytest.raises((OSError, EOFError, isal_zlib.error)):
        read(tmp_path / "a.png", WHOLE[:place] + bytes([WHOLE[place] ^ 4]) + WHOLE[place + 1 :])


def test_rows_that_are_missing_and_unknown_filters(tmp_path):
    with pytest.raises(EOFError):
        read(tmp_path / "a.png", WHOLE.replace(header((9, 40), 3), header((9, 41), 3)))
    with pytest.raises(OSError, match="filter"):
        read(tmp_path / "a.png", encoded((5,)))


def test_check_sums_are_looked_at(tmp_path):
    """Of every chunk, and of all the data, which may end too early although every chunk is whole."""
    data = zlib.compress(bytes([0, *range(9)]) * 40)
    of_chunk = bytearray(png._SIGNATURE + header((9, 40), 1) + chunk(b"IDAT", data[:20]) + chunk(b"IDAT", data[20:]))
    assert read(tmp_path / "a.png", of_chunk + chunk(b"IEND", b"")) is not None
    of_chunk[of_chunk.index(data[:20]) + 21] ^= 1
    with pytest.raises(OSError, match="check sum"):
        read(tmp_path / "a.png", of_chunk + chunk(b"IEND", b""))
    with pytest.raises(EOFError):
        whole = png._SIGNATURE + header((9, 40), 1) + chunk(b"IDAT", data[:-4])
        read(tmp_path / "a.png", whole + chunk(b"IEND", b""))
