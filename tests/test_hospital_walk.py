"""The way of a hospital from its DICOM tree to the second round, typed as its people would, with their mistakes."""

import csv
import json
import re
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from command_shell import SHORTENED
from dicom_making import STUDY, masks, write_segmentation, write_series
from making import picture, read_worklist, write_picture
from PIL import Image
from test_segmentations import write_segments

from nnunetv2_xssr.demo.study import small_configuration

LIVER = "Dataset123_Liver"
PATIENTS, SHAPE, SPACING = 12, (10, 32, 32), (1.5, 1.5, 5.0)
TUMOUR, VESSEL, IGNORE = 1, 2, 3
SWAPPED = np.array([0, VESSEL, TUMOUR, IGNORE])
NAMES = {TUMOUR: "tumour", VESSEL: "vessel", IGNORE: "ignore"}
SELECT, COLLECT = "nnUNetv2_xssr_select -d 123 --unit slice -device cpu", "nnUNetv2_xssr_collect -d 123"
STATUS, REPORT = "nnUNetv2_xssr_status -d 123", "nnUNetv2_xssr_report -d 123"


def write_hospital(folder):
    """Thin bodies with a tumour and, from end to end, a vessel."""
    z, y, x = np.mgrid[tuple(map(slice, SHAPE))]
    for patient in range(PATIENTS):
        rng = np.random.default_rng(patient)
        voxels = np.where((y - 16) ** 2 + (x - 16) ** 2 < 200, 40, -900) + rng.normal(0, 10, SHAPE)
        for value, radius, centre in ((250, 5.5, rng.uniform(12, 15, 2)), (600, 2.5, rng.uniform(20, 23, 2))):
            voxels[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = value
        series = folder / f"patient_{patient:02d}" / "ct"
        write_series(series, voxels.astype(np.int16), spacing=SPACING, **{**STUDY, "patient": f"P{patient}"})


def seen(intensities):
    """What an annotator sees in them."""
    return (intensities > 150).astype(np.uint8) + (intensities > 400)


class Walk:
    """A project in a folder, whose commands are typed into a shell."""

    def __init__(self, shell, folder):
        self.shell, self.folder = shell, folder
        self.exports = "export nnUNet_def_n_proc=1\n"
        for name in ("raw", "preprocessed", "results"):
            self.exports += f"export nnUNet_{name}={self.made(name)}\n"

    def type(self, program, code=0):
        got, out = self.shell.run(self.exports + program, self.folder)
        assert got == code and "Traceback" not in out, out[-5000:]
        return out

    def round(self, number, dataset=LIVER):
        return self.folder / "raw" / dataset / "annotate" / f"round_{number:02d}"

    def made(self, name):
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name

    def series(self, case):
        return self.folder / "HOSPITAL" / case.removesuffix("_ct") / "ct"

    def cases(self, number, **more):
        return [row["case"] for row in read_worklist(self.round(number, **more) / "worklist.csv")]


def drawn(handover, case):
    """The label of a case on the slices that the worklist names, as ITK's image."""
    image = sitk.ReadImage(str(handover / "images" / f"{case}_0000.nii.gz"))
    asked = [int(row["slice"]) for row in read_worklist(handover / "worklist.csv") if row["case"] == case]
    label = np.full(SHAPE, IGNORE, np.uint8)
    label[asked] = seen(sitk.GetArrayFromImage(image))[asked]
    return on(image, label)


def on(image, array):
    label = sitk.GetImageFromArray(array.astype(np.int16))
    label.CopyInformation(image)
    return label


def write_dicom(path, series, label, names):
    """A DICOM SEG of a label, over the files of its series."""
    array = sitk.GetArrayFromImage(label)
    headers = [pydicom.dcmread(file) for file in sorted(series.glob("*"))]
    places = [label.TransformPhysicalPointToIndex([float(mm) for mm in one.ImagePositionPatient])[2] for one in headers]
    write_segmentation(path, headers, masks(*(array[places] == value for value in names)), list(names.values()))


def annotate_with_mistakes(walk):
    """Labels of round one, every one in a way of its own; the cases in the order of the worklist."""
    handover = walk.round(1)
    labels, cases = handover / "labels", walk.cases(1)
    renumbered, displaced, over_image, empty, _, spelled, nrrd, segments = cases
    for case in cases:
        label = drawn(handover, case)
        array = sitk.GetArrayFromImage(label)
        path = labels / f"{case}.nii.gz"
        if case == renumbered:
            sitk.WriteImage(on(label, np.array([0, 7, 9, IGNORE])[array]), str(path))
        elif case == displaced:
            label.SetSpacing((1.0, 1.0, 1.0))
            sitk.WriteImage(label, str(path))
        elif case == over_image:
            sitk.WriteImage(label, str(handover / "images" / f"{case}_0000.nii.gz"))
        elif case == empty:
            sitk.WriteImage(on(label, np.where(array == IGNORE, IGNORE, 0)), str(path))
        elif case == spelled:
            write_dicom(labels / f"{case}.dcm", walk.series(case), label, {**NAMES, TUMOUR: "Tumor"})
        elif case == nrrd:
            sitk.WriteImage(label, str(labels / f"{case}.nrrd"))
        elif case == segments:
            write_segments(labels / f"{case}.seg.nrrd", label, NAMES)
    return cases


def correct(walk, cases):
    """What is done about the mistakes; the renumbered label is collected by its values."""
    handover = walk.round(1)
    labels = handover / "labels"
    _, displaced, over_image, empty, missing, spelled, *_ = cases
    for case in (displaced, empty):
        sitk.WriteImage(drawn(handover, case), str(labels / f"{case}.nii.gz"))
    label = drawn(handover, missing)
    swapped = on(label, SWAPPED[sitk.GetArrayFromImage(label)])  # which no check of a label can tell
    sitk.WriteImage(swapped, str(labels / f"{missing}.nii.gz"))
    write_dicom(labels / f"{spelled}.dcm", walk.series(spelled), drawn(handover, spelled), NAMES)
    shutil.move(handover / "images" / f"{over_image}_0000.nii.gz", labels / f"{over_image}.nii.gz")


def first_round(walk):
    """Labels come with mistakes, are corrected and collected; the case of which two labels were swapped."""
    renumbered, displaced, over_image, empty, missing, spelled, *_ = cases = annotate_with_mistakes(walk)
    out = walk.type(COLLECT, code=2)
    for words in (
        f"{renumbered}.nii.gz: holds 7, 9, which no label has",
        "if 7 is 1 (tumour) and 9 is 2 (vessel), collect with --values 7=1 9=2",
        f"{displaced}.nii.gz: has the spacing 1, 1, 1, its image 1.5, 1.5, 5",
        f"{over_image}_0000.nii.gz is not the image of {over_image} any more; if a label was saved over it, move it",
        f"{empty}.nii.gz: is empty; if there is nothing to draw, collect with --allow_empty {empty}",
        f"{spelled}.dcm: has a segment 'Tumor', which is no label; rename or remove it: the labels are tumour, vessel",
        "labels collected from",
        "labelled now: 2 of 12",
    ):
        assert words in out, out
    (still,) = (line for line in out.splitlines() if line.startswith("still missing: "))
    assert set(still.removeprefix("still missing: ").split(", ")) == {over_image, missing}
    correct(walk, cases)
    out = walk.type(f"{COLLECT} --values 7=1 9=2")
    assert "labelled now: 8 of 12" in out and "5 folds of the labelled cases, 8 in all" in out
    for case in cases:
        taken = sitk.GetArrayFromImage(sitk.ReadImage(str(walk.folder / f"raw/{LIVER}/labelsTr/{case}.nii.gz")))
        if case != over_image:  # whose image is in the dataset alone
            right = sitk.GetArrayFromImage(drawn(walk.round(1), case))
            assert np.array_equal(taken, SWAPPED[right] if case == missing else right), case
    return missing


def train(walk, folds=range(5)):
    """A small network learns on the processor, for a moment."""
    walk.type("nnUNetv2_plan_and_preprocess -d 123 -c 2d --verify_dataset_integrity")
    assert walk.type(STATUS).splitlines()[-1].startswith(f"  nnUNetv2_train {LIVER} 2d 0 -tr XSSRTrainer")
    path = walk.folder / "preprocessed" / LIVER / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    small = small_configuration(plans["configurations"]["2d"], batch_size=4)
    plans["configurations"]["2d_small"] = {"inherits_from": "2d", **small}
    path.write_text(json.dumps(plans))
    for fold in folds:
        command = f"nnUNetv2_train 123 2d_small {fold} -tr XSSRTrainer_demo -device cpu"
        walk.type(f"{SHORTENED}=120 nnUNet_n_proc_DA=0 {command}")


def second_round(walk, swapped):
    """The model is asked and draws first: one label is corrected, one accepted as it is, one saved again unchanged."""
    out = walk.type(f"{SELECT} -b 3 --model --prelabel")
    assert re.search("^doubt: of folds? 0, 1, 2, 3, 4 of XSSRTrainer_demo__nnUNetPlans__2d_small", out, re.M), out
    handover, (corrected, unchanged, accepted) = walk.round(2), walk.cases(2)
    odd = f"{swapped} (round_01): its Dice with the cross-validated prediction is 0."
    assert odd in (handover / "README.txt").read_text()
    labels = handover / "labels"
    sitk.WriteImage(drawn(handover, corrected), str(labels / f"{corrected}.nii.gz"))
    before = sitk.ReadImage(str(labels / f"{unchanged}.nii.gz"))
    sitk.WriteImage(on(before, sitk.GetArrayFromImage(before)), str(labels / f"{unchanged}.nii.gz"))
    out = walk.type(COLLECT, code=2)
    assert f"{unchanged}.nii.gz: is the pre-label as it was handed over" in out
    assert "pre-labels: 1 collected" in out and f"still missing: {accepted}" in out
    worklist = handover / "worklist.csv"
    rows = [{**row, "accepted": "ja" if row["case"] == unchanged else ""} for row in read_worklist(worklist)]
    with open(worklist, "w", newline="") as file:  # as a German Excel saves it
        table = csv.DictWriter(file, rows[0], delimiter=";")
        table.writeheader()
        table.writerows(rows)
    out = walk.type(f"{COLLECT} --accept {accepted}")
    assert "pre-labels: 2 collected" in out and "labelled now: 11 of 12" in out


@pytest.mark.slow
def test_hospital(shell, tmp_path):
    pytest.importorskip("highdicom")
    write_hospital(tmp_path / "HOSPITAL")
    walk = Walk(shell, tmp_path)
    new = "-i HOSPITAL --channel_names CT --labels tumour vessel -d 123_Liver"
    walk.type(f"nnUNetv2_xssr_select {new} --unit slice -b 8 -device cpu")
    swapped = first_round(walk)
    train(walk)
    odd = f"  {swapped}: its Dice with the cross-validated prediction is 0."
    out = walk.type(STATUS)
    assert "look again at 1 of the labels:" in out and odd in out
    assert out.splitlines()[-1] == "  nnUNetv2_xssr_select -d 123 -b 4 --unit slice"
    second_round(walk, swapped)
    sitk.WriteImage(drawn(walk.round(1), swapped), str(walk.made("corrected") / f"{swapped}.nii.gz"))
    out = walk.type(f"{COLLECT} -l corrected --replace {swapped}")
    assert f"replaced: {swapped}; its old label is" in out
    out = walk.type(STATUS)
    assert "look again" not in out and "round 2: 3 picked, 3 labelled" in out
    assert f"labels that changed after nnU-Net preprocessed them: {swapped}" in out
    assert walk.type(f"{REPORT}").startswith("wrote ")
    assert json.loads(walk.type(f"{REPORT} --json"))["unit"] == "slice"


@pytest.mark.slow
def test_hospital_of_pictures(shell, tmp_path):
    """X-rays as a folder of .png, and masks that hold 0 and 255."""
    walk = Walk(shell, tmp_path)
    for number in range(8):
        write_picture(walk.made("xrays") / f"x_{number}.png", picture(number))
    new = "-i xrays --channel_names xray --labels lung -d 124_Chest"
    walk.type(f"nnUNetv2_xssr_select {new} -b 3 -device cpu")
    handover, (mask, colours, late) = walk.round(1, "Dataset124_Chest"), walk.cases(1, dataset="Dataset124_Chest")
    for case in (mask, colours):
        pixels = np.array(Image.open(handover / "images" / f"{case}_0000.png"))
        drawn = np.where(pixels > 110, 255, 0).astype(np.uint8)
        pixels = drawn if case == mask else np.repeat(drawn[..., None], 3, axis=-1)
        write_picture(handover / "labels" / f"{case}.png", pixels)
    out = walk.type("nnUNetv2_xssr_collect -d 124", code=2)
    assert f"{mask}.png: holds 255, which no label has" in out and "collect with --values 255=1" in out
    assert f"{colours}.png: has 3 channels, as a colour picture; save grey values" in out
    write_picture(handover / "labels" / f"{colours}.png", drawn)
    out = walk.type("nnUNetv2_xssr_collect -d 124 --values 255=1")
    assert "labelled now: 2 of 8" in out and f"still missing: {late}" in out
    taken = np.array(Image.open(walk.folder / "raw" / "Dataset124_Chest" / "labelsTr" / f"{colours}.png"))
    assert np.array_equal(taken, drawn // 255)
