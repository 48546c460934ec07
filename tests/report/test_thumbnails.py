"""Thumbnails: what a data URI shows."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.pictures import draw_case
from nnunetv2_xssr.report.thumbnails import thumbnail, view_thumbnail


def decoded(thumb):
    head, text = thumb.uri.split(",", 1)
    assert head == "data:image/webp;base64"
    picture = Image.open(BytesIO(base64.b64decode(text)))
    assert picture.size == (thumb.width, thumb.height)
    return np.asarray(picture.convert("RGB"), int)


def shown(view, names, side=128):
    return decoded(view_thumbnail(np.asarray(view, np.float16), names, side=side))


def ramp():
    return np.tile(np.linspace(-2, 3, 128), (128, 1))


def test_a_picture_keeps_its_pixels_and_its_shape():
    pixels = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (40, 1))
    assert np.abs(decoded(thumbnail(pixels))[..., 0] - pixels).max() < 8


def test_black_and_white_view_is_not_all_black():
    view = np.zeros((1, 128, 128))
    view[0, :40, :40] = view[0, 80:, 80:] = 1
    picture = shown(view, ["noNorm"])
    assert picture[20, 20].min() > 250 and picture[20, 100].max() < 5


def test_grey_view_is_windowed_and_upright():
    view = ramp()
    view[:10] = 1000  # a bright bar must not darken the rest beyond the window
    picture = shown(view[None], ["xray"])
    assert picture.shape == (128, 128, 3)
    assert (picture[:8] > 240).all()
    plain = shown(ramp()[None], ["xray"])
    assert plain[64, 2].max() < 15 and plain[64, -3].min() > 240
    assert (np.diff(plain[64, 4:-4, 0].reshape(-1, 8).mean(axis=1)) > 0).all()


def test_one_bright_pixel_does_not_darken_the_rest():
    view = ramp()
    view[0, 0] = 1e4
    assert shown(view[None], ["xray"])[64, -3].min() > 240


@pytest.mark.parametrize("names", [["R", "G", "B"], ["rgb_to_0_1"] * 3])
def test_colours_are_shown(names):
    red = np.stack([np.linspace(0.01, 1, 128)[None].repeat(128, 0), np.zeros((128, 128)), np.zeros((128, 128))])
    pixel = shown(red, names)[64, 120]
    assert pixel[0] > 200 and pixel[1] < 60 and pixel[2] < 60


def test_channels_that_are_no_colours_are_not_mixed():
    picture = shown(np.stack([ramp(), -ramp(), 0 * ramp()]), ["T1", "T2", "FLAIR"])
    assert (np.ptp(picture, axis=2) < 8).all() and picture[64, -3].min() > 240


def test_margins_of_a_view_are_cut_off_and_its_background_is_black():
    view = np.zeros((1, 128, 128))
    view[0, 40:88] = ramp()[:48]
    view[0, 60:64, 100:] = 0  # background within, though z-scores below the mean are less
    picture = shown(view, ["T1"], side=96)
    assert picture.shape == (36, 96, 3)
    assert picture[16, 90].max() < 20 and picture[5, 90].min() > 200


def test_500_cases_and_their_source_stay_below_10_megabytes_even_as_noise():
    noise = np.random.default_rng(0).normal(size=(1, 128, 128)).astype(np.float16)
    assert 800 * len(view_thumbnail(noise, ["xray"]).uri) < 9e6


def test_50_picked_volumes_stay_below_3_megabytes():
    """Three channels of a body with more noise than a scanner leaves, at the size of a clinical matrix."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 256, 256)), indexing="ij")
    body = np.where(x**2 + y**2 + z**2 < 1, 300 + 200 * np.sin(9 * x) * np.cos(7 * y + z), 0)
    image = (body + np.random.default_rng(0).normal(0, 20, (3, *body.shape))).astype(np.float32)
    pictures = draw_case(image, ["T1", "T2", "FLAIR"], geometry=Geometry((5.0, 1.0, 1.0), known=True))
    assert len(pictures) == 6
    assert 50 * sum(len(thumbnail(one.pixels).uri) for one in pictures) < 3e6
