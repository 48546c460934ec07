"""Round two asks the model of round one: what it predicts, what it is unsure of, and what becomes of that."""

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch
from kinds import model_folder
from making import SOURCE, TARGET, fails, picture, succeeds, volume, write_picture

from nnunetv2_xssr.annotation.control import _kept_segmentation
from nnunetv2_xssr.commands import collect, report, select, status
from nnunetv2_xssr.encoders.predictor import Predictor
from nnunetv2_xssr.encoders.trained_model import open_trained_model
from nnunetv2_xssr.images.overlap import disagreement, mean_dice
from nnunetv2_xssr.pipeline.doubt import _kept_doubt

ROUND_TWO = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]
ASK = [*ROUND_TWO, "--model"]
LEFT = 7  # of ten cases, when three are labelled


def draw_label(path, case, *, threshold=110):
    write_picture(path / f"{case}.png", (picture(200 + int(case[2:]), shift=1.0) > threshold).astype(np.uint8))


@pytest.fixture
def trained(again, capsys):
    """Three cases were picked, drawn and collected, and two folds are trained on them."""
    for pick in again.selection()["selections"][0]["picks"]:
        draw_label(again.raw / TARGET / "annotate" / "round_01" / "labels", pick["case"])
    succeeds(capsys, collect.main, ["-d", "2"])
    folder = model_folder(again.results / TARGET / "XSSRTrainer__nnUNetPlans__2d", heads=2, labels=LABELS)
    named(folder, TARGET)
    for number, fold in enumerate(json.loads(again.split().read_text())[:2]):
        frozen = {"kind": "trained fold", "format_version": 1, "selection": "xssr", **fold}
        (folder / f"fold_{number}" / "xssr_fold.json").write_text(json.dumps(frozen))
    return again


LABELS = {"labels": {"background": 0, "blob": 1}}


def named(folder, dataset):
    """Say in the plans of a model which dataset it was trained on."""
    plans = json.loads((folder / "plans.json").read_text())
    (folder / "plans.json").write_text(json.dumps({**plans, "dataset_name": dataset}))
    return folder


def of_round_one(workspace):
    return workspace.results / TARGET / "XSSRTrainer__nnUNetPlans__2d"


@pytest.fixture
def asked(monkeypatch):
    """A stand-in for the network: the brighter an image, the more is doubted; which images were predicted."""
    seen = []

    def predict(self, image, properties):
        seen.append(float(image.mean()))
        if len(seen) == getattr(predict, "fails_at", None):
            raise KeyboardInterrupt
        return (image[0] > 110).astype(np.uint8), float(image.mean()) / 255

    monkeypatch.setattr(Predictor, "predict", predict)
    seen_by = {"images": seen, "predict": predict}
    return seen_by


def kept(workspace, dataset=TARGET):
    return sorted((workspace.preprocessed / dataset / "xssr" / "caches").glob("predictions_*/*.npz"))


def summary(folder, dice):
    """What nnU-Net's validation of a fold leaves."""
    (folder / "validation").mkdir(exist_ok=True)
    cases = [
        {
            "metrics": {"1": {"Dice": value, "IoU": value}, "2": {"Dice": float("nan")}},
            "prediction_file": str(folder / "validation" / f"{case}.png"),
            "reference_file": f"/elsewhere/{case}.png",
        }
        for case, value in dice.items()
    ]
    (folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": cases, "mean": {}}))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([0, 0, 0], [0, 0, 0], 1.0),
        ([1, 1, 0], [1, 1, 0], 1.0),
        ([1, 1, 0], [0, 0, 0], 0.0),
        ([1, 1, 0, 0], [1, 0, 0, 0], 2 / 3),
        ([1, 1, 2, 0], [1, 1, 0, 0], 0.5),
        ([[1, 2], [3, 3]], [[1, 2], [3, 0]], (1 + 1 + 2 / 3) / 3),
    ],
)
def test_mean_dice(one, other, expected):
    assert mean_dice(np.array(one, np.uint8), np.array(other, np.uint16)) == pytest.approx(expected)


def test_disagreement_is_over_all_pairs():
    a, b, c = np.array([1, 1, 0, 0]), np.array([1, 1, 0, 0]), np.array([0, 0, 0, 0])
    assert disagreement([a, b]) == 0
    assert disagreement([a, b, c]) == pytest.approx(2 / 3)


def stock(folder, folds, image, *, mirroring):
    """The prediction of nnU-Net itself."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with redirect_stdout(StringIO()):
        predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), folds)
        return predictor.predict_single_npy_array(image, {"spacing": [1.0, 1.0, 1.0]}, None, None, False)


@pytest.mark.parametrize(("dim", "folds"), [(2, (0, 1)), (2, (0,)), (3, (0, 1))])
def test_predictions_are_those_of_nnunet(tmp_path, dim, folds):
    folder = model_folder(tmp_path / "model", dim=dim, folds=folds)
    side = (1, 32, 32) if len(folds) == 1 else (1, 40, 48)  # one window is mirrored alike, as a whole or by itself
    image = picture(3, side[1:])[None, None].astype(np.float32) if dim == 2 else volume(3, (40, 36, 44))[0][None]
    predictor = Predictor(model=open_trained_model(folder), device="cpu")
    segmentation, doubt = predictor.predict(image, {"spacing": [1.0, 1.0, 1.0]})
    expected = stock(folder, folds, image, mirroring=len(folds) == 1)
    assert segmentation.shape == image.shape[1:]
    assert (segmentation == expected).mean() > 0.999
    assert predictor.mirrored == (len(folds) == 1)
    if predictor.mirrored:
        return
    alone = [Predictor(model=predictor.model.only(str(fold)), device="cpu") for fold in folds]
    parts = [stock(folder, (fold,), image, mirroring=False) for fold in folds]
    assert doubt == pytest.approx(disagreement(parts), abs=1e-3)
    assert 0 < doubt < 1 and len({one.identity for one in [predictor, *alone]}) == 3


def test_a_pool_is_asked_once_and_its_doubt_decides(trained, asked, capsys):
    out = succeeds(capsys, select.main, ASK)
    assert len(asked["images"]) == LEFT == len(kept(trained))
    assert "doubt: of folds 0, 1 of XSSRTrainer__nnUNetPlans__2d" in out
    record = trained.selection()
    assert record["round"] == 2
    assert record["doubt"] == {
        "model": str(of_round_one(trained)),
        "folds": ["0", "1"],
        "compared": "folds",
        "correlation": None,
        "validation_cases": 0,
        "weighted": True,
    }
    picks = record["selections"][0]["picks"]
    header = next(line.split() for line in out.splitlines() if line.split()[:2] == ["rank", "case"])
    assert header[-2:] == ["doubt", "stands_for"]
    assert all(0 <= pick["doubt"] <= 1 for pick in picks)
    means = {pick["case"]: picture(200 + int(pick["case"][2:]), shift=1.0).mean() for pick in picks}
    assert sorted(means, key=means.get) == sorted(means, key={p["case"]: p["doubt"] for p in picks}.get)
    report = trained.record().with_name("report.html").read_text()
    assert report.count('<th scope="row">Unsure</th>') == len(picks)
    with np.load(kept(trained)[0]) as one:
        assert one["segmentation"].shape == (1, 40, 48) and one["segmentation"].dtype == np.uint8
    worklist = (trained.raw / TARGET / "annotate" / "round_02" / "worklist.csv").read_text()
    assert ("the model is unsure of it" in worklist) == any(pick["doubt"] >= 0.8 for pick in picks)


def test_an_interrupted_prediction_goes_on_where_it_stopped(trained, asked, capsys):
    succeeds(capsys, select.main, ASK)
    whole = trained.record().read_bytes()
    succeeds(capsys, select.main, ASK)
    assert len(asked["images"]) == LEFT and trained.record().read_bytes() == whole
    for file in kept(trained)[2:5]:
        file.unlink()
    kept(trained)[0].write_bytes(b"cut off")
    succeeds(capsys, select.main, ASK)
    assert len(asked["images"]) == LEFT + 4 and trained.record().read_bytes() == whole


def test_predictions_are_kept_case_by_case(trained, asked, capsys):
    asked["predict"].fails_at = 4
    assert select.main(ASK) != 0
    assert len(kept(trained)) == 3
    succeeds(capsys, select.main, ASK)
    assert len(asked["images"]) == 4 + LEFT - 3


@pytest.mark.parametrize("damage", ["bits", "cut off", "empty"])
def test_a_kept_prediction_that_is_damaged_is_made_anew(tmp_path, damage):
    file = tmp_path / "case.npz"
    drawn = np.random.default_rng(0).integers(0, 3, (1, 16, 16)).astype(np.uint8)
    np.savez_compressed(file, segmentation=drawn, doubt=0.3, image="digest")
    whole = file.read_bytes()
    assert _kept_doubt(file, "digest") == 0.3 and np.array_equal(_kept_segmentation(file), drawn)
    assert _kept_doubt(file, "another") is None
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :]
        file.write_bytes({"bits": flipped, "cut off": whole[:place], "empty": b""}[damage])
        assert _kept_doubt(file, "digest") in (0.3, None)
        kept = _kept_segmentation(file)
        assert kept is None or np.array_equal(kept, drawn)


def test_no_model_is_asked_unless_one_is_named(trained, asked, capsys):
    out = succeeds(capsys, select.main, ROUND_TWO)
    plain = trained.record().read_text()
    assert "doubt" not in out and not any(word in plain for word in ("doubt", "model", "predictions"))
    assert not asked["images"]
    fails(capsys, select.main, ASK, "settings", "--overwrite")


def test_folds_of_another_split_are_not_asked(trained, asked, capsys):
    for number in (0, 1):
        file = of_round_one(trained) / f"fold_{number}" / "xssr_fold.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "train": ["t_00"]}))
    fails(capsys, select.main, ASK, "no fold of", TARGET, "--model .../")
    assert not asked["images"]


@pytest.mark.parametrize(
    ("dice", "said", "weighted"),
    [
        ({0: 0.9, 1: 0.8, 2: 0.7, 3: 0.6, 4: 0.5, 5: 0.4}, "is 1.00", True),
        ({0: 0.4, 1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8, 5: 0.9}, "is -1.00, below 0.2: it is taken out", False),
        ({0: 0.9, 1: 0.1, 2: 0.3}, "3 validation cases cannot tell", True),
        ({0: 0.9, 1: 0.9, 2: 0.9, 3: 0.9, 4: 0.9}, "5 validation cases cannot tell", True),
        ({}, "0 validation cases cannot tell", True),
    ],
)
def test_doubt_that_does_not_follow_the_error_is_taken_out(workspace, asked, capsys, dice, said, weighted):
    """The source's model in round one; its validation cases by how bright they are."""
    folder = named(model_folder(workspace.root / "model"), SOURCE)
    bright = sorted(range(6), key=lambda i: picture(100 + i).mean())
    summary(folder / "fold_0", {f"s_{bright[i]:02d}": value for i, value in dice.items() if i % 2})
    summary(folder / "fold_1", {f"s_{bright[i]:02d}": value for i, value in dice.items() if not i % 2})
    out = succeeds(capsys, select.main, [*ROUND_TWO, "--model", folder])
    assert said in out
    record = workspace.selection()
    assert record["doubt"]["weighted"] == weighted and record["doubt"]["validation_cases"] == len(dice)
    assert record["settings"]["model"] == str(folder)
    assert len(asked["images"]) == len(dice) + (10 if weighted else 0)
    assert all(("doubt" in pick) == weighted for pick in record["selections"][0]["picks"])


def test_validation_cases_are_asked_of_their_own_fold_only(workspace, asked, monkeypatch, capsys):
    """The other folds have learned from their labels."""
    folds, predict = [], Predictor.predict
    monkeypatch.setattr(Predictor, "predict", lambda s, *a: folds.append(list(s.model.checkpoints)) or predict(s, *a))
    folder = named(model_folder(workspace.root / "model"), SOURCE)
    summary(folder / "fold_0", {f"s_{i:02d}": i / 10 for i in range(3)})
    summary(folder / "fold_1", {f"s_{i:02d}": i / 10 for i in range(3, 6)})
    succeeds(capsys, select.main, [*ROUND_TWO, "--model", folder])
    assert folds[:6] == [["0"]] * 3 + [["1"]] * 3 and all(one == ["0", "1"] for one in folds[6:])


def without_mirroring(folder):
    file = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    torch.save({**content, "inference_allowed_mirroring_axes": None}, file)
    return folder


def second_stage(folder):
    plans = json.loads((folder / "plans.json").read_text())
    for configuration in plans["configurations"].values():
        configuration["previous_stage"] = "3d_lowres"
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


@pytest.mark.parametrize(
    ("make", "more", "parts"),
    [
        (lambda f: f, [], ["no folder of a trained nnU-Net"]),
        (model_folder, ["--strategy", "random"], ["--strategy random does not weigh"]),
        (lambda f: model_folder(f, channels=("T1",)), [], ["channels T1", f"{TARGET} has xray"]),
        (lambda f: model_folder(f, folds=()), [], ["its training is not finished"]),
        (lambda f: without_mirroring(model_folder(f, folds=(0,))), [], ["one fold, trained without mirroring"]),
        (lambda f: second_stage(model_folder(f)), [], ["second stage of a cascade"]),
    ],
)
def test_models_that_cannot_be_asked(either, capsys, make, more, parts):
    folder = either.root / "model"
    make(folder)
    fails(capsys, select.main, [*ROUND_TWO, "--overwrite", "--model", folder, *more], *parts)


def test_clean_keeps_the_predictions_of_a_record_and_removes_others(trained, asked, capsys):
    succeeds(capsys, select.main, ASK)
    own = kept(trained)
    other = own[0].parent.with_name("predictions_0123456789ab") / own[0].name
    other.parent.mkdir()
    shutil.copyfile(own[0], other)
    succeeds(capsys, status.main, ["-d", "2", "--clean"])
    assert kept(trained) == own


CONTROL = [*ASK, "-b", "5", "--control", "2"]


def of_control(record):
    return [pick["case"] for pick in record["selections"][0]["picks"] if pick["control"]]


def test_random_cases_are_marked_in_the_record_and_nowhere_else(trained, asked, capsys):
    out = succeeds(capsys, select.main, CONTROL)
    record = trained.selection()
    assert len(record["selections"][0]["picks"]) == 5 and len(of_control(record)) == 2
    assert record["settings"]["control"] == 2
    assert "control" not in out.split("next:")[0]
    home = trained.raw / TARGET / "annotate" / "round_02"
    texts = [file for file in home.rglob("*") if file.suffix in (".csv", ".txt", ".html", ".json", ".label", ".ctbl")]
    assert len(texts) >= 6
    assert not any("control" in file.read_text(encoding="utf-8-sig") for file in texts)
    assert '"control"' not in trained.record().with_name("report.html").read_text(encoding="utf-8")
    (told,) = json.loads(succeeds(capsys, report.main, ["-d", "2", "--json"]))["selections"]
    lacking = [{name for name, value in pick.items() if value is None} for pick in told["picks"]]
    assert "control" not in told["picks"][0] and lacking == lacking[:1] * 5  # nor does what is not told of a case tell
    before = trained.record().read_bytes()
    succeeds(capsys, select.main, CONTROL)
    assert trained.record().read_bytes() == before
    succeeds(capsys, select.main, [*CONTROL, "--seed", "5", "--overwrite"])
    assert of_control(trained.selection()) != of_control(record)


def test_after_collect_chosen_and_random_cases_are_compared(trained, asked, capsys):
    succeeds(capsys, select.main, CONTROL)
    record = trained.selection()
    for pick in record["selections"][0]["picks"]:
        # What was predicted of the random ones is right, of the others nothing is.
        threshold = 110 if pick["control"] else 255
        draw_label(trained.raw / TARGET / "annotate" / "round_02" / "labels", pick["case"], threshold=threshold)
    out = succeeds(capsys, collect.main, ["-d", "2", "--allow_empty"])
    assert "the model that was asked for round 2: mean Dice 0.00 on 3 chosen cases, 1.00 on 2 drawn at random" in out
    shutil.rmtree(kept(trained)[0].parent)
    out = succeeds(capsys, collect.main, ["-d", "2", "--allow_empty"])
    assert "no prediction" in out and "drawn at random" in out


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["-b", "3", "--control", "3"], "fewer than the 3 of the budget; got 3"),
        (["-b", "3", "--control", "-1"], "got -1"),
        (["-b", "3", "--control", "1", "--scheduler", "local"], "does not go with --scheduler"),
        (["-b", "auto", "--control", "1"], "-b auto"),
    ],
)
def test_bad_control(either, capsys, more, part):
    fails(capsys, select.main, ["-d", "2", "-s", "1", "-device", "cpu", "--overwrite", *more], "--control", part)


def test_nobody_annotates_in_a_study(workspace, capsys):
    for i in range(10):
        draw_label(workspace.raw / TARGET / "labelsTr", f"t_{i:02d}")
    fails(capsys, select.main, [*ROUND_TWO, "--control", "1"], "--control does not go with a study")
