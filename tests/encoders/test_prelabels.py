"""Pre-labels: a trained model draws into the hand-over, and collect takes what was corrected or accepted."""

import csv
import json
import shutil

import numpy as np
import pytest
from kinds import model_folder
from making import TARGET, fails, succeeds, write_picture
from PIL import Image
from slicing import VOLUMES, load, picks, save
from slicing import labels as labels_of_volumes
from slicing import run as choose_slices
from test_annotation import COLLECT, SELECT, described, handover, picked, state

from nnunetv2_xssr.annotation.prelabels import dice
from nnunetv2_xssr.commands import collect, select, status

BLOB = {"labels": {"background": 0, "blob": 1}}


def model(folder, **options):
    return model_folder(folder, **{"channels": ("xray",), "labels": BLOB, "heads": 2, **options})


def read(path):
    return np.array(Image.open(path))


def corrected(label):
    return np.where(np.arange(label.shape[1]) < 12, 1, label).astype(np.uint8)


def rows_of(path):
    text = path.read_text(encoding="utf-8-sig")
    return list(csv.DictReader(text.splitlines(), delimiter=";" if "case;" in text else ","))


def mark(workspace, **said):
    """Write into the column accepted of the worklist."""
    path = handover(workspace) / "worklist.csv"
    rows = rows_of(path)
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, rows[0], delimiter=";")  # as a German Excel saves it
        table.writeheader()
        table.writerows({**row, "accepted": said.get(row["case"], row["accepted"])} for row in rows)


def marks(workspace):
    return {row["case"]: row["accepted"] for row in rows_of(handover(workspace) / "worklist.csv")}


@pytest.fixture
def drawn(again, capsys):
    """Round one with pre-labels, and its cases in order."""
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--prelabel", model(again.root / "model")])
    return again, picked(again)


def corrections(workspace):
    return json.loads((handover(workspace).parent / "corrections.json").read_text())["dice"]


def test_hand_over_holds_what_stock_nnunet_predicts(drawn, capsys):
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    workspace, cases = drawn
    folder = handover(workspace)
    plans = workspace.root / "model" / "plans.json"
    plans.write_text(json.dumps({**json.loads(plans.read_text()), "image_reader_writer": "NaturalImage2DIO"}))
    stock = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(workspace.root / "model"), (0, 1), "checkpoint_final.pth")
    images = [[str(folder / "images" / f"{case}_0000.png")] for case in cases]
    (workspace.root / "stock").mkdir()
    stock.predict_from_files_sequential(images, [str(workspace.root / "stock" / case) for case in cases])
    for case in cases:
        label = folder / "labels" / f"{case}.png"
        assert (read(label) == read(workspace.root / "stock" / f"{case}.png")).all() and read(label).any()
        assert label.read_bytes() == (folder / "prelabels" / f"{case}.png").read_bytes()
    note = (folder / "README.txt").read_text()
    assert "trained model has drawn" in note and "call each segment as labels.ctbl" in note
    assert marks(workspace) == dict.fromkeys(cases, "")
    (one,) = state(capsys)["rounds"]
    assert one["missing"] == cases and one["returned"] == 0  # nobody has drawn yet


def test_untouched_labels_are_missing_and_corrected_ones_are_taken(drawn, capsys):
    workspace, (first, second, third) = drawn
    label = handover(workspace) / "labels" / f"{first}.png"
    before = read(label)
    write_picture(label, corrected(before))
    out = succeeds(capsys, collect.main, COLLECT)
    assert list(described(workspace)["dataset"]) == [first]
    assert f"still missing: {second}, {third}" in out and "--accept CASE..., or yes in worklist.csv" in out
    share = dice(before, corrected(before), ignore=None)
    assert corrections(workspace) == {first: pytest.approx(share)} and 0 < share < 1
    assert f"pre-labels: 1 collected; mean Dice of label and pre-label {share:.3f} over 1 case\n" in out
    out = succeeds(capsys, collect.main, [*COLLECT, "--accept", second])
    assert f"pre-labels: 1 collected; mean Dice of label and pre-label {(share + 1) / 2:.3f} over 2 cases" in out
    assert corrections(workspace) == {first: pytest.approx(share), second: 1}


def test_pre_label_that_was_saved_again_unchanged_is_refused_unless_it_is_accepted(drawn, capsys):
    workspace, (first, *_) = drawn
    label = handover(workspace) / "labels" / f"{first}.png"
    Image.fromarray(read(label)).save(label, compress_level=0)
    assert label.read_bytes() != (handover(workspace) / "prelabels" / label.name).read_bytes()
    assert collect.main(COLLECT) == 2
    out = capsys.readouterr().out
    assert f"{first}.png: is the pre-label as it was handed over" in out and f"--accept {first}" in out
    mark(workspace, **{first: "Yes"})
    succeeds(capsys, collect.main, COLLECT)
    assert list(described(workspace)["dataset"]) == [first] and corrections(workspace) == {first: 1}


def test_worklist_that_came_back_elsewhere_accepts(drawn, capsys):
    workspace, (first, second, _) = drawn
    mark(workspace, **{first: "x", second: "no"})
    back = workspace.root / "back"
    shutil.copytree(handover(workspace), back)
    mark(workspace, **{first: ""})
    succeeds(capsys, collect.main, [*COLLECT, "-l", back / "labels"])
    assert list(described(workspace)["dataset"]) == [first]


def test_what_is_accepted_need_not_come_back(drawn, capsys):
    workspace, (first, second, third) = drawn
    back = workspace.root / "back" / "labels"
    write_picture(back / f"{first}.png", corrected(read(handover(workspace) / "labels" / f"{first}.png")))
    out = succeeds(capsys, collect.main, [*COLLECT, "-l", back, "--accept", second])
    assert f"still missing: {third}\n" in out and "pre-labels: 2 collected" in out
    taken = workspace.raw / TARGET / "labelsTr" / f"{second}.png"
    assert taken.read_bytes() == (handover(workspace) / "prelabels" / f"{second}.png").read_bytes()


def test_next_round_without_pre_labels_says_nothing_of_them(drawn, capsys):
    workspace, cases = drawn
    succeeds(capsys, collect.main, [*COLLECT, "--accept", *cases])
    succeeds(capsys, select.main, SELECT)
    out = succeeds(capsys, collect.main, COLLECT)
    assert "still missing: " in out and "as they were handed over" not in out


def test_same_call_again_keeps_what_was_accepted(drawn, capsys):
    workspace, (first, *_) = drawn
    mark(workspace, **{first: "yes"})
    succeeds(capsys, select.main, [*SELECT, "--prelabel", workspace.root / "model"])
    assert marks(workspace)[first] == "yes"
    other = model(workspace.root / "other", folds=(2,))  # which draws something else
    succeeds(capsys, select.main, [*SELECT, "--prelabel", other])
    assert set(marks(workspace).values()) == {""}
    note = handover(workspace) / "prelabels" / "note.txt"
    note.write_text("of the annotator")
    succeeds(capsys, select.main, SELECT)
    assert [path.name for path in note.parent.iterdir()] == ["note.txt"]
    note.unlink()
    succeeds(capsys, select.main, SELECT)
    assert [path.name for path in handover(workspace).iterdir() if path.name.startswith("pre")] == []
    assert not list((handover(workspace) / "labels").iterdir())


@pytest.mark.parametrize(
    ("change", "argv", "words"),
    [
        (lambda w, case: None, ["--accept", "nobody"], ["--accept names nobody", "no pre-label"]),
        (lambda w, case: mark(w, **{case: "perhaps"}), [], ["worklist.csv", "column accepted", "'perhaps'"]),
        (
            lambda w, case: (handover(w) / "worklist.csv").write_bytes(b"\0"),
            [],
            ["worklist", "cannot be read", "save it as CSV"],
        ),
        (
            lambda w, case: (handover(w).parent / "corrections.json").write_text('{"kind": "x"}'),
            ["--accept", "CASE"],
            ["corrections.json", "not an nnunetv2_xssr corrections"],
        ),
    ],
)
def test_what_does_not_fit_when_pre_labels_are_collected(drawn, capsys, change, argv, words):
    workspace, (first, *_) = drawn
    change(workspace, first)
    fails(capsys, collect.main, [*COLLECT, *(word.replace("CASE", first) for word in argv)], *words)
    assert described(workspace).get("dataset", {}) == {}


@pytest.mark.parametrize("content", [b"", b"broken", None])
def test_kept_pre_label_that_cannot_be_compared(drawn, capsys, content):
    workspace, (first, *_) = drawn
    kept = handover(workspace) / "prelabels" / f"{first}.png"
    if content is None:
        write_picture(kept, np.zeros((3, 4), np.uint8))
    else:
        kept.write_bytes(content)
    assert collect.main([*COLLECT, "--accept", first]) == 2
    assert f"prelabels/{first}.png" in capsys.readouterr().out


# --- which model


def test_network_that_was_trained_last_draws(again, capsys):
    fails(capsys, select.main, [*SELECT, "--prelabel"], "no fold of", TARGET, "--prelabel .../")
    model(again.results / TARGET / "XSSRTrainer__nnUNetPlans__2d")
    succeeds(capsys, select.main, [*SELECT, "--prelabel"])
    assert len(list((handover(again) / "prelabels").iterdir())) == 3
    assert "--prelabel" not in succeeds(capsys, status.main, ["-d", "2"])


def remove(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        ({}, remove("plans.json"), ["no folder of a trained nnU-Net", "plans.json"]),
        ({}, remove("dataset.json"), ["no folder of a trained nnU-Net", "dataset.json"]),
        ({"folds": ()}, None, ["no fold_X/checkpoint_final.pth"]),
        ({}, lambda folder: (folder / "fold_1" / "checkpoint_final.pth").write_bytes(b"x"), ["fold_1", "cut off"]),
        ({}, lambda folder: (folder / "plans.json").write_text("{}"), ["plans.json", "plans_name is missing"]),
        ({"labels": {"labels": {"background": 0, "lung": 1}}}, None, ["draws 1 (lung)", "are 1 (blob)"]),
        ({"channels": ("CT",)}, None, ["was trained on the channels CT", "xray"]),
    ],
)
def test_model_that_cannot_draw(again, capsys, options, change, words):
    folder, before = model(again.root / "model", **options), again.record().read_bytes()
    if change:
        change(folder)
    fails(capsys, select.main, [*SELECT, "--overwrite", "--prelabel", folder], *words)
    assert again.record().read_bytes() == before and not (handover(again) / "prelabels").exists()


def test_study_has_nothing_to_correct(again, capsys):
    for i in range(10):
        write_picture(again.raw / TARGET / "labelsTr" / f"t_{i:02d}.png", np.zeros((40, 48), np.uint8))
    argv = [*SELECT, "--overwrite", "--prelabel", model(again.root / "model")]
    fails(capsys, select.main, argv, "--prelabel is for a hand-over")


def test_raters_do_not_correct_one_drawing(again, capsys):
    argv = [*SELECT, "--overwrite", "--raters", "ann", "bea", "--prelabel", model(again.root / "model")]
    fails(capsys, select.main, argv, "--prelabel hides how far raters agree", "--raters")


# --- slices


def test_only_chosen_slices_are_drawn(volumes, capsys):
    labels = json.loads((volumes.raw / VOLUMES / "dataset.json").read_text())["labels"]
    folder = model(volumes.root / "model", channels=("T1",), labels={"labels": labels}, heads=len(labels))
    choose_slices(capsys, "--prelabel", folder)
    ignore = max(labels.values()) + 1
    chosen = picks(volumes)
    for pick in chosen:
        label = load(labels_of_volumes(volumes) / f"{pick.case}.nii.gz")
        on = [one.slice for one in chosen if one.case == pick.case]
        assert (label[on] != ignore).all() and (np.delete(label, on, axis=0) == ignore).all()
    assert any(load(labels_of_volumes(volumes) / f"{pick.case}.nii.gz")[pick.slice].any() for pick in chosen)
    note = (labels_of_volumes(volumes).parent / "README.txt").read_text()
    assert max(map(len, note.splitlines())) <= 120
    assert "what a model has drawn on the slices to draw" in " ".join(note.split())
    first = chosen[0].case
    path = labels_of_volumes(volumes) / f"{first}.nii.gz"
    label = load(path)
    label[chosen[0].slice, :5] = 1
    save(path, label)
    out = succeeds(capsys, collect.main, ["-d", "31", "--accept", chosen[1].case])
    assert "pre-labels: 2 collected" in out


def test_dice_is_the_mean_over_values_without_background_and_what_is_ignored():
    one, other = np.array([1, 1, 2, 0, 3, 3]), np.array([1, 0, 2, 0, 1, 3])
    assert dice(one, other, ignore=3) == pytest.approx((2 / 3 + 1) / 2)
    assert dice(one * 0, one * 0, ignore=3) == 1 and dice(np.array([1]), np.array([2]), ignore=None) == 0
