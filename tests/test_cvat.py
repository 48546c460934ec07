"""Masks that CVAT exports: by the colours that labelmap.txt names."""

import shutil

import numpy as np
import pytest
from making import picture, write_dataset_json, write_picture
from PIL import Image

from nnunetv2_xssr.annotation.collecting import take_in
from nnunetv2_xssr.annotation.cvat import returned_files
from nnunetv2_xssr.annotation.handover import drawn_labels, write_handover
from nnunetv2_xssr.annotation.inspecting import case_named, inspect_labels
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.selection import Pick

NAME, CASES = "Dataset044_Cvat", ["c_0", "c_1"]
LABELS = {"background": 0, "left lung": 1, "heart": 2}
COLOURS = {0: (0, 0, 0), 1: (250, 50, 83), 2: (36, 179, 83)}
NAMED = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nheart:36,179,83::\nLeft_lung:250,50,83::\n"


@pytest.fixture
def dataset(empty):
    """Two pictures, and the export of their labels."""
    for i, case in enumerate(CASES):
        write_picture(empty.images(NAME) / f"{case}_0000.png", picture(i))
    write_dataset_json(empty.raw / NAME, labels=LABELS, numTraining=0, dataset={})
    for case in CASES:
        write_mask(empty.root, case, coloured(drawn()))
        write_picture(empty.root / "export" / "SegmentationObject" / f"{case}_0000.png", coloured(drawn()))
    (empty.root / "export" / "labelmap.txt").write_text(NAMED)
    return empty


def drawn():
    label = np.zeros((40, 48), np.uint8)
    label[3:20, 4:12], label[5:9, 20:30] = 1, 2
    return label


def coloured(label):
    return np.array(list(COLOURS.values()), np.uint8)[label]


def write_mask(root, case, pixels):
    write_picture(root / "export" / "SegmentationClass" / f"{case}_0000.png", pixels)


def inspected(dataset):
    return inspect_labels(dataset_pool(NAME), folder=dataset.root / "export", chosen=CASES)


def test_masks_are_read_by_their_colours(dataset):
    palette = Image.fromarray(drawn(), "P")
    palette.putpalette(list(np.ravel(list(COLOURS.values()))))
    palette.save(dataset.root / "export" / "SegmentationClass" / "c_1_0000.png")
    found = inspected(dataset)
    assert not found.unfit and sorted(found.fit) == CASES, found.unfit
    take_in(dataset_pool(NAME), found.fit)
    for case in CASES:
        taken = np.array(Image.open(dataset.raw / NAME / "labelsTr" / f"{case}.png"))
        assert np.array_equal(taken, drawn())


def change_names(old, new):
    def change(root):
        path = root / "export" / "labelmap.txt"
        path.write_text(path.read_text().replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_names("heart:36,179,83::\n", ""), "has the colour 36,179,83, which labelmap.txt does not name"),
        (change_names("heart", "liver"), "has a segment 'liver', which is no label; rename or remove it"),
        (change_names("heart:36,179,83::", "heart"), "has a labelmap.txt with the line 'heart'"),
        (change_names("36,179,83", "250,50,83"), "each colour once"),
        (lambda root: write_mask(root, "c_0", coloured(drawn()[1:])), "has the size 48 x 39, its image 48 x 40"),
        (lambda root: write_mask(root, "c_0", coloured(drawn() * 0)), "is empty; if there is nothing to draw"),
        (lambda root: write_mask(root, "c_9", coloured(drawn())), "c_9_0000.png: no case has this name"),
        (lambda root: write_picture(root / "export" / "c_0.png", drawn()), "c_0_0000.png is there too"),
    ],
)
def test_exports_that_do_not_fit(dataset, change, words):
    change(dataset.root)
    assert words in " ".join(inspected(dataset).unfit)


def test_export_in_a_hand_over_is_counted_once_and_stays_when_select_is_typed_again(dataset):
    parts = {"domain": None, "group": None, "cost": None, "score": None, "stands_for": 1}
    parts |= dict.fromkeys(("density", "novelty", "diversity"), 0.5)
    picks = [Pick(rank=rank, case=case, **parts) for rank, case in enumerate(CASES, start=1)]
    folder, pool = dataset.root / "round_01", dataset_pool(NAME)
    write_handover(folder, pool, picks, alpha=None, selection="s1")
    shutil.copytree(dataset.root / "export", folder / "labels", dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in (folder / "labels").rglob("*.*")}
    assert [file.name for file in drawn_labels(folder)] == [f"{case}_0000.png" for case in CASES]
    write_handover(folder, pool, picks, alpha=None, selection="s1")
    assert {path: path.read_bytes() for path in (folder / "labels").rglob("*.*")} == before


def test_masks_of_labelled_cases_do_not_wait(dataset):
    pool = dataset_pool(NAME)
    masks = returned_files(dataset.root / "export")
    assert [case_named(mask, pool, CASES) for mask in masks] == CASES
    assert [case_named(mask, pool, {"c_1"}) for mask in masks] == [None, "c_1"]
