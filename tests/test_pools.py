"""Image pools of datasets and folders."""

import json
import os
from contextlib import contextmanager

import nibabel
import numpy as np
import pytest
import tifffile
from making import SOURCE, TARGET, fails, picture, succeeds, volume, write_dataset_json, write_picture, write_volume

from nnunetv2_xssr.benchmark.hold_out import label_files
from nnunetv2_xssr.commands import pretrain, select
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images import new_dataset as new_dataset_module
from nnunetv2_xssr.images.extract import Look
from nnunetv2_xssr.images.new_dataset import make_dataset, new_dataset
from nnunetv2_xssr.images.pools import dataset_pool, open_pool, open_pools
from nnunetv2_xssr.images.reading import BrokenImage, read_case, read_image, third_axis
from nnunetv2_xssr.images.scale import candidates_look, common_look
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.records.workspace import encoder_folder, find_dataset


def test_dataset_by_name_and_by_number(workspace):
    assert find_dataset("2") == find_dataset("002") == find_dataset(TARGET) == TARGET
    pool = open_pool("2")
    assert pool.name == TARGET and len(pool) == 10
    assert pool.identifiers == sorted(pool.identifiers) == [f"t_{i:02d}" for i in range(10)]
    assert pool.channel_names == ("xray",)
    assert [case.domain for case in pool.cases] == list("ABABABABAB")
    assert not any(case.labelled for case in pool.cases)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_two_files_of_one_case_and_channel(empty, ending):
    """Where a.nii.gz is asked for ITK takes the voxels of a.nii, of which no hash tells."""
    folder = empty.raw / "Dataset009_Twins"
    for i in range(2):
        write_volume(folder / "imagesTr" / f"v_{i}_0000{ending}", volume(i)[0])
    write_dataset_json(folder, ending, numTraining=0, dataset={}, overwrite_image_reader_writer="NibabelIO")
    assert len(open_pool("9")) == 2
    other = ".nii" if ending == ".nii.gz" else ".nii.gz"
    write_volume(folder / "imagesTr" / f"v_1_0000{other}", volume(7)[0])
    with pytest.raises(UserError, match=f"v_1_0000{ending} and v_1_0000{other} beside it"):
        open_pool("9")


def test_reader_that_nnunet_does_not_have(empty):
    """nnU-Net would take another one, which may turn the images."""
    folder = empty.raw / "Dataset009_Misspelt"
    write_volume(folder / "imagesTr" / "v_0_0000.nii.gz", volume(0)[0])
    reader = "NibabelIOWithReorientation"
    write_dataset_json(folder, ".nii.gz", numTraining=0, dataset={}, overwrite_image_reader_writer=reader)
    with pytest.raises(UserError, match=f"must be one of .*NibabelIOWithReorient; got '{reader}'"):
        open_pool("9").reader()


def test_names_in_domains_that_no_case_has(workspace, caplog, capsys):
    path = workspace.raw / TARGET / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"domains": {**content["domains"], "t_10": "A", "T_01": "B"}}))
    succeeds(capsys, select.main, ["-d", "2", "-b", "2", "--encoder", "intensity", "-device", "cpu"])
    (said,) = [message for message in caplog.messages if message.startswith("domains in")]
    assert said.startswith("domains in dataset.json names 2 of 12 cases that") and "(T_01, t_10)" in said


def test_numbers_of_four_digits(empty):
    write_picture(empty.root / "images" / "a.png", picture(1))
    with new_dataset(empty.root / "images", "1337_Four", channel_names=["xray"], labels=["blob"]) as name:
        assert name == "Dataset1337_Four" == find_dataset("1337") == find_dataset(name)
    assert open_pool("1337").identifiers == open_pool(name).identifiers == ["a"]
    for number in ("133", "7", "337"):
        with pytest.raises(UserError, match=f"no dataset '{number}'"):
            find_dataset(number)


def test_a_dataset_that_another_command_has_made_meanwhile_is_not_taken_back(empty, monkeypatch):
    write_picture(empty.root / "images" / "a.png", picture(1))
    made = {"channel_names": ["xray"], "labels": ["blob"]}
    lock = new_dataset_module.dataset_lock

    @contextmanager
    def waits_for_another(workspace):
        with lock(workspace):
            make_dataset(empty.root / "images", "007_New", **made)
            yield

    monkeypatch.setattr(new_dataset_module, "dataset_lock", waits_for_another)
    with pytest.raises(UserError, match="no"):
        with new_dataset(empty.root / "images", "007_New", **made):
            raise UserError("no")
    assert (empty.raw / "Dataset007_New" / "imagesTr" / "a_0000.png").is_file()


def test_many_sources_with_long_names(empty, capsys):
    """A file system takes 255 bytes for a name, and the encoder is found again."""
    sources = [empty.root / f"hospital_number_{i}_in_a_city_whose_name_is_long" for i in range(8)]
    for i, source in enumerate(sources):
        write_picture(source / "a.png", picture(i))
    pools = open_pools([str(source) for source in sources])
    names = [pool.name for pool in pools]
    folder = encoder_folder(names)
    assert len({folder, encoder_folder(names[::-1]), encoder_folder(names[:7]), encoder_folder(names, dim=3)}) == 4
    assert all(len(part.encode()) < 255 and not part.startswith("Dataset") for part in folder.parts)
    succeeds(capsys, pretrain.main, ["-s", *sources, "--epochs", "1", "--batch_size", "2", "-device", "cpu"])
    assert (folder / "checkpoint_final.pth").is_file()


def test_labels_are_seen_but_not_opened(workspace):
    label = workspace.raw / TARGET / "labelsTr" / "t_03.png"
    label.parent.mkdir()
    label.write_bytes(b"not an image")
    assert [c.identifier for c in dataset_pool(TARGET).cases if c.labelled] == ["t_03"]


def test_other_files_beside_the_images_are_no_cases(workspace):
    for name in ("Thumbs.db", "notes.txt", "t_00_0000.json", "preview.png"):
        (workspace.images() / name).write_text("x")
    assert len(dataset_pool(TARGET)) == 10


@pytest.mark.parametrize("name", ["._t_00_0000.png", ".t_99_0000.png", "._t_00.png"])
def test_hidden_files_are_no_cases(workspace, name):
    """macOS puts ._NAME beside every file on USB sticks and shares."""
    (workspace.images() / name).write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    assert len(dataset_pool(TARGET)) == len(open_pool(str(workspace.images()))) == 10
    label = workspace.raw / TARGET / "labelsTr" / f"._{name}"
    label.parent.mkdir()
    label.write_bytes(b"\x00\x05\x16\x07")
    assert not any(case.labelled for case in dataset_pool(TARGET).cases)


def test_link_to_nowhere_is_told(workspace):
    """As data that git-annex or DVC has not fetched yet."""
    (workspace.images() / "t_99_0000.png").symlink_to(workspace.root / "nowhere.png")
    for text in ("2", str(workspace.images())):
        with pytest.raises(UserError, match="t_99_0000.png does not exist"):
            open_pool(text)


def test_dataset_table_adds_cases_and_labels(workspace, monkeypatch):
    """As nnU-Net reads it, with the label optional."""
    elsewhere = workspace.root / "archive"
    monkeypatch.setenv("XSSR_ARCHIVE", str(elsewhere))
    write_picture(elsewhere / "far.png", picture(1))
    write_picture(elsewhere / "mask.png", picture(1))
    where = os.path.relpath(elsewhere, workspace.raw / TARGET)
    table = {
        "far": {"images": [f"{where}/far.png"]},
        "far_labelled": {"images": [f"{where}/far.png"], "label": f"{where}/mask.png"},
        "t_00": {"images": ["imagesTr/t_00_0000.png"], "label": "$XSSR_ARCHIVE/mask.png"},
    }
    write_dataset_json(workspace.raw / TARGET, dataset=table)
    pool = dataset_pool(TARGET)
    cases = {case.identifier: case for case in pool.cases}
    assert len(pool) == 12
    assert cases["far"].files == ((elsewhere / "far.png").resolve(),)
    assert {c for c in cases if cases[c].labelled} == {"far_labelled", "t_00"}


def test_labels_of_a_benchmark_are_found_without_a_process(workspace, monkeypatch):
    """What nnU-Net forks for this would wait for ever if Ctrl-C ended the command in that moment."""
    write_dataset_json(
        workspace.raw / TARGET, dataset={"t_00": {"images": ["imagesTr/t_00_0000.png"], "label": "a/b.png"}}
    )
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a process was forked"))
    found = label_files(dataset_pool(TARGET))
    home = workspace.raw / TARGET
    assert (found["t_00"], found["t_01"]) == (home / "a" / "b.png", home / "labelsTr" / "t_01.png")


def test_channels_are_ordered_by_their_number(empty):
    folder = empty.raw / "Dataset007_Channels"
    for channel in range(11):
        write_picture(folder / "imagesTr" / f"a_{channel:04d}.png", picture(channel))
    write_dataset_json(folder, channel_names={str(i): f"name{i}" for i in range(11)})
    pool = open_pool("7")
    assert pool.channel_names == tuple(f"name{i}" for i in range(11))
    image = read_case(pool.cases[0], pool.reader())
    assert image.shape == (11, 1, 40, 48) and image.dtype == np.uint8  # as stored
    for channel in range(11):
        assert np.array_equal(image[channel, 0], picture(channel))


def test_folder_of_files_with_any_names(tmp_path):
    for name in ("b.png", "a 1.png", "slice_0012.png", ".hidden.png"):
        write_picture(tmp_path / "images" / name, picture(1))
    (tmp_path / "images" / "readme.txt").write_text("x")
    pool = open_pool(str(tmp_path / "images"))
    assert pool.identifiers == ["a 1", "b", "slice_0012"]
    assert pool.name.startswith("images_") and pool.channel_names is None


def test_folder_in_nnunets_manner_groups_channels(tmp_path):
    for case in "ab":
        for channel in range(2):
            write_picture(tmp_path / f"{case}_{channel:04d}.png", picture(channel))
    pool = open_pool(str(tmp_path))
    assert pool.identifiers == ["a", "b"]
    assert [len(case.files) for case in pool.cases] == [2, 2]


def write_numbered(folder, counts, channels=None):
    for name, count in counts.items():
        for number in range(count):
            write_picture(folder / f"{name}_{number:04d}.png", picture(number, channels=channels))


NAMES = {1: ["us"], 2: ["T1", "T2"], 3: ["R", "G", "B"]}


@pytest.mark.parametrize(
    ("counts", "channels", "n_names", "cases"),
    [
        ({"frame": 6}, None, 1, [f"frame_{i:04d}" for i in range(6)]),
        ({"frame": 3}, 3, 3, [f"frame_{i:04d}" for i in range(3)]),
        ({"a": 3, "b": 2}, None, 1, ["a_0000", "a_0001", "a_0002", "b_0000", "b_0001"]),
        ({"frame": 3}, None, 3, ["frame"]),
        ({"a": 2, "b": 2}, None, 2, ["a", "b"]),
        ({"a": 1, "b": 1}, None, 1, ["a", "b"]),
        ({"a": 1, "b": 1}, 3, 3, ["a", "b"]),
    ],
)
def test_channels_tell_whether_numbered_files_are_cases(tmp_path, counts, channels, n_names, cases):
    write_numbered(tmp_path, counts, channels)
    pool = open_pool(str(tmp_path), channel_names=NAMES[n_names])
    assert pool.identifiers == cases
    assert {len(read_case(case, pool.reader())) for case in pool.cases} == {n_names}


def test_without_channels_it_is_told_what_numbered_files_were_taken_for(tmp_path, caplog):
    write_numbered(tmp_path, {"frame": 6})
    with caplog.at_level("INFO", "nnunetv2_xssr"):
        assert open_pool(str(tmp_path)).identifiers == ["frame"]
    (sentence,) = caplog.messages
    assert "1 case of 6 channels" in sentence and "frame_0000.png, frame_0001.png" in sentence and "rename" in sentence


def test_numbered_files_that_fit_neither_way(empty, capsys):
    folder = empty.root / "frames"
    write_numbered(folder, {"frame": 6})
    argv = ["-i", folder, "-d", "123_New", "--channel_names", "a", "b", "--labels", "blob", "-b", "1"]
    words = ["must name 6 channels", "case frame", "frame_0000.png, frame_0001.png", "got 2 (a, b)"]
    fails(capsys, select.main, argv, *words)
    write_numbered(folder, {"other": 4})
    fails(capsys, select.main, argv, "4 of 6 channel files", "its files if each is a case")


def test_folders_of_the_same_name_are_different_pools(tmp_path):
    for parent in ("x", "y"):
        write_picture(tmp_path / parent / "images" / "a.png", picture(1))
    pools = open_pools([str(tmp_path / parent / "images") for parent in ("x", "y")])
    assert pools[0].name != pools[1].name
    again = open_pool(str(tmp_path / "y" / ".." / "x" / "images"))
    assert again.name == pools[0].name


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_volumes_in_every_format(tmp_path, ending):
    array = volume(3)[0]
    write_volume(tmp_path / f"v{ending}", array)
    pool = open_pool(str(tmp_path))
    assert pool.identifiers == ["v"]
    image = read_case(pool.cases[0], pool.reader())
    assert image.shape == (1, *array.shape)
    assert np.array_equal(image[0], array)


@pytest.mark.parametrize("ending", [".tif", ".bmp"])
def test_pictures_in_other_formats(tmp_path, ending):
    write_picture(tmp_path / f"v{ending}", picture(3))
    pool = open_pool(str(tmp_path))
    image = read_case(pool.cases[0], pool.reader())
    assert image.shape == (1, 1, 40, 48) and np.array_equal(image[0, 0], picture(3))


@pytest.mark.parametrize("broken", [False, True])
def test_reader_of_stacks_is_chosen_once_and_in_silence(tmp_path, monkeypatch, capfd, broken):
    """nnU-Net prints a traceback for every reader that it tries in vain."""
    for i in range(3):
        tifffile.imwrite(tmp_path / f"c{i}.tif", volume(i)[0])
        (tmp_path / f"c{i}.json").write_text('{"spacing": [2, 1, 1]}')
    if broken:
        (tmp_path / "c0.tif").write_bytes(b"no image")
    pool = open_pool(str(tmp_path))
    reader = pool.reader()
    assert pool.reader() is reader and type(reader).__name__ == "Tiff3DIO"
    assert capfd.readouterr() == ("", "")
    assert read_case(pool.cases[2], reader).shape == (1, 16, 20, 20)


@pytest.mark.parametrize("odd", [slice(5, 6), slice(3)])
@pytest.mark.parametrize("place", [0, 3])
def test_stacks_are_stacks_wherever_odd_ones_lie(tmp_path, odd, place):
    """A flat file, or one of three pages, which nnU-Net takes for colours, does not decide how the others are read."""
    for i in range(4):
        stack = volume(i)[0]
        tifffile.imwrite(
            tmp_path / f"c{i}.tif", stack[odd].squeeze() if i == place else stack, photometric="minisblack"
        )
    pool = open_pool(str(tmp_path))
    assert type(pool.reader()).__name__ == "Tiff3DIO"
    assert [len(read_case(pool.cases[i], pool.reader())[0]) for i in range(4) if i != place] == [16] * 3
    if odd == slice(3):
        assert read_case(pool.cases[place], pool.reader()).shape == (1, 3, 20, 20)
    else:
        with pytest.raises(BrokenImage, match=f"case c{place}: .*Only 3D images"):
            read_case(pool.cases[place], pool.reader())


@pytest.mark.parametrize("unit", ["mm", "micron", "meter"])
def test_as_many_slices_are_candidates_whatever_the_unit_of_the_file(tmp_path, unit):
    """ITK, and with it nnU-Net, brings NIfTI files to millimetres."""
    affine = np.diag([1, 1, 7, 1]) * {"mm": 1, "micron": 1000, "meter": 0.001}[unit]
    image = nibabel.Nifti1Image(volume(1)[0].T, affine)
    image.header.set_xyzt_units(xyz=unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    pool = open_pool(str(tmp_path))
    assert third_axis(pool.cases[0], pool.reader()) == (16, pytest.approx(7))
    assert candidates_look(pool, Look()).views == 16


@pytest.mark.parametrize("ending", [".tif", ".dcm"])
def test_files_that_no_reader_reads(empty, ending):
    folder = empty.raw / "Dataset007_Foreign"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "imagesTr" / f"a_0000{ending}").write_bytes(b"no image")
    write_dataset_json(folder, ending)
    with pytest.raises(
        UserError, match=f"no reader for the {ending} files of Dataset007_Foreign, such as .*a_0000{ending}"
    ):
        open_pool("7").reader()


def test_constant_image_is_named_with_its_value(tmp_path):
    write_picture(tmp_path / "flat.png", np.full((8, 8), 9, np.uint8))
    pool = open_pool(str(tmp_path))
    with pytest.raises(BrokenImage, match=r"case flat: .*flat.png is constant \(every value is 9\).*--skip_broken"):
        read_case(pool.cases[0], pool.reader())


def test_only_keeps_the_order(workspace):
    assert open_pool("2").only(["t_05", "t_01"]).identifiers == ["t_01", "t_05"]


def test_channel_names_that_are_no_numbers_are_told(workspace):
    """A dataset.json of another tool."""
    file = workspace.raw / SOURCE / "dataset.json"
    content = json.loads(file.read_text())
    content["channel_names"] = {}
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="channel_names"):
        open_pool("1")


@pytest.mark.parametrize("more", [["-b", "99"], ["-b", "1", "--strategy", "best"], ["-b", "1", "--alpha", "2"]])
def test_dataset_of_a_call_that_fails_is_taken_back(empty, capsys, more):
    for i in range(4):
        write_picture(empty.root / "images" / f"c{i}.png", picture(i))
    argv = ["-i", empty.root / "images", "--channel_names", "xray", "--labels", "blob", "-d", "123_New", *more]
    fails(capsys, select.main, argv)
    assert not (empty.raw / "Dataset123_New").exists()
    assert len(list((empty.root / "images").iterdir())) == 4  # they were linked, and stay


@pytest.mark.parametrize("name", ["c", "c_0000"])
def test_spacing_of_a_stack_counts_and_its_views_are_made_anew_with_it(empty, tmp_path, name, capfd):
    """It stands in another file than the image, which nnU-Net finds beside names with ``_0000`` only."""
    folder = tmp_path / "stacks"
    folder.mkdir()
    tifffile.imwrite(folder / f"{name}.tif", volume(1)[0])
    pool = open_pool(str(folder))
    for spacing in (None, [3, 1, 1], [0.5, 2, 1]):
        if spacing:
            (folder / "c.json").write_text(json.dumps({"spacing": spacing}))
        capfd.readouterr()
        views = prepare_views(pool, look=common_look([pool], dim=2))
        assert views.facts[pool.identifiers[0]].spacing == tuple(spacing or [1, 1, 1])[::-1]
        assert third_axis(pool.cases[0], pool.reader()) == (16, (spacing or [1])[0])
        assert ("no spacing file" in capfd.readouterr().out) == (spacing is None)
    assert 20 * 2 / 128 <= views.settings["pixel"] < 1.11 * 20 * 2 / 128
    (folder / "c.json").write_text('{"pixel": 3}')
    with pytest.raises(BrokenImage, match="spacing"):
        read_image(pool.cases[0], pool.reader())


def test_all_that_a_new_dataset_lacks_is_named_at_once(empty, capsys):
    argv = ["-i", empty.root, "-d", "123_New", "-b", "1"]
    fails(capsys, select.main, argv, "-i needs --channel_names and --labels to write")
    fails(capsys, select.main, [*argv, "--labels", "blob"], "-i needs --channel_names to write")
    fails(capsys, select.main, [*argv, "--channel_names", "xray"], "-i needs --labels to write")
