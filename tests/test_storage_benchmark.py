"""The benchmark of storages: what it writes, what it measures, and a small run of it."""

import argparse
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from making import CHECKOUT, VARIABLES

from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.pretrain import training

sys.path.append(str(CHECKOUT / "benchmarks"))
import storage
import stored


@pytest.mark.parametrize("how", stored.STORAGES, ids=lambda how: how.name)
def test_a_stored_volume_lies_where_it_did(how):
    (image,) = stored.drawn_cts(1, after=0)
    there = stored.as_stored(image, how, empty=stored.AIR)
    back = sitk.DICOMOrient(there, "LPS")
    assert (there.GetDirection() == image.GetDirection()) == (how.axes == "LPS")
    extent, expected = (np.array(one.GetSize()) * one.GetSpacing() for one in (back, image))
    assert np.allclose(extent, expected * (1 + 2 * how.margin), rtol=0.03)
    if how.coarser == (1.0, 1.0, 1.0):
        array, whole = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(back)
        z, y, x = (slice((a - b) // 2, (a + b) // 2) for a, b in zip(whole.shape, array.shape, strict=True))
        assert np.array_equal(whole[z, y, x], array)
        assert (whole == stored.AIR).sum() == (array == stored.AIR).sum() + whole.size - array.size


def test_storage_explains_all_nothing_or_what_chance_would():
    labels = np.arange(60) % 3
    assert storage.share_of_variance(labels[:, None].astype(float), labels) == pytest.approx(1)
    assert storage.share_of_variance(np.repeat(np.arange(20.0), 3)[:, None], labels) == pytest.approx(0)
    assert storage.unevenness(labels, picks=np.arange(6)) == 0
    assert storage.unevenness(labels, picks=np.arange(0, 18, 3)) == pytest.approx(12)
    noise = np.random.default_rng(0).normal(size=(60, 1))
    by_chance = storage.against_chance(lambda of: storage.share_of_variance(noise, of), labels)
    assert by_chance.p > 0.05 and by_chance.chance.mean() == pytest.approx(2 / 59, abs=0.005)
    decided = storage.against_chance(lambda of: storage.share_of_variance(noise + 5 * labels[:, None], of), labels)
    assert decided.p == pytest.approx(1 / (1 + storage.PERMUTATIONS))


def test_former_views_differ_by_storage_and_present_ones_do_not(empty):
    raw = empty.raw
    lossless = [how for how in stored.STORAGES if how.coarser == (1.0, 1.0, 1.0)]
    for number, how in enumerate(lossless):
        stored.write_pool(raw / f"Dataset{100 + number}_Stored", "ct", 1, storages=(how,))
    pools = [dataset_pool(f"Dataset{100 + number}_Stored") for number in range(len(lossless))]
    seen = [{rules: target for rules, target, _ in storage.views_by_rules(pool, pools[0], pools[0])} for pool in pools]
    plain = seen[0]
    for views in seen[1:]:
        differ = {rules: np.abs(views[rules].rows - plain[rules].rows).mean(dtype=float) for rules in plain}
        # Sizes are whole pixels of a view, so that a margin moves what it surrounds by less than one.
        assert differ[storage.FORMER] > 0.05 > 0.01 > max(differ[storage.PRESENT], differ[storage.AXIAL])


@pytest.mark.slow
@pytest.mark.parametrize("anatomy", stored.ANATOMIES)
def test_tables(anatomy, tmp_path, monkeypatch, capsys):
    if anatomy == "hippocampus":
        skip_without_pack()
    for variable in VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(training, "MEMBERS", 1)
    monkeypatch.setattr(storage, "PERMUTATIONS", 20)
    n = len(stored.STORAGES)
    storage.benchmark(argparse.Namespace(work=tmp_path, pools=[anatomy], cases=n, seeds=1, epochs=1))
    printed = capsys.readouterr().out
    for title in storage.SHARES.values():
        assert title in printed
    rows = [line for line in printed.splitlines() if line.startswith("| axial")]
    assert len(rows) == 2 * 2 * (3 + 4)  # tables, encoders, views by what slices there are
    assert all(how.name in printed for how in stored.STORAGES)


def skip_without_pack():
    try:
        stored.pack_folder("Hippocampus3D")
    except stored.UserError as error:
        pytest.skip(str(error))
