"""The demo's phantoms: reproducible, drawn as the sites say, readable by nnU-Net, and silent about variants."""

import csv
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from scipy import ndimage

from nnunetv2_xssr.demo.phantom import SOURCE_SITE, TARGET_SITE, draw_case, write_datasets

VARIANTS = list(TARGET_SITE.variant_mix)


def draw(variant, site=TARGET_SITE, seed=0):
    image, label, _ = draw_case(site, np.random.default_rng(seed), variant)
    return image, label


def connected(mask):
    """Number of connected parts of at least 20 pixels."""
    parts, _ = ndimage.label(mask)
    return int((np.bincount(parts.ravel())[1:] >= 20).sum())


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    return folder, write_datasets(folder, n_source=4, n_pool=40, n_test=20)


@pytest.mark.parametrize("variant", VARIANTS)
def test_image_and_label_are_plausible(variant):
    image, label = draw(variant)
    assert image.shape == label.shape == (96, 96)
    assert image.dtype == label.dtype == np.uint8
    assert image.std() > 20
    assert set(np.unique(label)) == {0, 1}
    assert 0.03 < label.mean() < 0.5
    edge = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    assert not edge.any()


def test_equal_seeds_draw_equal_cases_and_other_seeds_others():
    assert np.array_equal(draw("ordinary", seed=1)[0], draw("ordinary", seed=1)[0])
    assert not np.array_equal(draw("ordinary", seed=1)[0], draw("ordinary", seed=2)[0])


def test_a_case_without_a_named_variant_follows_the_sites_mix():
    rng = np.random.default_rng(0)
    site = replace(TARGET_SITE, variant_mix={"infant": 0.5, "lateral": 0.5})
    assert {draw_case(site, rng)[2] for _ in range(12)} == {"infant", "lateral"}


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="giraffe"):
        draw("giraffe")


def test_the_sites_differ_as_they_say():
    """Seen on ordinary cases of both: noise, contrast between lung and mediastinum, sharpness, field of view."""
    source = [draw("ordinary", SOURCE_SITE, seed) for seed in range(8)]
    target = [draw("ordinary", TARGET_SITE, seed) for seed in range(8)]

    def grain(cases):
        return np.mean([np.median(np.abs(np.diff(image.astype(float), 2))) for image, _ in cases])

    def contrast(cases):
        return np.mean([np.percentile(image, 95) - image[label > 0].mean() for image, label in cases])

    assert grain(target) > 1.5 * grain(source)
    assert contrast(source) > 1.1 * contrast(target)
    assert np.mean([label.mean() for _, label in target]) > 1.1 * np.mean([label.mean() for _, label in source])
    quiet = {"noise": 0.0, "contrast": 5.0, "field_of_view": 1.3}
    edges = [
        np.abs(np.diff(draw("ordinary", replace(site, **quiet))[0].astype(float))).max()
        for site in (SOURCE_SITE, TARGET_SITE)
    ]
    assert edges[0] > edges[1]
    assert set(SOURCE_SITE.variant_mix) < set(TARGET_SITE.variant_mix)


def test_variants_look_as_named():
    ordinary, lungs = draw("ordinary")
    inverted, _ = draw("inverted")
    assert ordinary[lungs > 0].mean() < ordinary[60:70, 60:68].mean()
    assert inverted[lungs > 0].mean() > inverted[60:70, 60:68].mean()
    assert draw("infant")[1].sum() < 0.5 * lungs.sum()
    white, white_lungs = draw("white_out")
    assert white[white_lungs > 0].mean() > 1.3 * ordinary[lungs > 0].mean()
    side_view = draw("lateral")[1]
    assert [connected(lungs), connected(side_view)] == [2, 1]


def test_equal_seeds_write_equal_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_datasets(tmp_path / name, n_source=2, n_pool=4, n_test=2, seed=seed)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert files_of(tmp_path / "a") != files_of(tmp_path / "c")


def test_an_existing_dataset_is_never_written_over(tmp_path):
    write_datasets(tmp_path, n_source=1, n_pool=1, n_test=1)
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError):
        write_datasets(tmp_path, n_source=1, n_pool=1, n_test=1, seed=1)
    assert files_of(tmp_path) == before


def test_pool_and_test_share_the_variant_mix(datasets):
    _, cases = datasets
    pool, test = (Counter(cases["variants"][case] for case in cases[part]) for part in ("pool", "test"))
    assert not set(cases["pool"]) & set(cases["test"])
    assert {variant: count / 2 for variant, count in pool.items()} == pytest.approx(test, abs=1)
    assert pool["ordinary"] / 40 == pytest.approx(TARGET_SITE.variant_mix["ordinary"], abs=0.03)
    assert set(pool) == set(test) == set(VARIANTS)


def test_names_and_order_do_not_reveal_variants(datasets):
    _, cases = datasets
    assert all(re.fullmatch(r"demo_\d{3}", case) for case in cases["variants"])
    numbers = [int(case[-3:]) for case in cases["pool"] if cases["variants"][case] != "ordinary"]
    assert min(numbers) < 15 and max(numbers) > 25  # not gathered at one end


def test_nnunet_reads_the_target(datasets):
    folder, cases = datasets
    target = folder / "Dataset902_XSSRDemoTarget"
    dataset = json.loads((target / "dataset.json").read_text())
    assert dataset["numTraining"] == 60 == len(list((target / "labelsTr").iterdir()))
    assert dataset["file_ending"] == ".png" and dataset["channel_names"] == {"0": "xray"}
    for case in cases["test"][:3]:
        image, _ = NaturalImage2DIO().read_images([str(target / "imagesTr" / f"{case}_0000.png")])
        label, _ = NaturalImage2DIO().read_seg(str(target / "labelsTr" / f"{case}.png"))
        assert image.shape == label.shape == (1, 1, 96, 96)
        assert set(np.unique(label)) == set(dataset["labels"].values())
    with open(target / "cases.csv", newline="") as file:
        assert {row["case"]: row["variant"] for row in csv.DictReader(file)} == cases["variants"]


def test_the_source_is_unlabelled(datasets):
    source = datasets[0] / "Dataset901_XSSRDemoSource"
    assert {path.name for path in source.iterdir()} == {"imagesTr", "dataset.json"}
    assert len(list((source / "imagesTr").glob("*_0000.png"))) == 4
