"""XSSRTrainer on tiny datasets that nnU-Net's own commands planned and preprocessed."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from command_shell import SHORTENED
from making import Workspace, picture, run_python, trainer_folder, write_picture
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from PIL import Image
from tiny_training import STUDY, VOLUMES, finish, make_trainer, refuses, start

from nnunetv2_xssr import trainers
from nnunetv2_xssr.records.split import write_split
from nnunetv2_xssr.records.trained_fold import TrainedFold
from nnunetv2_xssr.trainers import XSSRTrainer
from nnunetv2_xssr.trainers.demo import XSSRTrainer_demo

# --- which cases it trains on


def test_study_selects_within_each_fold_and_keeps_its_validation_cases(study):
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    cases = sorted(f"p_{i:02d}" for i in range(8))
    stock = generate_crossval_split(cases, seed=12345, n_splits=5)
    ours = json.loads(study.split(STUDY).read_text())
    assert len(ours) == 5
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine["val"] == list(theirs["val"])
        assert len(mine["train"]) == 2 and set(mine["train"]) <= set(theirs["train"])


def test_split_of_the_trainer_is_exactly_that_of_the_file(study):
    split = json.loads(study.split(STUDY).read_text())
    for fold, expected in enumerate(split):
        assert make_trainer(study, fold).do_split() == (expected["train"], expected["val"])
    selected = sorted({case for fold in split for case in fold["train"]})
    assert make_trainer(study, "all").do_split() == (selected, selected)


def test_data_loaders_hold_the_selected_cases_alone(study):
    trainer = make_trainer(study, 1)
    trainer.initialize()
    train, val = trainer.get_tr_and_val_datasets()
    expected = json.loads(study.split(STUDY).read_text())[1]
    assert sorted(train.identifiers) == sorted(expected["train"])
    assert sorted(val.identifiers) == sorted(expected["val"])


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("XSSRTrainer", 1000), *((f"XSSRTrainer_{n}epochs", n) for n in (5, 10, 20, 50, 100, 250))],
)
def test_length_of_the_variants(study, name, epochs):
    trainer = make_trainer(study, 0, cls=getattr(trainers, name))
    trainer.initialize()
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (epochs, 250)


def test_network_and_parameter_names_are_stock_nnunets(study):
    import inspect

    assert XSSRTrainer.build_network_architecture is nnUNetTrainer.build_network_architecture
    ours, theirs = (inspect.signature(cls.__init__).parameters for cls in (XSSRTrainer, nnUNetTrainer))
    assert list(ours) == list(theirs)


# --- what it refuses


def test_no_split_file(study, split_file, capsys):
    split_file.unlink()
    refuses(study, capsys, 0, "there is no split", split_file, f"nnUNetv2_xssr_select -d {STUDY}")


def test_split_of_another_selection(study, capsys):
    path = study.split(STUDY)
    content = path.read_bytes()
    try:
        write_split(path, [{"train": ["p_00", "p_01"], "val": ["p_02"]}])
        refuses(study, capsys, 0, path, "is not the split of", study.record(STUDY), "nnUNetv2_xssr_verify -d")
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("fold", [7, 5, -1])
def test_fold_that_the_split_lacks(study, capsys, fold):
    refuses(study, capsys, fold, "fold must be one of 0, 1, 2, 3, 4 or all", study.split(STUDY), f"got {fold}")


def test_unlabelled_case(study, split_file, capsys):
    write_split(split_file, [{"train": ["p_00", "nolabel_1"], "val": ["p_01", "nolabel_2"]}])
    parts = ("2 of 4 selected cases have no label", "nolabel_1, nolabel_2", "nnUNetv2_xssr_collect -d", "nnUNetv2_plan")
    refuses(study, capsys, 0, *parts)


def test_case_that_is_not_preprocessed(study, split_file, capsys):
    label = study.preprocessed / STUDY / "gt_segmentations" / "new.png"
    write_picture(label, np.ones((48, 48), np.uint8))
    write_split(split_file, [{"train": ["p_00", "new"], "val": ["p_01"]}])
    parts = ("1 of 3 selected cases are not preprocessed", "new", "nnUNetv2_preprocess -d 11 -c 2d_tiny")
    refuses(study, capsys, 0, *parts)
    label.unlink()


def test_nothing_preprocessed_for_the_configuration(study, capsys):
    folder = study.preprocessed / STUDY / "nnUNetPlans_2d"
    folder.rename(folder.with_name("elsewhere"))
    try:
        refuses(study, capsys, 0, "are not preprocessed in", folder)
    finally:
        folder.with_name("elsewhere").rename(folder)


@pytest.mark.parametrize(("part", "word"), [("val", "validation"), ("train", "training")])
def test_fold_without_cases(study, split_file, capsys, part, word):
    fold = {"train": ["p_00"], "val": ["p_01"], part: []}
    write_split(split_file, [fold])
    refuses(study, capsys, 0, f"has no {word} case", split_file, "train another fold")


@pytest.mark.parametrize("text", ["{", '{"train": []}', '[{"train": "p_0", "val": ["p_1"]}]', '[{"train": ["p_0"]}]'])
def test_split_that_is_none(study, split_file, capsys, text):
    split_file.write_text(text)
    refuses(study, capsys, 0, split_file)


# --- training in this process


def test_regions_ignore_label_and_three_dimensions(planned, capsys):
    trainer = make_trainer(planned, 0, name=VOLUMES, configuration="3d_tiny")
    trainer.run_training()
    assert trainer.label_manager.has_regions and trainer.label_manager.has_ignore_label
    assert trainer.num_iterations_per_epoch == 2
    checkpoint = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["nnunetv2_xssr"]["trainer"] == "XSSRTrainerTiny"
    assert [p.name for p in Path(trainer.output_folder).glob(".*")] == []


def test_full_disk_leaves_the_old_checkpoint_whole(study, monkeypatch):
    trainer = make_trainer(study, 2)
    trainer.initialize()
    path = Path(trainer.output_folder) / "checkpoint_best.pth"
    trainer.save_checkpoint(str(path))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            trainer.save_checkpoint(str(path))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.glob(".*")] == []


def test_checkpointing_can_be_switched_off(study):
    trainer = make_trainer(study, 3)
    trainer.initialize()
    trainer.disable_checkpointing = True
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_best.pth"))
    assert not (Path(trainer.output_folder) / "checkpoint_best.pth").exists()


# --- training by nnU-Net's commands


TRAIN = ["nnUNetv2_train", STUDY, "2d_tiny", "0", "-tr", "XSSRTrainer_demo", "-device", "cpu"]
DEATH = """
import os, signal
from nnunetv2_xssr.trainers.demo import XSSRTrainer_demo as _ours

_ended = _ours.on_epoch_end


def _end_and_die(trainer):
    _ended(trainer)
    os.kill(os.getpid(), signal.SIGKILL)


if "KILLED_AFTER_AN_EPOCH" in os.environ:
    _ours.on_epoch_end = _end_and_die
"""


@dataclass
class Trained:
    """A training by nnUNetv2_train that was killed after its first epoch and continued with --c."""

    workspace: Workspace
    folder: Path
    first: Path
    log: str


@pytest.fixture(scope="session")
def trained(study, shell, linked_nnunet, tmp_path_factory):
    # A copy of its own: in the shared one this module, which imports our trainers, would be a second link.
    site = shutil.copytree(linked_nnunet, tmp_path_factory.mktemp("killed") / "site")
    (trainer_folder(site) / "a_death.py").write_text(DEATH)
    folder = study.results / STUDY / "XSSRTrainer_demo__nnUNetPlans__2d_tiny"
    process = start(shell, TRAIN, study, site, KILLED_AFTER_AN_EPOCH="1")
    out, _ = process.communicate(timeout=280)
    assert process.returncode not in (0, 1), out
    first = folder / "killed.pth"
    shutil.copy(folder / "fold_0" / "checkpoint_best.pth", first)
    assert not (folder / "fold_0" / "checkpoint_final.pth").exists()
    return Trained(study, folder, first, finish(start(shell, [*TRAIN, "--c"], study)))


def test_trained_to_the_end_after_an_interruption(trained):
    fold = trained.folder / "fold_0"
    begun, final = (torch.load(path, weights_only=False) for path in (trained.first, fold / "checkpoint_final.pth"))
    assert begun["current_epoch"] >= 1
    assert final["current_epoch"] == XSSRTrainer_demo.epochs
    assert f"Epoch {begun['current_epoch']}" in trained.log and "Epoch 0 " not in trained.log
    assert (fold / "validation" / "summary.json").is_file()


def test_checkpoint_names_nnunets_trainer_and_its_origin(trained):
    names = ("killed.pth", "fold_0/checkpoint_final.pth", "fold_0/checkpoint_best.pth")
    for path in (trained.folder / name for name in names):
        checkpoint = torch.load(path, weights_only=False)
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
        origin = checkpoint["nnunetv2_xssr"]
        assert origin["trainer"] == "XSSRTrainer_demo"
        frozen = TrainedFold.load(trained.folder / "fold_0" / "xssr_fold.json")
        assert origin["fold_sha256"] == frozen.sha256 and origin["selection"] == "xssr"
        split = json.loads(trained.workspace.split(STUDY).read_text())[0]
        assert {"train": frozen.train, "val": frozen.val} == split


def test_prediction_where_nobody_has_heard_of_the_plugin(trained, linked_nnunet, tmp_path):
    """nnU-Net without the link, and a package of our name that cannot be imported."""
    stranger = tmp_path / "site"
    shutil.copytree(linked_nnunet, stranger)
    (trainer_folder(stranger) / "xssr_trainer_link.py").unlink()
    (stranger / "nnunetv2_xssr.py").write_text('raise ModuleNotFoundError("not here", name="nnunetv2_xssr")\n')
    for i in range(2):
        write_picture(tmp_path / "in" / f"new_{i}_0000.png", picture(900 + i, (48, 48)))
    model = tmp_path / "model"  # as somebody else would get it
    for name in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained.folder / name, model / name)
    predict = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as main; main()"
    argv = ["-c", predict, "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", model]
    argv += ["-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1"]
    result = run_python(argv, env={**trained.workspace.environment(), "PYTHONPATH": str(stranger)}, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    for i in range(2):
        mask = np.asarray(Image.open(tmp_path / "out" / f"new_{i}.png"))
        truth = picture(900 + i, (48, 48)) > 110
        assert mask.shape == (48, 48)
        assert set(np.unique(mask)) <= {0, 1}
        assert 2 * (truth & (mask == 1)).sum() / (truth.sum() + mask.sum()) > 0.5


def test_refusal_through_nnunets_command(study, shell):
    argv = ["nnUNetv2_train", "11", "2d_tiny", "7", "-tr", "XSSRTrainer_5epochs", "-device", "cpu"]
    out = finish(start(shell, argv, study), code=2)
    assert "XSSRTrainer_5epochs: error: fold must be one of 0, 1, 2, 3, 4 or all" in out and "Traceback" not in out


def test_validation_alone(trained, shell):
    summary = trained.folder / "fold_0" / "validation" / "summary.json"
    before = json.loads(summary.read_text())
    summary.unlink()
    finish(start(shell, [*TRAIN, "--val"], trained.workspace))
    after = json.loads(summary.read_text())
    assert after["foreground_mean"] == before["foreground_mean"]
    val = json.loads(trained.workspace.split(STUDY).read_text())[0]["val"]
    assert sorted(Path(case["prediction_file"]).stem for case in after["metric_per_case"]) == sorted(val)


def test_fold_all(study, shell):
    argv = ["nnUNetv2_train", "11", "2d_tiny", "all", "-tr", "XSSRTrainer_demo", "-device", "cpu"]
    out = finish(start(shell, argv, study, **{SHORTENED: "2"}))
    folder = study.results / STUDY / "XSSRTrainer_demo__nnUNetPlans__2d_tiny" / "fold_all"
    assert torch.load(folder / "checkpoint_final.pth", weights_only=False)["trainer_name"] == "nnUNetTrainer"
    selected = {c for fold in json.loads(study.split(STUDY).read_text()) for c in fold["train"]}
    assert f"{len(selected)} for training, {len(selected)} for validation" in out


@pytest.mark.parametrize("option", ["--c", "--val"])
def test_other_split_through_nnunets_command(trained, shell, split_file, option):
    write_split(split_file, [{"train": ["p_00", "p_01"], "val": ["p_02"]}])
    out = finish(start(shell, [*TRAIN, option], trained.workspace), code=2)
    assert "XSSRTrainer_demo: error: fold 0 of" in out and "has changed since this training began" in out
    assert "Traceback" not in out
