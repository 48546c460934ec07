"""Folds of selected cases, folds of a study, and the split file."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import TARGET, fails, picture, succeeds, write_picture

from nnunetv2_xssr.commands import collect, select
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.folds import cross_validation, grow_folds, study_folds
from nnunetv2_xssr.records.split import cases_of_fold, read_split, selected_split, write_split
from nnunetv2_xssr.records.trained_fold import TrainedFold
from nnunetv2_xssr.records.workspace import Workspace


def names(n):
    return [f"c{i:03d}" for i in range(n)]


@given(st.integers(2, 60))
def test_cross_validation_validates_every_case_once(n):
    folds = cross_validation(names(n))
    assert len(folds) == min(5, n)  # leave-one-out below five
    assert sorted(case for fold in folds for case in fold["val"]) == names(n)
    for fold in folds:
        assert fold["train"] and fold["val"]
        assert sorted(fold["train"] + fold["val"]) == names(n)


def test_a_single_case_validates_on_itself():
    assert cross_validation(["a"]) == [{"train": ["a"], "val": ["a"]}]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40))
def test_patients_are_never_torn_apart(patients):
    cases = names(len(patients))
    groups = {case: f"p{p}" for case, p in zip(cases, patients, strict=True) if p}  # patient 0: none is known
    folds = cross_validation(cases, groups=groups)
    if len(folds) == 1:
        assert folds[0]["train"] == folds[0]["val"]
        return
    assert sorted(case for fold in folds for case in fold["val"]) == cases
    for fold in folds:
        train, val = ({groups.get(case, case) for case in fold[part]} for part in ("train", "val"))
        assert train and val and not train & val


def test_folds_are_those_of_stock_nnunet_and_independent_of_order():
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    ours = cross_validation(names(23)[::-1])
    stock = generate_crossval_split(names(23), seed=12345, n_splits=5)
    assert ours == [{part: list(map(str, fold[part])) for part in ("train", "val")} for fold in stock]
    assert json.loads(json.dumps(ours)) == ours  # plain strings


# --- over rounds


ROUNDS = st.lists(st.lists(st.integers(0, 8), max_size=9), min_size=1, max_size=5)  # patients of the new cases; 0: none


def grown(rounds):
    """After each round its split, all cases so far and their groups."""
    split, cases, groups = None, [], {}
    for number, patients in enumerate(rounds):
        new = [f"{number}{i:02d}" for i in range(len(patients))]
        cases = cases + new
        groups = groups | {case: f"p{p}" for case, p in zip(new, patients, strict=True) if p}
        if cases:
            before, split = split, grow_folds(split, cases, groups=groups)
            yield before, split, cases, groups


def patients_of(cases, groups):
    return {groups.get(case, case) for case in cases}


@given(ROUNDS)
def test_grown_folds_are_a_cross_validation_by_patient(rounds):
    for _, split, cases, groups in grown(rounds):
        patients = patients_of(cases, groups)
        if len(patients) == 1:
            assert split == [{"train": sorted(cases), "val": sorted(cases)}]
            continue
        assert len(split) == min(5, len(patients))
        assert sorted(case for fold in split for case in fold["val"]) == sorted(cases)
        for fold in split:
            assert fold["train"] and fold["val"]
            assert sorted(fold["train"] + fold["val"]) == sorted(cases)
            assert not patients_of(fold["train"], groups) & patients_of(fold["val"], groups)


@given(ROUNDS)
def test_a_case_keeps_its_fold_for_ever(rounds):
    for before, split, _, _ in grown(rounds):
        for number, fold in enumerate(before or []):
            assert set(fold["val"]) <= set(split[number]["val"])


@given(ROUNDS)
def test_grown_folds_are_of_about_one_size(rounds):
    for _, split, cases, groups in grown(rounds):
        of_patient = [sum(groups.get(case, case) == p for case in cases) for p in patients_of(cases, groups)]
        sizes = [len(fold["val"]) for fold in split]
        assert max(sizes) - min(sizes) <= max(of_patient)


@given(st.integers(1, 30), st.booleans())
def test_first_split_is_the_cross_validation(n, by_patient):
    groups = {case: f"p{i // 3}" for i, case in enumerate(names(n))} if by_patient else None
    assert grow_folds(None, names(n), groups=groups) == cross_validation(names(n), groups=groups)


@pytest.mark.parametrize(("n", "told"), [(1, False), (4, True)])
def test_cases_of_one_patient_are_told_to_validate_on_themselves(caplog, n, told):
    grow_folds(None, names(n), groups=dict.fromkeys(names(n), "p"))
    assert (f"all {n} cases are of group p" in caplog.text) == told


def test_patient_known_later_goes_to_the_fold_of_its_first_case(caplog):
    before = cross_validation(names(6))
    home = {case: number for number, fold in enumerate(before) for case in fold["val"]}
    first, second = sorted([before[3]["val"][0], before[1]["val"][0]])
    with caplog.at_level(logging.INFO, "nnunetv2_xssr"):
        after = grow_folds(before, names(6), groups={first: "p", second: "p"})
    now = {case: number for number, fold in enumerate(after) for case in fold["val"]}
    assert now == {**home, second: home[first]}
    assert "group p" in caplog.text and f"to fold {home[first]}" in caplog.text


def test_fold_whose_cases_are_gone_keeps_its_number():
    before = cross_validation(names(5))
    gone, last = before[1]["val"], before[4]["val"]
    after = grow_folds(before, sorted(set(names(5)) - set(gone)))
    assert after[1]["val"] == [] and [fold["val"] for fold in after[2:]] == [fold["val"] for fold in before[2:]]
    assert grow_folds(after, [*sorted(set(names(5)) - set(gone)), "new"])[1]["val"] == ["new"]
    assert len(grow_folds(before, sorted(set(names(5)) - set(last)))) == 4


def test_folds_of_which_one_would_be_left_are_made_anew():
    before = [{"train": ["a", "b"], "val": ["a", "b"]}]  # of one patient, it was thought
    assert grow_folds(before, ["a", "b"]) == cross_validation(["a", "b"])


@pytest.mark.parametrize("by_patient", [False, True])
def test_rounds_of_annotation_keep_the_folds(again, capsys, by_patient):
    table = again.root / "cases.csv"
    table.write_text("case,patient\n" + "".join(f"t_{i:02d},p{i // 2}\n" for i in range(10)))
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", *(["--cases", table] if by_patient else [])]
    home, split = {}, None
    for number in (1, 2, 3):
        out = succeeds(capsys, select.main, [*argv, *(["--overwrite"] if number == 1 else [])])
        assert again.split().exists() == (f"kept {again.split()}" in out) == (number > 1)
        if number > 1:  # chosen otherwise before any label is there: what was trained on stays
            succeeds(capsys, select.main, [*argv, "--overwrite", "--strategy", "random"])
            assert json.loads(again.split().read_text()) == split
        for pick in again.selection()["selections"][0]["picks"]:
            handover = again.raw / TARGET / "annotate" / f"round_{number:02d}" / "labels"
            write_picture(handover / f"{pick['case']}.png", picture(number).clip(0, 1))
        succeeds(capsys, collect.main, ["-d", "2"])
        split = json.loads(again.split().read_text())
        now = {case: number for number, fold in enumerate(split) for case in fold["val"]}
        assert len(now) == 3 * number and {case: now[case] for case in home} == home
        home = now
        for fold in split if by_patient else []:
            train, val = ({int(case[-2:]) // 2 for case in fold[part]} for part in ("train", "val"))
            assert train and val and not train & val


# --- of a study


def test_select_never_writes_a_study_that_tears_patients_apart(again, capsys):
    table = again.root / "cases.csv"
    table.write_text("case,patient\n" + "".join(f"t_{i:02d},p{i // 3}\n" for i in range(10)))
    for i in range(10):
        write_picture(again.raw / TARGET / "labelsTr" / f"t_{i:02d}.png", picture(i).clip(0, 1))
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", "--overwrite", "--cases", table]
    succeeds(capsys, select.main, argv)
    for fold in json.loads(again.split().read_text()):
        assert not {int(case[-2:]) // 3 for case in fold["train"]} & {int(case[-2:]) // 3 for case in fold["val"]}
    theirs = again.preprocessed / TARGET / "splits_final.json"
    theirs.write_text(json.dumps(cross_validation([f"t_{i:02d}" for i in range(10)])))
    before = again.results_of_select()
    fails(capsys, select.main, argv, theirs, "in both parts of fold 0", "delete or rename")
    assert again.results_of_select() == before


def test_study_takes_the_users_own_folds(tmp_path):
    own = [{"train": ["c000"], "val": ["c001"]}]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "splits_final.json").write_text(json.dumps(own))
    assert study_folds(names(5), folders=[tmp_path / "a", tmp_path / "b"]) == own
    assert study_folds(names(5), folders=[tmp_path / "a"]) == cross_validation(names(5))
    (tmp_path / "b" / "splits_final.json").write_text("[]")
    with pytest.raises(UserError, match="splits_final.json has no fold"):
        study_folds(names(5), folders=[tmp_path / "b"])


def test_study_whose_folds_name_unknown_cases(tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["c000", "who"], "val": ["c001"]}]))
    with pytest.raises(UserError, match=r"splits_final.json names 1 cases .*who"):
        study_folds(names(5), folders=[tmp_path])


def test_study_whose_folds_have_a_case_in_both_parts(tmp_path):
    own = [{"train": names(5)[:3], "val": names(5)[3:]}, {"train": names(5)[2:], "val": names(5)[:3]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(own))
    with pytest.raises(UserError, match=f"has 1 cases in both parts of fold 1 .{names(5)[2]}.*out of one"):
        study_folds(names(5), folders=[tmp_path])


def test_study_whose_folds_tear_patients_apart(tmp_path):
    groups = {case: f"p{i // 4}" for i, case in enumerate(names(23))}
    folds = cross_validation(names(23))  # random ones, as nnU-Net makes them
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    torn = sorted(patients_of(folds[0]["train"], groups) & patients_of(folds[0]["val"], groups))
    with pytest.raises(UserError) as caught:
        study_folds(names(23), folders=[tmp_path], groups=groups)
    for part in (tmp_path / "splits_final.json", f"has {len(torn)} patients in both", "fold 0", torn[0], "delete"):
        assert str(part) in str(caught.value)
    (tmp_path / "splits_final.json").write_text(json.dumps(cross_validation(names(23), groups=groups)))
    assert study_folds(names(23), folders=[tmp_path], groups=groups) == cross_validation(names(23), groups=groups)


# --- the files


def test_split_file_is_exactly_nnunets_format(tmp_path):
    path = tmp_path / "splits_xssr.json"
    split = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a"]}]
    write_split(path, split)
    assert json.loads(path.read_text()) == split == read_split(path)
    assert cases_of_fold(split, fold=1, path=path) == (["c"], ["a"])
    assert cases_of_fold(split, fold="all", path=path) == (["a", "b", "c"], ["a", "b", "c"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "the file must be a list"),
        ("[1]", r"\[0\] must be an object; got 1"),
        ('[{"train": ["a"]}]', r"\[0\].val is missing"),
        ('[{"train": "a", "val": []}]', r"\[0\].train must be a list"),
        ('[{"train": [1], "val": ["a"]}]', r"\[0\].train\[0\] must be text; got 1"),
        ('[{"train": ["a/b"], "val": ["a"]}]', r"\[0\].train\[0\] must be the name of a file"),
    ],
)
def test_split_in_another_format(tmp_path, content, words):
    path = tmp_path / "splits_xssr.json"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        read_split(path)


@pytest.mark.parametrize(("name", "option"), [("xssr", "5%$"), ("arm-2", "5% --name arm-2$")])
def test_no_split(empty, name, option):
    with pytest.raises(UserError, match=f"there is no split .* nnUNetv2_xssr_select -d Dataset001_A .*{option}"):
        selected_split(Workspace("Dataset001_A", name))


@pytest.mark.parametrize("fold", [2, 7, -1])
def test_fold_that_is_not_there(tmp_path, fold):
    split = [{"train": ["a"], "val": ["b"]}] * 2
    with pytest.raises(UserError, match=f"fold must be one of 0, 1 or all.*got {fold}"):
        cases_of_fold(split, fold=fold, path=tmp_path)


@pytest.mark.parametrize("fold", [0, "all"])
def test_split_without_any_fold_or_case(tmp_path, fold):
    with pytest.raises(UserError):
        cases_of_fold([], fold=fold, path=tmp_path)
    with pytest.raises(UserError, match="has no training case"):
        cases_of_fold([{"train": [], "val": ["a"]}], fold=fold, path=tmp_path)


def test_trained_fold_is_read_back(tmp_path):
    fold = TrainedFold(selection="xssr", train=["a", "b"], val=["c"])
    fold.write(tmp_path / "fold.json")
    assert TrainedFold.load(tmp_path / "fold.json") == fold
    content = json.loads((tmp_path / "fold.json").read_text())
    assert content == {
        "kind": "trained fold",
        "format_version": 1,
        "selection": "xssr",
        "train": ["a", "b"],
        "val": ["c"],
    }
    others = [{"selection": "other"}, {"train": ["a"]}, {"val": ["d"]}, {"train": ["a", "c"], "val": ["b"]}]
    others = [TrainedFold(**{"selection": "xssr", "train": ["a", "b"], "val": ["c"], **other}) for other in others]
    assert len({fold.sha256, *(other.sha256 for other in others)}) == 5


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "selection"}', '{"kind": "trained fold", "format_version": 1}'])
def test_trained_fold_that_is_none(tmp_path, text):
    (tmp_path / "fold.json").write_text(text)
    with pytest.raises(UserError, match="fold.json"):
        TrainedFold.load(tmp_path / "fold.json")


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        (["b", "a"], ["c"], ""),
        (["a", "b", "d"], ["c"], "d came into training"),
        (["a", "c"], ["b"], "c came into training, b left training, b came into validation, c left validation"),
        (["a", "b"], ["c", "x1", "x2", "x3", "x4"], "x1, x2, x3, ... came into validation"),
    ],
)
def test_changes_of_a_trained_fold_in_words(train, val, words):
    assert TrainedFold(selection="xssr", train=["a", "b"], val=["c"]).changes(train=train, val=val) == words


def test_a_label_that_is_gone_takes_no_split_from_folds_that_were_trained(again, capsys):
    """Select wrote one over picks without a label, and collect began anew, with cases in other folds."""
    argv = ["-d", "2", "-s", "1", "-b", "6", "-device", "cpu"]
    succeeds(capsys, select.main, [*argv, "--overwrite"])
    first = [pick["case"] for pick in again.selection()["selections"][0]["picks"]]
    for case in first:
        write_picture(again.raw / TARGET / "annotate" / "round_01" / "labels" / f"{case}.png", picture(1).clip(0, 1))
    succeeds(capsys, collect.main, ["-d", "2"])
    split = again.split().read_bytes()
    home = {case: number for number, fold in enumerate(json.loads(split)) for case in fold["val"]}
    gone = sorted(first)[0]
    for file in [
        *again.raw.glob(f"{TARGET}/labelsTr/{gone}.png"),
        *again.raw.glob(f"{TARGET}/annotate/*/*/{gone}.png"),
    ]:
        file.unlink()
    described = json.loads((again.raw / TARGET / "dataset.json").read_text())
    del described["dataset"][gone]
    (again.raw / TARGET / "dataset.json").write_text(json.dumps({**described, "numTraining": 5}))
    succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", "2", "-device", "cpu", "--overwrite"])
    assert again.split().read_bytes() == split
    for pick in again.selection()["selections"][0]["picks"]:
        label = again.raw / TARGET / "annotate" / "round_02" / "labels" / f"{pick['case']}.png"
        write_picture(label, picture(2).clip(0, 1))
    succeeds(capsys, collect.main, ["-d", "2"])
    now = {case: number for number, fold in enumerate(json.loads(again.split().read_text())) for case in fold["val"]}
    assert {case: now[case] for case in home if case != gone} == {c: n for c, n in home.items() if c != gone}
