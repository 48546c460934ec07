"""Thumbnails: what a data URI shows."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nnunetv2_xssr.report.thumbnails import data_uri


def shown(views, names, side=128, several=False):
    uri = data_uri(np.asarray(views, np.float16), names, side, several)
    head, text = uri.split(",", 1)
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(text))).convert("RGB"), int)


def ramp():
    return np.tile(np.linspace(-2, 3, 128), (128, 1))


def test_grey_case_is_windowed_and_upright():
    view = ramp()
    view[:10] = 1000  # a bright bar must not darken the rest beyond the window
    picture = shown(view[None, None], ["xray"])
    assert picture.shape == (128, 128, 3)
    assert (picture[:8] > 240).all()
    plain = shown(ramp()[None, None], ["xray"])
    assert plain[64, 2].max() < 15 and plain[64, -3].min() > 240
    assert (np.diff(plain[64, 4:-4, 0].reshape(-1, 8).mean(axis=1)) > 0).all()


def test_one_bright_pixel_does_not_darken_the_rest():
    view = ramp()
    view[0, 0] = 1e4
    assert shown(view[None, None], ["xray"])[64, -3].min() > 240


@pytest.mark.parametrize("names", [["R", "G", "B"], ["rgb_to_0_1"] * 3])
def test_colours_are_shown(names):
    red = np.stack([np.linspace(0, 1, 128)[None].repeat(128, 0), np.zeros((128, 128)), np.zeros((128, 128))])
    pixel = shown(red[None], names)[64, 120]
    assert pixel[0] > 200 and pixel[1] < 60 and pixel[2] < 60


def test_channels_that_are_no_colours_are_not_mixed():
    views = np.stack([ramp(), -ramp(), 0 * ramp()])[None]
    picture = shown(views, ["T1", "T2", "FLAIR"])
    assert (np.ptp(picture, axis=2) < 8).all() and picture[64, -3].min() > 240


def test_volume_is_shown_by_its_middle_or_by_four_slices_in_order():
    levels = np.arange(8.0)[:, None, None, None] * np.ones((8, 1, 128, 128))
    levels[:, :, 0, 0], levels[:, :, 0, 1] = -20, 20
    middle = shown(levels, ["MRI"])
    assert middle.shape == (128, 128, 3)
    four = shown(levels, ["MRI"], several=True)
    assert four.shape == (256, 256, 3)
    quarters = [four[y, x, 0] for y in (64, 192) for x in (64, 192)]
    assert quarters == sorted(quarters) and quarters[0] < quarters[-1]


def test_500_cases_and_their_source_stay_below_10_megabytes_even_as_noise():
    noise = np.random.default_rng(0).normal(size=(1, 1, 128, 128)).astype(np.float16)
    assert 800 * len(data_uri(noise, ["xray"], 96)) + 25 * len(data_uri(noise, ["xray"], 128)) < 9e6
