"""Trainers of named selections, made on demand: their results never share a folder."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from command_shell import SHORTENED
from making import picture, write_picture
from tiny_training import STUDY, finish, make_trainer, refuses, start

from nnunetv2_xssr import trainers
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.split import write_split
from nnunetv2_xssr.records.workspace import Workspace

ARMS = {  # their selections, of which each takes what the other validates with
    "arm-1": [{"train": ["p_00", "p_01"], "val": ["p_02"]}, {"train": ["p_02", "p_03"], "val": ["p_04"]}],
    "two": [{"train": ["p_02", "p_05"], "val": ["p_01"]}],
}


@pytest.mark.parametrize(
    ("name", "base", "selection"),
    [
        ("XSSRTrainer", "XSSRTrainer", "xssr"),
        ("XSSRTrainer_random", "XSSRTrainer", "random"),
        ("XSSRTrainer_seed_2-b", "XSSRTrainer", "seed_2-b"),
        ("XSSRTrainer_50epochs", "XSSRTrainer_50epochs", "xssr"),
        ("XSSRTrainer_50epochs_random", "XSSRTrainer_50epochs", "random"),
        ("XSSRTrainer_50epochs_5", "XSSRTrainer_50epochs", "5"),
        ("XSSRTrainer_demo", "XSSRTrainer_demo", "xssr"),
        ("XSSRTrainer_demo_random", "XSSRTrainer_demo", "random"),
        ("XSSRTrainer_pretrained", "XSSRTrainer_pretrained", "xssr"),
        ("XSSRTrainer_pretrained_50epochs", "XSSRTrainer_50epochs", "xssr"),
        ("XSSRTrainer_pretrained_demo_random", "XSSRTrainer_demo", "random"),
        ("XSSRTrainer_pretrained_frozen_random", "XSSRTrainer_pretrained_frozen", "random"),
    ],
)
def test_trainer_of_a_name(name, base, selection):
    trainer = getattr(trainers, name)
    assert trainer.__name__ == name and trainer.selection == selection
    assert issubclass(trainer, getattr(trainers, base)) and trainer.epochs == getattr(trainers, base).epochs
    assert issubclass(trainer, trainers.XSSRTrainer_pretrained) == ("_pretrained" in name)
    assert getattr(trainers, name) is trainer is pickle.loads(pickle.dumps(trainer))


@pytest.mark.parametrize(
    "name",
    [
        "XSSRTrainer_",
        "XSSRTrainer_7epochs",
        "XSSRTrainer_7epochs_random",
        "XSSRTrainer_50epochs_pretrained",
        "XSSRTrainer_a__b",  # nnU-Net takes the names of its folders apart at two of them
        "XSSRTrainer_final",
        "XSSRTrainer_ä",
        "XSSRTrainerNoMirroring",
        "nnUNetTrainer_random",
        "whatever",
    ],
)
def test_name_of_no_trainer(name):
    assert not hasattr(trainers, name)


@pytest.mark.parametrize(
    "name",
    [
        "final",
        "Final",  # splits_Final.json is the user's splits_final.json where upper and lower case are one
        "caches",
        "CACHES",
        "demo",
        "demo_2",
        "pretrained",
        "pretrained_2",
        "frozen",  # XSSRTrainer_pretrained_frozen is another trainer than XSSRTrainer_pretrained of a selection
        "frozen_2",
        "round_2",
        "5epochs",
        "5epochs_2",
        "a__b",
        "_a",
        "a-",
        "",
        "ä",
        "a/b",
        41 * "a",
    ],
)
def test_name_that_no_selection_may_have(name):
    """It would be that of another file or trainer, or none that nnU-Net can tell from the rest."""
    with pytest.raises(UserError, match="--name must be"):
        Workspace(STUDY, name)


def test_trainer_of_the_demo_is_not_public():
    assert "XSSRTrainer_demo" not in trainers.__all__ and "XSSRTrainer_demo" not in dir(trainers)


def test_name_without_a_selection(study, capsys):
    parts = ("there is no split", "splits_nobody.json", f"nnUNetv2_xssr_select -d {STUDY}", "--name nobody")
    refuses(study, capsys, 0, *parts, cls=trainers.XSSRTrainer_nobody)


@pytest.fixture
def arms(study):
    for name, split in ARMS.items():
        write_split(study.preprocessed / STUDY / f"splits_{name}.json", split)
    return study


def test_each_trains_on_its_own_selection(arms):
    folders = set()
    for name, split in ARMS.items():
        trainer = make_trainer(arms, 0, getattr(trainers, f"XSSRTrainer_20epochs_{name}"))
        assert trainer.do_split() == (split[0]["train"], split[0]["val"])
        folders.add(trainer.output_folder)
    assert len(folders) == 2


def validated_cases(folder):
    summary = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())
    return [Path(case["prediction_file"]).stem for case in summary["metric_per_case"]]


def test_two_selections_trained_at_the_same_time(arms, shell, tmp_path):
    """And nnU-Net's other commands find what came of them by the names of the trainers."""
    names = {arm: f"XSSRTrainer_5epochs_{arm}" for arm in ARMS}
    train = {
        arm: ["nnUNetv2_train", STUDY, "2d_tiny", "0", "-tr", name, "-device", "cpu"] for arm, name in names.items()
    }
    processes = [start(shell, command, arms, **{SHORTENED: "2"}) for command in train.values()]
    for process in processes:
        finish(process)
    for arm, split in ARMS.items():
        folder = arms.results / STUDY / f"{names[arm]}__nnUNetPlans__2d_tiny"
        frozen = json.loads((folder / "fold_0" / "xssr_fold.json").read_text())
        assert (frozen["selection"], frozen["train"], frozen["val"]) == (arm, split[0]["train"], split[0]["val"])
        assert validated_cases(folder) == split[0]["val"]
        checkpoint = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
        assert checkpoint["trainer_name"] == "nnUNetTrainer" and checkpoint["current_epoch"] == 1

    write_picture(tmp_path / "in" / "new_0000.png", picture(900, (48, 48)))
    again = start(shell, [*train["arm-1"], "--c"], arms, **{SHORTENED: "2"})
    predict = [
        "nnUNetv2_predict",
        "-i",
        tmp_path / "in",
        "-o",
        tmp_path / "out",
        "-d",
        STUDY,
        "-c",
        "2d_tiny",
        "-f",
        "0",
    ]
    predict = start(shell, [*predict, "-tr", names["two"], "-device", "cpu", "-npp", "1", "-nps", "1"], arms)
    best = ["nnUNetv2_find_best_configuration", STUDY, "-c", "2d_tiny", "-f", "0", "-np", "1", "--disable_ensembling"]
    best = start(shell, [*best, "-tr", *names.values()], arms)
    assert "Training done" in finish(again)
    finish(predict)
    assert (tmp_path / "out" / "new.png").is_file()
    out = finish(best)
    assert any(f"-tr {name} " in out for name in names.values())
