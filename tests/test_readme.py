"""README.txt and worklists of a hand-over: what is said holds for the images, labels and raters that are there."""

import csv
import json

import numpy as np
import pytest
import tifffile
from making import picture, read_worklist, volume, write_dataset_json, write_picture, write_volume

from nnunetv2_xssr.annotation.handover import write_handover
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.selection import Pick

NAME = "Dataset045_Notes"
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
PARTS = {"domain": None, "group": None, "cost": None, "density": 0.0, "novelty": 0.0, "diversity": 0.0, "score": None}


def note(workspace, cases=("a",), **options):
    """The text for these cases."""
    picks = [Pick(rank=rank, case=case, stands_for=1, **PARTS) for rank, case in enumerate(cases, start=1)]
    folder = workspace.root / "round_01"
    write_handover(folder, dataset_pool(NAME), picks, alpha=None, selection="s1", **options)
    text = (folder / "README.txt").read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 120
    return " ".join(text.split())


@pytest.fixture
def pictures(empty):
    """Two pictures of one channel."""
    for i, case in enumerate("ab"):
        write_picture(empty.images(NAME) / f"{case}_0000.png", picture(i))
    write_dataset_json(empty.raw / NAME, numTraining=0, dataset={})
    return empty


def test_worklist_to_print_has_pictures_or_not(pictures):
    assert "is the same to print, with pictures." in note(pictures)
    assert "is the same to print." in note(pictures, pictured=False)
    assert not list((pictures.root / "round_01").glob("pictures/*"))


def test_parts_of_regions_are_called_as_segments_must_be(pictures):
    write_dataset_json(pictures.raw / NAME, labels=REGIONS, regions_class_order=[1, 2], numTraining=0, dataset={})
    text = note(pictures)
    assert "0 background 1 whole 2 whole and core Names and format" in text
    names = [one["name"] for one in json.loads((pictures.root / "round_01" / "labels.json").read_text())]
    assert names == ["background", "whole", "whole and core"]


def test_several_channels_have_one_label(pictures):
    for i, case in enumerate("ab"):
        write_picture(pictures.images(NAME) / f"{case}_0001.png", picture(i + 5))
    write_dataset_json(pictures.raw / NAME, channel_names={"0": "x", "1": "y"}, numTraining=0, dataset={})
    text = note(pictures)
    assert "save one label per case, not per image, in labels/." in text
    assert "The label of images/a_0000.png and images/a_0001.png is labels/a.png" in text


def test_spacing_of_a_stack_is_no_image(empty):
    path = empty.images(NAME) / "a_0000.tif"
    path.parent.mkdir(parents=True)
    tifffile.imwrite(path, volume(0)[0].astype(np.float32))
    path.with_name("a.json").write_text('{"spacing": [2, 1, 1]}')
    write_dataset_json(empty.raw / NAME, ".tif", numTraining=0, dataset={})
    text = note(empty)
    assert "The label of images/a_0000.tif is labels/a.tif" in text and "one label per image in" in text
    assert (empty.root / "round_01" / "images" / "a.json").is_file()


def test_formats_that_fit_the_images(pictures):
    text = note(pictures)
    assert "a.seg.nrrd" in text and "CVAT" in text and "RTSTRUCT" not in text
    for image in pictures.images(NAME).iterdir():
        image.unlink()
    write_volume(pictures.images(NAME) / "a_0000.nii.gz", volume(0)[0])
    write_dataset_json(pictures.raw / NAME, ".nii.gz", numTraining=0, dataset={})
    text = note(pictures)
    assert "a.seg.nrrd" in text and "CVAT" not in text and "RTSTRUCT" in text


def test_raters_agree_only_on_what_several_draw(pictures):
    text = note(pictures, "ab", dealt={"a": ["ann"], "b": ["bea"]})
    assert "A label beside these folders is nobody's." in text and "agree" not in text
    text = note(pictures, "ab", dealt={"a": ["ann"], "b": ["ann", "bea"]})
    assert "Do not look into the others' folders: some images are in several lists, to see how far you agree." in text


def test_what_annotators_add_to_a_worklist_stays(pictures):
    note(pictures, "ab")
    path = pictures.root / "round_01" / "worklist.csv"
    first, second = read_worklist(path)
    with open(path, "w", newline="", encoding="cp1252") as file:  # as a German Excel saves it, in another order
        table = csv.DictWriter(file, [*first, "Remark"], delimiter=";")
        table.writeheader()
        table.writerows([second, {**first, "Remark": "=blurred"}])
    for _ in range(2):
        note(pictures, "ab")
        assert [(row["case"], row["Remark"]) for row in read_worklist(path)] == [("a", "'=blurred"), ("b", "")]
    note(pictures, "b", dealt={"b": ["ann", "bea"]})
    (row,) = read_worklist(path)
    assert row["case"] == "b" and row["rater"] == "ann; bea" and not row["Remark"]
