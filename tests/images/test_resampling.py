"""What is resampled part by part is what would be resampled as a whole."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nnunetv2_xssr.images import resampling
from nnunetv2_xssr.images.resampling import resample_slice, resample_volume

RNG = np.random.default_rng(0)


def clipped(image):
    """Not linear, as the windows of CT are."""
    return np.clip(image.astype(np.float32) / 50 - 1, -1, 1)


@pytest.fixture(params=[1, 1000, 2**20])
def part(request, monkeypatch):
    monkeypatch.setattr(resampling, "_PART", request.param)


@pytest.mark.parametrize("size", [(20, 30), (211, 40), (20, 97), (211, 97), (300, 200), (1, 1)])
def test_slices(part, size):
    image = RNG.integers(0, 200, (2, 1, 211, 97)).astype(np.uint8)
    whole = torch.from_numpy(clipped(image)).transpose(0, 1)
    expected = F.interpolate(whole, size, mode="bilinear", antialias=True, align_corners=False)
    assert resample_slice(image, size, clipped).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("size", [(9, 20, 30), (40, 20, 30), (40, 60, 64), (23, 31, 37), (23, 8, 64)])
def test_volumes(part, size):
    image = RNG.integers(-99, 200, (2, 23, 31, 37)).astype(np.int16)
    larger = [max(have, want) for have, want in zip(image.shape[1:], size, strict=True)]
    expected = F.interpolate(torch.from_numpy(clipped(image))[None], larger, mode="trilinear", align_corners=False)
    expected = F.interpolate(expected, size, mode="area")
    assert resample_volume(image, size, clipped).numpy() == pytest.approx(expected.numpy(), abs=1e-5)
