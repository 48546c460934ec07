"""Cropping and normalisation of several channels, voxel by voxel against nnU-Net and against definitions."""

import numpy as np
import pytest
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

from nnunetv2_xssr.images.normalise import Statistics, nonzero_box, normalise

NAMES = ("T1", "T2", "rescale_to_0_1", "noNorm")


def scan(*, share, seed=0):
    """Four channels that are not zero in different parts of a body, which takes about this share of its box."""
    rng = np.random.default_rng(seed)
    shape = (9, 14, 16)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = (np.abs(z) + np.abs(y) + np.abs(x) < 3 * share) | (rng.random(shape) < share)
    image = np.zeros((4, 12, 20, 18), np.float32)
    inside = image[:, 2:11, 3:17, 1:17]
    inside[0] = np.where(body & (z < 0.9), rng.normal(600, 60, shape), 0)
    inside[1] = np.where(body & (z > -0.9), rng.normal(-30, 5, shape), 0)
    inside[2] = np.where(body, rng.uniform(5, 9, shape), 0)
    inside[3] = np.where(body & (y > 0), 7, 0)
    return image


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 2, 1)])
def test_the_box_holds_what_is_not_zero_in_any_channel(order, axes):
    image = scan(share=0.2)[list(order)].transpose(axes)
    places = np.argwhere(image.any(axis=0))
    expected = tuple(slice(a, b + 1) for a, b in zip(places.min(axis=0), places.max(axis=0), strict=True))
    assert nonzero_box(image) == expected
    cropped, *_ = crop_to_nonzero(image, None)
    assert np.array_equal(cropped, image[(slice(None), *expected)])
    for channel in range(4):
        alone = np.zeros_like(image)
        alone[channel] = image[channel]
        assert nonzero_box(alone) == nonzero_box(image[channel][None])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_every_channel_is_normalised_as_nnunet_does_it(share, seed):
    """Inside of what is not zero in any channel where much is zero, and all of it else; each by its own statistics."""
    image = scan(share=share, seed=seed)
    image = image[(slice(None), *nonzero_box(image))]
    body = image.any(axis=0)
    masked = bool(body.mean() < 0.75)
    assert masked == (share < 1)
    statistics = Statistics.of(image, NAMES)
    assert statistics.masked == masked
    found = normalise(image, NAMES, statistics)
    for channel, name in enumerate(NAMES):
        scheme = get_normalization_scheme(name)
        theirs = scheme(use_mask_for_norm=masked, intensityproperties={})
        expected = theirs.run(image[channel].copy(), np.where(body, 0, -1))
        assert found[channel] == pytest.approx(expected, rel=1e-4, abs=1e-4), name
    part = normalise(image[:, 3:5], NAMES, statistics)  # some slices of it are what they are among all
    assert np.array_equal(part, found[:, 3:5])


def test_a_channel_that_begins_above_zero_is_rescaled_from_its_lowest_value():
    rng = np.random.default_rng(0)
    image = np.stack([rng.uniform(5, 9, (4, 8, 8)), rng.uniform(-70, 300, (4, 8, 8))]).astype(np.float32)
    names = ("rescale_to_0_1", "rescale_to_0_1")
    for channel in normalise(image, names, Statistics.of(image, names)):
        assert (channel.min(), channel.max()) == pytest.approx((0, 1), abs=1e-5)
