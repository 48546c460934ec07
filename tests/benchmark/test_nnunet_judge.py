"""The judge nnunet: what it asks of nnU-Net, and what it makes of nnU-Net's own evaluation."""

import json
import stat
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from making import TARGET, picture, write_dataset_json, write_picture, write_pictures

from nnunetv2_xssr.benchmark import nnunet_judge
from nnunetv2_xssr.benchmark.jobs import Job
from nnunetv2_xssr.benchmark.nnunet_judge import NnunetJudge, check_trainable
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.locks import job_lock, no_waiting

TRAIN, TEST = ("t_00", "t_01"), ("t_04", "t_05")
# Stands in for nnU-Net: notes what it was asked, predicts the truth, and evaluates it as nnU-Net does.
STAND_IN = """#!{python}
import json, os, pathlib, shutil, sys
dataset, configuration, fold = sys.argv[1:4]
trainer, plans = sys.argv[sys.argv.index("-tr") + 1], sys.argv[sys.argv.index("-p") + 1]
split = pathlib.Path(os.environ["nnUNet_preprocessed"], dataset, "splits_" + trainer.split("epochs_")[1] + ".json")
name = f"{{trainer}}__{{plans}}__{{configuration}}"
folder = pathlib.Path(os.environ["nnUNet_results"], dataset, name, "fold_" + fold)
(folder / "validation").mkdir(parents=True)
(folder / "checkpoint_final.pth").touch()
(folder / "asked.json").write_text(json.dumps([sys.argv[1:], json.loads(split.read_text())]))
if os.environ.get("BREAK"):
    sys.exit("no GPU left")
labels = pathlib.Path(os.environ["nnUNet_raw"], dataset, "labelsTr")
entries = []
for number, case in enumerate(json.loads(split.read_text())[0]["val"]):
    shutil.copy(labels / (case + ".png"), folder / "validation")
    dice = {{"1": {{"Dice": 0.5 + number / 10}}, "2": {{"Dice": float("nan")}}}}
    entries.append({{"prediction_file": str(folder / "validation" / (case + ".png")), "metrics": dice}})
(folder / "validation" / "summary.json").write_text(json.dumps({{"metric_per_case": entries}}))
"""


@pytest.fixture
def labelled(empty, monkeypatch):
    write_pictures(empty.raw / TARGET, 6, first_seed=200, labelled=6, prefix="t")
    write_dataset_json(empty.raw / TARGET)
    (empty.preprocessed / TARGET).mkdir()
    program = empty.root / "bin" / "nnUNetv2_train"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    return empty


def judge_in(workspace):
    return NnunetJudge(
        dataset=TARGET,
        test=TEST,
        configuration="2d",
        trainer="XSSRTrainer_5epochs",
        plans_name="nnUNetPlans",
        device="cpu",
        folder=workspace.root / "out",
    )


def job():
    return Job(judge="nnunet", cases=TRAIN, seed=0)


def fold_of(workspace):
    (fold,) = (workspace.root / "out" / "nnUNet_results" / TARGET).glob("*/fold_0")
    return fold


def test_trains_a_named_selection_and_reads_the_evaluation(labelled):
    measures = judge_in(labelled)(job())
    argv, split = json.loads((fold_of(labelled) / "asked.json").read_text())
    assert argv[:3] == [TARGET, "2d", "0"] and f"XSSRTrainer_5epochs_bench_{job().key}" in argv
    assert split == [{"train": list(TRAIN), "val": list(TEST)}]
    assert measures["dice"] == {"t_04": 0.75, "t_05": 0.8}  # a label that nobody has counts as 1
    assert not list(fold_of(labelled).glob("checkpoint*")) and (fold_of(labelled) / "validation" / "t_04.png").is_file()
    assert not list((labelled.preprocessed / TARGET).glob("splits_*"))


def test_an_evaluation_that_is_there_is_taken(labelled):
    first = judge_in(labelled)(job())
    (labelled.root / "bin" / "nnUNetv2_train").unlink()
    assert judge_in(labelled)(job()) == first


def test_a_training_that_fails_says_why(labelled, monkeypatch):
    monkeypatch.setenv("BREAK", "1")
    with pytest.raises(UserError, match="code 1: no GPU left; the whole log is .*txt"):
        judge_in(labelled)(job())
    assert (labelled.preprocessed / TARGET / f"splits_bench_{job().key}.json").is_file()  # to go on from


def test_surfaces(labelled):
    if not nnunet_judge.monai_is_there():
        pytest.skip("MONAI is not installed; install the extra surface")
    measures = judge_in(labelled)(job())
    assert measures["surface_dice"] == {"t_04": 1.0, "t_05": 1.0}
    wrong = fold_of(labelled) / "validation" / "t_04.png"
    write_picture(wrong, (picture(999) < 0).astype(np.uint8))  # nothing
    assert nnunet_judge.surface_dice(dataset_pool(TARGET), "t_04", wrong) == 0


@pytest.mark.parametrize(
    ("labels", "order", "truth", "predicted", "expected"),
    [
        ({"background": 0, "blob": 1, "ignore": 2}, None, 2, 0, 1.0),  # nothing counts where nobody drew
        ({"background": 0, "blob": 1, "ignore": 2}, None, 2, 1, 1.0),
        ({"background": 0, "blob": 1, "core": 2}, None, 2, 1, 0.5),
        ({"background": 0, "whole": [1, 2], "core": 2}, [1, 2], 2, 1, 0.5),  # the whole is right
        ({"background": 0, "whole": [1, 2], "core": 2}, [1, 2], 1, 1, 1.0),
    ],
)
def test_surfaces_of_regions_and_beside_what_is_ignored(labelled, labels, order, truth, predicted, expected):
    if not nnunet_judge.monai_is_there():
        pytest.skip("MONAI is not installed; install the extra surface")
    more = {"regions_class_order": order} if order else {}
    write_dataset_json(labelled.raw / TARGET, labels=labels, **more)
    drawn = np.zeros((2, 40, 48), np.uint8)
    drawn[:, 5:15, 5:15] = 1
    drawn[:, 25:35, 25:40] = [[[truth]], [[predicted]]]
    write_picture(labelled.raw / TARGET / "labelsTr" / "t_04.png", drawn[0])
    write_picture(labelled.root / "predicted.png", drawn[1])
    found = nnunet_judge.surface_dice(dataset_pool(TARGET), "t_04", labelled.root / "predicted.png")
    assert found == pytest.approx(expected, abs=0.3) and (found == 1) == (expected == 1)


def test_two_commands_at_one_job_take_turns(labelled):
    judge = judge_in(labelled)
    judge(job())
    (labelled.root / "bin" / "nnUNetv2_train").unlink()
    with job_lock(fold_of(labelled)), ThreadPoolExecutor(1) as other:

        def impatient():
            with no_waiting():
                return judge(job())

        with pytest.raises(UserError, match="fold_0 is being written by"):
            other.submit(impatient).result()
    assert judge(job())["dice"]


def test_an_evaluation_without_a_test_case_is_named(labelled):
    judge_in(labelled)(job())
    summary = fold_of(labelled) / "validation" / "summary.json"
    content = json.loads(summary.read_text())
    summary.write_text(json.dumps({"metric_per_case": content["metric_per_case"][:1]}))
    with pytest.raises(UserError, match="summary.json lacks t_05; delete .*validation to validate again"):
        judge_in(labelled)(job())


def preprocessed(workspace, cases):
    folder = workspace.preprocessed / TARGET
    plans = {"plans_name": "nnUNetPlans", "configurations": {"2d": {"data_identifier": "data"}}}
    plans["configurations"]["cascade"] = {"inherits_from": "2d", "previous_stage": "2d"}
    plans["configurations"]["small_cascade"] = {"inherits_from": "cascade"}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    for case in cases:
        for file in (folder / "data" / f"{case}.pkl", folder / "gt_segmentations" / f"{case}.png"):
            file.parent.mkdir(exist_ok=True)
            file.touch()


@pytest.mark.parametrize(
    "asked, parts",
    [
        ({}, None),
        ({"configuration": "3d"}, ["-c", "2d", "3d"]),
        ({"configuration": "cascade"}, ["-c cascade is the second stage", "choose another configuration"]),
        ({"configuration": "small_cascade"}, ["-c small_cascade is the second stage"]),
        ({"plans_name": "Other"}, ["no plans Other"]),
        ({"trainer": "nnUNetTrainer"}, ["-tr", "XSSRTrainer_50epochs"]),
        ({"trainer": "XSSRTrainer_pretrained"}, ["-tr", "from scratch", "got XSSRTrainer_pretrained"]),
    ],
)
def test_what_nnunet_needs_is_checked_first(labelled, asked, parts):
    pool = dataset_pool(TARGET)
    preprocessed(labelled, pool.identifiers)
    network = {"configuration": "2d", "trainer": "XSSRTrainer", "plans_name": "nnUNetPlans"} | asked
    if parts is None:
        check_trainable(pool, **network)
        return
    with pytest.raises(UserError) as error:
        check_trainable(pool, **network)
    assert all(part in str(error.value) for part in parts)


def test_a_case_that_is_not_preprocessed_is_named(labelled):
    pool = dataset_pool(TARGET)
    preprocessed(labelled, pool.identifiers[1:])
    with pytest.raises(
        UserError, match="1 of 6 cases .* not preprocessed .t_00.*nnUNetv2_plan_and_preprocess -d 2 -c 2d"
    ):
        check_trainable(pool, configuration="2d", trainer="XSSRTrainer", plans_name="nnUNetPlans")
