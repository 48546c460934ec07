"""Folds of selected cases, folds of a study, and the split file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.folds import cross_validation, study_folds
from nnunetv2_xssr.records.split import cases_of_fold, read_split, write_split


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
    folds = cross_validation(cases, groups)
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


def test_study_takes_the_users_own_folds(tmp_path):
    own = [{"train": ["c000"], "val": ["c001"]}]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "splits_final.json").write_text(json.dumps(own))
    assert study_folds(names(5), [tmp_path / "a", tmp_path / "b"], None) == own
    assert study_folds(names(5), [tmp_path / "a"], None) == cross_validation(names(5))


def test_study_whose_folds_name_unknown_cases(tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["c000", "who"], "val": ["c001"]}]))
    with pytest.raises(UserError, match=r"splits_final.json names 1 cases .*who"):
        study_folds(names(5), [tmp_path], None)


def test_split_file_is_exactly_nnunets_format(tmp_path):
    path = tmp_path / "splits_xssr.json"
    split = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a"]}]
    write_split(path, split)
    assert json.loads(path.read_text()) == split == read_split(path)
    assert cases_of_fold(split, 1, path) == (["c"], ["a"])
    assert cases_of_fold(split, "all", path) == (["a", "b", "c"], ["a", "b", "c"])


@pytest.mark.parametrize(
    "content", ["{}", "[1]", '[{"train": ["a"]}]', '[{"train": "a", "val": []}]', '[{"train": [1], "val": ["a"]}]']
)
def test_split_in_another_format(tmp_path, content):
    path = tmp_path / "splits_xssr.json"
    path.write_text(content)
    with pytest.raises(UserError, match="must be a list of"):
        read_split(path)


def test_no_split(tmp_path):
    with pytest.raises(UserError, match="there is no split .* nnUNetv2_xssr_select -d Dataset001_A"):
        read_split(tmp_path / "Dataset001_A" / "splits_xssr.json")


@pytest.mark.parametrize("fold", [2, 7, -1])
def test_fold_that_is_not_there(tmp_path, fold):
    split = [{"train": ["a"], "val": ["b"]}] * 2
    with pytest.raises(UserError, match=f"fold must be one of 0, 1 or all.*got {fold}"):
        cases_of_fold(split, fold, tmp_path)


@pytest.mark.parametrize("fold", [0, "all"])
def test_split_without_any_fold_or_case(tmp_path, fold):
    with pytest.raises(UserError):
        cases_of_fold([], fold, tmp_path)
    with pytest.raises(UserError, match="has no training case"):
        cases_of_fold([{"train": [], "val": ["a"]}], fold, tmp_path)
