"""DICOM SEG and RTSTRUCT that come back: by names, laid on the image by its place in the patient."""

import sys

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_making import SPACING, STUDY, masks, stored_voxels, write_contours, write_segmentation, write_series
from making import write_dataset_json
from skimage.measure import find_contours

from nnunetv2_xssr.annotation.collecting import take_in
from nnunetv2_xssr.annotation.inspecting import inspect_labels
from nnunetv2_xssr.images.pools import dataset_pool

NAME, CASE, SHAPE = "Dataset042_Dicom", "p_1", (6, 7, 8)
ORIGIN = (-20.0, 30.5, 100.0)


@pytest.fixture
def dataset(empty):
    """A volume that was converted from a series, stored from the head to the feet, and the files of the series."""
    pytest.importorskip("highdicom")
    files = write_series(empty.root / "series", stored_voxels(size=SHAPE), origin=ORIGIN, **STUDY)
    image = sitk.GetImageFromArray(stored_voxels(size=SHAPE).astype(np.float32))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    folder = empty.raw / NAME
    (folder / "imagesTr").mkdir(parents=True)
    sitk.WriteImage(sitk.Flip(image, [False, False, True]), str(folder / "imagesTr" / f"{CASE}_0000.nii.gz"))
    labels = {"background": 0, "left lung": 1, "tumour": 2}
    write_dataset_json(folder, ".nii.gz", labels=labels, numTraining=0, dataset={})
    (empty.root / "returned").mkdir()
    return folder, [pydicom.dcmread(file) for file in files]


def drawn():
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 2:5, 3:7] = 1
    label[3, 1:3, 1:3] = 2
    return label


def returned(folder):
    return folder.parent.parent / "returned" / f"{CASE}.dcm"


def inspected(folder):
    return inspect_labels(dataset_pool(NAME), folder=returned(folder).parent, chosen=[CASE])


def refused(folder, *words):
    (sentence,) = inspected(folder).unfit
    assert all(word in sentence for word in words), sentence


def test_segments_lie_where_the_image_does(dataset):
    folder, series = dataset
    write_segmentation(returned(folder), series, masks(drawn() == 2, drawn() == 1), ["Tumour", "left_lung"])
    found = inspected(folder)
    assert not found.unfit, found.unfit
    take_in(dataset_pool(NAME), found.fit)
    taken = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / f"{CASE}.nii.gz")))
    assert np.array_equal(taken[::-1], drawn())


def test_one_slice_alone(dataset):
    folder, series = dataset
    write_segmentation(returned(folder), series, masks(drawn() == 2), ["tumour"])
    take_in(dataset_pool(NAME), inspected(folder).fit)
    taken = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / f"{CASE}.nii.gz")))
    assert np.array_equal(taken[::-1] == 2, drawn() == 2) and taken.max() == 2


def test_segments_that_overlap(dataset):
    folder, series = dataset
    write_segmentation(returned(folder), series, masks(drawn() > 0, drawn() == 1), ["tumour", "left lung"])
    refused(folder, "p_1.dcm: has segments that overlap; give every voxel one segment only")


def test_segment_that_is_no_label(dataset):
    folder, series = dataset
    write_segmentation(returned(folder), series, masks(drawn() == 1), ["Lung, left"])
    refused(folder, "p_1.dcm: has a segment 'Lung, left', which is no label", "left lung, tumour")


def test_segmentation_of_another_series(dataset):
    folder, series = dataset
    for made in series:
        made.ImagePositionPatient = [float(mm) + 0.3 for mm in made.ImagePositionPatient]
    write_segmentation(returned(folder), series, masks(drawn() == 1), ["tumour"])
    refused(folder, "does not lie on the voxels of its image")


def test_what_is_no_segmentation(dataset):
    folder, series = dataset
    series[0].save_as(returned(folder))
    refused(folder, "p_1.dcm: cannot be read")


def test_cut_off_segmentation(dataset):
    folder, series = dataset
    path = write_segmentation(returned(folder), series, masks(drawn() == 1), ["tumour"])
    path.write_bytes(path.read_bytes()[:-20])
    refused(folder, "p_1.dcm: cannot be read")


def test_without_the_extra(dataset, monkeypatch):
    folder, series = dataset
    write_segmentation(returned(folder), series, masks(drawn() == 1), ["tumour"])
    monkeypatch.setitem(sys.modules, "highdicom", None)
    refused(folder, 'needs the extra "dicom"', 'pip install "nnunetv2_xssr[dicom]"')


# --------------------------------------------------------------------------------------------------------- RTSTRUCT
def ring():
    """A label with a hole, which has an island."""
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 1:6, 1:7] = 1
    label[1:3, 2:5, 2:6] = 0
    label[2, 3, 3] = 1
    label[4, 2:4, 2:4] = 2
    return label


def edges(mask):
    """Half a pixel outside of what is drawn, and inside of what is not, as Slicer does."""
    return [curve[:, ::-1] - 1 for curve in find_contours(np.pad(mask, 1).astype(float), 0.5)]


def in_patient(curves, place):
    """Curves of points (x, y) on slice ``place`` of the series, in millimetres."""
    return [np.c_[points, np.full(len(points), place)] * SPACING + ORIGIN for points in curves]


def structures(label, names=("left lung", "tumour"), curves_of=edges):
    found = {}
    for value, name in enumerate(names, start=1):
        slices = np.flatnonzero((label == value).any(axis=(1, 2)))
        found[name] = [one for k in slices for one in in_patient(curves_of(label[k] == value), k)]
    return found


def taken(folder):
    found = inspected(folder)
    assert not found.unfit, found.unfit
    take_in(dataset_pool(NAME), found.fit)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / f"{CASE}.nii.gz")))[::-1]


def test_contours_with_holes_become_the_same_voxels(dataset):
    folder, _ = dataset
    write_contours(returned(folder), structures(ring()))
    assert np.array_equal(taken(folder), ring())


def test_contours_through_centres_count_what_they_touch(dataset):
    folder, _ = dataset
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 1:6, 1:7] = 1
    label[1:3, 2:5, 2:6] = 0
    outer = np.array([[1, 1], [6, 1], [6, 5], [1, 5]])  # (x, y)
    hole = np.array([[1, 2], [2, 1], [5, 1], [6, 2], [6, 4], [5, 5], [2, 5], [1, 4]])  # through what borders on it
    write_contours(returned(folder), structures(label, ["left lung"], lambda mask: [outer, hole]))
    assert np.array_equal(taken(folder), label)


@pytest.mark.parametrize(
    ("drawn", "options", "words"),
    [
        ({"Lung, left": (1, 1, 1)}, {}, "has a segment 'Lung, left', which is no label; rename or remove it"),
        ({"tumour": (1, 1, 1), "left lung": (2, 2, 1)}, {}, "has structures that overlap"),
        ({"tumour": (1, 1, 1.4)}, {}, "has a contour between the slices of its image, near slice"),
        ({"tumour": (1, 1, 9)}, {}, "has a contour beyond its image"),
        ({"tumour": (6, 1, 1)}, {}, "has a contour beyond its image"),
        ({"tumour": (1, 1, 1)}, {"kind": "OPEN_PLANAR"}, "has contours of the type OPEN_PLANAR"),
    ],
)
def test_contours_that_do_not_fit(dataset, drawn, options, words):
    folder, _ = dataset
    square = np.array([[0, 0], [2.5, 0], [2.5, 2.5], [0, 2.5]])
    curves = {name: in_patient([square + [x, y]], place) for name, (x, y, place) in drawn.items()}
    write_contours(returned(folder), curves, **options)
    refused(folder, "p_1.dcm: ", words)
