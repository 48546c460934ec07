"""What collect refuses, file by file, and what it leaves for nnU-Net."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from making import picture, write_dataset_json, write_picture, write_pictures
from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_dataset_integrity
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from PIL import Image

from nnunetv2_xssr.annotation import label_check
from nnunetv2_xssr.annotation.collecting import take_in
from nnunetv2_xssr.annotation.control import compare_with_control
from nnunetv2_xssr.annotation.inspecting import inspect_labels
from nnunetv2_xssr.annotation.label_check import label_values
from nnunetv2_xssr.annotation.rater_labels import inspect_raters
from nnunetv2_xssr.annotation.sparse_labels import with_ignore, write_template
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.files import sha256_files
from nnunetv2_xssr.records.workspace import Workspace

PICTURES, VOLUMES = "Dataset021_Pictures", "Dataset022_Volumes"
CASES = ["case_00", "case_01", "case_02", "case_03"]


@pytest.fixture
def pictures(empty):
    """Four pictures of 40 x 48 pixels without labels."""
    write_pictures(empty.raw / PICTURES, 4, first_seed=1)
    write_dataset_json(empty.raw / PICTURES, numTraining=0, dataset={})
    return empty.raw / PICTURES


def test_a_label_that_is_saved_while_it_is_collected_is_not_taken(pictures):
    """An annotator's program may have written half of it."""
    pool, label = dataset_pool(PICTURES), pictures / "came" / "case_00.png"
    write_picture(label, (picture(1) > 110).astype(np.uint8))
    fit = inspect_labels(pool, folder=label.parent, chosen=CASES).fit
    label.write_bytes(label.read_bytes()[:-20])
    with pytest.raises(UserError, match="came/case_00.png: was saved while it was collected"):
        take_in(pool, fit)
    assert not list((pictures / "labelsTr").iterdir())


def test_what_somebody_else_writes_into_dataset_json_meanwhile_is_not_lost(pictures):
    pool, label = dataset_pool(PICTURES), pictures / "came" / "case_00.png"
    write_picture(label, (picture(1) > 110).astype(np.uint8))
    fit = inspect_labels(pool, folder=label.parent, chosen=CASES).fit
    write_dataset_json(pictures, numTraining=0, dataset={}, licence="mine")
    with pytest.raises(UserError, match="dataset.json has changed while labels were collected"):
        take_in(pool, fit)
    again = dataset_pool(PICTURES)
    assert take_in(again, inspect_labels(again, folder=label.parent, chosen=CASES).fit) == ["case_00"]
    assert json.loads((pictures / "dataset.json").read_text())["licence"] == "mine"


@pytest.fixture
def volumes(empty):
    """Two volumes on an oblique grid."""
    for case in ("v_0", "v_1"):
        save(empty.raw / VOLUMES / "imagesTr" / f"{case}_0000.nii.gz", np.random.default_rng(0).normal(size=(6, 7, 8)))
    write_dataset_json(empty.raw / VOLUMES, ".nii.gz", labels={"background": 0, "blob": 1}, numTraining=0)
    return empty.raw / VOLUMES


def save(path, array, spacing=(1.0, 2.0, 3.0), origin=(10.0, -20.0, 5.0), direction=None):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    turned = sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix()
    image.SetDirection(turned if direction is None else direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def drawn(shape=(40, 48), value=1):
    label = np.zeros(shape, np.uint8)
    label[..., 2:5, 2:5] = value
    return label


def came(folder, *names, label=None):
    """A folder of labels that came back, with these files."""
    returned = folder.parent.parent / "returned"
    for name in names:
        write_picture(returned / name, drawn() if label is None else label)
    return returned


def inspected(folder, returned, chosen=CASES, **options):
    return inspect_labels(dataset_pool(folder.name), folder=returned, chosen=chosen, **options)


def taken(folder, returned, chosen=CASES, **options):
    """Collect these labels, of which each fits; the folder of labels in the dataset."""
    found = inspected(folder, returned, chosen, **options)
    assert not found.unfit, found.unfit
    take_in(dataset_pool(folder.name), found.fit)
    return folder / "labelsTr"


def nnunet_takes(folder, case, channels=1):
    """Whether nnU-Net's own check of a case finds the label on its image's grid."""
    pool = dataset_pool(folder.name)
    files = next(one.files for one in pool.cases if one.identifier == case)
    label = folder / "labelsTr" / f"{case}{pool.file_ending}"
    return check_cases([str(file) for file in files], str(label), channels, type(pool.reader()))


def refused(folder, returned, *words, chosen=CASES, **options):
    """Exactly one file is refused, with these words; every other one that came is fit."""
    found = inspected(folder, returned, chosen, **options)
    assert len(found.unfit) == 1, found
    assert all(word in found.unfit[0] for word in words), found.unfit
    return found


def volume_label(folder, **geometry):
    returned = folder.parent.parent / "returned"
    label = drawn((6, 7, 8))
    save(returned / "v_0.nii.gz", label, **geometry)
    save(returned / "v_1.nii.gz", label)
    return returned


# ------------------------------------------------------------------------------------------------- what is refused
def test_labels_that_fit_and_those_that_are_missing(pictures):
    found = inspected(pictures, came(pictures, "case_00.png", "case_02.png"))
    assert sorted(found.fit) == ["case_00", "case_02"] and found.missing == ["case_01", "case_03"]
    assert not found.unfit and not found.not_asked


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("case_01_0000.png", ["case_01_0000.png: no case has this name", "is it case_01.png?", "with --fix_names"]),
        ("Case_01.png", ["is it case_01.png?"]),
        ("Case_01.PNG", ["is it case_01.png?"]),
        ("case_01.seg.gz", ["is none of .png, .seg.nrrd, .nrrd, .dcm", "save it in one of them, as case_01.png, else"]),
        ("case_01.jpg", ["is none of .png", "as case_01.png"]),
        (
            "notes.docx",
            ["notes.docx: is none of .png, .seg.nrrd, .nrrd, .dcm; if it is a label, save it in one of them, else"],
        ),
        ("segmentation of monday.png", ["no case has this name; the names are like case_00.png"]),
    ],
)
def test_wrong_name(pictures, name, words):
    returned = came(pictures, "case_02.png")
    shutil.copy(returned / "case_02.png", returned / name)
    found = refused(pictures, returned, *words)
    assert list(found.fit) == ["case_02"] and "case_01" in found.missing


def test_names_once_all_labels_are_there(pictures):
    returned = came(pictures, "case_00.png")
    take_in(dataset_pool(PICTURES), inspected(pictures, returned, CASES[:1]).fit)
    refused(pictures, came(pictures, "other.png"), "no case has this name, and no label is missing", chosen=CASES[:1])


def test_wrong_name_of_a_case_whose_label_is_there(pictures):
    take_in(dataset_pool(PICTURES), inspected(pictures, came(pictures, "case_01.png")).fit)
    returned = came(pictures, "case_01.png")
    (returned / "case_01.png").rename(returned / "case_01_0000.png")
    refused(pictures, returned, "case_01_0000.png: no case has this name; is it case_01.png, which needs no label?")


def test_files_of_the_system_are_no_labels(pictures):
    returned = came(pictures, "case_00.png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (returned / name).write_bytes(b"x")
    assert not inspected(pictures, returned).unfit


def test_wrong_size(pictures):
    returned = came(pictures, "case_01.png")
    refused(pictures, came(pictures, "case_00.png", label=drawn((48, 40))), "case_00.png", "40 x 48", "48 x 40")
    assert list(inspected(pictures, returned).fit) == ["case_01"]


@pytest.mark.parametrize(
    ("geometry", "word"),
    [
        ({"spacing": (1.0, 2.0, 3.001)}, "spacing"),
        ({"origin": (10.0, -20.0, 5.5)}, "origin"),
        ({"direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}, "direction"),
    ],
)
def test_wrong_geometry(volumes, geometry, word):
    found = refused(volumes, volume_label(volumes, **geometry), "v_0.nii.gz", word, chosen=["v_0", "v_1"])
    assert list(found.fit) == ["v_1"]


def test_wrong_geometry_under_nibabel(volumes):
    write_dataset_json(
        volumes, ".nii.gz", overwrite_image_reader_writer="NibabelIO", labels={"background": 0, "blob": 1}
    )
    returned = volume_label(volumes, origin=(10.0, -20.0, 5.5))
    refused(volumes, returned, "v_0.nii.gz", "affine", chosen=["v_0", "v_1"])


def test_geometry_in_single_precision_fits(volumes):
    returned = volume_label(volumes)
    image = nibabel.load(returned / "v_0.nii.gz")
    affine = image.affine.astype(np.float32) + 2e-6
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), returned / "v_0.nii.gz")
    assert not inspected(volumes, returned, ["v_0", "v_1"]).unfit


def test_unknown_values(pictures):
    refused(pictures, came(pictures, "case_00.png", label=drawn(value=255)), "case_00.png: holds 255", "1 (blob)")


def test_values_that_are_not_whole(volumes):
    returned = volume_label(volumes)
    save(returned / "v_0.nii.gz", drawn((6, 7, 8)).astype(np.float32) / 2)
    refused(volumes, returned, "v_0.nii.gz: holds 0.5", chosen=["v_0", "v_1"])


def test_not_a_number(volumes):
    returned = volume_label(volumes)
    image = nibabel.load(returned / "v_0.nii.gz")
    values = np.asarray(image.dataobj).astype(np.float32)
    values[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, image.affine), returned / "v_0.nii.gz")
    refused(volumes, returned, "v_0.nii.gz: holds NaN", chosen=["v_0", "v_1"])


def test_colours(pictures):
    coloured = np.stack([drawn()] * 3, axis=-1)
    refused(pictures, came(pictures, "case_00.png", label=coloured), "3 channels", "grey values")


def test_empty(pictures):
    returned = came(pictures, "case_00.png", label=drawn(value=0))
    refused(pictures, returned, "case_00.png: is empty", "--allow_empty case_00")
    assert list(inspected(pictures, returned, allow_empty=True).fit) == ["case_00"]
    assert list(inspected(pictures, returned, allow_empty=["case_00"]).fit) == ["case_00"]
    refused(pictures, returned, "case_00.png: is empty", allow_empty=["case_01"])


@pytest.mark.parametrize("keep", [0, 0.5])
def test_cut_off_picture(pictures, keep):
    returned = came(pictures, "case_00.png", "case_01.png")
    content = (returned / "case_00.png").read_bytes()
    (returned / "case_00.png").write_bytes(content[: int(keep * len(content))])
    assert list(refused(pictures, returned, "case_00.png: cannot be read").fit) == ["case_01"]


def test_cut_off_volume(volumes):
    returned = volume_label(volumes)
    label = sitk.ReadImage(str(returned / "v_0.nii.gz"))
    sitk.WriteImage(label, str(returned / "v_0.nii"))
    content = (returned / "v_0.nii").read_bytes()
    (returned / "v_0.nii").unlink()
    (returned / "v_0.nii.gz").write_bytes(gzip.compress(content[:-50]))
    refused(volumes, returned, "v_0.nii.gz: cannot be read", chosen=["v_0", "v_1"])


def test_label_of_a_case_that_was_not_asked_for_is_left_alone(pictures):
    found = inspected(pictures, came(pictures, "case_00.png", "case_03.png"), ["case_00", "case_01"])
    assert list(found.fit) == ["case_00"] and found.not_asked == ["case_03.png"] and not found.unfit


def test_label_that_differs_from_the_collected_one(pictures):
    returned = came(pictures, "case_00.png")
    take_in(dataset_pool(PICTURES), inspected(pictures, returned).fit)
    assert not inspected(pictures, returned).unfit
    corrected = drawn()
    corrected[30, 30] = 1
    write_picture(pictures / "labelsTr" / "case_00.png", corrected)
    refused(pictures, returned, "case_00.png: differs from", "collect with --replace case_00")
    assert (np.array(Image.open(pictures / "labelsTr" / "case_00.png")) == corrected).all()
    (pictures / "labelsTr" / "case_00.png").unlink()  # as it says
    assert take_in(dataset_pool(PICTURES), {}) == []
    assert take_in(dataset_pool(PICTURES), inspected(pictures, returned).fit) == ["case_00"]


def test_label_that_was_put_into_the_dataset_is_not_overwritten(pictures):
    """Whether the table of dataset.json tells of it or not."""
    by_hand = drawn()
    by_hand[30, 30] = 1
    for case in CASES[:2]:
        write_picture(pictures / "labelsTr" / f"{case}.png", by_hand)
    returned = came(pictures, "case_00.png", "case_02.png")
    Image.fromarray(by_hand).save(returned / "case_01.png", compress_level=0)  # the same voxels
    words = (
        "case_00.png: differs from",
        "which is there already; to take it in its place, collect with --replace case_00",
    )
    found = refused(pictures, returned, *words)
    assert sorted(found.fit) == CASES[:3] and found.equal == ["case_01"]
    take_in(dataset_pool(PICTURES), found.fit)
    assert all((np.array(Image.open(pictures / "labelsTr" / f"{case}.png")) == by_hand).all() for case in CASES[:2])
    assert inspected(pictures, returned, replace=["case_00"]).fit["case_00"].file == returned / "case_00.png"


@pytest.mark.parametrize("how", ["first", "majority"])
@pytest.mark.parametrize("drawn_by", ["AB", "B"])
def test_label_of_a_shared_case_that_was_put_into_the_dataset_is_not_overwritten(pictures, tmp_path, how, drawn_by):
    by_hand = pictures / "labelsTr" / "case_00.png"
    write_picture(by_hand, drawn(value=0))
    before = by_hand.read_bytes()
    for rater in drawn_by:
        write_picture(tmp_path / "labels" / rater / "case_00.png", drawn())
    options = {"folder": tmp_path / "labels", "chosen": CASES[:1], "dealt": {"case_00": ["A", "B"]}, "how": how}
    found = inspect_raters(dataset_pool(PICTURES), scratch=tmp_path, allow_empty=["case_00"], **options).found
    assert ["this differs from its label in labelsTr, which is there already" in one for one in found.unfit] == (
        [True] if drawn_by == "AB" else []
    )
    take_in(dataset_pool(PICTURES), found.fit)
    assert list(json.loads((pictures / "dataset.json").read_text())["dataset"]) == ["case_00"]
    assert by_hand.read_bytes() == before


def test_no_folder_of_labels(pictures):
    with pytest.raises(UserError, match="no folder of labels .*nowhere; give it with -l"):
        inspected(pictures, Path("nowhere"))


def test_labels_put_into_the_dataset_by_hand_are_checked_too(pictures):
    write_picture(pictures / "labelsTr" / "case_00.png", drawn())
    write_picture(pictures / "labelsTr" / "case_01.png", drawn(value=7))
    returned = came(pictures, "case_02.png")
    assert sorted(refused(pictures, returned, "case_01.png: holds 7").fit) == ["case_00", "case_02"]
    assert sorted(refused(pictures, pictures / "labelsTr", "case_01.png: holds 7").fit) == ["case_00"]


def test_values_of_regions_and_of_the_ignore_label():
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    assert list(label_values({"labels": labels, "regions_class_order": [1, 2]})) == [0, 1, 2, 3]


def test_parts_of_regions_have_names(pictures, tmp_path):
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    write_dataset_json(pictures, numTraining=0, dataset={}, **regions)
    words = "the values are 0 (background), 1 (whole), 2 (whole and core)"
    refused(pictures, came(pictures, "case_00.png", label=drawn(value=9)), words)
    pool, raters = dataset_pool(PICTURES), ["A", "B"]
    for rater in raters:
        write_picture(tmp_path / "labels" / rater / "case_01.png", drawn(value=2))
    options = {"chosen": ["case_01"], "dealt": {"case_01": raters}, "how": "first", "scratch": tmp_path}
    agreement = inspect_raters(pool, folder=tmp_path / "labels", **options).agreement
    assert [(one.label, one.dice) for one in agreement] == [("whole", 1.0), ("core", 1.0)]


# ------------------------------------------------------------------------------------------------- what is taken in
def test_dataset_json_lists_what_is_labelled(pictures):
    before = json.loads((pictures / "dataset.json").read_text())
    returned = came(pictures, "case_00.png", "case_02.png")
    assert take_in(dataset_pool(PICTURES), inspected(pictures, returned).fit) == ["case_00", "case_02"]
    after = json.loads((pictures / "dataset.json").read_text())
    assert after["numTraining"] == 2 and after == {**before, "numTraining": 2, "dataset": after["dataset"]}
    for case, files in get_filenames_of_train_images_and_targets(str(pictures)).items():
        assert files["images"] == [str(pictures / "imagesTr" / f"{case}_0000.png")]
        assert Path(files["label"]).read_bytes() == (returned / f"{case}.png").read_bytes()
    assert sorted(path.name for path in returned.iterdir()) == ["case_00.png", "case_02.png"]  # copied, not moved
    assert len(dataset_pool(PICTURES)) == 4  # the others stay in the pool
    assert take_in(dataset_pool(PICTURES), inspected(pictures, came(pictures, "case_03.png")).fit) == [
        "case_00",
        "case_02",
        "case_03",
    ]


def test_interrupted_collect_leaves_the_old_dataset(pictures, monkeypatch):
    before = (pictures / "dataset.json").read_bytes()
    fit = inspected(pictures, came(pictures, "case_00.png", "case_01.png")).fit
    copied = []

    def fails_at_the_second(old, new):
        copied.append(new)
        content = Path(old).read_bytes()
        Path(new).write_bytes(content[: len(content) // len(copied)])
        if len(copied) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", fails_at_the_second)
        with pytest.raises(OSError):
            take_in(dataset_pool(PICTURES), fit)
    assert (pictures / "dataset.json").read_bytes() == before
    assert [path.name for path in (pictures / "labelsTr").iterdir()] == ["case_00.png"]
    assert sorted(take_in(dataset_pool(PICTURES), inspected(pictures, came(pictures)).fit)) == ["case_00", "case_01"]


def test_entries_of_the_table_are_kept(pictures, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_picture(elsewhere / "image.png", np.arange(40 * 48, dtype=np.uint8).reshape(40, 48))
    write_picture(elsewhere / "label.png", drawn())
    entry = {"images": [str(elsewhere / "image.png")], "label": str(elsewhere / "label.png")}
    write_dataset_json(pictures, dataset={"far": entry, "case_01": {"images": ["imagesTr/case_01_0000.png"]}})
    assert take_in(dataset_pool(PICTURES), inspected(pictures, came(pictures, "case_00.png")).fit) == ["case_00", "far"]
    assert json.loads((pictures / "dataset.json").read_text())["dataset"]["far"] == entry
    write_dataset_json(pictures, dataset={"far": {"images": entry["images"]}})
    with pytest.raises(UserError, match="lists case far without a label.*link its image into imagesTr"):
        take_in(dataset_pool(PICTURES), {})


def test_label_stays_with_the_image_that_the_table_names(pictures, tmp_path):
    """Another image of the same name lies in imagesTr."""
    other = tmp_path / "case_00.png"
    write_picture(other, picture(99))
    write_dataset_json(pictures, numTraining=0, dataset={"case_00": {"images": [str(other)]}})
    returned = came(pictures, "case_00.png")
    take_in(dataset_pool(PICTURES), inspected(pictures, returned).fit)
    entry = {"images": [str(other)], "label": "labelsTr/case_00.png"}
    assert json.loads((pictures / "dataset.json").read_text())["dataset"] == {"case_00": entry}


def test_spacing_of_stacks_goes_with_the_label(empty):
    folder = empty.raw / "Dataset023_Stacks"
    (folder / "imagesTr").mkdir(parents=True)
    tifffile.imwrite(folder / "imagesTr" / "s_0000.tif", np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7))
    (folder / "imagesTr" / "s.json").write_text('{"spacing": [3, 1, 1]}')
    write_dataset_json(folder, ".tif", numTraining=0)
    returned = empty.root / "returned"
    returned.mkdir()
    tifffile.imwrite(returned / "s.tif", drawn((5, 6, 7)))
    take_in(dataset_pool(folder.name), inspect_labels(dataset_pool(folder.name), folder=returned, chosen=["s"]).fit)
    assert json.loads((folder / "labelsTr" / "s.json").read_text()) == {"spacing": [3, 1, 1]}


def test_stock_nnunet_finds_nothing_wrong(pictures, capfd):
    take_in(dataset_pool(PICTURES), inspected(pictures, came(pictures, "case_00.png", "case_02.png")).fit)
    verify_dataset_integrity(str(pictures), 1)
    assert "Error" not in capfd.readouterr().out


# --------------------------------------------------------------------------------- other grids, values, colours, names
def flat_array():
    return picture(3).astype(np.float32)


def save_axes(path, array, axes, affine=None):
    """Save an array of shape (y, x) with two axes, or with further ones of length 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        values = array.T.reshape(array.T.shape + (1,) * (axes - 2))
        nibabel.save(nibabel.Nifti1Image(values, np.diag([0.5, 0.6, 2, 1]) if affine is None else affine), path)
    else:
        image = sitk.GetImageFromArray(array.reshape((1,) * (axes - 2) + array.shape))
        image.SetSpacing((0.5, 0.6, 2.0)[:axes])
        image.SetOrigin((3.0, 4.0, 5.0)[:axes])
        sitk.WriteImage(image, str(path))


def oblique():
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix(), (3, 3)) * [0.5, 0.6, 2]
    return affine


@pytest.mark.parametrize(
    ("ending", "of_image", "of_label"),
    [
        (".nii.gz", 2, 3),
        (".nii.gz", 3, 2),
        (".nii.gz", 2, 4),
        (".nrrd", 2, 3),
        (".nrrd", 3, 2),
        (".mha", 2, 3),
        (".mha", 3, 2),
        (".nii", 3, 2),  # which nnU-Net reads with nibabel
        (".nii", 3, 4),
    ],
)
def test_label_with_another_number_of_axes(empty, ending, of_image, of_label):
    folder, returned = empty.raw / VOLUMES, empty.root / "returned"
    affine = oblique() if ending.startswith(".nii") and of_label > 2 else None
    for case, axes in (("a", of_label), ("b", of_image)):
        save_axes(folder / "imagesTr" / f"{case}_0000{ending}", flat_array(), of_image, affine)
        save_axes(returned / f"{case}{ending}", drawn(), axes, affine)
    write_dataset_json(folder, ending, numTraining=0)
    labels = taken(folder, returned, ["a", "b"])
    for case in ("a", "b"):
        image = sitk.ReadImage(str(folder / "imagesTr" / f"{case}_0000{ending}"))
        label = sitk.ReadImage(str(labels / f"{case}{ending}"))
        assert label.GetDimension() == image.GetDimension() == of_image
        assert (sitk.GetArrayFromImage(label).reshape(drawn().shape) == drawn()).all()
        assert nnunet_takes(folder, case)
    assert (labels / f"b{ending}").read_bytes() == (returned / f"b{ending}").read_bytes()
    assert not inspected(folder, returned, ["a", "b"]).unfit  # the same files once more


@pytest.mark.parametrize(
    ("label", "affine", "word"),
    [
        (np.stack([drawn()] * 2), np.diag([0.5, 0.6, 2, 1]), "has the size 48 x 40 x 2, its image 48 x 40"),
        (drawn()[None], np.diag([0.5, 0.7, 2, 1]), "has the spacing 0.5, 0.7"),
        (drawn()[None], oblique(), "has the direction"),
    ],
)
def test_label_with_another_number_of_axes_off_its_image(empty, label, affine, word):
    folder, returned = empty.raw / VOLUMES, empty.root / "returned"
    for case in ("a", "b"):
        save_axes(folder / "imagesTr" / f"{case}_0000.nii.gz", flat_array(), 2)
        save_axes(returned / f"{case}.nii.gz", drawn(), 3)
    nibabel.save(nibabel.Nifti1Image(label.T, affine), returned / "a.nii.gz")
    write_dataset_json(folder, ".nii.gz", numTraining=0)
    assert list(refused(folder, returned, "a.nii.gz: ", word, chosen=["a", "b"]).fit) == ["b"]


@pytest.fixture
def channels(empty):
    """Two volumes with two channels along a fourth axis."""
    affine = np.diag([1, 1.5, 2, 1])
    for case in ("v_0", "v_1"):
        path = empty.raw / VOLUMES / "imagesTr" / f"{case}_0000.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(0).normal(size=(8, 7, 6, 2)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, affine), path)
        (empty.root / "returned").mkdir(exist_ok=True)
        label = nibabel.Nifti1Image(drawn((6, 7, 8)).T, affine)
        nibabel.save(label, empty.root / "returned" / f"{case}.nii.gz")
    write_dataset_json(empty.raw / VOLUMES, ".nii.gz", {"0": "T1", "1": "T2"}, numTraining=0)
    return empty.raw / VOLUMES


def test_images_on_which_the_integrity_check_fails_are_refused(channels, empty):
    returned = empty.root / "returned"
    image, reader = channels / "imagesTr" / "v_0_0000.nii.gz", dataset_pool(channels.name).reader()
    with pytest.raises(ValueError, match="broadcast"):
        check_cases([str(image)], str(returned / "v_0.nii.gz"), 2, type(reader))
    (returned / "v_1.nii.gz").unlink()
    words = f"v_0.nii.gz: its image {image} has its channels along a fourth axis", "split it into one file per channel"
    assert not refused(channels, returned, *words, chosen=["v_0", "v_1"]).fit


def test_label_beside_one_with_another_ending_is_refused(volumes):
    """ITK takes the voxels of the other one."""
    returned = volume_label(volumes)
    save(returned / "v_0.nii", drawn((6, 7, 8), value=0))
    found = inspect_labels(dataset_pool(volumes.name), folder=returned, chosen=["v_0", "v_1"])
    assert list(found.fit) == ["v_1"]
    assert [one for one in found.unfit if "v_0.nii.gz and v_0.nii beside it" in one]


def test_template_of_an_image_with_channels_along_a_fourth_axis(channels, tmp_path):
    pool = dataset_pool(channels.name)
    pool = replace(pool, dataset_json=with_ignore(pool.dataset_json))
    write_template(tmp_path / "v_0.nii.gz", pool.cases[0], pool, slices=[2])
    assert nibabel.load(tmp_path / "v_0.nii.gz").shape == (8, 7, 6)


def test_template_of_more_values_than_a_byte_holds(volumes, tmp_path):
    labels = {"background": 0, **{f"part {value}": value for value in range(1, 300)}}
    pool = dataset_pool(VOLUMES)
    pool = replace(pool, dataset_json=with_ignore({**pool.dataset_json, "labels": labels}))
    write_template(tmp_path / "v_0.nii.gz", pool.cases[0], pool, slices=[2])
    assert np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "v_0.nii.gz")))).tolist() == [0, 300]


def test_label_that_ignores_all_is_compared_with_a_prediction(pictures, tmp_path):
    labels = {"background": 0, "blob": 1, "ignore": 2}
    write_dataset_json(pictures, numTraining=0, dataset={}, labels=labels)
    write_dataset_json(tmp_path, labels=labels)
    workspace = Workspace(PICTURES)
    for case, value in (("case_00", 1), ("case_01", 2)):
        write_picture(workspace.labels / f"{case}.png", np.full((40, 48), value, np.uint8))
        file = workspace.predictions("abc") / f"{case}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, segmentation=np.ones((1, 40, 48), np.uint8))
    picks = [SimpleNamespace(case=f"case_0{number}", control=bool(number)) for number in range(2)]
    record = SimpleNamespace(
        dataset=PICTURES,
        workspace=workspace,
        round=2,
        selections=[SimpleNamespace(picks=picks)],
        provenance={"predictions_cache": {PICTURES: "abc"}},
        doubt={"model": str(tmp_path)},
    )
    compared = compare_with_control(record, dataset_pool(PICTURES))
    assert (compared.chosen, compared.control) == ([1.0], [1.0])


def test_grids_that_cannot_be_compared(volumes, monkeypatch):
    returned = volume_label(volumes)

    def fails_for_one(of_image, of_label):
        calls.append(of_label)
        if len(calls) == 1:
            raise ValueError("operands could not be broadcast together")
        return {}

    calls = []
    monkeypatch.setattr(label_check, "differences", fails_for_one)
    found = refused(volumes, returned, "v_0.nii.gz: cannot be compared with its image", chosen=["v_0", "v_1"])
    assert list(found.fit) == ["v_1"]


@pytest.mark.parametrize(("factor", "slope"), [(np.float32(0.99999994), None), (1.0009, None), (255, 1 / 255.1)])
def test_values_within_rounding_of_whole_numbers(volumes, factor, slope):
    returned = volume_label(volumes)
    label = nibabel.load(returned / "v_0.nii.gz")
    stored = nibabel.Nifti1Image(np.asarray(label.dataobj) * np.float32(factor), label.affine, label.header)
    stored.set_data_dtype(np.uint8 if slope else np.float32)
    if slope:
        stored.header.set_slope_inter(slope, 0)
    nibabel.save(stored, returned / "v_0.nii.gz")
    labels = taken(volumes, returned, ["v_0", "v_1"])
    collected = nibabel.load(labels / "v_0.nii.gz")
    assert collected.get_data_dtype() == np.uint8 and np.unique(collected.get_fdata()).tolist() == [0, 1]
    assert nnunet_takes(volumes, "v_0")
    assert (labels / "v_1.nii.gz").read_bytes() == (returned / "v_1.nii.gz").read_bytes()
    assert not inspected(volumes, returned, ["v_0", "v_1"]).unfit  # the same files once more


@pytest.mark.parametrize("value", ["0.998", "1.0015", "0.5"])
def test_other_values_are_shown_with_their_digits(volumes, value):
    returned = volume_label(volumes)
    save(returned / "v_0.nii.gz", drawn((6, 7, 8)).astype(np.float32) * np.float32(value))
    refused(volumes, returned, f"v_0.nii.gz: holds {value}, which no label has", chosen=["v_0", "v_1"])


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_label_of_another_origin_that_was_there_before(volumes, reader):
    write_dataset_json(volumes, ".nii.gz", overwrite_image_reader_writer=reader, numTraining=0)
    returned = volume_label(volumes)
    save(volumes / "labelsTr" / "v_0.nii.gz", drawn((6, 7, 8)), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    (returned / "v_0.nii.gz").unlink()
    before = (volumes / "labelsTr" / "v_0.nii.gz").read_bytes()
    found = inspected(volumes, returned, ["v_0", "v_1"])
    (warning,) = found.warnings
    assert warning.startswith("labelsTr/v_0.nii.gz: has the ") and sorted(found.fit) == ["v_0", "v_1"]
    taken(volumes, returned, ["v_0", "v_1"])
    assert (volumes / "labelsTr" / "v_0.nii.gz").read_bytes() == before and nnunet_takes(volumes, "v_0")


def test_label_of_another_size_or_spacing_that_was_there_before(volumes):
    returned = volume_label(volumes)
    for shape, spacing, words in (((5, 7, 8), (1, 2, 3), "size"), ((6, 7, 8), (1, 2, 4), "spacing 1, 2, 4")):
        save(volumes / "labelsTr" / "v_0.nii.gz", drawn(shape), spacing=spacing)
        (returned / "v_0.nii.gz").unlink(missing_ok=True)
        refused(volumes, returned, "labelsTr/v_0.nii.gz: has the", words, chosen=["v_0", "v_1"])


def test_sentences_name_the_folder_of_the_file(pictures):
    write_picture(pictures / "labelsTr" / "case_00.png", drawn(value=7))
    write_picture(pictures / "annotate" / "round_01" / "labels" / "case_01.png", drawn(value=7))
    outside = came(pictures, "case_02.png", label=drawn(value=7))
    found = inspected(pictures, pictures / "annotate" / "round_01" / "labels")
    beginnings = [sentence.split(":")[0] for sentence in [*found.unfit, *inspected(pictures, outside).unfit]]
    assert beginnings == [
        "labelsTr/case_00.png",
        "annotate/round_01/labels/case_01.png",
        "labelsTr/case_00.png",
        str(outside / "case_02.png"),
    ]


def test_equal_label_that_was_saved_again_is_no_other(pictures, volumes):
    returned = came(pictures, "case_00.png")
    taken(pictures, returned)
    Image.fromarray(drawn()).save(returned / "case_00.png", compress_level=0)
    assert (returned / "case_00.png").read_bytes() != (pictures / "labelsTr" / "case_00.png").read_bytes()
    assert not inspected(pictures, returned).unfit
    (returned / "case_00.png").unlink()
    returned = volume_label(volumes)
    taken(volumes, returned, ["v_0", "v_1"])
    content = gzip.decompress((returned / "v_0.nii.gz").read_bytes())
    (returned / "v_0.nii.gz").write_bytes(gzip.compress(content, 1))
    assert not inspected(volumes, returned, ["v_0", "v_1"]).unfit


@pytest.mark.parametrize("stored", [255, 128])
def test_masks_are_read_as_labels(pictures, stored):
    returned = came(pictures, "case_00.png", label=drawn(value=stored))
    refused(pictures, returned, f"holds {stored},", f"if {stored} is 1 (blob), collect with --values {stored}=1")
    labels = taken(pictures, returned, values={255: 1, 128: 1})
    assert (np.array(Image.open(labels / "case_00.png")) == drawn()).all() and nnunet_takes(pictures, "case_00")
    assert not inspected(pictures, returned, values={255: 1, 128: 1}).unfit  # the same file once more


def test_masks_of_several_labels(pictures):
    write_dataset_json(pictures, labels={"background": 0, "a": 1, "b": 2, "ignore": 3}, numTraining=0, dataset={})
    label = drawn(value=255)
    label[10:12] = 128
    returned = came(pictures, "case_00.png", label=label)
    refused(pictures, returned, "holds 128, 255, which no label has", "if 128 is 1 (a) and 255 is 2 (b)")
    labels = taken(pictures, returned, values={255: 2, 128: 1})
    assert np.unique(Image.open(labels / "case_00.png")).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "stored, values, words",
    [
        ((0, 5), {}, "holds 5, which no label has; the values are 0 (background), 1 (a), 2 (b), 3 (c), 4 (ignore); if"),
        ((0, 1, 7), {}, "; if 7 is 2 (b), collect with --values 7=2"),
        ((0, 7, 8, 9), {}, "; if 7 is 1 (a) and 8 is 2 (b) and 9 is 3 (c), collect with --values 7=1 8=2 9=3"),
        ((0, 6, 7, 8, 9), {}, "; say what each of them is with --values, such as 6=1"),
        ((0, 128, 255), {255: 1}, "holds 128, which no label has"),
        ((0, 128, 255), {255: 1, 127: 2}, "; if 128 is 2 (b), collect with --values 128=2"),
    ],
)
def test_values_that_no_label_has(pictures, stored, values, words):
    """All or nothing: a value that is neither known nor mapped is refused, whatever else is mapped."""
    labels = {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4}
    write_dataset_json(pictures, labels=labels, numTraining=0, dataset={})
    label = drawn(value=stored[1])
    for row, value in enumerate(stored[2:], start=10):
        label[row] = value
    found = refused(pictures, came(pictures, "case_00.png", label=label), words, values=values)
    assert not found.fit


def test_values_are_those_of_the_folder_that_is_collected(pictures):
    write_picture(pictures / "labelsTr" / "case_01.png", drawn(value=255))
    folder = pictures / "labelsTr"
    words = "labelsTr/case_01.png: holds 255, which no label has; the values are 0 (background), 1 (blob); if 255 is 1 "
    found = refused(pictures, came(pictures, "case_00.png", label=drawn(value=255)), words, values={255: 1})
    assert found.unfit[0].endswith(f"collect with -l {folder} --values 255=1") and list(found.fit) == ["case_00"]
    labels = taken(pictures, folder, values={255: 1})
    assert (np.array(Image.open(labels / "case_01.png")) == drawn()).all()


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_pictures_with_a_palette_are_read_as_their_indices(empty, ending):
    folder = empty.raw / PICTURES
    write_picture(folder / "imagesTr" / f"case_00_0000{ending}", picture(1))
    write_dataset_json(folder, ending, numTraining=0, dataset={})
    indexed = Image.fromarray(drawn(), "L").convert("P")
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    (empty.root / "returned").mkdir()
    indexed.save(empty.root / "returned" / f"case_00{ending}")
    labels = taken(folder, empty.root / "returned")
    label = Image.open(labels / f"case_00{ending}")
    assert label.mode == "L" and (np.array(label) == drawn()).all() and nnunet_takes(folder, "case_00")


NAMES = [
    "case_01_0000",
    "case_01_label",
    "case_01-label",
    "case_01-mask",
    "case_01_seg",
    "case_01.seg",
    "case_01_Labels",
]


@pytest.mark.parametrize("name", [*NAMES, "case_01_0000-label"])
def test_names_with_an_ending_too_much(pictures, name):
    returned = came(pictures, f"{name}.png")
    refused(pictures, returned, f"{name}.png: no case has this name; is it case_01.png?", "collect with --fix_names")
    labels = taken(pictures, returned, fix_names=True)
    assert [path.name for path in labels.iterdir()] == ["case_01.png"]


def test_names_that_could_be_two_cases_or_twice_the_same(pictures):
    returned = came(pictures, "case_00.png", "case_00_label.png", "case_01_seg.png", "case_01_mask.png", "odd_seg.png")
    found = inspected(pictures, returned, fix_names=True)
    assert list(found.fit) == ["case_00"] and len(found.unfit) == 4
    assert any("case_00_label.png: case_00.png is there too" in sentence for sentence in found.unfit)
    assert any("case_01_seg.png: case_01_mask.png is there too" in sentence for sentence in found.unfit)
    assert any("odd_seg.png: no case has this name" in sentence for sentence in found.unfit)


@pytest.mark.parametrize("name", ["case_00_mask.png", "case_00b.png", "case_00.jpg"])
def test_no_name_is_proposed_under_which_a_label_is_there(pictures, name):
    returned = came(pictures, "case_00.png", "case_00_mask.png")
    (returned / "case_00_mask.png").rename(returned / name)
    (sentence,) = refused(pictures, returned, name).unfit
    assert "rename it" not in sentence and "as case_00.png" not in sentence
    if name.endswith(".png"):
        assert "is it case_00.png, which is there too? leave only the right one of the two" in sentence


def test_untouched_template_gives_way_to_a_label_with_a_longer_name(pictures):
    returned = came(pictures, "case_00_label.png")
    write_picture(returned / "case_00.png", drawn(value=0))
    templates = {sha256_files([returned / "case_00.png"])}
    found = refused(pictures, returned, "is it case_00.png? rename it", templates=templates)
    assert "case_00" in found.missing
    found = inspected(pictures, returned, templates=templates, fix_names=True)
    assert found.fit["case_00"].file == returned / "case_00_label.png" and not found.unfit


def test_name_from_which_two_cases_are_left(pictures):
    write_picture(pictures / "imagesTr" / "case_00_label_0000.png", picture(9))
    returned = came(pictures, "case_00_label_seg.png")
    refused(pictures, returned, "case_00_label_seg.png: no case has this name", chosen=CASES[:1], fix_names=True)
