"""Labels that come back as NRRD, 3D Slicer's .seg.nrrd or DICOM SEG."""

import itertools
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from making import write_dataset_json, write_pictures
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from nnunetv2_xssr.annotation.collecting import take_in
from nnunetv2_xssr.annotation.inspecting import inspect_labels
from nnunetv2_xssr.annotation.segmentations import read_segmentation
from nnunetv2_xssr.images.pools import dataset_pool

NAME = "Dataset041_Segments"
LABELS = {"background": 0, "left lung": 1, "tumour": 2}
SHAPE = (6, 7, 8)
CASE = "v_0"


@pytest.fixture(params=["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def dataset(empty, request):
    """One volume on an oblique grid that runs from head to feet, by every reader."""
    return made(empty, request.param)


@pytest.fixture
def volume(empty):
    return made(empty, "SimpleITKIO")


def made(empty, reader, ending=".nii.gz"):
    folder = empty.raw / NAME
    image = on_grid(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    (folder / "imagesTr").mkdir(parents=True)
    sitk.WriteImage(image, str(folder / "imagesTr" / f"{CASE}_0000{ending}"))
    more = {"overwrite_image_reader_writer": reader, "numTraining": 0, "dataset": {}}
    write_dataset_json(folder, ending, labels=LABELS, **more)
    return folder


def on_grid(array, spacing=(1.0, 2.0, 3.0), origin=(10.0, -20.0, 5.0)):
    image = sitk.GetImageFromArray(array)
    turned = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix(), (3, 3)) @ np.diag([1, 1, -1])
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(turned.ravel().tolist())
    return image


def drawn():
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 2:5, 3:7] = 1
    label[4, 1:3, 1:3] = 2
    return label


def write_segments(path, image, names, layers=None):
    """As 3D Slicer saves it: ``names`` maps a value to the name of its segment."""
    for n, (value, name) in enumerate(names.items()):
        keys = {"ID": f"Segment_{n}", "LabelValue": value, "Layer": (layers or {}).get(value, 0), "Name": name}
        for key, text in {**keys, "Extent": "0 7 0 6 0 5"}.items():
            image.SetMetaData(f"Segment{n}_{key}", str(text))
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), True)
    return path


def renumbered(label, **values):
    """A label with other values for 1 and 2."""
    return np.array([0, values["one"], values["two"]], np.uint8)[label]


def returned(folder):
    path = folder.parent.parent / "returned"
    path.mkdir(exist_ok=True)
    return path


def inspected(folder, **options):
    return inspect_labels(dataset_pool(NAME), folder=returned(folder), chosen=[CASE], **options)


def collected(folder, ending=".nii.gz", **options):
    """What nnU-Net reads of the label that was taken, as ITK has it."""
    found = inspected(folder, **options)
    assert not found.unfit, found.unfit
    take_in(dataset_pool(NAME), found.fit)
    label = sitk.ReadImage(str(folder / "labelsTr" / f"{CASE}{ending}"))
    image = sitk.ReadImage(str(folder / "imagesTr" / f"{CASE}_0000{ending}"))
    assert np.allclose(label.GetOrigin(), image.GetOrigin(), atol=1e-4)
    assert np.allclose(label.GetDirection(), image.GetDirection(), atol=1e-5)
    return sitk.GetArrayFromImage(label)


def refused(folder, *words, **options):
    (sentence,) = inspected(folder, **options).unfit
    assert all(word in sentence for word in words), sentence
    return sentence


# ------------------------------------------------------------------------------------------------------------- NRRD
@pytest.mark.parametrize("names", [{7: "Left_lung", 3: "tumour"}, {7: "left lung", 3: "TUMOUR", 9: "not drawn"}])
def test_segments_are_matched_by_name(dataset, names):
    image = on_grid(renumbered(drawn(), one=7, two=3))
    write_segments(returned(dataset) / f"{CASE}.seg.nrrd", image, names)
    assert np.array_equal(collected(dataset, values={1: 2}), drawn())


@pytest.mark.parametrize("name", [f"{CASE}.seg.nrrd", f"{CASE}.nrrd"])
def test_segments_are_matched_by_name_where_the_images_are_nrrd_too(empty, name):
    folder = made(empty, "SimpleITKIO", ".nrrd")
    path = returned(folder) / name
    write_segments(path, on_grid(renumbered(drawn(), one=2, two=1)), {2: "left lung", 1: "tumour"})
    assert np.array_equal(collected(folder, ".nrrd"), drawn())


def test_label_in_a_dataset_of_nrrd_has_the_values_that_nnunet_reads(empty):
    folder = made(empty, "SimpleITKIO", ".nrrd")
    path = write_segments(folder / "labelsTr" / f"{CASE}.nrrd", on_grid(drawn()), {1: "Segment_1", 2: "Segment_2"})
    before = path.read_bytes()
    assert np.array_equal(collected(folder, ".nrrd"), drawn()) and path.read_bytes() == before


def test_case_that_is_called_like_a_file_of_segments(empty):
    folder = made(empty, "SimpleITKIO", ".nrrd")
    (folder / "imagesTr" / f"{CASE}_0000.nrrd").rename(folder / "imagesTr" / f"{CASE}.seg_0000.nrrd")
    write_segments(returned(folder) / f"{CASE}.seg.nrrd", on_grid(drawn()), {1: "left lung", 2: "tumour"})
    found = inspect_labels(dataset_pool(NAME), folder=returned(folder), chosen=[f"{CASE}.seg"])
    assert list(found.fit) == [f"{CASE}.seg"] and not found.unfit


def test_file_without_empty_margins_or_that_runs_the_other_way(dataset):
    image = sitk.Flip(on_grid(drawn())[1:8, :, 1:5], [False, False, True])
    write_segments(returned(dataset) / f"{CASE}.seg.nrrd", image, {1: "left lung", 2: "tumour"})
    assert np.array_equal(collected(dataset), drawn())


def test_every_order_and_way_of_the_axes(tmp_path):
    image, path = on_grid(drawn()), tmp_path / "a.nrrd"
    grid = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
    for order in itertools.permutations(range(3)):
        for ways in itertools.product([False, True], repeat=3):
            sitk.WriteImage(sitk.Flip(sitk.PermuteAxes(image, order), ways), str(path))
            label = read_segmentation(path, shape=SHAPE, grid={"sitk_stuff": grid}, names={})
            assert np.array_equal(label, drawn()), (order, ways)


@pytest.mark.parametrize("order", ["RAS", "LPI", "PIR", "SAL"])
def test_label_in_the_format_of_the_dataset_in_another_order_of_the_axes(dataset, order):
    """As napari-nifti and others save it: from left to right, back to front and foot to head, whatever the image is."""
    image = as_nibabel(on_grid(drawn()))
    turned = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(order)))
    assert "".join(nibabel.aff2axcodes(turned.affine)) == order
    nibabel.save(turned, returned(dataset) / f"{CASE}.nii.gz")
    assert np.array_equal(collected(dataset), drawn())


@pytest.mark.parametrize(
    ("moved", "size"), [((0.0, 0.0, 3.0), SHAPE), ((0.4, 0.0, 0.0), SHAPE), ((0.0, 0.0, 0.0), (6, 7, 7))]
)
def test_label_in_another_order_off_the_voxels_of_its_image(dataset, moved, size):
    image = as_nibabel(on_grid(drawn()[tuple(map(slice, size))]))
    image.affine[:3, 3] += moved
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(image.dataobj, image.affine))
    nibabel.save(turned, returned(dataset) / f"{CASE}.nii.gz")
    refused(dataset, "draw and save it on its image's grid")


def as_nibabel(image):
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def test_plain_nrrd_holds_values(dataset):
    sitk.WriteImage(on_grid(renumbered(drawn(), one=255, two=2)), str(returned(dataset) / f"{CASE}.nrrd"))
    refused(dataset, "v_0.nrrd: holds 255")
    assert np.array_equal(collected(dataset, values={255: 1}), drawn())


@pytest.mark.parametrize(
    "names, words",
    [
        ({1: "left lung", 2: "Segment_2"}, ["has a segment 'Segment_2'", "left lung, tumour"]),
        ({1: "left lung"}, ["has no segment for the voxels of 2"]),
    ],
)
def test_segments_that_are_no_labels(volume, names, words):
    write_segments(returned(volume) / f"{CASE}.seg.nrrd", on_grid(drawn()), names)
    refused(volume, "v_0.seg.nrrd: ", *words)


def test_names_that_could_be_two_labels(volume):
    described = {**json.loads((volume / "dataset.json").read_text()), "labels": {**LABELS, "Left_Lung": 3}}
    (volume / "dataset.json").write_text(json.dumps(described))
    path = returned(volume) / f"{CASE}.seg.nrrd"
    write_segments(path, on_grid(drawn()), {1: "LEFT LUNG", 2: "tumour"})
    refused(volume, "has a segment 'LEFT LUNG', which is no label")
    write_segments(path, on_grid(drawn()), {1: "left lung", 2: "tumour"})
    assert np.array_equal(collected(volume), drawn())


def test_layers_that_overlap(volume):
    both = sitk.Compose(on_grid(drawn()), on_grid(drawn()))
    path = returned(volume) / f"{CASE}.seg.nrrd"
    write_segments(path, both, {1: "left lung", 2: "tumour"}, layers={2: 1})
    refused(volume, "segments in several layers, because they overlap; give every voxel one segment only")


@pytest.mark.parametrize(
    "geometry", [{"origin": (10.5, -20.0, 5.0)}, {"spacing": (1.0, 2.0, 3.1)}, {"spacing": (2.0, 2.0, 3.0)}]
)
def test_segments_off_the_voxels_of_the_image(volume, geometry):
    write_segments(returned(volume) / f"{CASE}.seg.nrrd", on_grid(drawn(), **geometry), {1: "left lung", 2: "tumour"})
    refused(volume, "does not lie on the voxels of its image", "draw it over that image")


def test_segments_beyond_the_image(volume):
    image = on_grid(drawn())
    image.SetOrigin(image.TransformIndexToPhysicalPoint((0, 0, 3)))
    write_segments(returned(volume) / f"{CASE}.seg.nrrd", image, {1: "left lung", 2: "tumour"})
    refused(volume, "has 16 voxels beyond its image")


def test_cut_off_nrrd(volume):
    path = write_segments(returned(volume) / f"{CASE}.seg.nrrd", on_grid(drawn()), {1: "left lung", 2: "tumour"})
    path.write_bytes(path.read_bytes()[:-20])
    refused(volume, "v_0.seg.nrrd: cannot be read")


def test_two_formats_of_one_label(volume):
    write_segments(returned(volume) / f"{CASE}.seg.nrrd", on_grid(drawn()), {1: "left lung", 2: "tumour"})
    sitk.WriteImage(on_grid(drawn()), str(returned(volume) / f"{CASE}.nii.gz"))
    found = inspected(volume)
    assert len(found.unfit) == 2 and not found.fit
    assert "v_0.nii.gz: v_0.seg.nrrd is there too" in found.unfit[0]


def test_name_with_an_ending_too_much(volume):
    path = returned(volume) / f"{CASE}_0000.seg.nrrd"
    write_segments(path, on_grid(drawn()), {1: "left lung", 2: "tumour"})
    refused(volume, "no case has this name; is it v_0.seg.nrrd?", "--fix_names")
    assert np.array_equal(collected(volume, fix_names=True), drawn())


def test_segments_of_a_picture(empty):
    write_pictures(empty.raw / NAME, 1, first_seed=1)
    write_dataset_json(empty.raw / NAME, numTraining=0, dataset={})
    label = np.zeros((1, 40, 48), np.uint8)
    label[0, 3:9, 4:12] = 5
    path = returned(empty.raw / NAME) / "case_00.seg.nrrd"
    write_segments(path, sitk.GetImageFromArray(label), {5: "blob"})
    pool = dataset_pool(NAME)
    found = inspect_labels(pool, folder=path.parent, chosen=["case_00"])
    take_in(pool, found.fit)
    taken = sitk.GetArrayFromImage(sitk.ReadImage(str(empty.raw / NAME / "labelsTr" / "case_00.png")))
    assert np.array_equal(taken, label[0] > 0)
    write_segments(path, sitk.GetImageFromArray(label[:, :30]), {5: "blob"})
    (empty.raw / NAME / "labelsTr" / "case_00.png").unlink()
    write_dataset_json(empty.raw / NAME, numTraining=0, dataset={})
    (sentence,) = inspect_labels(dataset_pool(NAME), folder=path.parent, chosen=["case_00"]).unfit
    assert "has the size 48 x 30, its image 48 x 40" in sentence
