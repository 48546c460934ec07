"""The trainer trains on the labels of now: not on what nnU-Net preprocessed from older ones."""

import json
import os

import numpy as np
import pytest
import SimpleITK as sitk
from making import write_picture, write_volume
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from PIL import Image
from tiny_training import STUDY, VOLUMES, make_trainer, refuses

from nnunetv2_xssr.records.split import write_split
from nnunetv2_xssr.trainers.outdated import made_from

PREPROCESS = "nnUNetv2_preprocess -d 11 -c 2d_tiny -plans_name nnUNetPlans"


@pytest.fixture
def split(study, split_file):
    write_split(split_file, [{"train": ["p_00", "p_01"], "val": ["p_02"]}])
    return split_file


@pytest.fixture
def labels(study):
    """The folders of labels, put back after the test: in nnUNet_raw, and nnU-Net's copies."""
    folders = study.raw / STUDY / "labelsTr", study.preprocessed / STUDY / "gt_segmentations"
    kept = {file: file.read_bytes() for folder in folders for file in folder.iterdir()}
    yield folders
    for file, content in kept.items():
        file.write_bytes(content)


def correct(file):
    """Give one more pixel to a label, and no newer date to its file."""
    before = file.stat()
    pixels = np.array(Image.open(file))
    pixels[:3, :3] = 1 - pixels[:3, :3]
    write_picture(file, pixels)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("case", ["p_01", "p_02"])
def test_label_that_was_corrected(study, split, labels, tiny, capsys, case):
    raw, copies = labels
    correct(raw / f"{case}.png")
    parts = ("1 of 3 selected cases have another label now", copies, f"({case})", "delete their labels", PREPROCESS)
    refuses(study, capsys, 0, *parts, cls=tiny)


def test_label_of_a_case_that_is_not_selected(study, split, labels, tiny):
    correct(labels[0] / "p_05.png")
    make_trainer(study, 0, tiny)


def test_label_that_was_saved_again(study, split, labels, tiny):
    path = labels[0] / "p_00.png"
    before = path.read_bytes()
    Image.open(path).save(path, compress_level=1)
    assert path.read_bytes() != before
    make_trainer(study, 0, tiny)


@pytest.mark.parametrize("raw", ["gone", None])
def test_computer_that_has_only_preprocessed_data(study, split, tiny, monkeypatch, tmp_path, raw):
    if raw is None:
        monkeypatch.delenv("nnUNet_raw")
    else:
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / raw))
    make_trainer(study, 0, tiny)


def test_label_that_was_corrected_and_preprocessed_for_another_configuration(study, split, labels, tiny, capsys):
    """nnU-Net copies the labels whichever configuration it preprocesses."""
    for folder in labels:
        correct(folder / "p_01.png")
    data = study.preprocessed / STUDY / "nnUNetPlans_2d"
    parts = ("1 of 2 training cases were preprocessed in", data, "from another label", "(p_01)", PREPROCESS)
    refuses(study, capsys, 0, *parts, cls=tiny)


def test_stored_labels_of_stock_preprocessing_are_made_from_the_labels(planned):
    trainer = make_trainer(planned, 0, name=VOLUMES, configuration="3d_tiny")  # which checks it
    folder = planned.preprocessed / VOLUMES / "nnUNetPlans_3d_fullres"
    assert len(list(folder.glob("*.pkl"))) == 4 and trainer is not None


# --- resampled


SPACINGS = {  # of the file, of the plans
    "finer": ((1.0, 1.0, 1.0), (0.7, 0.8, 0.61)),
    "coarser": ((1.0, 1.0, 1.0), (1.9, 2.3, 1.4)),
    "thick slices": ((5.0, 0.7, 0.7), (2.0, 1.0, 1.0)),
    "one axis": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.7)),
}
KWARGS = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
TORCH = {"is_seg": True, "force_separate_z": False, "memefficient_seg_resampling": False}


@pytest.fixture
def plans(planned):
    return json.loads((planned.preprocessed / VOLUMES / "nnUNetPlans.json").read_text())


def preprocess(plans, folder, label, spacing):
    """Preprocess one case with stock nnU-Net; return the file of its label."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 10, label.shape).astype(np.float32)
    image[:, :3] = image[:, :, -2:] = 0  # which is cropped away
    image[4:6, 8:11, 8:11] = 0  # outside of the body for nnU-Net
    for name, array in (("case_0000", image), ("case", label)):
        write_volume(folder / f"{name}.nii.gz", array)
        written = sitk.ReadImage(str(folder / f"{name}.nii.gz"))
        written.SetSpacing(spacing[::-1])
        sitk.WriteImage(written, str(folder / f"{name}.nii.gz"))
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    file = str(folder / "case.nii.gz")
    labels = {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}, "channel_names": {"0": "MRI"}}
    data, seg, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(folder / "case_0000.nii.gz")], file, manager, configuration, labels
    )
    (folder / "stored").mkdir()
    nnUNetDatasetBlosc2.save_case(
        data, seg.astype(np.int16), properties, str(folder / "stored" / "case"),
        chunks=data.shape, blocks=data.shape, chunks_seg=seg.shape, blocks_seg=seg.shape,
    )  # fmt: skip
    return folder / "case.nii.gz"


@pytest.mark.parametrize("how", ["resample_data_or_seg_to_shape", "resample_torch_fornnunet"])
@pytest.mark.parametrize("spacings", SPACINGS.values(), ids=SPACINGS)
@pytest.mark.parametrize("transpose", [[0, 1, 2], [2, 0, 1]])
def test_resampled_label_is_recognised_and_another_is_not(plans, tmp_path, how, spacings, transpose):
    z, y, x = np.mgrid[:14, :22, :26]
    label = ((z - 6) ** 2 + (y - 10) ** 2 + (x - 12) ** 2 < 30).astype(np.uint8)
    label[:, 4:7, 4:7] = 2
    label[9:12, 14:18, 14:20] = 3
    ours = plans["configurations"]["3d_fullres"]
    ours.update(resampling_fn_seg=how, spacing=[spacings[1][axis] for axis in transpose])
    ours["resampling_fn_seg_kwargs"] = KWARGS if "torch" not in how else TORCH
    plans.update(transpose_forward=transpose, transpose_backward=np.argsort(transpose).tolist())
    file = preprocess(plans, tmp_path, label, spacings[0])

    def recognised():
        stored = tmp_path / "stored"
        return made_from(file, case="case", folder=stored, plans=PlansManager(plans), configuration="3d_fullres")

    assert recognised()
    grown, taken = label.copy(), label.copy()
    grown[2:11, 13:20, 3:11] = 1
    taken[label == 3] = 0
    for other in (grown, taken, 3 - label, label[:-1]):
        write_volume(file, other)
        assert not recognised()


def test_what_is_not_known_is_not_refused(plans, tmp_path):
    ours = plans["configurations"]["3d_fullres"]
    for change in (
        {"preprocessor_name": "MyOwn"},
        {"resampling_fn_seg": "my_own"},
        {"resampling_fn_seg_kwargs": {"order": 3}},
    ):
        other = {**plans, "configurations": {"3d_fullres": {**ours, **change}}}
        nothing = tmp_path / "nothing.nii.gz"
        assert made_from(nothing, case="c", folder=tmp_path, plans=PlansManager(other), configuration="3d_fullres")
