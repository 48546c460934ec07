"""What counts as preprocessed, and as preprocessed from another label."""

import gzip
import json
import os
import shutil

import numpy as np
import pytest
from making import write_dataset_json, write_picture, write_volume

from nnunetv2_xssr.records.preprocessed import changed_labels
from nnunetv2_xssr.records.workspace import Workspace

NAME = "Dataset041_Changed"
CASES = ["a", "b", "c"]


def blob(value=1, shape=(4, 8, 9)):
    label = np.zeros(shape, np.uint8)
    label[1:3, 2:5, 3:6] = value
    return label


@pytest.fixture
def volumes(empty):
    """Three labels, and nnU-Net's copies of them."""
    for case in CASES:
        write_volume(empty.raw / NAME / "labelsTr" / f"{case}.nii.gz", blob())
    write_dataset_json(empty.raw / NAME, ".nii.gz")
    shutil.copytree(empty.raw / NAME / "labelsTr", empty.preprocessed / NAME / "gt_segmentations")
    return Workspace(NAME)


def changed(workspace):
    return changed_labels(workspace, CASES, file_ending=".nii.gz")


def test_label_of_other_content_counts_whatever_its_date(volumes):
    assert changed(volumes) == []
    before = (volumes.labels / "b.nii.gz").stat()
    write_volume(volumes.labels / "b.nii.gz", blob(2))
    os.utime(volumes.labels / "b.nii.gz", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed(volumes) == ["b"]


def test_equal_label_of_other_bytes_does_not_count(volumes):
    path = volumes.labels / "a.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1))
    assert path.read_bytes() != (volumes.preprocessed_labels / path.name).read_bytes()
    assert changed(volumes) == []


def test_label_that_cannot_be_read_counts(volumes):
    (volumes.labels / "c.nii.gz").write_bytes(b"x")
    assert changed(volumes) == ["c"]


def test_nothing_to_compare(volumes, monkeypatch):
    (volumes.labels / "a.nii.gz").unlink()
    (volumes.preprocessed_labels / "b.nii.gz").unlink()
    assert changed(volumes) == []
    shutil.rmtree(volumes.raw)  # a computer that only trains
    assert changed(volumes) == []
    monkeypatch.delenv("nnUNet_raw")
    assert changed(volumes) == []


def test_label_that_the_table_of_the_dataset_names(volumes, tmp_path):
    write_volume(tmp_path / "elsewhere.nii.gz", blob(2))
    description = json.loads(volumes.dataset_json.read_text())
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": str(tmp_path / "elsewhere.nii.gz")}
    volumes.dataset_json.write_text(json.dumps({**description, "dataset": {"a": entry}}))
    assert changed(volumes) == ["a"]


def test_pictures_of_equal_size_and_date(empty):
    """What a look at the files' size and date does not tell."""
    label = empty.raw / NAME / "labelsTr" / "a.bmp"
    copy = empty.preprocessed / NAME / "gt_segmentations" / "a.bmp"
    for path, value in ((label, 1), (copy, 2)):
        write_picture(path, blob(value)[1])
        os.utime(path, (1, 1))
    assert label.stat().st_size == copy.stat().st_size
    write_dataset_json(empty.raw / NAME, ".bmp")
    assert changed_labels(Workspace(NAME), CASES, file_ending=".bmp") == ["a"]
