"""What collect refuses, file by file, and what it leaves for nnU-Net."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from making import write_dataset_json, write_picture, write_pictures
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from PIL import Image

from nnunetv2_xssr.annotation.collecting import inspect_labels, take_in
from nnunetv2_xssr.annotation.label_check import label_values
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import dataset_pool

PICTURES, VOLUMES = "Dataset021_Pictures", "Dataset022_Volumes"
CASES = ["case_00", "case_01", "case_02", "case_03"]


@pytest.fixture
def pictures(empty):
    """Four pictures of 40 x 48 pixels without labels."""
    write_pictures(empty.raw / PICTURES, 4, first_seed=1)
    write_dataset_json(empty.raw / PICTURES, numTraining=0, dataset={})
    return empty.raw / PICTURES


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
    return inspect_labels(dataset_pool(folder.name), returned, chosen, **options)


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
        ("case_01_0000.png", ["case_01_0000.png: no case has this name", "is it case_01.png?"]),
        ("Case_01.png", ["is it case_01.png?"]),
        ("case_01.seg.nrrd", ["is it case_01.png?"]),
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
    refused(
        pictures, returned, "case_01_0000.png: no case has this name; is it case_01.png, of which no label is missing?"
    )


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
    palette = Image.fromarray(drawn(), "L").convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(pictures.parent.parent / "returned" / "case_00.png")
    refused(pictures, pictures.parent.parent / "returned", "channels", "grey values")


def test_empty(pictures):
    returned = came(pictures, "case_00.png", label=drawn(value=0))
    refused(pictures, returned, "case_00.png: is empty", "--allow_empty")
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
    refused(pictures, returned, "case_00.png: differs from", "delete it first")
    assert (np.array(Image.open(pictures / "labelsTr" / "case_00.png")) == corrected).all()
    (pictures / "labelsTr" / "case_00.png").unlink()  # as it says
    assert take_in(dataset_pool(PICTURES), {}) == []
    assert take_in(dataset_pool(PICTURES), inspected(pictures, returned).fit) == ["case_00"]


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


def test_spacing_of_stacks_goes_with_the_label(empty):
    folder = empty.raw / "Dataset023_Stacks"
    (folder / "imagesTr").mkdir(parents=True)
    tifffile.imwrite(folder / "imagesTr" / "s_0000.tif", np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7))
    (folder / "imagesTr" / "s.json").write_text('{"spacing": [3, 1, 1]}')
    write_dataset_json(folder, ".tif", numTraining=0)
    returned = empty.root / "returned"
    returned.mkdir()
    tifffile.imwrite(returned / "s.tif", drawn((5, 6, 7)))
    take_in(dataset_pool(folder.name), inspect_labels(dataset_pool(folder.name), returned, ["s"]).fit)
    assert json.loads((folder / "labelsTr" / "s.json").read_text()) == {"spacing": [3, 1, 1]}


def test_stock_nnunet_finds_nothing_wrong(pictures, capfd):
    take_in(dataset_pool(PICTURES), inspected(pictures, came(pictures, "case_00.png", "case_02.png")).fit)
    verify_dataset_integrity(str(pictures), 1)
    assert "Error" not in capfd.readouterr().out
