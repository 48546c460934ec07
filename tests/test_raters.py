"""Several annotators: the worklist is dealt out, and their labels are compared and become one."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from making import TARGET, fails, read_worklist, succeeds, write_dataset_json, write_picture
from PIL import Image
from sklearn.metrics import cohen_kappa_score, f1_score
from slicing import CASES, VOLUMES, load, save
from slicing import SELECT as SLICES
from test_annotation import COLLECT, blob, handover, picked
from test_timesheets import fill, known

from nnunetv2_xssr.annotation.agreement import Comparison
from nnunetv2_xssr.annotation.fusing import fuse
from nnunetv2_xssr.annotation.raters import deal, raters_of
from nnunetv2_xssr.commands import collect, select, status
from nnunetv2_xssr.records.selection import Pick, SelectionRecord

SELECT = ["-d", "2", "--encoder", "intensity", "-device", "cpu"]
PART = {"domain": None, "group": None, "density": 0.0, "novelty": 0.0, "diversity": 0.0, "score": None, "stands_for": 1}


def chosen(cases, cost=None, slices=None):
    """Picks of these cases, of each as many slices."""
    named = [(case, place) for place in slices or [None] for case in cases]
    return [Pick(rank=i + 1, case=c, slice=p, cost=cost and cost[c], **PART) for i, (c, p) in enumerate(named)]


def rows(path):
    return read_worklist(path)


def dealt(workspace):
    return SelectionRecord.load(workspace.record()).raters


def shared_cases(workspace):
    return [case for case, raters in dealt(workspace).items() if len(raters) > 1]


def draw(workspace, rater, *cases, to=9, value=1, number=1):
    for case in cases or [case for case, raters in dealt(workspace).items() if rater in raters]:
        write_picture(handover(workspace, number) / "labels" / rater / f"{case}.png", blob(value, to))


@pytest.fixture
def two(workspace, capsys):
    """Six cases for A and B, of which both draw two."""
    succeeds(capsys, select.main, [*SELECT, "-b", "6", "--raters", "A", "B", "--overlap", "2"])
    return workspace


def taken(workspace, case):
    return np.asarray(Image.open(workspace.raw / TARGET / "labelsTr" / f"{case}.png"))


# ---------------------------------------------------------------------------------------------------------- dealing out
@pytest.mark.parametrize(("n", "raters", "shared"), [(7, "AB", 0), (10, "ABC", 1), (12, "AB", 12), (3, "ABCD", 1)])
def test_dealing_is_fair_and_repeats(n, raters, shared):
    cases = [f"c{i}" for i in range(n)]
    found = deal(chosen(cases), raters=list(raters), shared=shared, seed=3)
    assert list(found) == cases and found == deal(chosen(cases), raters=list(raters), shared=shared, seed=3)
    assert sum(names == list(raters) for names in found.values()) == shared
    alone = [names[0] for names in found.values() if len(names) == 1]
    assert len(alone) == n - shared
    for end in range(len(alone) + 1):  # every rater gets early and late cases
        counts = Counter({rater: 0 for rater in raters}) + Counter(alone[:end])
        assert max(counts[r] for r in raters) - min(counts[r] for r in raters) <= 1
    others = {str(deal(chosen(cases), raters=list(raters), shared=shared, seed=seed)) for seed in range(8)}
    assert len(others) > 1 or shared == n


def test_dealing_by_cost_and_slices():
    cost = {f"c{i}": float(i + 1) for i in range(9)}
    found = deal(chosen(list(cost), cost=cost), raters=["A", "B"], shared=0, seed=0)
    load = [sum(cost[case] for case in cost if found[case] == [rater]) for rater in "AB"]
    assert abs(load[0] - load[1]) <= 9
    of_slices = deal(chosen(["u", "v", "w", "x"], slices=[3, 7]), raters=["A", "B"], shared=1, seed=0)
    assert sorted(of_slices) == ["u", "v", "w", "x"] and sum(len(raters) for raters in of_slices.values()) == 5


def test_raters_come_in_the_order_in_which_they_were_named():
    dealt = {"a": ["bea"], "b": ["ann"], "c": ["ann", "bea", "cem"], "d": ["dan"]}
    assert raters_of(dealt) == ["ann", "bea", "cem", "dan"]
    assert raters_of({}) == [] and raters_of({"a": ["bea"], "b": ["ann"]}) == ["bea", "ann"]


def test_lists_of_raters(two, capsys):
    folder, by_rater = handover(two), dealt(two)
    all_rows = rows(folder / "worklist.csv")
    assert {row["case"]: row["rater"].split("; ") for row in all_rows} == by_rater and len(all_rows) == 6
    assert "minutes" not in all_rows[0] and len(shared_cases(two)) == 2
    for rater in "AB":
        own = rows(folder / f"worklist_{rater}.csv")
        assert [row["case"] for row in own] == [case for case in picked(two) if rater in by_rater[case]]
        assert len(own) == 4 and all(a["rank"] < b["rank"] for a, b in pairwise(own))
        assert all(row["label"] == f"labels/{rater}/{row['case']}.png" for row in own)
        assert (folder / "labels" / rater).is_dir()
    assert "worklist_A.csv and labels/A/" in (folder / "README.txt").read_text()
    before = two.results_of_select()
    argv = [*SELECT, "-b", "6", "--raters", "A", "B", "--overlap", "2"]
    succeeds(capsys, select.main, argv)
    assert two.results_of_select() == before
    fails(capsys, select.main, [*SELECT, "-b", "6", "--raters", "A", "C"], "other settings", "raters")
    succeeds(capsys, select.main, [*SELECT, "-b", "6", "--raters", "A", "C", "--overwrite"])
    assert not (folder / "worklist_B.csv").exists() and (folder / "worklist_C.csv").exists()
    fill(folder / "worklist_A.csv", ["", "5", *[""] * (len(rows(folder / "worklist_A.csv")) - 2)])
    succeeds(capsys, select.main, [*SELECT, "-b", "6", "--raters", "C", "D", "--overwrite"])
    assert (folder / "worklist_A.csv").exists()  # somebody has filled it in
    succeeds(capsys, select.main, [*SELECT, "-b", "6", "--overwrite"])
    write_picture(folder / "labels" / f"{picked(two)[0]}.png", blob())
    assert "labelled now: 1 of 10" in succeeds(capsys, collect.main, COLLECT)


def test_labels_of_raters_are_not_overwritten(two, capsys):
    draw(two, "A")
    again = [*SELECT, "-b", "5", "--raters", "A", "C", "--overwrite"]
    fails(capsys, select.main, again, "holds 4 labels of the selection that --overwrite would replace")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--raters", "A"], ["--raters must be two or more different names", "got A"]),
        (["--raters", "Ann", "ann"], ["two or more different names"]),
        (["--raters", "A", "../B"], ["a rater of --raters is called '../B'", "name of a file"]),
        (["--raters", "A", "B;C"], ["'B;C'", "no ;"]),
        (["--raters", "A", ".B"], ["no dot ahead"]),
        (["--raters", "A", "con"], ["Windows"]),
        (["--raters", "A", ""], ["must not be empty"]),
        (["--overlap", "2"], ["--overlap says what several raters draw", "--raters"]),
        (["--raters", "A", "B", "--overlap", "5"], ["--overlap", "'5'"]),
        (["--raters", "A", "B", "--overlap", "half"], ["--overlap", "'half'"]),
    ],
)
def test_raters_that_do_not_fit(workspace, capsys, argv, words):
    fails(capsys, select.main, [*SELECT, "-b", "4", *argv], *words)


def test_record_with_other_raters(two, capsys):
    record, case = json.loads(two.record().read_text()), picked(two)[0]
    record["raters"][case] = []
    two.record().write_text(json.dumps(record))
    fails(capsys, collect.main, COLLECT, f"raters.{case} must not be empty")


# ------------------------------------------------------------------------------------------------------------ agreement
def test_agreement_is_dice_and_kappa():
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 4, (5, 1, 8, 9)) for _ in range(2))
    one[0], other[0] = 0, 0
    comparison = Comparison({1: "liver", 2: "spleen", 7: "nothing"}, ignore=3)
    for a, b in zip(one, other, strict=True):
        comparison.add({"A": a, "B": b})
    comparison.add({"A": one[0]})  # B's is missing
    liver, spleen, nothing = comparison.result()
    kept = (one != 3) & (other != 3)
    for found, value in ((liver, 1), (spleen, 2)):
        assert (found.raters, found.cases) == (("A", "B"), 5)
        dice = [f1_score((a == value)[k], (b == value)[k]) for a, b, k in zip(one, other, kept, strict=True)][1:]
        np.testing.assert_allclose(found.dice, np.mean(dice))
        np.testing.assert_allclose(found.kappa, cohen_kappa_score((one == value)[kept], (other == value)[kept]))
    assert (nothing.label, nothing.dice, nothing.kappa) == ("nothing", None, None)


def test_all_pairs_of_raters():
    label = np.ones((1, 4, 4), int)
    comparison = Comparison({1: "blob"}, ignore=None)
    comparison.add({"A": label, "B": label, "C": 0 * label})
    assert [(one.raters, one.dice) for one in comparison.result()] == [
        (("A", "B"), 1.0),
        (("A", "C"), 0.0),
        (("B", "C"), 0.0),
    ]


# --------------------------------------------------------------------------------------------------------------- fusing
def test_majority():
    labels = [np.array([[row]]) for row in ([0, 1, 1, 2, 1], [0, 1, 2, 2, 2], [0, 0, 1, 2, 3])]
    fused, undecided = fuse(labels, how="majority")
    assert fused.tolist() == [[[0, 1, 1, 2, 0]]] and undecided == 1
    fused, undecided = fuse(labels[:2], how="majority")  # of two only what both say
    assert fused.tolist() == [[[0, 1, 0, 2, 0]]] and undecided == 2


def test_majority_of_regions():
    """That a voxel lies in the whole is what both said, though not in which part."""
    labels = [np.array([[row]]) for row in ([1, 1, 2, 3, 2, 0], [2, 1, 3, 1, 0, 0])]
    regions = {1: (1, 2, 3), 2: (2, 3), 3: (3,)}
    fused, undecided = fuse(labels, how="majority", regions=regions)
    assert fused.tolist() == [[[1, 1, 2, 1, 0, 0]]] and undecided == 1
    third = np.array([[[3, 3, 1, 2, 3, 1]]])
    fused, undecided = fuse([*labels, third], how="majority", regions=regions)
    assert fused.tolist() == [[[2, 1, 2, 2, 2, 0]]] and undecided == 0


def test_agreement_on_regions():
    one, other = np.array([[[1, 2, 0, 0]]]), np.array([[[2, 2, 0, 0]]])
    comparison = Comparison({(1, 2): "whole", 2: "core"}, ignore=None)
    comparison.add({"A": one, "B": other})
    assert [(found.label, found.dice) for found in comparison.result()] == [("whole", 1.0), ("core", 2 / 3)]


def test_staple_trusts_those_who_agree():
    truth = np.zeros((3, 20, 20), np.int32)
    truth[1, 4:14, 4:14], truth[1, 14:18, 4:14] = 1, 2
    careless = np.random.default_rng(0).integers(0, 3, truth.shape).astype(np.int32)
    fused, undecided = fuse([truth, careless, truth], how="staple")
    assert (fused == truth).all() and undecided == 0
    one, other = np.array([[[0, 0, 1, 1]]]), np.array([[[0, 0, 2, 2]]])
    fused, undecided = fuse([one, other], how="staple")
    assert set(fused.ravel().tolist()) <= {0, 1, 2} and undecided == int((fused[..., 2:] == 0).sum())


# -------------------------------------------------------------------------------------------------------------- collect
@pytest.mark.parametrize(("how", "rows_drawn"), [("first", 6), ("majority", 6), ("staple", None)])
def test_labels_of_two_raters_become_one(two, capsys, how, rows_drawn):
    draw(two, "A", to=9)
    draw(two, "B", to=11)
    out = succeeds(capsys, collect.main, [*COLLECT, "--fuse", how])
    words = "taken from A" if how == "first" else f"{how} of A, B; undecided and so background: "
    assert out.count("shared: ") == 2 and f"shared: {shared_cases(two)[0]}: {words}" in out
    assert "labelled now: 6 of 10" in out and "blob   A, B    2      0.857  0.853" in out
    for case in shared_cases(two):
        drawn = (taken(two, case) == 1).any(axis=1).sum()
        assert drawn == rows_drawn if rows_drawn else drawn in (6, 8)
    before = {case: taken(two, case).tobytes() for case in picked(two)}
    succeeds(capsys, collect.main, [*COLLECT, "--fuse", how])  # once more: nothing differs
    assert before == {case: taken(two, case).tobytes() for case in picked(two)}


def test_waits_for_all_raters_to_fuse(two, capsys):
    shared = shared_cases(two)
    draw(two, "A")
    out = succeeds(capsys, collect.main, [*COLLECT, "--fuse", "majority"])
    assert "labelled now: 2 of 10" in out
    line = next(line for line in out.splitlines() if line.startswith("  of B: "))
    assert set(line.removeprefix("  of B: ").split(", ")) == {c for c, r in dealt(two).items() if "B" in r}
    assert "  of A: " not in out and "agreement" not in out
    out = succeeds(capsys, collect.main, COLLECT)  # of the first alone
    assert "labelled now: 4 of 10" in out and f"shared: {shared[0]}: taken from A" in out
    draw(two, "B", to=11)
    out = succeeds(capsys, collect.main, COLLECT)
    assert "labelled now: 6 of 10" in out and "agreement on the cases" in out and "still missing" not in out


def test_label_that_would_be_another_one_now(two, capsys):
    draw(two, "A")
    draw(two, "B", to=11)
    succeeds(capsys, collect.main, COLLECT)
    case = shared_cases(two)[0]
    draw(two, "A", case, to=7)
    assert collect.main(COLLECT) == 2
    out = capsys.readouterr().out
    assert f"does not fit: {case}: taken from A; this differs from its label in labelsTr" in out
    assert (taken(two, case) == 1).any(axis=1).sum() == 6


def test_majority_of_nothing(two, capsys):
    case, other = shared_cases(two)
    draw(two, "A")
    draw(two, "B")
    label = np.zeros((40, 48), np.uint8)
    label[30:35, 30:35] = 1
    write_picture(handover(two) / "labels" / "B" / f"{case}.png", label)
    assert collect.main([*COLLECT, "--fuse", "majority"]) == 2
    out = capsys.readouterr().out
    assert f"does not fit: {case}: majority of A, B" in out and "nothing is left" in out
    assert f"shared: {other}: majority" in out and "labelled now: 5 of 10" in out


@pytest.mark.parametrize("how", ["first", "majority"])
def test_empty_shared_label_is_allowed_once(two, capsys, how):
    case = shared_cases(two)[0]
    draw(two, "A")
    draw(two, "B")
    for rater in "AB":
        draw(two, rater, case, value=0)
    argv = [*COLLECT, "--fuse", how]
    assert collect.main(argv) == 2 and f"{case}.png: is empty" in capsys.readouterr().out
    assert "labelled now: 6 of 10" in succeeds(capsys, collect.main, [*argv, "--allow_empty", case])
    assert "is empty" not in succeeds(capsys, collect.main, argv)
    draw(two, "A", case)  # one that differs is told of, as always
    draw(two, "B", case)
    assert collect.main(argv) == 2 and f"--replace {case}" in capsys.readouterr().out


def test_shared_label_that_does_not_fit_is_not_missing(two, capsys):
    draw(two, "A")
    draw(two, "B")
    shared = shared_cases(two)[0]
    write_picture(handover(two) / "labels" / "A" / f"{shared}.png", np.full((40, 48), 9, np.uint8))
    assert collect.main(COLLECT) == 2
    out = capsys.readouterr().out
    assert f"does not fit: annotate/round_01/labels/A/{shared}.png: holds 9" in out and "still missing" not in out
    (handover(two) / "labels" / "B" / f"{shared}.png").unlink()
    assert collect.main(COLLECT) == 2
    assert f"still missing: {shared}\n  of B: {shared}\n" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["", "B"])
def test_label_in_another_folder(two, capsys, where):
    draw(two, "A")
    draw(two, "B")
    case = next(case for case, raters in dealt(two).items() if raters == ["A"])
    file = handover(two) / "labels" / "A" / f"{case}.png"
    file.rename(handover(two) / "labels" / where / f"{case}.png")
    code = collect.main(COLLECT)
    out = capsys.readouterr().out
    assert "labelled now: 5 of 10" in out and f"still missing: {case}\n  of A: {case}" in out
    said = "not asked for and left alone" if where else "lies beside the folders of the raters; move it into A"
    assert said in out and code == (0 if where else 2)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda path: path.write_bytes(b"x"), "cannot be read"),
        (lambda path: write_picture(path, blob(7)), "holds 7, which no label has"),
        (lambda path: write_picture(path, blob()[1:]), "has the size"),
        (lambda path: write_picture(path, 0 * blob()), "is empty"),
    ],
)
def test_broken_label_of_one_rater(two, capsys, break_it, words):
    draw(two, "A")
    draw(two, "B")
    case = shared_cases(two)[0]
    break_it(handover(two) / "labels" / "B" / f"{case}.png")
    assert collect.main([*COLLECT, "--fuse", "majority"]) == 2
    out = capsys.readouterr().out
    assert f"labels/B/{case}.png: " in out and words in out and "labelled now: 5 of 10" in out
    assert "still missing" not in out, "it is there and does not fit"


def test_folder_without_raters(two, capsys):
    draw(two, "A")
    flat = (handover(two) / "labels" / "A").rename(two.root / "flat")
    assert collect.main([*COLLECT, "-l", str(flat)]) == 2
    out = capsys.readouterr().out
    assert out.count("lies beside the folders of the raters; move it into") == 4 and "labelled now: 0 of 10" in out
    fails(capsys, collect.main, [*COLLECT, "--fuse", "best"], "--fuse must be one of first, majority, staple")


@pytest.mark.parametrize("how", ["first", "majority"])
def test_replacing_what_raters_drew(two, capsys, how):
    """Each kind of case by its own rule: the label of its rater, or what all of its raters drew now."""
    draw(two, "A")
    draw(two, "B", to=11)
    argv = [*COLLECT, "--fuse", how]
    succeeds(capsys, collect.main, argv)
    shared, alone = shared_cases(two)[0], next(case for case, raters in dealt(two).items() if raters == ["B"])
    draw(two, "A", shared, to=20)
    draw(two, "B", shared, alone, to=18)
    assert collect.main(argv) == 2
    assert f"--replace {shared}" in capsys.readouterr().out
    out = succeeds(capsys, collect.main, [*argv, "--replace", shared, alone])
    assert f"replaced: {shared}; " in out and f"replaced: {alone}; " in out and "labelled now: 6 of 10" in out
    drawn = {case: blob(to=to) for case, to in ((shared, 20 if how == "first" else 18), (alone, 18))}
    assert all((taken(two, case) == label).all() for case, label in drawn.items())
    out = succeeds(capsys, collect.main, [*argv, "--replace", shared, alone])
    assert "nothing done: " in out and "replaced:" not in out


def test_replacing_waits_for_all_raters(two, capsys):
    draw(two, "A")
    succeeds(capsys, collect.main, COLLECT)
    case = shared_cases(two)[0]
    fails(capsys, collect.main, [*COLLECT, "--fuse", "majority", "--replace", case], f"--replace names {case}")


def test_replacing_names_the_folder_of_a_rater_that_is_not_there(two, capsys):
    draw(two, "A")
    draw(two, "B")
    succeeds(capsys, collect.main, COLLECT)
    alone = next(case for case, raters in dealt(two).items() if raters == ["B"])
    folder = two.root / "returned"
    (folder / "A").mkdir(parents=True)
    argv = [*COLLECT, "-l", folder, "--replace", alone]
    fails(capsys, collect.main, argv, f"--replace names {alone}, but {folder / 'B'} holds no new")


def test_corrected_label_in_a_plain_folder_brings_no_shared_one_along(two, capsys):
    """The label of one rater is not what several say."""
    draw(two, "A")
    argv = [*COLLECT, "--fuse", "majority"]
    succeeds(capsys, collect.main, argv)
    alone = next(case for case, raters in dealt(two).items() if raters == ["A"])
    draw(two, "A", alone, to=20)
    out = succeeds(capsys, collect.main, [*argv, "-l", handover(two) / "labels" / "A", "--replace", alone])
    assert f"replaced: {alone}" in out and "labelled now: 2 of 10" in out
    assert "not asked for and left alone: " in out and all(case in out for case in shared_cases(two))


@pytest.mark.parametrize("ending", [".png", ".seg.nrrd"])
def test_who_drew_a_misplaced_shared_label_is_not_guessed(two, capsys, ending):
    draw(two, "A")
    case = shared_cases(two)[0]
    write_picture(two.root / "label.png", blob())
    (two.root / "label.png").rename(handover(two) / "labels" / f"{case}{ending}")
    assert collect.main(COLLECT) == 2
    assert "move it into A or B" in capsys.readouterr().out


def test_readme_names_the_folders_of_raters(two):
    """A label in labels/ itself would be nobody's."""
    text = (handover(two) / "README.txt").read_text()
    for rater in "AB":
        assert f"labels/{rater}/" in text
    first = picked(two)[0]
    assert f"labels/{first}." not in text
    assert all(f"labels/YOU/{first}{ending}" in text for ending in (".png", ".seg.nrrd"))
    assert "in the images that your list names and save one label per image in labels/YOU/" in text
    assert "the column minutes of your list" in text and max(map(len, text.splitlines())) <= 120


def test_minutes_of_raters_and_the_next_round(two, capsys):
    draw(two, "A")
    draw(two, "B")
    fill(handover(two) / "worklist_A.csv", ["4", "4", "4", "4"])
    fill(handover(two) / "worklist_B.csv", ["8", "8", "8", "x"])
    assert collect.main(COLLECT) == 2
    assert "worklist_B.csv, row 5, column minutes" in capsys.readouterr().out
    assert Counter(one["rater"] for one in known(two)) == {"A": 4, "B": 3}
    fill(handover(two) / "worklist_B.csv", ["8", "8", "8", "8"])
    out = succeeds(capsys, collect.main, COLLECT)
    assert "minutes per case: 6, the mean of 6" in out
    succeeds(capsys, select.main, [*SELECT, "-b", "12min"])  # one annotator again
    assert len(picked(two)) == 2 and dealt(two) == {} and (handover(two, 2) / "labels").is_dir()
    for case in picked(two):
        write_picture(handover(two, 2) / "labels" / f"{case}.png", blob())
    assert "labelled now: 8 of 10" in succeeds(capsys, collect.main, COLLECT)
    assert json.loads(succeeds(capsys, status.main, ["-d", "2", "--json"]))["rounds"][1]["missing"] == []


def test_late_labels_and_minutes_of_raters_of_an_earlier_round(two, capsys):
    draw(two, "A")
    fill(handover(two) / "worklist_A.csv", ["4", "4", "4", "4"])
    succeeds(capsys, collect.main, COLLECT)
    succeeds(capsys, select.main, [*SELECT, "-b", "2", "--overwrite"])
    out = succeeds(capsys, collect.main, COLLECT)
    assert f"still missing: {', '.join(picked(two))}\n" in out and "  of B: " not in out
    cases = [row["case"] for row in rows(handover(two) / "worklist_B.csv")]
    draw(two, "B", *cases)
    fill(handover(two) / "worklist_B.csv", ["8", "8", "8", "8"])
    succeeds(capsys, collect.main, [*COLLECT, "-l", handover(two) / "labels"])
    labelled = json.loads((two.raw / TARGET / "dataset.json").read_text())["dataset"]
    told = {one["case"] for one in known(two) if one["rater"] == "B"}
    assert told == set(labelled) & set(cases) and len(told) >= 2


def test_study_has_nothing_to_deal_out(workspace, capsys):
    for image in workspace.images().iterdir():
        write_picture(workspace.raw / TARGET / "labelsTr" / image.name.replace("_0000", ""), blob())
    write_dataset_json(workspace.raw / TARGET)
    fails(capsys, select.main, [*SELECT, "-b", "2", "--raters", "A", "B"], "--raters deals out", "has a label")


def test_slices_of_two_raters(volumes, capsys):
    """Each rater has templates; of shared slices what was drawn there is compared and fused."""
    argv = [*SLICES, "-b", "8", "--max_per_volume", "2", "--raters", "A", "B", "--overlap", "1"]
    succeeds(capsys, select.main, argv)
    record = SelectionRecord.load(volumes.record(VOLUMES))
    folder = volumes.raw / VOLUMES / "annotate" / "round_01" / "labels"
    note = (folder.parent / "README.txt").read_text()
    assert "Draw only the slices that your list names" in note and "labels/YOU/ holds one template per image" in note
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz"))
    assert files == sorted(f"{r}/{case}.nii.gz" for case, raters in record.raters.items() for r in raters)
    for i, file in enumerate(files):
        label = load(folder / file)
        opened = np.flatnonzero((label == 0).any(axis=(1, 2)))
        label[opened, 4 : 9 + (i % 2), 5:12] = 1
        save(folder / file, label)
    out = succeeds(capsys, collect.main, ["-d", "31", "--fuse", "staple"])
    assert "labelled now" in out and out.count("shared: ") == 1 and "agreement" in out
    case = next(case for case, raters in record.raters.items() if len(raters) == 2)
    fused = load(volumes.raw / VOLUMES / "labelsTr" / f"{case}.nii.gz")
    drawn = [pick.slice for pick in record.selections[0].picks if pick.case == case]
    assert (fused == 1).any(axis=(1, 2)).nonzero()[0].tolist() == sorted(drawn) and case in CASES
    assert (np.delete(fused, drawn, axis=0) == 2).all()
