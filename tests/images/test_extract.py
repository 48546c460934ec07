"""Views keep aspect and scale, and neither margins nor the field of view change them."""

import numpy as np
import pytest

from nnunetv2_xssr.images.extract import VIEW_SIZE, Look, extract_views, extract_volume
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.normalise import CT_WINDOWS, Statistics, normalise, view_channels


def brain(pad=0):
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(np.linspace(-1, 1, 16), *[np.linspace(-1, 1, 48)] * 2, indexing="ij")
    head = np.where(x**2 + y**2 + z**2 < 0.9, rng.normal(600, 60, z.shape), 0).astype(np.float32)
    return np.pad(head, ((0, 0), (pad, pad), (pad, pad)))[None]


@pytest.mark.parametrize("pad", [1, 12, 36])
def test_margins_change_nothing(pad):
    assert np.array_equal(extract_views(brain(pad), ("T1",), 8), extract_views(brain(), ("T1",), 8))


def test_background_is_left_out_of_the_scores_and_stays_0():
    view = extract_views(brain(), ("T1",), 8)[4, 0].astype(float)
    assert (view[:4, :4] == 0).all()
    inside = view[view != 0]
    assert abs(inside.mean()) < 0.1 and 0.3 < inside.std() < 1.1


def test_an_image_without_background_is_normalised_as_a_whole():
    rng = np.random.default_rng(1)
    image = rng.normal(50, 9, (1, 1, 128, 128)).astype(np.float32)
    view = extract_views(image, ("xray",), 1)
    assert np.allclose(view[0, 0], (image[0, 0] - image.mean()) / image.std(), atol=2e-3)


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (300, 200)])
def test_pictures_keep_their_aspect(size):
    image = np.random.default_rng(0).uniform(10, 20, (1, 1, *size)).astype(np.float32)
    view = extract_views(image, ("xray",), 1)[0, 0]
    rows, columns = (np.flatnonzero(view.any(axis=axis)) for axis in (1, 0))
    expected = [round(VIEW_SIZE * n / max(size)) for n in size]
    assert [len(rows), len(columns)] == expected
    assert rows[0] == (VIEW_SIZE - expected[0]) // 2  # in the middle


def test_one_scale_in_millimetres():
    """A disc of 40 mm has the same size in every view, whatever the spacing and the field of view."""
    widths = []
    for spacing, size in ((1.0, 80), (0.5, 120), (2.0, 60)):
        at = (np.arange(size) - size / 2 + 0.5) * spacing
        disc = (at[:, None] ** 2 + at**2 < 20**2).astype(np.float32) + 0.2
        geometry = Geometry((1.0, spacing, spacing), known=True)
        view = extract_views(disc[None, None], ("noNorm",), 1, geometry=geometry, look=Look(pixel=0.5))[0, 0]
        widths.append(int((view[VIEW_SIZE // 2] > 0.7).sum()))
    assert max(widths) - min(widths) <= 2 and abs(widths[0] - 80) <= 2


def test_what_is_larger_than_the_view_is_cut_at_its_edges():
    image = np.random.default_rng(0).uniform(1, 2, (1, 1, 200, 200)).astype(np.float32)
    view = extract_views(image, ("noNorm",), 1, look=Look(pixel=1.0))[0, 0]
    assert np.allclose(view, image[0, 0, 36:164, 36:164], atol=2e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_views_are_antialiased(axis):
    """Stripes finer than the view become grey; without antialiasing, which sees the middle two of four, they vanish."""
    stripes = (np.indices((512, 512))[axis] % 4 == 0).astype(np.float32)[None, None] + 1
    view = extract_views(stripes, ("noNorm",), 1)[0, 0].astype(float)
    assert np.abs(view[2:-2, 2:-2] - 1.25).max() < 0.02


def test_slices_come_from_the_foreground_of_the_first_channel():
    rng = np.random.default_rng(0)
    image = rng.uniform(1, 2, (2, 40, 24, 24)).astype(np.float32)
    image[0, 20:30, 4:20, 4:20] += 100
    image[1, 2:8, 4:20, 4:20] += 100
    views = extract_views(image, ("T1", "T2"), 4)
    assert (views[:, 0].reshape(4, -1).max(axis=1) > 1).all()


def test_a_volume_as_one_view_is_cut_to_the_foreground_of_the_first_channel():
    image = np.full((2, 16, 16, 16), 0.1, np.float32)
    image[0, 4:12, 4:12, 4:12], image[1, :2, :2, :2] = 5, 9
    view = extract_volume(image, ("noNorm", "noNorm"))[0]
    assert view[0].min() == view[0].max() == 5
    assert np.allclose(view[1], 0.1, atol=1e-3)


def test_ct_is_seen_in_windows():
    assert view_channels(("CT",)) == [f"CT {name}" for name in CT_WINDOWS]
    assert view_channels(("PET", "CT"))[:2] == ["PET", f"CT {next(iter(CT_WINDOWS))}"]
    tissues = {"fat": -100, "muscle": 55, "liver": 110, "lung": -800, "bone": 700}
    image = np.array(list(tissues.values()), np.float32)[None, None, None]
    lung, soft, bone = normalise(image, ("CT",), None)[:, 0, 0]
    values = dict(zip(tissues, soft, strict=True))
    assert values["lung"] == 0 and values["bone"] == 1
    assert values["fat"] + 0.1 < values["muscle"] < values["liver"] - 0.1  # one grey in a window of 2000 units
    assert 0.1 < lung[3] < 0.3 and bone[4] > 0.6


@pytest.mark.parametrize("window", [None, (-600.0, 1500.0), (-900.0, 400.0)])
def test_air_is_what_lies_beyond_a_ct(window):
    around = ((2, 2), (8, 8), (8, 8))
    image = np.full((10, 24, 24), -1000.0)
    image[2:8, 4:20, 4:20] = 50
    views = [
        extract_views(one[None].astype(np.float32), ("CT",), 4, look=Look(pixel=0.5, window=window))
        for one in (image, *(np.pad(image, around, constant_values=air) for air in (-1000, -1024)))
    ]
    assert (views[0].reshape(4, views[0].shape[1], -1).min(axis=-1) == 0).all()
    for view in views[1:]:
        assert np.array_equal(view, views[0])


def test_statistics_are_those_of_the_whole_array():
    rng = np.random.default_rng(0)
    image = (1e6 + rng.normal(0, 3, (2, 5, 6, 7))).astype(np.float32)
    found = Statistics.of(image, ("a", "b"))
    assert not found.masked
    assert np.allclose(found.mean, image.mean(axis=(1, 2, 3), dtype=np.float64))
    assert np.allclose(found.std, image.std(axis=(1, 2, 3), dtype=np.float64), rtol=1e-3)


@pytest.mark.parametrize("names", [("xray",), ("R", "G", "B"), ("xray", "rescale_to_0_1")])
@pytest.mark.parametrize("white", [2, 255, 0.3])
def test_black_and_white_images_do_not_look_empty(names, white):
    """What is not zero has one value: z-scores of it alone would be 0 everywhere."""
    image = np.zeros((len(names), 1, 60, 70), np.uint8 if white > 0.5 else np.float32)
    image[:, 0, :9, :9] = image[:, 0, 50:, 30:] = white
    assert not Statistics.of(image, names).masked
    view = extract_views(image, names, 1)[0, 0].astype(float)
    assert view.max() - view.min() > 1
    image[:, 0, :3, :3] = white / 2
    assert Statistics.of(image, names).masked


def test_a_volume_as_one_view_keeps_its_proportions():
    volume = np.zeros((1, 20, 40, 40), np.float32)
    volume[0, 4:16, 8:32, 8:32] = np.random.default_rng(0).uniform(90, 110, (12, 24, 24))
    view = extract_volume(volume, ("T1",), geometry=Geometry((1.0, 1.0, 1.0), known=True))[0, 0]
    sizes = [len(np.flatnonzero(view.any(axis=tuple({0, 1, 2} - {axis})))) for axis in range(3)]
    assert sizes == [32, 64, 64]
