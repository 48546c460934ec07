"""What the encoder sees of volumes is what the user asks for, and the encoder remembers it."""

import json
import logging
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from making import SOURCE, TARGET, fails, picture, succeeds, volume, write_dataset_json, write_picture, write_volume

from nnunetv2_xssr.commands import pretrain, report, select
from nnunetv2_xssr.images import views as views_module
from nnunetv2_xssr.images.extract import Look, extract_views, extract_volume
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.scale import common_look
from nnunetv2_xssr.images.views import prepare_views

CTS, ARCHIVE = "Dataset041_Scans", "Dataset042_Archive"
SELECT = ["-d", "41", "-s", "42", "-b", "2", "-device", "cpu"]


def write_scan(path, seed, orientation="LPS", spacing=(2.0, 2.0, 2.0), size=(16, 20, 24)):
    """A volume that is stored in this orientation; spacing (x, y, z) and size (z, y, x) before it is turned."""
    image = sitk.GetImageFromArray(10 * volume(seed, size)[0])
    image.SetSpacing(spacing)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path))


@pytest.fixture
def scans(empty):
    for name, first in ((CTS, 0), (ARCHIVE, 10)):
        for i in range(3):
            write_scan(empty.images(name) / f"v_{i}_0000.nii.gz", first + i)
        write_dataset_json(empty.raw / name, ".nii.gz", channel_names={"0": "CT"}, numTraining=0, dataset={})
    return empty


@pytest.fixture
def unread(monkeypatch):
    """After a call of it no image may be read."""

    def refuse(case, reader):
        raise AssertionError(f"{case.identifier} is read")

    return lambda: monkeypatch.setattr(views_module, "read_image", refuse)


def learned(workspace, name=ARCHIVE):
    return torch.load(workspace.encoder(name), weights_only=True)["views"]


# --- the slicing axis


@pytest.mark.parametrize("stored", ["LPS", "ASR", "PIL"])
@pytest.mark.parametrize(
    ("axis", "slices"), [("axial", (0, 16)), ("coronal", (1, 20)), ("sagittal", (2, 24)), ("acquired", (0, 16))]
)
def test_slices_lie_along_the_axis_asked_for(empty, stored, axis, slices):
    write_scan(empty.images("folder") / "a.nii.gz", 1, stored)
    pool = open_pool(str(empty.images("folder")))
    look = Look(axis=axis, pixel=1.0)
    made = prepare_views(pool, channel_names=("MRI",), look=look)
    assert made.facts["a"].axis == slices[0] and made.facts["a"].orientation == stored
    write_scan(empty.images("straight") / "a.nii.gz", 1)
    straight = prepare_views(open_pool(str(empty.images("straight"))), channel_names=("MRI",), look=look)
    assert np.array_equal(made.rows, straight.rows)
    assert max(made.facts["a"].slices) < slices[1]


def test_axis_of_the_file_is_that_of_storage(empty):
    found = {}
    for stored in ("LPS", "ASR", "PIL", "RSA"):
        write_scan(empty.images("folder") / f"{stored}.nii.gz", 1, stored)
    made = prepare_views(open_pool(str(empty.images("folder"))), look=Look(axis="file"))
    found = {case: facts.axis for case, facts in made.facts.items()}
    assert found == {"LPS": 0, "ASR": 2, "PIL": 2, "RSA": 1}


def test_the_encoder_remembers_the_axis(scans, capsys, unread):
    succeeds(capsys, pretrain.main, ["-s", "42", "--axis", "sagittal", "-device", "cpu"])
    assert learned(scans)["axis"] == "sagittal"
    succeeds(capsys, select.main, SELECT)
    index = next((scans.preprocessed / CTS / "xssr" / "caches" / "views").glob("index_*.json"))
    assert json.loads(index.read_text())["settings"]["axis"] == "sagittal"
    unread()
    words = ["learned from --axis sagittal", "leave --axis coronal out", "nnUNetv2_xssr_pretrain --axis coronal"]
    fails(capsys, select.main, [*SELECT, "--axis", "coronal", "--overwrite"], *words)
    succeeds(capsys, select.main, [*SELECT, "--axis", "sagittal", "--overwrite"])


def test_slices_as_unit_leave_whole_cases_their_axis(scans, capsys):
    """An encoder that learned from slices as files have them says nothing about the axis of whole cases."""
    succeeds(capsys, select.main, [*SELECT, "--unit", "slice"])
    assert learned(scans)["axis"] == "file"
    succeeds(capsys, select.main, [*SELECT, "--name", "whole"])
    caches = scans.preprocessed / CTS / "xssr" / "caches" / "views"
    axes = {json.loads(index.read_text())["settings"]["axis"] for index in caches.glob("index_*.json")}
    assert axes == {"file", "acquired"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--unit", "slice", "--axis", "axial"], ["--unit slice takes the slices of the file", "leave --axis axial"]),
        (["--dim", "3", "--axis", "axial"], ["--axis is about slices", "--dim 3"]),
        (["--window", "40"], ["--window must be CENTRE/WIDTH", "'40'"]),
        (["--window", "40/0"], ["--window must be CENTRE/WIDTH"]),
        (["--window", "nan/400"], ["--window must be CENTRE/WIDTH"]),
        (["--window=-1100/200"], ["--window must be CENTRE/WIDTH", "beyond air (-1000)"]),
    ],
)
def test_options_that_do_not_fit(scans, capsys, unread, argv, words):
    unread()
    fails(capsys, select.main, [*SELECT, *argv], *words)


@pytest.mark.parametrize(
    "main, argv", [(select.main, ["-d", "2", "-b", "2", "--encoder", "intensity"]), (pretrain.main, ["-s", "1"])]
)
def test_an_axis_is_about_volumes(workspace, capsys, main, argv):
    words = ["--axis is about volumes, but all images are flat", "leave --axis coronal out"]
    fails(capsys, main, [*argv, "--axis", "coronal", "-device", "cpu"], *words)


def test_file_of_slices_is_the_default_of_slices(scans, capsys):
    succeeds(capsys, select.main, [*SELECT, "--unit", "slice", "--axis", "file"])


def test_axis_of_a_file_that_tells_no_directions(empty, capsys):
    import tifffile

    for i in range(2):
        path = empty.images(CTS) / f"v_{i}_0000.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, volume(i)[0])
    more = {"overwrite_image_reader_writer": "Tiff3DIO", "dataset": {}, "numTraining": 0}
    write_dataset_json(empty.raw / CTS, ".tif", channel_names={"0": "T1"}, **more)
    argv = ["-d", "41", "-b", "1", "-device", "cpu"]
    fails(capsys, select.main, [*argv, "--axis", "sagittal"], "does not tell how it lies", "leave --axis sagittal out")
    succeeds(capsys, select.main, argv)


# --- pools that mix


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([{}, {}, {}], None),
        ([{}, {}, {"orientation": "RAS"}], ["stored orientations: 2 LPS, 1 RAS"]),
        ([{}, {}, {"spacing": (2.0, 2.0, 5.0)}], ["spacings: 2 kinds, from 2 to 5 mm"]),
        ([{}, {"spacing": (5.0, 2.0, 2.0)}], ["slicing axes: 1 axial, 1 sagittal", "spacings: 2 kinds"]),
        ([{}, {"size": (9, 20, 24)}], None),  # less slices, of the same size
        ([{}, {"size": (16, 28, 28)}], None),
        (
            [{}, {}, {"size": (16, 20, 60)}],
            [
                "fields of view in mm: 2 of 3 are less than half of the largest, from 48 x 40 to 120 x 40",
                "sizes in pixels: 2 of 3 are less than half of the largest, from 24 x 20 to 60 x 20",
            ],
        ),
        ([{}, {"spacing": (4.0, 4.0, 5.0)}], ["spacings: 2 kinds", "fields of view in mm: 1 of 2"]),
        ([{"spacing": (2.0, 2.0, 2.0001)}, {}], None),
    ],
)
def test_what_a_pool_mixes_is_said_once(empty, caplog, unread, files, words):
    for i, options in enumerate(files):
        write_scan(empty.images("folder") / f"v_{i}.nii.gz", i, **options)
    pool = open_pool(str(empty.images("folder")))
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "nnunetv2_xssr"):
            prepare_views(pool, look=common_look([pool], dim=2))
        said = [message for message in caplog.messages if " mixes " in message]
        assert len(said) == (words is not None)
        if words:
            assert said[0].startswith(pool.name) and all(part in said[0] for part in words)
            kinds = ("orientations: ", "axes: ", "spacings: ", "fields of view", "sizes in")
            assert sum(kind in said[0] for kind in kinds) == len(words)
        unread()  # it is known without reading


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([(40, 48), (50, 60), (44, 40)], None),
        ([(40, 48), (40, 48), (90, 48)], "sizes in pixels: 2 of 3 are less than half of the largest, from 48 x 40"),
    ],
)
def test_pictures_of_various_sizes_are_told_where_it_matters(empty, caplog, sizes, words):
    for i, size in enumerate(sizes):
        write_picture(empty.images("folder") / f"p_{i}.png", picture(i, size))
    with caplog.at_level(logging.INFO, "nnunetv2_xssr"):
        prepare_views(open_pool(str(empty.images("folder"))))
    said = [message for message in caplog.messages if " mixes " in message]
    assert len(said) == (words is not None) and all(words in one and "fields of view" not in one for one in said)


def test_channels_that_are_missing_are_told_of_the_pool(empty, caplog, unread):
    for i in range(4):
        for channel in range(2):
            missing = channel == 1 and i in (1, 3)
            values = np.full((16, 20, 24), 7 * i, np.float32) if missing else volume(i, (16, 20, 24))[0]
            write_volume(empty.images(CTS) / f"v_{i}_{channel:04d}.nii.gz", values)
    write_dataset_json(empty.raw / CTS, ".nii.gz", channel_names={"0": "T1", "1": "T2"}, numTraining=0, dataset={})
    sentence = f"{CTS}: channel T2 holds one value only in 2 of 4 cases (v_1, v_3); it may be missing"
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "nnunetv2_xssr"):
            views = prepare_views(open_pool("41"))
        assert [one for one in caplog.messages if "one value" in one] == [sentence] == views.mixtures
        unread()


@pytest.mark.parametrize("n", [0, 3])
def test_images_that_are_source_and_target_at_once_are_told(workspace, capsys, n):
    for i in range(n):
        shutil.copy(workspace.images() / f"t_{i:02d}_0000.png", workspace.images(SOURCE) / f"copy_{i}_0000.png")
    out = succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", "2", "--encoder", "intensity", "-device", "cpu"])
    told = f"{n} of 10 images of {TARGET} are in the source {SOURCE} too, byte for byte"
    sentence = f"{told}; --exclude leaves out what need not be annotated"
    assert out.count(sentence) == (n > 0) and (sentence in workspace.selection()["mixtures"]) == (n > 0)


@pytest.mark.parametrize("n", [0, 2])
def test_images_that_are_there_several_times_are_told(workspace, capsys, n):
    for i in range(n):
        shutil.copy(workspace.images() / f"t_{i:02d}_0000.png", workspace.images() / f"u_{i}_0000.png")
    out = succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", "2", "--encoder", "intensity", "-device", "cpu"])
    told = f"4 of 12 images of {TARGET} are copies of each other, byte for byte (t_00, t_01, u_0, ...)"
    assert out.count(told) == (n > 0)
    assert sum(one.startswith(told) for one in workspace.selection()["mixtures"]) == (n > 0)


@pytest.mark.parametrize(("name", "offset", "told"), [("CT", 1024, True), ("CT", 0, False), ("MRI", 1024, False)])
def test_ct_without_its_offset_is_told(empty, caplog, unread, name, offset, told):
    """Its tissue is in no window, so that it looks like nothing else in the pool."""
    for i in range(3):
        values = (volume(i, (16, 20, 24))[0] * 10 - 950).clip(-1000) + offset * (i == 1)
        write_volume(empty.images(CTS) / f"v_{i}_0000.nii.gz", values.astype(np.int16))
    write_dataset_json(empty.raw / CTS, ".nii.gz", channel_names={"0": name}, numTraining=0, dataset={})
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "nnunetv2_xssr"):
            mixtures = prepare_views(open_pool("41")).mixtures
        assert [f"{CTS}: CT holds nothing below 0 in 1 of 3 cases (v_1)" in one for one in mixtures] == [True] * told
        assert caplog.messages.count("".join(mixtures)) == told
        unread()


def test_mixtures_stand_in_record_and_report(scans, capsys):
    write_scan(scans.images(CTS) / "v_1_0000.nii.gz", 1, "RAS")
    out = succeeds(capsys, select.main, SELECT)
    (sentence,) = scans.selection(CTS)["mixtures"]
    assert sentence == f"{CTS} mixes stored orientations: 2 LPS, 1 RAS" and out.count(sentence) == 1
    assert json.loads(succeeds(capsys, report.main, ["-d", "41", "--json"]))["mixtures"] == [sentence]
    assert sentence in (scans.record(CTS).parent / "report.html").read_text("utf-8")


# --- the window of CT


def test_one_window_takes_the_place_of_three():
    image = np.linspace(-1000, 1000, 16 * 20 * 20, dtype=np.float32).reshape(1, 16, 20, 20)
    window, names = (500.0, 100.0), ("CT",)
    for made in (
        extract_views(image, names, 8, look=Look(window=window)),
        extract_volume(image, names, window=window),
    ):
        assert made.shape[1] == 1 and made.min() < 0.01 and made.max() == 1
    slices = extract_views(image, names, 8, look=Look(window=window))[:, 0].astype(float).mean(axis=(1, 2))
    assert (slices[:3] < 0.05).all() and slices[-1] > 0.9
    both = np.concatenate([image, image])
    assert extract_views(both, ("CT", "MRI"), 8, look=Look(window=window)).shape[1] == 2


@pytest.mark.parametrize("dim", ["2", "3"])
def test_the_encoder_remembers_the_window(scans, capsys, unread, dim):
    succeeds(capsys, pretrain.main, ["-s", "42", "--window", "40/400", "--dim", dim, "-device", "cpu"])
    encoder = scans.encoder(ARCHIVE).parent.with_name(f"XSSR_MAE__{dim}d") / "checkpoint_final.pth"
    views = torch.load(encoder, weights_only=True)["views"]
    assert views["view_channels"] == ["CT 40/400"] and views["window"] == [40.0, 400.0]
    argv = [*SELECT, "--dim", dim]
    succeeds(capsys, select.main, argv)
    unread()
    words = ["learned from --window 40/400", "leave --window 50/100 out", "nnUNetv2_xssr_pretrain --window 50/100"]
    fails(capsys, select.main, [*argv, "--window", "50/100", "--overwrite"], *words)
    succeeds(capsys, select.main, [*argv, "--window", "40/400", "--overwrite"])


def test_select_asks_for_a_window_itself(scans, capsys):
    succeeds(capsys, select.main, [*SELECT, "--window", "40/400"])
    assert learned(scans)["window"] == [40.0, 400.0]
    before = scans.results_of_select(CTS)
    succeeds(capsys, select.main, [*SELECT, "--window", "40/400"])
    assert scans.results_of_select(CTS) == before
    fails(capsys, select.main, [*SELECT, "--window", "40/300"], "holds a selection made with other settings", "window")


@pytest.mark.parametrize("unit", ["case", "slice"])
def test_a_window_in_which_all_look_the_same_is_told(scans, capsys, caplog, unit):
    argv = [*SELECT, "--encoder", "untrained", "--unit", unit, "--window"]
    succeeds(capsys, select.main, [*argv, "40/400"])
    assert not [one for one in caplog.messages if "look the same" in one]
    succeeds(capsys, select.main, [*argv, "5000/100", "--overwrite"])
    (said,) = [one for one in caplog.messages if "look the same" in one]
    assert f"{unit}s of {CTS} look the same to --encoder untrained" in said and "--window" in said


def test_window_is_for_ct(workspace, capsys, unread):
    unread()
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", "--window", "40/400"]
    fails(capsys, select.main, argv, "--window is for CT, but the channels are xray")
    folder = workspace.root / "archive"
    write_scan(folder / "a.nii.gz", 1)
    fails(capsys, pretrain.main, ["-s", folder, "--window", "40/400"], "--window is for CT", "--channel_names")


# --- encoder and target are compared before anything is read


@pytest.fixture
def folders(empty):
    """Plain folders of CTs, as a hospital has them."""
    for name, first in (("archive", 10), ("new", 0)):
        for i in range(3):
            write_scan(empty.root / name / f"v_{i}.nii.gz", first + i)
    return empty


def new_dataset(folders, *channels, **more):
    argv = ["-d", "043_New", "-i", folders.root / "new", "--labels", "organ", "-s", folders.root / "archive"]
    return [*argv, "-b", "2", "-device", "cpu", "--channel_names", *channels]


def test_encoder_of_a_folder_of_cts_fits(folders, capsys):
    archive = folders.root / "archive"
    out = succeeds(capsys, pretrain.main, ["-s", archive, "--channel_names", "CT", "-device", "cpu"])
    assert f"nnUNetv2_xssr_select -d TARGET -s {archive} -b 5%" in out
    (encoder,) = folders.results.glob("*/XSSR_MAE__2d/checkpoint_final.pth")
    written = encoder.stat().st_mtime_ns
    succeeds(capsys, select.main, new_dataset(folders, "CT"))
    assert encoder.stat().st_mtime_ns == written
    assert torch.load(encoder, weights_only=True)["views"]["normalisation"] == ["CTNormalization"]


def test_another_normalisation_says_what_to_type(folders, capsys, unread):
    succeeds(capsys, pretrain.main, ["-s", folders.root / "archive", "-device", "cpu"])
    unread()
    words = [
        "1 channels without names, by z-score",
        "has CT (CTNormalization)",
        "pretrain anew with --channel_names CT",
    ]
    fails(capsys, select.main, new_dataset(folders, "CT"), *words)


def test_another_dim_says_what_to_type(scans, capsys, unread):
    succeeds(capsys, pretrain.main, ["-s", "42", "--dim", "3", "-device", "cpu"])
    encoder = scans.encoder(ARCHIVE).parent.with_name("XSSR_MAE__3d") / "checkpoint_final.pth"
    unread()
    fails(capsys, select.main, [*SELECT, "--encoder", encoder], "learned from whole volumes", "give --dim 3")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["CT", "PET"], ["--channel_names must name 1 channels", "got 2 (CT, PET)"]),
        (["T1"], None),
    ],
)
def test_channel_names_of_a_folder(folders, capsys, names, words):
    argv = ["-s", folders.root / "archive", "--channel_names", *names, "-device", "cpu"]
    if words:
        fails(capsys, pretrain.main, argv, *words)
    else:
        succeeds(capsys, pretrain.main, argv)


def test_channel_names_beside_those_of_datasets(folders, capsys):
    write_volume(folders.images(CTS) / "v_0_0000.nii.gz", volume(1)[0])
    write_dataset_json(folders.raw / CTS, ".nii.gz", channel_names={"0": "CT"})
    fails(capsys, pretrain.main, ["-s", "41", "--channel_names", "CT"], "--channel_names is about folders")
    both = ["-s", "41", folders.root / "archive", "-device", "cpu", "--channel_names"]
    fails(capsys, pretrain.main, [*both, "T1"], "the channels CT", "has T1")
    succeeds(capsys, pretrain.main, [*both, "ct"])
