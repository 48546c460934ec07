"""The proposed next round repeats what the last selection was made with."""

import json
import shlex
from dataclasses import replace

import pytest
from making import SOURCE, TARGET, picture, succeeds, write_dataset_json, write_picture
from slicing import VOLUMES, with_volumes

from nnunetv2_xssr.annotation.project import FoldState, project_status
from nnunetv2_xssr.commands import select
from nnunetv2_xssr.commands.next_steps import NOT_REPEATED, next_steps
from nnunetv2_xssr.commands.select import make_parser

TRAINED = FoldState(name="XSSRTrainer__nnUNetPlans__2d/fold_0", finished=True, current=True)
ACTIONS = {action.dest: action for action in make_parser()._actions if action.dest not in NOT_REPEATED}


def proposed(target, *, left=100, **settings):
    """The proposal once all is labelled and trained, with these settings in the place of the record's."""
    project = project_status(target)
    done = [replace(one, missing=[]) for one in project.rounds]
    changed = {"not_labelled": 0, "not_preprocessed": 0, "trained": [TRAINED], "uncollected": 0, "rounds": done}
    changed |= {"folds": 2, "left": left}
    (step,) = next_steps(replace(project, **changed, settings={**project.settings, **settings}), device="cpu")
    command, *words = shlex.split(step)
    assert command == "nnUNetv2_xssr_select"
    return words


@pytest.fixture
def chosen(workspace, capsys):
    succeeds(capsys, select.main, ["-d", "2", "-b", "2", "--encoder", "intensity", "-device", "cpu"])
    return workspace


def test_every_option_is_in_the_record_and_in_the_proposal(chosen):
    """A new option of select must be told by the record's settings, or be named as one that changes nothing."""
    # The first is told by what was set aside, the second only where it is given, the third decides no pick.
    assert set(ACTIONS) - set(chosen.selection()["settings"]) == {"skip_broken", "control", "no_thumbnails"}
    for name, action in ACTIONS.items():
        choices = [choice for choice in action.choices or [3] if choice != action.default]
        words = proposed("2", **{name: True if action.nargs == 0 else choices[0]})
        assert action.option_strings[0] in words, name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ["--encoder", "intensity"]),
        ({"budget": "5%"}, ["-b", "5%"]),
        ({"alpha": 0.0}, ["--alpha", "0.0"]),
        ({"density_weight": 0.0}, ["--density_weight", "0.0"]),
        ({"window": "-600/1500"}, ["--window=-600/1500"]),
        ({"domain_quota": ["A=1", "B=1"]}, ["--domain_quota", "A=1", "B=1"]),
        ({"skip_broken": True}, ["--skip_broken"]),
        ({"no_patient_ids": True}, ["--no_patient_ids"]),
    ],
)
def test_what_is_proposed(chosen, settings, words):
    found = proposed("2", **settings)
    assert " ".join(words) in " ".join(found)
    make_parser().parse_args(found)


@pytest.mark.parametrize(
    ("left", "settings", "budget"),
    [
        (2, {"budget": "8"}, "2"),
        (2, {"budget": "8", "unit": "slice"}, "2"),
        (3, {"budget": "8", "unit": "slice", "max_per_volume": 2}, "6"),
        (9, {"budget": "8"}, "8"),
        (2, {"budget": "8", "cases": True}, "8"),
        (2, {"budget": "50%"}, "50%"),
        (2, {"budget": "60min"}, "60min"),
    ],
)
def test_no_more_is_proposed_than_is_left(chosen, left, settings, budget):
    words = proposed("2", left=left, **settings)
    assert words[words.index("-b") + 1] == budget


def test_what_is_not_the_default_is_repeated_and_nothing_else(empty, capsys):
    volumes = with_volumes(empty)
    write_dataset_json(volumes.raw / VOLUMES, ".nii.gz", channel_names={"0": "CT"}, numTraining=0, dataset={})
    argv = ["-d", "31", "-b", "2", "--alpha", "0.3", "--encoder", "intensity", "--window", "40/400"]
    argv += ["--unit", "slice", "--max_per_volume", "2", "--slice_range", "10%-90%"]
    succeeds(capsys, select.main, [*argv, "-device", "cpu"])
    first = vars(make_parser().parse_args([*argv, "-device", "cpu"]))
    again = vars(make_parser().parse_args([*proposed(VOLUMES), "-device", "cpu"]))
    again["alpha"] = str(float(again["alpha"]))
    assert again == first


def test_set_aside_cases_are_set_aside_again(workspace, capsys):
    (workspace.images() / "t_03_0000.png").write_bytes(b"")
    argv = ["-d", "2", "-b", "2", "--encoder", "intensity", "-device", "cpu"]
    succeeds(capsys, select.main, [*argv, "--skip_broken"])
    assert json.loads(workspace.record().read_text())["set_aside"] and "--skip_broken" in proposed(TARGET)


def test_folders_and_tables_are_proposed_where_they_lie(workspace, capsys, monkeypatch, tmp_path):
    """So that the line can be pasted, from any folder."""
    for i in range(4):
        write_picture(workspace.root / "my archive" / f"{i}.png", picture(700 + i))
    table = workspace.root / "cases.csv"
    table.write_text("case,patient\n" + "".join(f"t_{i:02d},p{i}\n" for i in range(10)))
    monkeypatch.chdir(workspace.root)
    argv = ["-d", "2", "-s", "1", "my archive", "-b", "2", "--encoder", "intensity", "-device", "cpu"]
    succeeds(capsys, select.main, [*argv, "--cases", table.name])
    monkeypatch.chdir(tmp_path)
    words = proposed(TARGET)
    assert words[words.index("-s") + 1 :][:2] == [SOURCE, str(workspace.root / "my archive")]
    assert words[words.index("--cases") + 1] == str(table)
    succeeds(capsys, select.main, [*words, "-device", "cpu"])
    config = workspace.record().with_name("select.yaml")
    config.write_text(config.read_text().splitlines()[0] + "\n- no options\n")
    assert "FOLDER" in proposed(TARGET)  # which whoever changed the file knows
    config.write_text("s: [elsewhere]\n")
    assert "FOLDER" in proposed(TARGET) and "CSV" in proposed(TARGET)


def test_a_round_without_pictures_is_followed_by_one_without(workspace, capsys):
    argv = ["-d", "2", "-b", "2", "--encoder", "intensity", "-device", "cpu"]
    for options in ([], ["--no_thumbnails"], []):  # which can be changed without --overwrite
        succeeds(capsys, select.main, [*argv, *options])
        assert ("--no_thumbnails" in proposed(TARGET)) == bool(options)
