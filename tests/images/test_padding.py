"""What is stored beyond the scanner's circle does not decide how a CT is seen."""

import numpy as np
import pytest
import SimpleITK as sitk
from making import write_dataset_json

from nnunetv2_xssr.images.extract import FILE, UNKNOWN, Look, extract_views
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.padding import air_for_padding, crop_to_body
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.reading import BrokenImage
from nnunetv2_xssr.images.regions import Regions
from nnunetv2_xssr.images.scale import common_look
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.pipeline.read import Seeing, open_and_see

PADDINGS = {"air": -1000, "general": -3024, "other": -2000, "zero": 0}


def scan(padding, margin=0, dtype=np.int16):
    """A body in the circle of a scanner, (20, 64, 64) and a margin around it; both hold padding beyond the circle."""
    z, y, x = np.meshgrid(np.linspace(-1, 1, 20), *[(np.arange(64) - 31.5) / 31.5] * 2, indexing="ij")
    body = x**2 + 1.5 * y**2 < 0.5 - 0.3 * z**2
    voxels = np.where(body, 40 + 60 * np.sin(9 * x) * np.cos(7 * y), -1000)
    voxels[(x**2 + y**2 > 1.02)] = padding
    return np.pad(voxels, [(0, 0), (margin, margin), (margin, margin)], constant_values=padding).astype(dtype)


def pool_of(empty, scans, orientation="LPS", names=("CT",)):
    folder = empty.raw / "Dataset009_Padded"
    for name, voxels in scans.items():
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing((4.0, 4.0, 10.0))
        path = folder / "imagesTr" / f"{name}_0000.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path))
    write_dataset_json(
        folder, ".nii.gz", channel_names={str(i): name for i, name in enumerate(names)}, numTraining=0, dataset={}
    )
    return open_pool("9")


@pytest.mark.parametrize("orientation", ["LPS", "ASR"])
@pytest.mark.parametrize("dim", [2, 3])
def test_one_ct_with_three_paddings_is_one_view(empty, orientation, dim):
    pool = pool_of(empty, {name: scan(padding) for name, padding in PADDINGS.items()}, orientation)
    views = prepare_views(pool, dim=dim, look=common_look([pool], dim=dim))
    assert len({fact.slices for fact in views.facts.values()}) == 1
    for row in views.rows[1:]:
        np.testing.assert_allclose(row.astype(float), views.rows[0].astype(float), atol=1e-3)


@pytest.mark.parametrize("orientation", ["RAS", "SLP", "PIR"])
@pytest.mark.parametrize("fine", [1, 3], ids=["small", "looked at coarsely"])
def test_one_ct_in_two_orientations_is_one_view(empty, orientation, fine):
    """With the noise of a scanner: some tissue is exactly 0 HU, as padding is, and edges lie anywhere."""
    voxels = scan(0).repeat(fine, axis=1).repeat(fine, axis=2)
    padding = voxels == 0
    voxels = (voxels + np.random.default_rng(0).normal(0, 25, voxels.shape)).astype(np.int16)
    voxels[padding] = 0
    views = []
    for stored in ("LPS", orientation):
        pool = pool_of(empty, {stored: voxels}, stored)
        views.append(prepare_views(pool.only([stored]), look=Look(pixel=2.5)).rows[0])
    assert np.array_equal(*views)


def test_a_folder_of_ct_has_the_scale_of_its_dataset(empty):
    """It has no names of channels of its own: the target's tell that these are CT, of which the body fills a view."""
    target = pool_of(empty, {name: scan(PADDINGS["general"], margin=40) for name in "abc"})
    pixels = []
    for source in ([], [open_pool(str(empty.raw / target.name / "imagesTr"))]):
        seeing = Seeing(encoder="untrained")
        _, seen = open_and_see(target, source, seeing=seeing, unit="case", device="cpu", regions=Regions())
        pixels.append({one.settings["pixel"] for one in seen})
    assert pixels[0] == pixels[1]


def test_more_names_than_channels_are_told(empty):
    target = pool_of(empty, {name: scan(PADDINGS["general"]) for name in "abc"}, names=("T1", "CT"))
    with pytest.raises(BrokenImage, match="has 1 channels but the pool has 2"):
        prepare_views(target, look=common_look([target], dim=2))


@pytest.mark.parametrize("unit", ["case", "slice"])
def test_margins_of_padding_are_no_part_of_a_ct(empty, unit):
    scans = {f"{name}_{margin}": scan(PADDINGS[name], margin) for name in ("general", "zero") for margin in (0, 20)}
    pool = pool_of(empty, scans)
    look = common_look([pool], dim=2)
    views = prepare_views(pool, look=look if unit == "case" else Look(pixel=look.pixel, axis=FILE))
    for row in views.rows[1:]:
        np.testing.assert_allclose(row.astype(float), views.rows[0].astype(float), atol=1e-3)


@pytest.mark.parametrize(
    ("voxels", "names"),
    [
        (scan(-1000), ("CT",)),
        (scan(-1024), ("CT",)),
        (scan(-3024), ("MRI",)),
        (np.maximum(scan(0) + 1024, 0).astype(np.uint16), ("CT",)),  # no Hounsfield units: 0 may be air itself
        (scan(0).clip(-400), ("CT",)),
        (scan(-1000) + np.pad([[[1000]]], [(0, 19), (0, 63), (0, 63)]), ("CT",)),  # one voxel of water in a corner
    ],
)
def test_what_is_not_padded_stays(voxels, names):
    before = voxels.copy()
    assert np.array_equal(air_for_padding(voxels[None], names)[0], before)


def test_what_is_dark_inside_of_a_body_is_air():
    """As beside metal; a hole of zeros is water."""
    voxels = scan(-3024)
    voxels[10, 30, 30:34], voxels[10, 34, 30:34] = -2500, 0
    found = air_for_padding(voxels[None].copy(), ("CT",))[0]
    assert (found[10, 30, 30:34] == -1000).all() and (found[10, 34, 30:34] == 0).all() and found.min() == -1000


def test_arrays_that_cannot_be_written_are_copied():
    voxels = scan(-3024)
    voxels.flags.writeable = False
    assert air_for_padding(voxels[None], ("CT",)).min() == -1000 and voxels.min() == -3024


def test_a_missing_channel_of_padding():
    image = np.stack([np.full((4, 5, 6), -3024, np.int16), scan(0)[:4, 20:25, 20:26]])
    assert (air_for_padding(image, ("CT", "MRI"))[0] == -1000).all()


def patient(*, shift=(0, 0), table=False, margin=0, legs=False):
    """An ellipse with some noise, off the centre of the image, on a table, or two of them; (1, 20, 128, 128)."""
    n = 128 + 2 * margin
    z, y, x = np.meshgrid(
        np.arange(20), np.arange(n) - n / 2 - shift[0], np.arange(n) - n / 2 - shift[1], indexing="ij"
    )
    bodies = [(x - at) ** 2 / 18**2 + y**2 / 22**2 < 1 for at in ((-25, 25) if legs else (0,))]
    voxels = np.where(np.any(bodies, axis=0), 40 + 60 * np.sin(x / 5 + z / 9) * np.cos(y / 7), -1000)
    if table:
        voxels = np.where((np.abs(y - 24) <= 1) & (np.abs(x) < 40), -50, voxels)
    return (voxels + np.random.default_rng(0).normal(0, 8, voxels.shape)).astype(np.int16)[None]


@pytest.mark.parametrize("pixel", [None, 3.0])
@pytest.mark.parametrize(
    "stored", [{"shift": (-20, 15)}, {"table": True}, {"table": True, "shift": (-18, 5)}, {"margin": 40}]
)
def test_table_margin_and_place_of_a_body_do_not_matter(stored, pixel):
    geometry = Geometry((5.0, 3.0, 3.0), known=True)

    def seen(image):
        image = crop_to_body(image, ("CT",), geometry=geometry)
        return extract_views(image, ("CT",), 8, geometry=geometry, look=Look(pixel=pixel))

    views = [seen(patient(**how))[:, 1].astype(float).ravel() for how in ({}, stored)]
    assert np.corrcoef(views)[0, 1] > 0.97


def test_both_legs_are_kept():
    cropped = crop_to_body(patient(legs=True), ("CT",), geometry=UNKNOWN)[0, 10, 64]
    kept = np.flatnonzero(cropped)
    assert kept[0] <= 64 - 25 - 16 and kept[-1] >= 64 + 25 + 16


@pytest.mark.parametrize(
    ("image", "names"), [(patient(), ("MRI",)), (patient()[:, :1], ("CT",)), (patient() * 0 - 990, ("CT",))]
)
def test_what_shows_no_body_is_not_cropped(image, names):
    assert np.array_equal(crop_to_body(image.copy(), names, geometry=UNKNOWN), image)
