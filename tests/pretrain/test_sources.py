"""How images of other places are made into what the target's network learns from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from making import TARGET, fails, succeeds, volume, write_dataset_json, write_volume
from plans import pool_of, write_plans

from nnunetv2_xssr.commands import hssl_pretrain
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.pretrain import engine
from nnunetv2_xssr.pretrain.hssl import statistics
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs, preprocess_pool
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.hssl.pretrain import flat_pools
from nnunetv2_xssr.pretrain.hssl.sources import Source, far_spacings
from nnunetv2_xssr.pretrain.inputs import share_of_one_value

OTHER = "Dataset005_Other"
LIVER = {"mean": 100.0, "std": 10.0, "percentile_00_5": 60.0, "percentile_99_5": 140.0}  # of a target's foreground


@pytest.fixture
def ct_target(workspace, monkeypatch):
    """A target of CT, whose plans clip to a liver."""
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", 2)
    write_dataset_json(workspace.raw / TARGET, channel_names={"0": "CT"})
    write_plans(workspace.preprocessed / TARGET)
    file = workspace.preprocessed / TARGET / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["2d"]["normalization_schemes"] = ["CTNormalization"]
    plans["foreground_intensity_properties_per_channel"] = {"0": LIVER}
    file.write_text(json.dumps(plans))
    return workspace


def write_other(workspace, names, arrays, spacing=(1, 1, 1)):
    """Volumes of several channels, each an array of shape (channels, z, y, x)."""
    for i, channels in enumerate(arrays):
        for c, array in enumerate(channels):
            file = workspace.images(OTHER) / f"o_{i}_{c:04d}.nii.gz"
            write_volume(file, array.astype(np.float32))
            image = sitk.ReadImage(str(file))
            image.SetSpacing([float(one) for one in spacing])
            sitk.WriteImage(image, str(file))
    write_dataset_json(workspace.raw / OTHER, ".nii.gz", dict(enumerate(names)))


def ct(seed, lung=-800.0, size=(4, 20, 20)):
    """Air with noise around a body with lungs and bone, in Hounsfield units."""
    rng = np.random.default_rng(seed)
    image = rng.normal(-1000, 8, size)
    image[:, 4:16, 4:16] = rng.normal(40, 20, (size[0], 12, 12))
    image[:, 6:9, 6:9], image[:, 12:14, 12:14] = lung, 700
    return image[None]


def preprocessed(number="5"):
    plans = TargetPlans.load(TARGET, configuration_name="2d")
    source = Source.of(open_pool(number), plans)
    return source, [PatchPairs._open(file)[:] for file in preprocess_pool(source).files]


def test_mri_under_a_target_of_ct_is_no_ct(ct_target):
    write_other(ct_target, ["MRI"], [volume(i)[0][None] * 30 for i in range(3)])
    source, images = preprocessed()
    assert source.plans.configuration.normalization_schemes == ["ZScoreNormalization"]
    for image in images:
        assert abs(image.mean()) < 0.01 and image.std() == pytest.approx(1, abs=0.01)


def test_ct_has_statistics_of_its_own_body(ct_target):
    write_other(ct_target, ["ct"], [ct(i) for i in range(3)])
    source, images = preprocessed()
    found = source.plans.manager.foreground_intensity_properties_per_channel["0"]
    body = np.concatenate([image[image > -950] for image in map(ct, range(3))])
    assert found["mean"] == pytest.approx(body.mean(), rel=1e-3) and found["std"] == pytest.approx(body.std(), rel=1e-3)
    assert (found["percentile_00_5"], found["percentile_99_5"]) == pytest.approx((-800, 700), abs=1)
    lung, bone = ((value - body.mean()) / body.std() for value in (-800, 700))
    assert (images[0].min(), images[0].max()) == pytest.approx((lung, bone), rel=1e-2)
    assert "ct by CTNormalization (-800 to 700)" in source.normalisation


def test_every_channel_of_ct_has_statistics_of_its_own(ct_target):
    """Of other channels none are asked for."""
    dark, bright = (ct(i, lung=lung) for i, lung in ((0, -800), (1, -500)))
    write_other(ct_target, ["CT", "MRI", "CT"], [np.concatenate([dark, 5000 + dark, bright])])
    source = Source.of(open_pool(OTHER), TargetPlans.load(TARGET, configuration_name="2d"))
    found = source.plans.manager.foreground_intensity_properties_per_channel
    assert [found[channel]["percentile_00_5"] for channel in ("0", "2")] == pytest.approx([-800, -500], abs=1)
    assert found["1"] == {}


def test_a_channel_of_the_targets_name_takes_its_place_beside_another_one(ct_target):
    """T2 of T2 and FLAIR went into the place of T1."""
    write_plans(ct_target.preprocessed / TARGET, "2d", channels=2)
    write_dataset_json(ct_target.raw / TARGET, ".nii.gz", {"0": "T1", "1": "T2"})
    write_other(ct_target, ["T2", "FLAIR"], [np.concatenate([volume(0)[0][None], -volume(0)[0][None]])])
    source = Source.of(open_pool(OTHER), TargetPlans.load(TARGET, configuration_name="2d"))
    assert source.order == (1, 0)


@pytest.mark.parametrize(("fingerprint", "expected"), [(False, 7.0), (True, 3.0)])
def test_spacing_is_the_median_of_cases_from_the_whole_pool(ct_target, monkeypatch, fingerprint, expected):
    """Of five the first, the middle and the last one are looked at here; nnU-Net's fingerprint has them all."""
    monkeypatch.setattr(statistics, "_MOST_CASES", 3)
    spacings = [1.0, 2.0, 7.0, 3.0, 9.0]
    write_other(ct_target, ["MRI"], [volume(i)[0][None] for i in range(5)])
    for i, spacing in enumerate(spacings):
        file = str(ct_target.images(OTHER) / f"o_{i}_0000.nii.gz")
        image = sitk.ReadImage(file)
        image.SetSpacing([1.0, spacing, 1.0])
        sitk.WriteImage(image, file)
    if fingerprint:
        write_fingerprint(ct_target, spacings=[[1.0, spacing, 1.0] for spacing in spacings])
    source = Source.of(open_pool(OTHER), TargetPlans.load(TARGET, configuration_name="2d"))
    assert source.spacing == pytest.approx((expected, 1.0))


def test_where_the_measured_cases_are_broken_others_are_measured(ct_target, monkeypatch):
    monkeypatch.setattr(statistics, "_MOST_CASES", 2)
    write_other(ct_target, ["MRI"], [volume(i)[0][None] for i in range(4)], (1, 2, 3))
    for i in (0, 3):
        (ct_target.images(OTHER) / f"o_{i}_0000.nii.gz").write_bytes(b"cut")
    assert statistics.statistics_of(open_pool(OTHER), ("MRI",)).spacing == pytest.approx((3, 2, 1))


def test_spacing_lies_along_the_axes_of_a_patch(ct_target):
    """nnU-Net turns volumes so that the axis of the coarsest spacing is first, by the plans, whatever the pool."""
    write_other(ct_target, ["MRI"], [volume(0)[0][None]], (1, 2, 9))
    file = ct_target.preprocessed / TARGET / "nnUNetPlans.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "transpose_forward": [1, 0, 2]}))
    source = Source.of(open_pool(OTHER), TargetPlans.load(TARGET, configuration_name="2d"))
    assert source.spacing == pytest.approx((9, 1))


def test_two_sources_that_are_far_apart_are_told(ct_target):
    """Each within a factor of two from the plans."""
    write_other(ct_target, ["MRI"], [volume(0)[0][None]])
    plans = TargetPlans.load(TARGET, configuration_name="2d")
    source = Source.of(open_pool(OTHER), plans)
    fine, coarse = (
        replace(source, pool=replace(source.pool, name=name), spacing=(1.0, size))
        for name, size in (("fine", 0.6), ("coarse", 1.5))
    )
    assert far_spacings([fine], plans) is None and far_spacings([coarse], plans) is None
    assert "by a factor of 2.5" in far_spacings([fine, coarse], plans)


def write_fingerprint(workspace, spacings):
    content = {
        "foreground_intensity_properties_per_channel": {"0": dict.fromkeys(LIVER, float("nan"))},
        "spacings": spacings,
        "median_relative_size_after_cropping": 1.0,
    }
    file = workspace.preprocessed / OTHER / "dataset_fingerprint.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))


def test_ct_with_nnunets_fingerprint_has_the_statistics_of_its_labels(ct_target):
    write_other(ct_target, ["CT"], [ct(0)])
    lung = {**LIVER, "mean": -700.0, "percentile_00_5": -900.0, "percentile_99_5": -300.0}
    fingerprint = {
        "foreground_intensity_properties_per_channel": {"0": lung},
        "spacings": [[2.0, 1.0, 1.0]],
        "median_relative_size_after_cropping": 1.0,
    }
    file = ct_target.preprocessed / OTHER / "dataset_fingerprint.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(fingerprint))
    source, _ = preprocessed()
    assert source.plans.manager.foreground_intensity_properties_per_channel["0"] == lung
    for changed, words in [
        ({"foreground_intensity_properties_per_channel": {}}, " does not describe 1 channels; delete it"),
        ({"foreground_intensity_properties_per_channel": {"1": lung}}, " does not describe 1 channels; delete it"),
        ({"foreground_intensity_properties_per_channel": {"0": {}}}, ": .*_per_channel.* is missing"),
        ({"spacings": [[2.0, 1.0]]}, r": spacings\[0\] "),
        ({"spacings": [[0, 1, 1]]}, r": spacings\[0\]\[0\] "),
        ({"median_relative_size_after_cropping": "all"}, ": median_relative_size_after_cropping must be a number"),
    ]:
        file.write_text(json.dumps({**fingerprint, **changed}))
        with pytest.raises(UserError, match=f"dataset_fingerprint.json{words}"):
            preprocessed()


def test_a_fingerprint_without_foreground_serves_where_no_range_is_needed(ct_target):
    """nnU-Net writes NaN then."""
    write_other(ct_target, ["MRI"], [volume(0)[0][None]])
    write_fingerprint(ct_target, [[1.0, 1.0, 1.0]])
    assert np.isfinite(preprocessed()[1][0]).all()


def test_the_target_itself_is_normalised_as_for_training(ct_target):
    plans = TargetPlans.load(TARGET, configuration_name="2d")
    assert Source.of(open_pool(TARGET), plans).plans is plans


def test_black_margins_stay_zero_where_nnunet_would_plan_so(ct_target):
    """nnU-Net's rule: where cropping leaves less than three quarters, by the pool's own images."""
    scan = volume(0)[0] + 100
    padded = np.zeros((16, 40, 40), np.float32)
    padded[:, 10:30, 10:30] = scan
    padded[:, 12, 12] = 0
    write_other(ct_target, ["T1"], [padded[None]])
    assert preprocessed()[0].plans.configuration.use_mask_for_norm == [True]
    write_other(ct_target, ["T1"], [scan[None]])
    assert preprocessed()[0].plans.configuration.use_mask_for_norm == [False]


def test_channels_of_the_same_names_are_put_into_the_targets_order(workspace):
    write_plans(workspace.preprocessed / TARGET, channels=2)
    write_dataset_json(workspace.raw / TARGET, channel_names={"0": "T1", "1": "T2"})
    first, second = volume(0)[0], -volume(1)[0]
    write_other(workspace, ["t2", "t1"], [np.stack([first, second])])
    swapped = preprocessed()[1][0]
    write_other(workspace, ["T1", "T2"], [np.stack([second, first])])
    np.testing.assert_array_equal(swapped, preprocessed()[1][0])
    assert abs(np.corrcoef(swapped[0].ravel(), swapped[1].ravel())[0, 1]) < 0.9


@pytest.mark.parametrize(
    ("spacing", "told"), [((1, 1, 9), None), ((2, 2, 1), None), ((2.5, 2.5, 1), 2.5), ((1, 0.4, 1), 2.5)]
)
def test_spacings_more_than_a_factor_of_two_apart_are_told(ct_target, spacing, told):
    """Along the axes of a patch: of 2D patches the third does not count."""
    write_other(ct_target, ["MRI"], [volume(0)[0][None]], spacing)
    plans = TargetPlans.load(TARGET, configuration_name="2d")
    sentence = far_spacings([Source.of(open_pool(number), plans) for number in ("2", "5")], plans)
    assert (sentence is None) if told is None else f"by a factor of {told}" in sentence and OTHER in sentence


def test_a_pool_that_is_clipped_to_one_value_is_told(tmp_path):
    rng = np.random.default_rng(0)
    varied = [rng.normal(size=(1, 1, 32, 32)) for _ in range(3)]
    clipped = [np.where(rng.random((1, 1, 32, 32)) < 0.96, 4.0, image) for image in varied]
    pools = [pool_of(tmp_path, images, name=name) for name, images in (("ours", varied), ("mri", clipped))]
    (sentence,) = flat_pools(pools, patch_size=(16, 16), seed=0)
    assert "of mri 9" in sentence and "one and the same" in sentence


def test_share_of_one_value():
    import torch

    image = torch.arange(8.0).reshape(1, 2, 4)
    assert share_of_one_value(image) == 1 / 8
    assert share_of_one_value(torch.cat([image, image.clamp(min=5)])) == 6 / 8


def test_ripples_of_resampling_do_not_hide_what_is_clipped():
    import torch

    torch.manual_seed(0)
    normal, ripples = torch.randn(1, 64, 64), 0.005 * torch.randn(1, 64, 64)
    assert share_of_one_value(normal.clamp(min=2.5) + ripples) > 0.98
    assert share_of_one_value(normal) < 0.03


def test_command_says_what_it_does_with_sources(ct_target, capsys):
    """Plain folders with a name for their channel, far spacings, and what is called CT but is none."""
    write_other(ct_target, ["MRI"], [volume(i)[0][None] for i in range(2)], (3, 3, 1))
    argv = ["-d", TARGET, "-c", "2d", "--epochs", "1", "--batch_size", "4", "-device", "cpu", "-s"]
    folder, picture = ct_target.images(OTHER), ct_target.root / "seen" / "batch.png"
    out = succeeds(capsys, hssl_pretrain.main, [*argv, folder, "--channel_names", "MRI", "--show_batch", picture])
    assert "MRI by ZScoreNormalization" in out and "by a factor of 3.0" in out
    assert picture.stat().st_size > 10_000
    fails(capsys, hssl_pretrain.main, [*argv, folder, "--channel_names", "T1", "T2"], "--channel_names must name 1")
    fails(capsys, hssl_pretrain.main, [*argv, OTHER, "--channel_names", "MRI"], "--channel_names is about folders")
    fails(capsys, hssl_pretrain.main, [*argv, folder, folder], "is given 2 times")
    write_other(ct_target, ["CT"], [volume(i)[0][None] - 5000 for i in range(2)])
    fails(capsys, hssl_pretrain.main, [*argv, OTHER], OTHER, "is called CT but varies nowhere above -950")
