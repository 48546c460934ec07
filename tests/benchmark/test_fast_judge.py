"""The fast judge: what it returns, that it returns it again, and what it is shown."""

import json

import numpy as np
import pytest
import torch
from making import write_dataset_json, write_pictures, write_volume
from PIL import Image

from nnunetv2_xssr.benchmark import fast_judge
from nnunetv2_xssr.benchmark.fast_judge import SIZE, dice_per_case, judge
from nnunetv2_xssr.benchmark.small_cases import count_labels, read_small_cases, small_slices
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import dataset_pool

NAME = "Dataset003_Labelled"


def discs(n, seed, slices=1, labels=1):
    """Cases with a bright disc per label on a noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    truth = np.zeros((n, slices, SIZE, SIZE), int)
    for index in np.ndindex(n, slices):
        for label in range(1, labels + 1):
            centre = rng.uniform(12, SIZE - 12, 2)
            truth[index][(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < rng.uniform(5, 10) ** 2] = label
    images = 2 * truth + rng.normal(0, 0.3, truth.shape)
    return images[:, :, None].astype(np.float32), truth


@pytest.fixture
def short(monkeypatch):
    """Few iterations, which are enough for bright discs."""
    monkeypatch.setattr(fast_judge, "ITERATIONS", 40)


def test_the_judge_learns_and_says_the_same_again(short):
    args = *discs(6, 0), *discs(8, 1)
    torch.manual_seed(1)
    first = judge(*args, n_labels=1, seed=0)
    torch.manual_seed(2)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = judge(*args, n_labels=1, seed=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert first.tolist() == again.tolist()
    assert torch.equal(torch.get_rng_state(), state)
    assert first.tolist() != judge(*args, n_labels=1, seed=1).tolist()
    assert first.shape == (8,) and first.mean() > 0.8


def test_several_labels_and_slices(short):
    dice = judge(*discs(4, 0, slices=3, labels=2), *discs(3, 1, slices=2, labels=2), n_labels=2, seed=0)
    assert dice.shape == (3,) and (0 <= dice).all() and (dice <= 1).all()


def test_one_case_is_enough(short):
    assert judge(*discs(1, 0), *discs(2, 1), n_labels=1, seed=0).shape == (2,)


@pytest.mark.parametrize(
    "predicted, truth, dice",
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),  # nothing there, nothing found
        ([1, 1, 0, 0], [0, 0, 0, 0], 0.5),  # label 1 is made up, label 2 is rightly empty
        ([1, 1, 2, 2], [1, 1, 2, 2], 1.0),
        ([1, 0, 2, 2], [1, 1, 2, 2], (2 / 3 + 1) / 2),
        ([2, 2, 1, 1], [1, 1, 2, 2], 0.0),
    ],
)
def test_dice_is_the_mean_over_the_labels_of_the_task(predicted, truth, dice):
    assert dice_per_case(np.array([predicted]), np.array([truth]), n_labels=2) == pytest.approx([dice])


def test_slices_keep_their_aspect_and_their_labels():
    image = np.random.default_rng(0).normal(0, 1, (2, 1, 30, 120)).astype(np.float32)
    label = np.zeros((1, 30, 120), int)
    label[:, :, 60:] = 2
    images, labels = small_slices(image, label, channel_names=("T1", "T2"), n_labels=2)
    assert images.shape == (1, 2, SIZE, SIZE) and labels.shape == (1, SIZE, SIZE)
    inside = slice(24, 40)  # 120 pixels become 64, and 30 become 16
    assert (labels[0, inside, :32] == 0).all() and (labels[0, inside, 32:] == 2).all()
    assert (images[:, :, :24] == 0).all() and (images[:, :, 40:] == 0).all() and (labels[:, 40:] == 0).all()
    assert np.abs(images[:, :, inside]).min() > 0


def test_small_images_are_enlarged():
    image = np.random.default_rng(0).normal(0, 1, (1, 1, 20, 10)).astype(np.float32)
    images, labels = small_slices(image, np.ones((1, 20, 10), int), channel_names=("T1",), n_labels=1)
    assert images.shape[-2:] == (SIZE, SIZE) and labels.sum() == SIZE * 32


def test_pictures_are_read_with_their_labels(empty):
    write_pictures(empty.raw / NAME, 3, first_seed=0, labelled=3)
    write_dataset_json(empty.raw / NAME)
    small = read_small_cases(dataset_pool(NAME))
    assert small.images.shape == (3, 1, 1, SIZE, SIZE) and small.labels.shape == (3, 1, SIZE, SIZE)
    assert small.n_labels == 1 and small.labels.any(axis=(1, 2, 3)).all()
    images, labels = small.rows(["case_02", "case_00"])
    assert (images == small.images[[2, 0]]).all() and (labels == small.labels[[2, 0]]).all()
    bright = [
        image[0, 0][label[0] > 0].mean() > image[0, 0][label[0] == 0].mean()
        for image, label in zip(*small.rows(small.identifiers), strict=True)
    ]
    assert all(bright)


def test_volumes_give_several_slices(empty):
    folder = empty.raw / NAME
    ramp = np.random.default_rng(0).normal(0, 1, (16, 20, 24)).astype(np.float32)
    ramp += np.arange(16)[:, None, None]
    write_volume(folder / "imagesTr" / "a_0000.nii.gz", ramp)
    write_volume(folder / "labelsTr" / "a.nii.gz", (ramp > 8).astype(np.uint8))
    write_dataset_json(folder, ending=".nii.gz")
    small = read_small_cases(dataset_pool(NAME))
    assert small.images.shape[1] == small.labels.shape[1] > 1
    assert len({labels.sum() for labels in small.labels[0]}) > 1


def test_a_volume_of_one_slice_stands_among_others(empty):
    folder = empty.raw / NAME
    for case, depth in (("a", 16), ("b", 1)):
        ramp = np.random.default_rng(0).normal(0, 1, (depth, 20, 24)).astype(np.float32)
        write_volume(folder / "imagesTr" / f"{case}_0000.nii.gz", ramp)
        write_volume(folder / "labelsTr" / f"{case}.nii.gz", (ramp > 0).astype(np.uint8))
    write_dataset_json(folder, ending=".nii.gz")
    small = read_small_cases(dataset_pool(NAME))
    assert small.images.shape[:2] == small.labels.shape[:2] == (2, 8)
    assert (small.images[1] == small.images[1][:1]).all() and (small.labels[1] == small.labels[1][:1]).all()


def test_an_unfit_label_is_named(empty):
    write_pictures(empty.raw / NAME, 2, first_seed=0, labelled=2)
    write_dataset_json(empty.raw / NAME)
    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(empty.raw / NAME / "labelsTr" / "case_01.png")
    with pytest.raises(UserError, match="case_01.png"):
        read_small_cases(dataset_pool(NAME))


def test_an_ignore_label_is_refused(empty):
    write_pictures(empty.raw / NAME, 2, first_seed=0, labelled=2)
    write_dataset_json(empty.raw / NAME)
    described = empty.raw / NAME / "dataset.json"
    content = json.loads(described.read_text())
    described.write_text(json.dumps({**content, "labels": {**content["labels"], "ignore": 2}}))
    with pytest.raises(UserError, match="ignore label"):
        read_small_cases(dataset_pool(NAME))


def test_a_number_that_is_no_label_is_refused():
    """Nobody draws label 2, which would count as one that is always right."""
    with pytest.raises(UserError, match="without a gap, as in nnU-Net; got 0, 1, 3"):
        count_labels({"labels": {"background": 0, "lung": 1, "heart": 3}})
    assert count_labels({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}) == 2
