"""DICOM SEG that comes back: by the names of its segments, laid on the image by its place in the patient."""

import sys

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_making import SPACING, stored_voxels, write_series
from making import write_dataset_json

from nnunetv2_xssr.annotation.collecting import take_in
from nnunetv2_xssr.annotation.inspecting import inspect_labels
from nnunetv2_xssr.images.pools import dataset_pool

NAME, CASE, SHAPE = "Dataset042_Dicom", "p_1", (6, 7, 8)
ORIGIN = (-20.0, 30.5, 100.0)
STUDY = {
    "Modality": "CT",
    "FrameOfReferenceUID": "1.2.3.4",
    "StudyID": "1",
    "StudyDate": "20200101",
    "StudyTime": "120000",
    "AccessionNumber": "1",
    "PatientSex": "O",
    "ReferringPhysicianName": "",
}


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


def write_segmentation(folder, series, masks, names):
    """Masks of shape (slices, rows, columns, segments); empty frames are left out, as tools do."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Lung,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, start=1)
    ]
    made = hd.seg.Segmentation(
        source_images=series,
        pixel_array=masks,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="0",
    )
    path = folder.parent.parent / "returned" / f"{CASE}.dcm"
    made.save_as(path)
    return path


def masks(*of):
    return np.stack(of, axis=-1).astype(np.uint8)


def inspected(folder):
    return inspect_labels(dataset_pool(NAME), folder=folder.parent.parent / "returned", chosen=[CASE])


def refused(folder, *words):
    (sentence,) = inspected(folder).unfit
    assert all(word in sentence for word in words), sentence


def test_segments_lie_where_the_image_does(dataset):
    folder, series = dataset
    write_segmentation(folder, series, masks(drawn() == 2, drawn() == 1), ["Tumour", "left_lung"])
    found = inspected(folder)
    assert not found.unfit, found.unfit
    take_in(dataset_pool(NAME), found.fit)
    taken = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / f"{CASE}.nii.gz")))
    assert np.array_equal(taken[::-1], drawn())


def test_one_slice_alone(dataset):
    folder, series = dataset
    write_segmentation(folder, series, masks(drawn() == 2), ["tumour"])
    take_in(dataset_pool(NAME), inspected(folder).fit)
    taken = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr" / f"{CASE}.nii.gz")))
    assert np.array_equal(taken[::-1] == 2, drawn() == 2) and taken.max() == 2


def test_segments_that_overlap(dataset):
    folder, series = dataset
    write_segmentation(folder, series, masks(drawn() > 0, drawn() == 1), ["tumour", "left lung"])
    refused(folder, "p_1.dcm: has segments that overlap; give every voxel one segment only")


def test_segment_that_is_no_label(dataset):
    folder, series = dataset
    write_segmentation(folder, series, masks(drawn() == 1), ["Lung, left"])
    refused(folder, "p_1.dcm: has a segment 'Lung, left', which is no label", "left lung, tumour")


def test_segmentation_of_another_series(dataset):
    folder, series = dataset
    for made in series:
        made.ImagePositionPatient = [float(mm) + 0.3 for mm in made.ImagePositionPatient]
    write_segmentation(folder, series, masks(drawn() == 1), ["tumour"])
    refused(folder, "does not lie on the voxels of its image")


def test_what_is_no_segmentation(dataset):
    folder, series = dataset
    series[0].save_as(folder.parent.parent / "returned" / f"{CASE}.dcm")
    refused(folder, "p_1.dcm: cannot be read")


def test_cut_off_segmentation(dataset):
    folder, series = dataset
    path = write_segmentation(folder, series, masks(drawn() == 1), ["tumour"])
    path.write_bytes(path.read_bytes()[:-20])
    refused(folder, "p_1.dcm: cannot be read")


def test_without_the_extra(dataset, monkeypatch):
    folder, series = dataset
    write_segmentation(folder, series, masks(drawn() == 1), ["tumour"])
    monkeypatch.setitem(sys.modules, "highdicom", None)
    refused(folder, 'needs the extra "dicom"', 'pip install "nnunetv2_xssr[dicom]"')
