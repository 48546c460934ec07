"""Bad input: exit code 2, one sentence with what, where, got and do, and records that stay as they were."""

import contextlib
import errno
import gzip
import io
import os
import pathlib
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import unicodedata

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from making import (
    SOURCE,
    TARGET,
    command,
    fails,
    picture,
    succeeds,
    volume,
    write_dataset_json,
    write_picture,
    write_volume,
)

from nnunetv2_xssr.commands import collect, pretrain, report, select, status
from nnunetv2_xssr.pipeline import call
from nnunetv2_xssr.records.locks import LOCK

SELECT = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]


def with_budget(budget):
    return ["-d", "2", "-s", "1", "-b", budget, "-device", "cpu"]


# --- options that do not go together


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--control", "1", "--unit", "slice"], "--control does not go with --unit slice"),
        (["--control", "1", "-b", "auto"], "--control does not go with -b auto"),
        (["--control", "1", "--scheduler", "local"], "--control does not go with --scheduler"),
        (["--control", "-1"], "--control must be 0 or more; got -1"),
        (["--model", "folder", "--scheduler", "local"], "--scheduler does not weigh the doubt of --model"),
        (["--model", "folder", "--strategy", "random"], "--strategy random does not weigh the doubt of --model"),
        (["--prelabel", "folder", "--raters", "a", "b"], "--prelabel hides how far raters agree"),
    ],
)
def test_options_are_compared_before_a_folder_is_converted(empty, capsys, monkeypatch, more, words):
    monkeypatch.setattr(call, "new_dataset", lambda *_, **__: pytest.fail("was converted"))
    new = ["-i", "HOSPITAL", "--channel_names", "CT", "--labels", "tumour", "-d", "5_New", "-b", "3", "-device", "cpu"]
    fails(capsys, select.main, [*new, *more], words)


# --- datasets and folders


def test_unknown_dataset(either, capsys):
    fails(capsys, select.main, ["-d", "77", "-b", "3"], "77", either.raw, SOURCE, TARGET, "give a name")
    fails(capsys, select.main, ["-d", "Dataset077_No", "-b", "3"], "'Dataset077_No'", either.raw)
    fails(capsys, select.main, ["-d", "2", "-s", "77", "-b", "3"], "77", either.raw)
    fails(capsys, pretrain.main, ["-s", "77"], "77", either.raw)
    fails(capsys, pretrain.main, ["-s", either.root / "nowhere"], "nowhere", "neither a folder nor")


def test_number_with_two_datasets(either, capsys):
    shutil.copytree(either.raw / TARGET, either.raw / "Dataset002_Twin")
    fails(capsys, select.main, SELECT, "2 is not unique", TARGET, "Dataset002_Twin", "give a name")


@pytest.mark.skipif(os.name == "nt", reason="Windows has set in the place of export")
@pytest.mark.parametrize("missing", [["raw"], ["preprocessed"], ["results"], ["raw", "results"]], ids="-".join)
@pytest.mark.parametrize("value", [None, ""])
def test_missing_environment_variables_are_named_at_once_with_lines_to_paste(capsys, monkeypatch, missing, value):
    missing = [f"nnUNet_{name}" for name in missing]
    commands = {select.main: SELECT, pretrain.main: ["-s", "1"], collect.main: ["-d", "2"], status.main: ["-d", "2"]}
    if "nnUNet_raw" in missing:  # all that the report needs
        commands[report.main] = ["-d", "2"]
    for variable in missing:
        monkeypatch.delenv(variable) if value is None else monkeypatch.setenv(variable, value)
    for main, argv in commands.items():
        assert main([str(word) for word in argv]) == 2
        sentence, *lines = capsys.readouterr().err.splitlines()
        assert f" {', '.join(missing)} must name nnU-Net's folders" in sentence
        assert [shlex.split(line) for line in lines] == [["export", f"{name}=$PWD/{name}"] for name in missing]


def test_empty_pool(either, capsys):
    for file in either.images().iterdir():
        file.unlink()
    fails(capsys, select.main, SELECT, either.images(), "no image", "_0000.png")
    (either.root / "folder").mkdir()
    fails(capsys, pretrain.main, ["-s", either.root / "folder"], either.root / "folder", "no image", ".png")


def test_dataset_json_missing_or_cut_off(either, capsys):
    file = either.raw / TARGET / "dataset.json"
    file.write_text(file.read_text()[:30])
    fails(capsys, select.main, SELECT, file, "not a whole JSON file")
    file.write_text("{}")
    fails(capsys, select.main, SELECT, file, "channel_names")
    file.unlink()
    fails(capsys, select.main, SELECT, file, "does not exist")


def test_target_given_as_source(either, capsys):
    fails(capsys, select.main, ["-d", "2", "-s", "2", "-b", "3"], TARGET, "is the target itself", "leave -s out")


# --- budgets


@pytest.mark.parametrize("budget", ["0", "-3", "101%", "11", "5 %", "abc", "0%", "", "2.5", "1e1", "nan%", "-5"])
def test_budget(either, capsys, budget):
    fails(capsys, select.main, with_budget(budget), "budget must be", repr(budget))


def test_budget_larger_than_what_has_no_label_yet(either, capsys):
    write_picture(either.raw / TARGET / "labelsTr" / "t_00.png", np.zeros((4, 4), np.uint8))
    fails(capsys, select.main, with_budget("10"), "between 1 and 9", "'10'")


# --- channels


def test_source_and_target_with_different_channels(either, capsys):
    for i in range(3):
        write_picture(either.raw / "Dataset003_Colour" / "imagesTr" / f"c_{i}_0000.png", picture(i, channels=3))
    write_dataset_json(either.raw / "Dataset003_Colour", channel_names={"0": "R", "1": "G", "2": "B"})
    argv = ["-d", "2", "-s", "3", "-b", "3", "--overwrite", "-device", "cpu"]
    fails(capsys, select.main, argv, TARGET, "Dataset003_Colour", "xray", "R, G, B", "same channels", "choose another")
    fails(capsys, pretrain.main, ["-s", "1", "3", "-device", "cpu"], SOURCE, "Dataset003_Colour", "same channels")


@pytest.mark.parametrize("names", [["CT"], ["chest X-ray"], ["xray", "xray"]])
def test_source_with_other_channel_names(either, capsys, names):
    """Names decide, whatever their normalisation; nothing is read before."""
    shutil.rmtree(either.preprocessed / SOURCE)
    write_dataset_json(either.raw / SOURCE, channel_names={str(i): name for i, name in enumerate(names)})
    fails(capsys, select.main, SELECT, f"{TARGET} has the channels xray", SOURCE, ", ".join(names), "in any order")
    assert not (either.preprocessed / SOURCE).exists()


# --- images


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_bytes(path):
    path.write_bytes(b"")


def constant(path):
    write_picture(path, np.full((40, 48), 7, np.uint8))


def colour(path):
    write_picture(path, picture(1, channels=3))


def no_image(path):
    path.write_text("this is no image")


BROKEN = [
    (cut_off, "cannot be read"),
    (no_bytes, "cannot be read"),
    (no_image, "cannot be read"),
    (constant, "is constant (every value is 7)"),
    (colour, "has 3 channels but the pool has 1"),
]


@pytest.mark.parametrize(("spoil", "reason"), BROKEN)
@pytest.mark.parametrize("place", [0, 4])
def test_broken_picture_of_the_target(either, capsys, spoil, reason, place):
    file = either.images() / f"t_{place:02d}_0000.png"
    spoil(file)
    if spoil is colour and place == 0:
        reason = "channels but the pool has 1"
    fails(capsys, select.main, SELECT, f"case t_{place:02d}", file, reason)


@pytest.mark.parametrize(("spoil", "reason"), BROKEN)
def test_broken_picture_of_the_source(either, capsys, spoil, reason):
    file = either.images(SOURCE) / "s_03_0000.png"
    spoil(file)
    fails(capsys, select.main, SELECT, "case s_03", file, reason)
    fails(capsys, pretrain.main, ["-s", "1", "-device", "cpu"], "case s_03", file, reason)


def make_volumes(workspace, ending=".nii.gz"):
    folder = workspace.raw / "Dataset004_Volumes"
    for i in range(3):
        write_volume(folder / "imagesTr" / f"v_{i}_0000{ending}", volume(i)[0])
    write_dataset_json(folder, ending=ending, channel_names={"0": "MRI"})
    return folder / "imagesTr"


def write_nifti(path, array):
    nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), path)  # ITK would write 0 for NaN


def with_nan(path):
    array = volume(1)[0]
    array[3, 3, 3] = np.nan
    write_nifti(path, array)


def with_infinity(path):
    array = volume(1)[0]
    array[3, 3, 3] = np.inf
    write_nifti(path, array)


def constant_volume(path):
    write_volume(path, np.zeros((16, 20, 20), np.float32))


def of_colours(path):
    """Which nnU-Net's reader takes for channels along the slices."""
    colours = np.stack([volume(1)[0]] * 3, axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(path))


def complex_numbers(path):
    write_nifti(path, volume(1)[0].astype(np.complex64))


def in_other_units(factor):
    def spoil(path):
        image = sitk.ReadImage(str(path))
        image.SetSpacing([factor * mm for mm in image.GetSpacing()])
        sitk.WriteImage(image, str(path))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (with_nan, "NaN or infinity"),
        (with_infinity, "NaN or infinity"),
        (constant_volume, "is constant"),
        (cut_off, "cannot be read"),
        (no_bytes, "cannot be read"),
        (of_colours, "it holds 3 values per voxel, such as colours; store each channel in a file of its own"),
        (complex_numbers, "it holds complex numbers"),
        (in_other_units(1000), "is 2e+04 x 2e+04 mm in a slice, but a view of the pool shows 20."),
        (in_other_units(1e6), "fix its spacing"),
        (in_other_units(0.001), "is 0.02 x 0.02 mm in a slice, but a view of the pool shows 20."),
    ],
)
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_broken_volume(either, capsys, spoil, reason, kind):
    file = make_volumes(either) / "v_1_0000.nii.gz"
    write_volume(file, volume(1)[0].astype(kind))
    spoil(file)
    fails(capsys, select.main, ["-d", "4", "-b", "1", "-device", "cpu"], "case v_1", file, reason, "--skip_broken")
    assert either.results_of_select("Dataset004_Volumes") == [None, None]


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("column", [[np.nan, 0, 0], [np.inf, 0, 0], [0, 0, 1]], ids=["nan", "infinite", "as another"])
def test_volume_without_three_directions(either, capsys, reader, column):
    """ITK refuses or replaces such headers."""
    folder = make_volumes(either).parent
    write_dataset_json(folder, ".nii.gz", channel_names={"0": "MRI"}, overwrite_image_reader_writer=reader)
    file = folder / "imagesTr" / "v_1_0000.nii.gz"
    image = nibabel.load(file)
    header = image.header
    for row, value in zip(("srow_x", "srow_y", "srow_z"), column, strict=True):
        header[row][0] = value
    header["qform_code"], header["sform_code"] = 0, 1
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(header.binaryblock + content[len(header.binaryblock) :]))
    fails(capsys, select.main, ["-d", "4", "-b", "1", "-device", "cpu"], "case v_1", file, "cannot be read")


def test_channels_that_hold_one_value_each(either, capsys):
    folder = either.raw / "Dataset005_TwoChannels"
    for i in range(3):
        for channel in range(2):
            values = np.full((16, 20, 20), channel, np.float32) if i == 1 else volume(i)[0]
            write_volume(folder / "imagesTr" / f"v_{i}_{channel:04d}.nii.gz", values)
    write_dataset_json(folder, ending=".nii.gz", channel_names={"0": "T1", "1": "T2"})
    words = "is constant (every value is 0 or 1)"
    fails(capsys, select.main, ["-d", "5", "-b", "1", "-device", "cpu"], "case v_1", words)


@pytest.mark.parametrize(
    ("size", "spacing", "words"),
    [
        ((16, 20, 22), 1, "22 x 20 x 16 voxels of 1 x 1 x 1 mm"),
        ((16, 20, 20), 3, "20 x 20 x 16 voxels of 1 x 1 x 3 mm"),
    ],
)
def test_channels_of_different_grids(either, capsys, size, spacing, words):
    folder = either.raw / "Dataset005_TwoChannels"
    for i in range(3):
        for channel in range(2):
            odd = (i, channel) == (1, 1)
            image = sitk.GetImageFromArray(volume(i, size if odd else (16, 20, 20))[0])
            image.SetSpacing((1, 1, spacing if odd else 1))
            (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(folder / "imagesTr" / f"v_{i}_{channel:04d}.nii.gz"))
    write_dataset_json(folder, ending=".nii.gz", channel_names={"0": "T1", "1": "T2"})
    told = f"its channels differ: 20 x 20 x 16 voxels of 1 x 1 x 1 mm in v_1_0000.nii.gz, {words} in v_1_0001.nii.gz"
    fails(capsys, select.main, ["-d", "5", "-b", "1", "-device", "cpu"], "case v_1", told)


def test_missing_channel_file(either, capsys):
    folder = either.raw / "Dataset005_TwoChannels"
    for i in range(3):
        for channel in range(2):
            write_picture(folder / "imagesTr" / f"p_{i}_{channel:04d}.png", picture(i))
    write_dataset_json(folder, channel_names={"0": "a", "1": "b"})
    argv = ["-d", "5", "-b", "1", "-device", "cpu"]
    (folder / "imagesTr" / "p_1_0001.png").rename(either.root / "kept.png")
    fails(capsys, select.main, argv, "case p_1", "1 of 2 channel files", "p_1_0000.png", "add what is missing")
    (either.root / "kept.png").rename(folder / "imagesTr" / "p_1_0001.png")
    (folder / "imagesTr" / "p_2_0000.png").unlink()
    fails(capsys, select.main, argv, "case p_2", "p_2_0000.png is missing")


def test_listed_image_that_does_not_exist(either, capsys):
    table = {"t_00": {"images": ["imagesTr/nowhere.png"]}}
    write_dataset_json(either.raw / TARGET, dataset=table)
    fails(capsys, select.main, SELECT, "case t_00", "nowhere.png", "does not exist")


# --- duplicate identifiers


def test_source_given_twice(either, capsys):
    argv = ["-d", "2", "-s", "1", SOURCE, "-b", "3"]
    fails(capsys, select.main, argv, SOURCE, "is given 2 times", "give it once")
    folder = either.images(SOURCE)
    fails(capsys, pretrain.main, ["-s", folder, folder / ".." / "imagesTr"], "is given 2 times")


def test_folder_with_two_kinds_of_files(either, capsys):
    folder = either.root / "mixed"
    write_picture(folder / "a.png", picture(1))
    write_picture(folder / "a.bmp", picture(1))
    fails(capsys, pretrain.main, ["-s", folder], folder, "several kinds (.bmp, .png)", "one kind per folder")


def test_names_that_differ_in_upper_and_lower_case_only(either, capsys):
    write_picture(either.images() / "T_00_0000.png", picture(1))
    fails(capsys, select.main, SELECT, "T_00 and t_00", TARGET, "upper and lower case", "rename")
    folder = either.root / "folder"
    for name in ("a.png", "A.png"):
        write_picture(folder / name, picture(1))
    fails(capsys, pretrain.main, ["-s", folder], "A and a", "upper and lower case")


@pytest.mark.skipif(sys.platform == "darwin", reason="keeps no two such files apart")
def test_names_of_other_accents(either, capsys):
    """NFC and NFD: two files on Linux, one on macOS, and the same on every screen."""
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "é")
        write_picture(either.images() / f"{name}_0000.png", picture(1))
        if form == "NFC":
            file = either.root / "out.txt"
            file.write_text(unicodedata.normalize("NFD", "é"), "utf-8")
            words = "has its accents stored otherwise than the files have"
            fails(capsys, select.main, [*SELECT, "--exclude", file], words)
    fails(capsys, select.main, SELECT, TARGET, "in how accents are stored", "rename one")


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".JPG"])
def test_jpg(either, capsys, ending):
    folder = either.raw / "Dataset006_Lossy"
    write_picture(folder / "imagesTr" / "a_0000.jpg", picture(1))
    write_dataset_json(folder, ending=ending)
    fails(capsys, select.main, ["-d", "6", "-b", "1"], folder, ending, "lossy", "convert them to .png")
    (folder / "imagesTr" / "a_0000.jpg").rename(folder / "imagesTr" / f"a_0000{ending}")
    fails(capsys, pretrain.main, ["-s", folder / "imagesTr"], folder, "lossy", "convert them to .png")


# --- checkpoints


def rewrite_checkpoint(path, **changes):
    content = torch.load(path, weights_only=True)
    content.update(changes)
    torch.save(content, path)


def encoder_argv(path):
    return [*SELECT, "--overwrite", "--encoder", path]


def test_checkpoint_for_another_number_of_channels(either, capsys):
    for i in range(3):
        write_picture(either.raw / "Dataset003_Colour" / "imagesTr" / f"c_{i}_0000.png", picture(i, channels=3))
    write_dataset_json(either.raw / "Dataset003_Colour", channel_names={"0": "R", "1": "G", "2": "B"})
    argv = ["-s", "3", "--epochs", "1", "--batch_size", "2", "-device", "cpu"]
    succeeds(capsys, pretrain.main, argv)
    path = either.encoder("Dataset003_Colour")
    fails(capsys, select.main, encoder_argv(path), path, "3 channels", f"{TARGET} has 1", "--encoder")


def test_checkpoint_of_a_newer_format(either, capsys):
    rewrite_checkpoint(either.encoder(), format_version=99)
    fails(capsys, select.main, SELECT, either.encoder(), "format version 99", "reads up to 1", "upgrade nnunetv2_xssr")


@pytest.mark.parametrize("keep", [0, 10, 1000, 0.5, 0.999])
def test_checkpoint_cut_off(either, capsys, keep):
    path = either.encoder()
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    fails(capsys, select.main, SELECT, path, "cut off or not", "delete it")


def test_checkpoint_of_somebody_else(either, capsys):
    path = either.root / "foreign.pth"
    torch.save({"network_weights": {"a": torch.zeros(2)}, "trainer_name": "nnUNetTrainer"}, path)
    fails(capsys, select.main, encoder_argv(path), path, "is not an nnunetv2_xssr encoder checkpoint")
    torch.save([1, 2], path)
    fails(capsys, select.main, encoder_argv(path), path, "is not an nnunetv2_xssr encoder checkpoint")
    path.write_text("hello")
    fails(capsys, select.main, encoder_argv(path), path, "not an nnunetv2_xssr encoder checkpoint")
    fails(capsys, select.main, encoder_argv(either.root / "none.pth"), "none.pth", "there is no encoder checkpoint")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "pickle", "inside our own checkpoint"])
def test_malicious_checkpoint_is_never_unpickled(either, capsys, how):
    path, trace = either.root / "malicious.pth", either.root / "executed"
    if how == "torch":
        torch.save({"kind": "encoder checkpoint", "format_version": 1, "weights": Payload(trace)}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Payload(trace)))
    else:
        content = torch.load(either.encoder(), weights_only=True)
        torch.save({**content, "history": Payload(trace)}, path)
    fails(capsys, select.main, encoder_argv(path), path, "not an nnunetv2_xssr encoder checkpoint")
    assert not trace.exists()
    loaded = torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert loaded is not None and trace.exists()  # the payload works where a file is trusted


def test_archives_of_former_versions_of_torch_are_not_unpacked(either, capsys, monkeypatch):
    """torch before 2.6 runs foreign code that lies in one, whatever it is told."""
    path = either.root / "old.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(either.encoder(), "storages")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was unpacked"))
    fails(capsys, select.main, encoder_argv(path), path, "cut off or")


def test_unfinished_checkpoint(either, capsys, monkeypatch):
    from nnunetv2_xssr.pretrain import engine

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "draw_progress", interrupt)
        argv = ["-s", "1", "--epochs", "3", "--batch_size", "2", "--seed", "7", "-device", "cpu"]
        assert pretrain.main(argv) == 130
    latest = either.encoder().with_name("checkpoint_latest.pth")
    fails(capsys, select.main, encoder_argv(latest), latest, "unfinished", "1 of 3 epochs", "--c")


def test_continuing_with_other_settings(either, capsys):
    argv = ["-s", "1", "--epochs", "2", "--batch_size", "4", "-device", "cpu", "--c"]
    before = either.encoder().read_bytes()
    fails(capsys, pretrain.main, argv, either.encoder(), "other training", "'epochs': 1", "'epochs': 2", "delete it")
    assert either.encoder().read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("--epochs", "0", 1), ("--batch_size", "-1", 1), ("--seed", "-1", 0), ("--accumulate", "0", 1)],
)
def test_settings_of_pretraining(either, capsys, option, value, least):
    fails(capsys, pretrain.main, ["-s", "1", option, value], option[2:], f"must be {least} or more", value)


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--accumulate", "3", ("batch_size", "multiple of 3", "got 4")),
        ("--precision", "64", ("precision must be one of 32-true, bf16-mixed, 16-mixed", "'64'")),
        ("--precision", "16-mixed", ("16-mixed needs a CUDA GPU", "cpu", "choose bf16-mixed")),
        ("-num_gpus", "0", ("num_gpus", "between 1 and 1", "got 0")),
        ("-num_gpus", "2", ("num_gpus", "between 1 and 1", "got 2", "torchrun")),
    ],
)
def test_computing_of_pretraining(either, capsys, option, value, parts):
    fails(capsys, pretrain.main, ["-s", "1", "-device", "cpu", option, value], *parts)


# --- lists of cases and other options


def names(workspace, *cases):
    path = workspace.root / "names.txt"
    path.write_text("\n".join(cases) + "\n")
    return path


@pytest.mark.parametrize("option", ["--labelled", "--exclude"])
def test_list_that_names_unknown_cases(either, capsys, option):
    path = names(either, "t_00", "nobody", "t_99")
    fails(capsys, select.main, [*SELECT, option, path], option, "2 cases", TARGET, "nobody, t_99", "t_00")


@pytest.mark.parametrize(("option", "words"), [("--labelled", "are labelled"), ("--exclude", "--exclude names all 10")])
def test_list_that_names_everything(either, capsys, option, words):
    path = names(either, *(f"t_{i:02d}" for i in range(10)))
    fails(capsys, select.main, [*SELECT, option, path], words, TARGET, "nothing is left to pick")


@pytest.mark.parametrize("alpha", ["1.5", "-0.1", "nan", "much", ""])
def test_alpha(either, capsys, alpha):
    fails(capsys, select.main, [*SELECT, f"--alpha={alpha}"], "alpha must be", "a number between 0 and 1", alpha)


def test_strategy(either, capsys):
    fails(
        capsys,
        select.main,
        [*SELECT, "--strategy", "magic"],
        "strategy must be one of",
        "xssr",
        "random",
        "coreset",
        "'magic'",
    )


@pytest.mark.parametrize(
    ("option", "value"), [("--density_weight", "-1"), ("--density_weight", "nan"), ("--seed", "-1")]
)
def test_numbers(either, capsys, option, value):
    fails(capsys, select.main, [*SELECT, f"{option}={value}"], option.strip("-"), "must be 0 or more", value)


def test_device_that_is_not_there(either, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cuda"]
    fails(capsys, select.main, argv, "-device", "cpu", "got cuda")


# --- broken images set aside


@pytest.mark.parametrize("place", [0, 4])
def test_skip_broken_sets_aside_and_names(workspace, capsys, place):
    cut_off(workspace.images() / f"t_{place:02d}_0000.png")
    constant(workspace.images(SOURCE) / "s_02_0000.png")
    argv = ["-d", "2", "-s", "1", "-b", "9", "--skip_broken", "-device", "cpu"]
    out = succeeds(capsys, select.main, argv)
    assert len(re.findall(r"set aside: case", out)) == 2
    assert f"case t_{place:02d}" in out and "case s_02" in out
    record = workspace.selection()
    picked = [pick["case"] for pick in record["selections"][0]["picks"]]
    assert sorted(picked) == [f"t_{i:02d}" for i in range(10) if i != place]
    assert len(record["set_aside"]) == 2
    argv[argv.index("9")] = "10"
    fails(capsys, select.main, [*argv, "--overwrite"], "between 1 and 9", "'10'")


def test_skip_broken_of_a_new_dataset(workspace, capsys):
    """Whichever of its images is broken, the first by name too."""
    folder = workspace.root / "new"
    for i in range(4):
        write_picture(folder / f"n_{i}.png", picture(i))
    cut_off(folder / "n_0.png")
    argv = ["-i", folder, "-d", "123_New", "--channel_names", "xray", "--labels", "blob", "-s", "1", "-b", "3"]
    fails(capsys, select.main, [*argv, "-device", "cpu"], "case n_0", "cannot be read", "--skip_broken")
    assert not (workspace.raw / "Dataset123_New").exists()
    out = succeeds(capsys, select.main, [*argv, "-device", "cpu", "--skip_broken"])
    assert "set aside: case n_0" in out


def test_skip_broken_when_everything_is_broken(either, capsys):
    for file in either.images().iterdir():
        cut_off(file)
    fails(capsys, select.main, [*SELECT, "--skip_broken"], f"no case of {TARGET} can be used", "case t_00")


def test_no_case_is_left_to_set_aside(workspace, capsys):
    """Where every image of a folder is broken, none is to be set aside."""
    folder = workspace.root / "new"
    for i in range(2):
        write_picture(folder / f"n_{i}.png", picture(i))
        cut_off(folder / f"n_{i}.png")
    for file in workspace.images(SOURCE).iterdir():
        cut_off(file)
    new = ["-i", folder, "-d", "123_New", "--channel_names", "xray", "--labels", "blob", "-s", "1"]
    for argv in (new, ["-d", "2", "-s", "1"]):
        words = "can be used; the first: case", "; replace it"
        fails(
            capsys,
            select.main,
            [*argv, "-b", "1", "-device", "cpu", "--skip_broken"],
            *words,
            not_parts=["skip-broken"],
        )


# --- records that must not be replaced


def test_other_settings_need_overwrite(again, capsys):
    before = again.results_of_select()
    argv = ["-d", "2", "-s", "1", "-b", "4", "--seed", "5", "-device", "cpu"]
    fails(capsys, select.main, argv, again.record(), "budget was '3', now '4'", "seed was 0, now 5", "--overwrite")
    assert again.results_of_select() == before
    succeeds(capsys, select.main, [*argv, "--overwrite"])
    assert len(again.selection()["selections"][0]["picks"]) == 4


def test_same_settings_need_no_overwrite(again, capsys):
    before = again.results_of_select()
    succeeds(capsys, select.main, SELECT)
    assert again.results_of_select() == before


def test_changed_pool_needs_overwrite(again, capsys):
    before = again.results_of_select()
    write_picture(again.images() / "t_03_0000.png", picture(999))
    fails(capsys, select.main, SELECT, again.record(), "other provenance", "pool was", "--overwrite")
    assert again.results_of_select() == before
    succeeds(capsys, select.main, [*SELECT, "--overwrite"])
    assert again.results_of_select() != before


def test_changed_encoder_needs_overwrite(again, capsys):
    before = again.results_of_select()
    succeeds(capsys, pretrain.main, ["-s", "1", "--epochs", "1", "--batch_size", "4", "--seed", "3", "-device", "cpu"])
    fails(capsys, select.main, SELECT, again.record(), "encoder was", "--overwrite")
    assert again.results_of_select() == before


@pytest.mark.parametrize("damage", ["cut off", "newer", "foreign", "a part missing"])
def test_record_that_cannot_be_read_back(again, capsys, damage):
    path = again.record()
    text = path.read_text()
    damaged, part = {
        "cut off": (text[: len(text) // 2], "not a whole JSON file"),
        "newer": (text.replace('"format_version": 1', '"format_version": 2'), "format version 2"),
        "foreign": ('{"kind": "something"}', "is not an nnunetv2_xssr selection"),
        "a part missing": (text.replace('"rank"', '"place"'), "picks[0].rank is missing"),
    }[damage]
    path.write_text(damaged)
    fails(capsys, select.main, SELECT, path, part)
    assert path.read_text() == damaged


def test_epochs_that_are_no_number(capsys):
    with pytest.raises(SystemExit) as ended:
        pretrain.main(["-s", "1", "--epochs", "few"])
    assert ended.value.code == 2 and "--epochs: must be auto or a whole number; got 'few'" in capsys.readouterr().err


# --- disks


@contextlib.contextmanager
def files_no_larger_than(n_bytes):
    """A disk that is full after so many bytes of a file."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of a file")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def leftovers(workspace):
    return [p for p in workspace.root.rglob(".*") if p.is_file() and not p.name.startswith(LOCK)]


@pytest.mark.parametrize("log", ["", "of an older run\n" * 100], ids=["a record is too large", "the log is too large"])
def test_full_disk_while_a_record_is_written(either, capsys, log):
    (either.record().parent / "select.log").write_text(log)
    with files_no_larger_than(1000):
        fails(capsys, select.main, [*SELECT, "--overwrite", "--seed", "1"], "cannot write", "make room", "again")
    assert leftovers(either) == []


def test_full_disk_while_views_are_written(again, capsys):
    before = again.results_of_select()
    shutil.rmtree(again.preprocessed / TARGET / "xssr" / "caches" / "views")
    with files_no_larger_than(100_000):
        fails(capsys, select.main, SELECT, "cannot write", "make room")
    assert leftovers(again) == []
    assert again.results_of_select() == before
    succeeds(capsys, select.main, SELECT)
    assert again.results_of_select() == before


def test_full_disk_while_an_encoder_is_written(either, capsys):
    before = either.encoder().read_bytes()
    argv = ["-s", "1", "--epochs", "1", "--batch_size", "4", "--seed", "1", "-device", "cpu"]
    with files_no_larger_than(1_000_000):
        fails(capsys, pretrain.main, argv, "cannot write", "make room")
    assert either.encoder().read_bytes() == before
    assert leftovers(either) == []


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_folder_that_cannot_be_written(either, capsys, monkeypatch, call, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number), str(either.record()))

    monkeypatch.setattr(os, call, refuse)
    argv = [*SELECT, "--overwrite", "--seed", "1"]
    fails(capsys, select.main, argv, "cannot write", either.record(), os.strerror(number), "run the command again")
    assert leftovers(either) == []


def test_image_without_permission_is_not_said_to_be_written(either, capsys, monkeypatch):
    image = either.images() / "t_03_0000.png"
    image.touch()
    opened, access = io.open, os.access

    def refuse(file, *args, **options):
        if str(file) == str(image):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, *args, **options)

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(image) and access(path, mode))
    fails(capsys, select.main, SELECT, f"cannot read {image}: Permission denied; get permission", not_parts=["write"])


def test_dataset_that_takes_no_hand_over_is_found_before_the_work(workspace, capsys, monkeypatch):
    shutil.rmtree(workspace.preprocessed / TARGET, ignore_errors=True)
    mkdir = pathlib.Path.mkdir

    def refuse(path, *args, **options):
        if path.name == "annotate":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return mkdir(path, *args, **options)

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    fails(capsys, select.main, SELECT, "cannot write", workspace.raw / TARGET / "annotate", "Read-only file system")
    assert not workspace.record().exists()
    assert not [path for path in (workspace.preprocessed / TARGET).rglob("*.*") if not path.name.startswith(LOCK)]


def test_interrupted_by_the_user(either, capsys, monkeypatch):
    from nnunetv2_xssr.encoders import mae

    def interrupt(*args):
        raise KeyboardInterrupt

    shutil.rmtree(either.preprocessed / TARGET / "xssr" / "caches" / "embeddings")
    monkeypatch.setattr(mae, "embed_views", interrupt)
    capsys.readouterr()
    assert select.main(SELECT) == 130
    err = capsys.readouterr().err
    assert "Traceback" not in err and "run the same command again" in err


def test_reader_that_has_seen_enough_is_no_error(either):
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, "-c", command("status", "-d", "2")]
    done = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 0 and done.stderr == ""
