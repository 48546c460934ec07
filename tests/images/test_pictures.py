"""Pictures for people: true aspect, the radiological convention whatever the storage, a window that fits."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from test_geometry import STORED, body, stored

from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.pictures import LINE, SIDE, SMALL_SIDE, constant_channels, draw_case

SHAPE = (12, 20, 24)
THICK = {0: (3.0, 1.0, 1.0), 1: (1.0, 3.0, 1.0), 2: (1.0, 1.0, 3.0)}  # spacing by which slices lie along each axis


def corner_blob():
    """A bright blob to the right, the front and the feet in a dark box, canonical."""
    array = np.zeros((30, 30, 30), np.float32)
    array[::29, ::29, ::29] = 1  # so that the box is all of it
    array[5:13, 5:13, 5:13] = 100
    return array


def letter_at(pixels, anchor):
    """The letter at the middle of an edge, read by comparing pixels; None if there is none."""
    height, width = pixels.shape
    at = {
        "mt": (width / 2, 2),
        "mb": (width / 2, height - 3),
        "lm": (3, height / 2),
        "rm": (width - 4, height / 2),
    }[anchor]
    for letter in "RLAPSI":
        drawn = Image.new("L", (width, height))
        ImageDraw.Draw(drawn).text(at, letter, "white", ImageFont.load_default(15), anchor)
        where = np.asarray(drawn) > 200
        rows, columns = (np.flatnonzero(where.any(axis=axis)) for axis in (1, 0))
        box = slice(rows[0] - 1, rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)
        if np.array_equal(pixels[box] > 200, where[box]):
            return letter
    return None


def orange(pixels):
    """Rows and columns that a line fills."""
    is_line = (pixels == np.array(LINE)).all(axis=-1)
    return np.flatnonzero(is_line.all(axis=1)), np.flatnonzero(is_line.all(axis=0))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("axes, flips", STORED)
def test_every_storage_gives_the_same_pictures(axes, flips, axis):
    array = body()
    expected = draw_case(array[None], ["T1"], geometry=Geometry(THICK[axis], known=True))
    image, properties = stored(array, THICK[axis], axes, flips)
    found = draw_case(image, ["T1"], geometry=Geometry.of(properties))
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("axes, flips", STORED[::5])
@pytest.mark.parametrize(
    "axis, edges, half",
    [
        (0, {"lm": "R", "rm": "L", "mt": "A", "mb": "P"}, "top left"),
        (1, {"lm": "R", "rm": "L", "mt": "S", "mb": "I"}, "bottom left"),
        (2, {"lm": "A", "rm": "P", "mt": "S", "mb": "I"}, "bottom left"),
    ],
)
def test_letters_and_anatomy_lie_at_the_right_edges(axes, flips, axis, edges, half):
    image, properties = stored(corner_blob(), THICK[axis], axes, flips)
    geometry = Geometry.of(properties)
    pixels = draw_case(image, ["T1"], geometry=geometry)[0].pixels
    assert {anchor: letter_at(pixels, anchor) for anchor in edges} == edges
    rows, columns = (np.nonzero(pixels[20:-20, 20:-20] > 200)[i].mean() + 20 for i in (0, 1))
    assert columns < SIDE / 2 and (rows < SIDE / 2) == half.startswith("top")


def test_a_file_that_tells_no_directions_has_no_letters():
    pictures = draw_case(corner_blob()[None], ["T1"], geometry=Geometry(THICK[0]))
    assert all(letter_at(pictures[0].pixels, anchor) is None for anchor in ("lm", "rm", "mt", "mb"))
    assert [one.shows for one in pictures] == ["slice 9", "slice 6", "slice 11", "across the slices"]


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (5.0, 1.0, 0.5), (1.0, 4.0, 1.0), (0.5, 0.5, 2.0)])
def test_aspect_is_that_of_the_body(spacing):
    array = np.random.default_rng(0).uniform(1, 2, SHAPE).astype(np.float32)
    pictures = draw_case(array[None], ["T1"], geometry=Geometry(spacing, known=True))
    mm = np.array(SHAPE) * spacing
    axis = int(np.argmax(spacing))
    across = 1 if axis == 2 else 2
    for picture, side, cut in [(pictures[0], SIDE, axis), (pictures[1], SMALL_SIDE, axis), (pictures[-1], 160, across)]:
        expected = np.delete(mm, cut)
        assert max(picture.pixels.shape) == side
        np.testing.assert_allclose(picture.pixels.shape[:2], side * expected / expected.max(), atol=0.51)


@pytest.mark.parametrize("white", [1, 255, -3.5])
def test_black_and_white_images_are_not_all_black(white):
    image = np.zeros((1, 1, 60, 70), np.float32 if white < 0 else np.uint8)
    image[:, :, 20:40, 30:] = white
    (picture,) = draw_case(image, ["xray"], geometry=Geometry((999.0, 1.0, 1.0)))
    assert {picture.pixels.min(), picture.pixels.max()} == {0, 255}


def test_flat_images_keep_their_aspect_and_are_shown_whole():
    image = np.zeros((1, 1, 155, 256), np.float32)
    image[..., 40:60, 100:140] = 5
    (picture,) = draw_case(image, ["xray"], geometry=Geometry((999.0, 1.0, 1.0)))
    assert picture.pixels.shape == (155, 256) and picture.shows == ""
    assert (picture.pixels[:35] == 0).all()


def test_margins_of_zeros_are_cut_off_but_not_along_the_slices():
    image = np.zeros((1, 12, 60, 60), np.float32)
    image[:, 4:8, 20:40, 10:50] = np.random.default_rng(0).uniform(1, 2, (4, 20, 40))
    pictures = draw_case(image, ["T1"], geometry=Geometry(THICK[0], known=True))
    assert pictures[0].pixels.shape == (128, 256)
    assert pictures[-1].pixels.shape[:2] == (160, round(160 * 20 / 36))


def test_ct_is_shown_in_the_window_for_soft_tissue():
    levels = [-1000, -160, -60, 40, 140, 240, 1500, 3000]
    image = np.repeat(np.array(levels, np.float32), 32)[None, None, None].repeat(256, axis=2)
    (picture,) = draw_case(image, ["CT"], geometry=Geometry((999.0, 1.0, 1.0)))
    assert picture.pixels[128, 16::32].tolist() == [0, 0, 64, 128, 191, 255, 255, 255]


def test_other_channels_are_windowed_by_what_is_not_zero():
    image = np.zeros((1, 1, 256, 256), np.float32)
    image[..., 100:156] = np.linspace(1000, 1100, 256)[:, None]
    image[..., 128, 128] = 1e6  # one hot pixel
    (picture,) = draw_case(image, ["T1"], geometry=Geometry((999.0, 1.0, 1.0)))
    assert picture.pixels[3, 120] < 5 and picture.pixels[252, 120] > 250
    assert abs(int(picture.pixels[128, 110]) - 128) < 5 and (picture.pixels[:, :90] == 0).all()


@pytest.mark.parametrize("names", [["R", "G", "B"], ["rgb_to_0_1"] * 3])
def test_colours_keep_their_hue(names):
    image = np.zeros((3, 1, 64, 64), np.float32)
    image[0], image[1], image[2, ..., 32:] = 200, 100, 50
    (picture,) = draw_case(image, names, geometry=Geometry((999.0, 1.0, 1.0)))
    assert picture.pixels.shape == (256, 256, 3) and constant_channels(image, names) == []
    np.testing.assert_allclose(picture.pixels[128, 200], np.array([4, 2, 1]) / 4 * 255, atol=2)


def test_all_channels_are_shown_but_a_constant_one_is_named():
    image = np.random.default_rng(0).uniform(1, 2, (5, 6, 20, 24)).astype(np.float32)
    image[1] = 7
    names = ["T1", "T2", "FLAIR", "T1c", "DWI"]
    assert constant_channels(image, names) == [names.index("T2")]
    pictures = draw_case(image, names, geometry=Geometry(THICK[0], known=True))
    assert [one.shows for one in pictures[:4]] == ["T1, axial slice 3", "FLAIR", "T1c", "DWI"]
    large = Image.fromarray(draw_case(image[[2]], ["FLAIR"], geometry=Geometry(THICK[0]))[0].pixels)
    small = np.asarray(large.resize(pictures[1].pixels.shape[::-1], Image.Resampling.BICUBIC), int)
    assert np.abs(small - pictures[1].pixels).mean() < 8
    image[0] = 0
    assert draw_case(image, names, geometry=Geometry(THICK[0]))[0].shows.startswith("FLAIR")


@pytest.mark.parametrize("code", ["feet first", "head first"])
@pytest.mark.parametrize("number", [0, 3, 11])
def test_a_slice_comes_with_its_neighbours_and_its_place(code, number):
    """Each slice is as bright as its number in the file."""
    array = np.arange(1.0, 13)[:, None, None] * np.ones(SHAPE)
    reverse = code == "head first"
    image, properties = stored(array[::-1] if reverse else array, THICK[0], (0, 1, 2), (0, 0, int(reverse)))
    assert image[0, 0, 0, 0] == 1
    first, *others, strip = draw_case(image, ["T1"], geometry=Geometry.of(properties), slice_=number)
    low, high = np.percentile(np.arange(1, 13), (0.5, 99.5))

    def brightness(of):
        return int(np.round(255 * np.clip((of + 1 - low) / (high - low), 0, 1)))

    neighbours = [one for one in (number - 1, number + 1) if 0 <= one < 12]
    assert first.shows == f"axial slice {number}" and abs(int(first.pixels[40, 40]) - brightness(number)) <= 1
    way = {True: "towards the head", False: "towards the feet"}
    shown = {one.shows: int(one.pixels[40, 40]) for one in others}
    expected = {f"axial slice {n}, {way[(n > number) != reverse]}": brightness(n) for n in neighbours}
    assert shown == pytest.approx(expected, abs=1)
    rows, columns = orange(strip.pixels)
    place = (number + 0.5) / 12 * len(strip.pixels)
    assert len(columns) == 0 and abs(rows.mean() - (place if reverse else len(strip.pixels) - place)) <= 1.5


@pytest.mark.parametrize("axis", [1, 2])
def test_the_place_of_coronal_and_sagittal_slices_is_a_column(axis):
    image = np.random.default_rng(0).uniform(1, 2, (1, 20, 20, 20)).astype(np.float32)
    strip = draw_case(image, ["T1"], geometry=Geometry(THICK[axis], known=True))[-1]
    rows, columns = orange(strip.pixels)
    assert len(rows) == 0 and len(columns) >= 3  # three slices of the volume
    assert strip.shows == {1: "sagittal reformat", 2: "coronal reformat"}[axis]
