"""Folders of folders, of images or of DICOM series, as pools, as new datasets and in the commands."""

import json
import shutil
from hashlib import sha256

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
from dicom_making import SAGITTAL, write_series
from making import fails, picture, succeeds, volume, write_picture, write_volume

from nnunetv2_xssr.commands import pretrain, select
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.new_dataset import make_dataset
from nnunetv2_xssr.images.pools import dataset_pool, open_pool
from nnunetv2_xssr.images.reading import read_case

DATASET = "Dataset123_New"


def groups(pool):
    return {case.identifier: case.group for case in pool.cases}


def patient(text):
    return sha256(text.encode()).hexdigest()[:12]


# --- images


def test_cases_are_named_after_their_path(tmp_path):
    for name in (
        "P1/CT.nii.gz",
        "P1/late/CT.nii.gz",
        "P 2/CT.nii.gz",
        ".hidden/CT.nii.gz",
        "top.nii.gz",
        "P1/._CT.nii.gz",
    ):
        write_volume(tmp_path / name, volume(1)[0])
    (tmp_path / "P1" / "notes.txt").write_text("x")
    pool = open_pool(str(tmp_path), recursive=True)
    assert groups(pool) == {"P-2_CT": "P 2", "P1_CT": "P1", "P1_late_CT": "P1", "top": None}
    assert read_case(pool.cases[0], pool.reader()).shape == (1, *volume(1)[0].shape)


def test_one_folder_above_all_is_no_group(tmp_path):
    for name in ("site/P1/a.png", "site/P2/a.png"):
        write_picture(tmp_path / name, picture(1))
    assert groups(open_pool(str(tmp_path), recursive=True)) == {"site_P1_a": None, "site_P2_a": None}


def test_channels_in_folders(tmp_path):
    for name in ("P1/a_0000.png", "P1/a_0001.png", "P2/a_0000.png", "P2/a_0001.png"):
        write_picture(tmp_path / name, picture(1))
    pool = open_pool(str(tmp_path), recursive=True)
    assert {case.identifier: len(case.files) for case in pool.cases} == {"P1_a": 2, "P2_a": 2}
    (tmp_path / "P2" / "a_0001.png").unlink()
    with pytest.raises(UserError, match="case P2_a of .* has 1 of 2 channel files"):
        open_pool(str(tmp_path), recursive=True)


def test_a_folder_that_leads_back_is_visited_once(tmp_path):
    write_picture(tmp_path / "tree" / "P1" / "a.png", picture(1))
    write_picture(tmp_path / "elsewhere" / "b.png", picture(2))
    (tmp_path / "tree" / "P1" / "back").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "P2").symlink_to(tmp_path / "elsewhere")
    assert open_pool(str(tmp_path / "tree"), recursive=True).identifiers == ["P1_a", "P2_b"]


@pytest.mark.parametrize(
    ("names", "recursive", "words"),
    [
        (
            ["P1/a.png", "P2/a.png"],
            False,
            "no image in .* itself, but 2 in folders below, such as .*a.png; give --recursive",
        ),
        (["P1/a/b.png", "P1_a/b.png"], True, "would both be case P1_a_b; rename one"),
        (["P1/a.png", "P2/a.bmp"], True, "images of several kinds"),
        (["P1/a.png", "P2/CT"], True, r"images of several kinds \(.png, DICOM\)"),
        (["a.png", "CT"], False, r"images of several kinds \(.png, DICOM\)"),
        (["P1/a.jpg"], True, "lossy; convert them to .png"),
        (["imagesTr/a_0000.png", "labelsTr/a.png"], True, "a.png lies in a folder labelsTr of labels"),
        (["old/imagesTr/a.png", "old/labelsTs/a.png"], True, "a.png lies in a folder labelsTs of labels"),
        (["imagesTr/a_0000.png", "labelsTr/a.png"], False, "2 in folders below, such as .*; give .*imagesTr$"),
        (["P1/a.txt"], True, "no image in .* that nnU-Net reads .*, and no DICOM"),
        (["P1/a.txt"], False, "no image in .* that nnU-Net reads .*, and no DICOM"),
    ],
)
def test_folders_that_are_refused(empty, tmp_path, names, recursive, words):
    for name in names:
        path = tmp_path / "tree" / name
        if name.endswith("CT"):
            write_series(path, volume(1, (6, 8, 8))[0].astype(np.int16))
            for file in path.iterdir():
                shutil.move(file, path.parent / f"{name[:1]}{file.name}")
            path.rmdir()
        elif name.endswith(".txt"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        else:
            write_picture(path, picture(1))
    with pytest.raises(UserError, match=words):
        open_pool(str(tmp_path / "tree"), recursive=recursive)


def test_what_nnunet_and_select_have_made_is_no_further_image(again, capsys, monkeypatch):
    """Select typed again would take the images of the new dataset, which are links, for others."""
    write_picture(again.root / "a.png", picture(1))
    argv = ["-i", ".", "--recursive", "--channel_names", "xray", "--labels", "blob", "-d", "007_New", "-b", "1"]
    monkeypatch.chdir(again.root)
    fails(capsys, select.main, argv, "holds nnU-Net's folder", "give a folder without it")


@pytest.mark.parametrize("name", ["a", "a_0000"])
def test_spacing_beside_a_nested_stack_comes_along(empty, tmp_path, name):
    for case in ("P1", "P2"):
        path = tmp_path / "stacks" / case / f"{name}.tif"
        path.parent.mkdir(parents=True)
        tifffile.imwrite(path, volume(1)[0])
        path.with_name("a.json").write_text('{"spacing": [3, 1, 1]}')
    make(tmp_path / "stacks", recursive=True)
    assert {path.name for path in empty.images(DATASET).iterdir()} == {
        f"{case}_a{end}" for case in ("P1", "P2") for end in ("_0000.tif", ".json")
    }


# --- DICOM


@pytest.fixture
def hospital(workspace):
    """Eight scans of four patients, a localizer and a text file."""
    folder = workspace.root / "hospital"
    for i in range(8):
        voxels = volume(70 + i)[0].astype(np.int16)
        write_series(folder / f"P{i // 2}" / f"visit {i % 2}", voxels, patient=f"patient {i // 2}", slope=(2, -1000))
    write_series(folder / "P0" / "scout", volume(1, (1, 20, 20))[0].astype(np.int16), patient="patient 0")
    (folder / "P1" / "notes.txt").write_text("x")
    return folder


@pytest.mark.parametrize("recursive", [False, True])
def test_a_pool_of_dicom(workspace, hospital, recursive):
    pool = open_pool(str(hospital), recursive=recursive)
    assert groups(pool) == {f"P{p}_visit-{v}": patient(f"patient {p}") for p in range(4) for v in range(2)}
    assert {str(case.files[0].parent) for case in pool.cases} == {
        str(workspace.preprocessed / pool.name / "xssr" / "caches" / "dicom")
    }
    image = read_case(pool.cases[3], pool.reader())
    assert np.array_equal(image[0], volume(73)[0].astype(np.int16) * 2.0 - 1000)
    assert set(groups(open_pool(str(hospital), patient_ids=False)).values()) == {None}


def test_a_flat_folder_of_dicom_beside_images_below(workspace, tmp_path, caplog):
    write_series(tmp_path / "disc", volume(1)[0].astype(np.int16), name="I{}")
    write_picture(tmp_path / "disc" / "viewer" / "logo.png", picture(1))
    with caplog.at_level("INFO", logger="nnunetv2_xssr"):
        assert open_pool(str(tmp_path / "disc")).identifiers == ["disc"]
    assert "set aside: viewer (1 file: logo.png): not DICOM" in caplog.text


def new(folder, *more, name="123_New", channels=("CT",), budget="2"):
    make = ["-i", folder, "--channel_names", *channels, "--labels", "tumour", "-d", name]
    return [*make, "-b", budget, "-device", "cpu", *more]


def described(workspace):
    return json.loads((workspace.raw / DATASET / "dataset.json").read_text())


def test_select_from_dicom(workspace, hospital, capsys):
    out = succeeds(capsys, select.main, new(hospital, "--max_per_group", "1"))
    assert "9 DICOM series in 9 folders; 8 are converted, 0 of them before, and 1 set aside" in out
    assert "set aside: P0/scout, series 1 (1 file: IM0000.dcm): a single image, no volume" in out
    assert "set aside: P1 (1 file: notes.txt): not DICOM" in out
    images = sorted(path.name for path in workspace.images(DATASET).iterdir())
    assert images == [f"P{p}_visit-{v}_0000.nii.gz" for p in range(4) for v in range(2)]
    image = sitk.ReadImage(str(workspace.images(DATASET) / "P1_visit-1_0000.nii.gz"))
    assert image.GetSpacing() == pytest.approx((0.7, 0.5, 2.5)) and image.GetOrigin() == pytest.approx((-20, 30.5, 100))
    expected = {f"P{p}_visit-{v}": patient(f"patient {p}") for p in range(4) for v in range(2)}
    assert described(workspace)["groups"] == expected
    picks = workspace.selection(DATASET)["selections"][0]["picks"]
    assert len({pick["group"] for pick in picks}) == 2

    assert groups(dataset_pool(DATASET)) == expected


def make(folder, **options):
    return make_dataset(folder, "123_New", channel_names=["CT"], labels=["tumour"], **options)


def test_scans_that_come_later(workspace, hospital):
    make(hospital)
    before = groups(dataset_pool(DATASET))
    write_series(hospital / "P4", volume(90)[0].astype(np.int16), patient="patient 0")
    make(hospital)
    assert groups(dataset_pool(DATASET)) == {**before, "P4": patient("patient 0")}
    make(hospital, patient_ids=False)
    assert "groups" not in described(workspace)


def test_groups_that_a_person_wrote_stay(empty, tmp_path):
    for name in "ab":
        write_picture(tmp_path / "flat" / f"{name}.png", picture(1))
    make(tmp_path / "flat")
    path = empty.raw / DATASET / "dataset.json"
    path.write_text(json.dumps({**described(empty), "groups": {"a": "p1", "b": "p1"}}))
    make(tmp_path / "flat")
    assert groups(dataset_pool(DATASET)) == {"a": "p1", "b": "p1"}


def test_a_scan_that_changed_is_not_exchanged(workspace, hospital):
    make(hospital)
    (image,) = workspace.images(DATASET).glob("P1_visit-1_*")
    before = image.read_bytes()
    (late,) = (hospital / "P1" / "visit 1").glob("IM0003.dcm")
    made = pydicom.dcmread(late)
    made.PixelData = bytes(len(made.PixelData))
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    made.save_as(late)
    with pytest.raises(UserError, match="P1_visit-1_0000.nii.gz differs from .*dicom/P1_visit-1_0000.nii.gz"):
        make(hospital)
    assert image.read_bytes() == before


def test_another_series_in_the_folder_of_a_known_one_is_another_case(workspace, hospital):
    make(hospital)
    write_series(hospital / "P1" / "visit 1", volume(99)[0].astype(np.int16), name="late{}", number=7)
    make(hospital)
    assert {"P1_visit-1", "P1_visit-1_s7"} < set(dataset_pool(DATASET).identifiers)
    assert len(dataset_pool(DATASET)) == 9


def test_volumes_are_made_again_where_the_caches_were_deleted(workspace, hospital):
    make(hospital)
    before = groups(dataset_pool(DATASET))
    (caches,) = workspace.preprocessed.glob("hospital_*")
    shutil.rmtree(caches)
    make(hospital)
    assert groups(dataset_pool(DATASET)) == before


def test_mistakes_are_found_before_anything_is_converted(workspace, hospital, capsys):
    fails(capsys, select.main, new(hospital, channels=("CT", "PET")), "--channel_names", "1 channel", "CT PET")
    fails(capsys, select.main, new(hospital, name="002_New"), "number 002 is taken")
    assert not list(workspace.preprocessed.glob("hospital_*"))


def test_what_was_converted_outlives_a_mistake(workspace, hospital, capsys):
    fails(capsys, select.main, new(hospital, budget="99"), "99")
    assert not (workspace.raw / DATASET).exists()
    (caches,) = workspace.preprocessed.glob("hospital_*")
    assert len(list(caches.rglob("P*_0000.nii.gz"))) == 8


def test_no_series_is_a_volume(workspace, tmp_path, capsys):
    write_series(tmp_path / "xrays" / "a", volume(1, (1, 20, 20))[0].astype(np.int16))
    fails(capsys, select.main, new(tmp_path / "xrays"), "none of 1 DICOM series", "a, series 1: a single image")
    assert not (workspace.raw / DATASET).exists()


def test_pretrain_and_select_with_a_source_of_dicom(workspace, hospital, capsys):
    write_series(hospital / "sagittal", volume(5)[0].astype(np.int16), axes=SAGITTAL)
    out = succeeds(capsys, pretrain.main, ["-s", hospital, "--no_patient_ids", "-device", "cpu"])
    assert "-b 5% --no_patient_ids\n" in out  # else select would keep a hash of every PatientID
    assert "9 are converted" in out and (workspace.results / open_pool(str(hospital)).name).is_dir()
    archive = workspace.root / "archive"
    for i in range(6):
        write_volume(archive / f"P{i // 2}" / f"v{i}.nii.gz", volume(i)[0])
    argv = ["-i", archive, "--channel_names", "MR", "--labels", "x", "-d", "123_New", "-b", "2", "-device", "cpu"]
    fails(capsys, select.main, argv, "no image in", "give --recursive")
    out = succeeds(capsys, select.main, [*argv, "-s", hospital, "--recursive"])
    assert "9 are converted, 9 of them before" in out
    assert groups(dataset_pool(DATASET)) == {f"P{i // 2}_v{i}": f"P{i // 2}" for i in range(6)}


@pytest.mark.parametrize("option", ["--recursive", "--no_patient_ids"])
def test_options_of_folders_need_a_folder(workspace, capsys, option):
    fails(capsys, select.main, ["-d", "2", "-b", "2", option], option, "-i or -s")


def test_next_step_of_pretrain_repeats_the_option(workspace, capsys):
    for i in range(4):
        write_picture(workspace.root / "archive" / f"{i}" / "a.png", picture(i))
    out = succeeds(capsys, pretrain.main, ["-s", workspace.root / "archive", "--recursive", "-device", "cpu"])
    assert "-b 5% --recursive" in out
