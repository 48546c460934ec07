"""nnUNetv2_xssr_select --dry_run: what it tells, what it refuses, and that it writes nothing."""

import re

import numpy as np
import pytest
from dicom_making import stored_voxels, write_series
from making import SOURCE, TARGET, fails, picture, succeeds, write_picture
from slicing import SELECT

from nnunetv2_xssr.commands import select
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint, save_checkpoint

CALL = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]


def tree(root):
    """Every file and folder below one, with what it holds and when it was written."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in root.rglob("*")}


def foreseen(workspace, capsys, argv):
    """What a dry run prints; the folders must be as before."""
    before = tree(workspace.root)
    out = succeeds(capsys, select.main, [*argv, "--dry_run"])
    assert tree(workspace.root) == before
    assert "what this select would do:\n" in out and out.rstrip().endswith("dry run: nothing was written")
    return out


def stages(out):
    return dict(re.findall(r"^  (\w+) +([\d.]+ (?:s|min|h))$", out, re.M))


def folder_of_images(workspace, n=4):
    for i in range(n):
        write_picture(workspace.root / "new_site" / f"n_{i}.png", picture(500 + i))
    return workspace.root / "new_site"


def test_first_run(workspace, capsys):
    workspace.encoder().unlink()
    for folder in (workspace.preprocessed / TARGET, workspace.preprocessed / SOURCE):
        (folder / "xssr" / "caches").rename(folder / "xssr" / "elsewhere")
    out = foreseen(workspace, capsys, CALL)
    assert f"{TARGET}: 3 of 10 cases are picked for annotation." in out and "round 1" in out
    size = sum(file.stat().st_size for file in workspace.images().iterdir()) / 1e6
    assert f"{TARGET}: 10 cases, of which 10 are to be read ({size:.1f} MB) and 10 to be embedded" in out
    assert f"{SOURCE}: 6 cases, of which 6 are to be read" in out and "the caches hold the others" not in out
    assert f"encoder: {workspace.encoder()} is missing: pretraining on {SOURCE} for 1 epoch makes it" in out
    handover = workspace.raw / TARGET / "annotate" / "round_01"
    for file in (workspace.encoder(), workspace.record(), workspace.record().with_name("report.html"), handover):
        assert f"  {file}\n" in out
    assert list(stages(out)) == ["reading", "pretraining", "embedding", "selecting", "pictures"]
    assert stages(out)["pretraining"] != "0.0 s"


def test_it_says_what_is_done_already(again, capsys):
    succeeds(capsys, select.main, CALL)  # files are known by their paths, and these lie elsewhere than before
    write_picture(again.images() / "t_10_0000.png", picture(900))
    out = foreseen(again, capsys, [*CALL, "--overwrite"])
    assert f"{again.encoder()} is there and is reused" in out
    assert f"{TARGET}: 11 cases, of which 1 are to be read" in out and "and 1 to be embedded; the caches hold" in out
    assert f"{SOURCE}: 6 cases, of which 0 are to be read (0.0 MB) and 0 to be embedded" in out
    assert stages(out)["pretraining"] == "0.0 s"


def test_an_unfinished_pretraining_goes_on_with_what_is_left(workspace, capsys):
    latest = workspace.encoder().with_name("checkpoint_latest.pth")
    save_checkpoint(latest, {**load_checkpoint(workspace.encoder()), "step": 2})  # of two
    workspace.encoder().unlink()
    out = foreseen(workspace, capsys, CALL)
    assert f"{workspace.encoder()} is unfinished" in out and stages(out)["pretraining"] == "0.0 s"
    fails(capsys, select.main, [*CALL, "--pretrain_epochs", "3", "--dry_run"], latest, "was made with other training")


def test_every_fold_of_a_study(workspace, capsys):
    for i in range(10):
        write_picture(workspace.raw / TARGET / "labelsTr" / f"t_{i:02d}.png", np.eye(40, 48, dtype=np.uint8))
    out = foreseen(workspace, capsys, CALL)
    assert "3 of 8 training cases are picked in each of 5 folds" in out and "round" not in out
    assert f"  {workspace.split()}\n" in out and "annotate" not in out


def test_a_dataset_that_is_still_to_be_made(empty, capsys):
    argv = ["-i", folder_of_images(empty), "--channel_names", "xray", "--labels", "lung", "-d", "007_New", "-b", "2"]
    out = foreseen(empty, capsys, argv)
    assert f"  {empty.raw / 'Dataset007_New' / 'dataset.json'}\n" in out


@pytest.mark.parametrize("encoder", ["untrained", "intensity", "dictionary"])
def test_encoders_that_learn_nothing(workspace, capsys, encoder):
    out = foreseen(workspace, capsys, [*CALL, "--encoder", encoder])
    assert "there is nothing to pretrain" in out and "10 to be embedded" in out


def test_given_features(workspace, capsys):
    file = workspace.root / "features.npz"
    cases = [f"t_{i:02d}" for i in range(10)]
    np.savez(file, cases=np.array(cases), features=np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32))
    out = foreseen(workspace, capsys, ["-d", "2", "-b", "3", "--embeddings", file])
    assert "features are given" in out and list(stages(out)) == ["selecting"]


def test_slices(volumes, capsys):
    out = foreseen(volumes, capsys, [*SELECT, "-b", "4"])
    assert "4 of" in out and "slices" in out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["-d", "2", "-s", "2", "-b", "3"], "is the target itself"),
        (["-d", "2", "-s", "9", "-b", "3"], "no dataset '9'"),
        (["-d", "2", "-s", "1", "-b", "30"], "30"),
        (["-d", "2", "-s", "1", "-b", "4"], "holds a selection made with other settings"),
        (
            ["-d", "2", "-s", "1", "-b", "3", "--encoder", "nowhere.pth", "--overwrite"],
            "there is no encoder checkpoint",
        ),
        (["-d", "2", "-s", "1", "-b", "3", "--prelabel"], "no fold of"),
        (["-d", "2", "-s", "1", "-b", "3", "--model", "--overwrite"], "no fold of"),
        (["-d", "2", "-s", "1", "-b", "3", "--encoder", "intensity", "--embedding", "gap", "--overwrite"], "gap"),
    ],
)
def test_it_refuses_what_select_refuses(again, capsys, argv, sentence):
    before = tree(again.root)
    fails(capsys, select.main, [*argv, "--dry_run"], sentence)
    assert tree(again.root) == before


def test_a_broken_image_among_the_first_ones_is_refused_unless_it_is_set_aside(workspace, capsys):
    (workspace.images() / "t_00_0000.png").write_bytes(b"no picture")
    fails(capsys, select.main, [*CALL, "--dry_run"], "t_00")
    foreseen(workspace, capsys, [*CALL, "--skip_broken"])


def test_dicom_that_is_not_converted_is_not_converted(workspace, capsys):
    write_series(workspace.root / "archive" / "one", stored_voxels())
    argv = ["-d", "2", "-s", workspace.root / "archive", "-b", "3"]
    before = tree(workspace.root)
    fails(capsys, select.main, [*argv, "--dry_run"], "DICOM is converted first")
    assert tree(workspace.root) == before
