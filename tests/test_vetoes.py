"""Vetoes: cases that nobody shall annotate stay out of later rounds, with their reasons."""

import json

import pytest
from making import fails, succeeds
from test_annotation import COLLECT, SELECT, collected, draw, folds, picked, state, steps

from nnunetv2_xssr.commands import collect, select, status
from nnunetv2_xssr.images.case_table import read_vetoes


def listed(workspace, *lines):
    path = workspace.root / "exclude.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def second(again, capsys):
    """Round one, with one pick vetoed, and another vetoed before round two."""
    first = picked(again)[0]
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--exclude", listed(again, f"{first}\twrong body part")])
    one, two, three = picked(again)
    draw(again, one, two)
    succeeds(capsys, collect.main, COLLECT)
    succeeds(capsys, select.main, [*SELECT, "--exclude", listed(again, f"{three}\ttoo hard")])
    return again, first, three


def test_vetoes_last_over_rounds(second, capsys):
    workspace, first, three = second
    assert workspace.selection()["round"] == 2  # nobody waits for the vetoed pick
    assert workspace.selection()["vetoes"] == {**{first: "wrong body part"}, **{three: "too hard"}}
    assert not {first, three} & set(picked(workspace))
    draw(workspace, *picked(workspace), number=2)
    succeeds(capsys, collect.main, COLLECT)
    assert "--exclude" not in " ".join(steps(capsys))
    assert f"vetoed before, and left out again: {', '.join(sorted([first, three]))}, 2 in all" in succeeds(
        capsys, select.main, [*SELECT[:4], "-b", "2", "-device", "cpu"]
    )
    assert workspace.selection()["round"] == 3
    assert workspace.selection()["vetoes"] == {first: "wrong body part", three: "too hard"}
    assert not {first, three} & set(picked(workspace))


def test_forget_vetoes_takes_cases_in_again(second, capsys):
    workspace, first, three = second
    succeeds(capsys, select.main, [*SELECT[:4], "-b", "6", "-device", "cpu", "--overwrite"])
    assert len(picked(workspace)) == 6 and not {first, three} & set(picked(workspace))
    fails(capsys, select.main, [*SELECT[:4], "-b", "8", "-device", "cpu", "--overwrite"], "8")
    succeeds(capsys, select.main, [*SELECT[:4], "-b", "8", "-device", "cpu", "--overwrite", "--forget_vetoes"])
    assert {first, three} <= set(picked(workspace)) and workspace.selection()["vetoes"] == {}


def test_a_labelled_case_that_is_vetoed_leaves_the_split(again, capsys):
    first = collected(again, capsys)
    out = first[0]
    succeeds(capsys, select.main, [*SELECT, "--exclude", listed(again, f"{out}\tduplicate")])
    second = picked(again)
    draw(again, *second, number=2)
    told = succeeds(capsys, collect.main, COLLECT)
    assert f"labelled, but vetoed, and so not in the split: {out}, 1 in all" in told
    assert {case for fold in folds(again) for part in fold.values() for case in part} == {*first[1:], *second}
    succeeds(capsys, select.main, [*SELECT[:4], "-b", "1", "-device", "cpu", "--forget_vetoes"])
    draw(again, *picked(again), number=3)
    assert "vetoed" not in succeeds(capsys, collect.main, COLLECT)
    assert {case for fold in folds(again) for case in fold["val"]} == {*first, *second, *picked(again)}


def test_status_tells_vetoes(second, capsys):
    _, first, three = second
    text = succeeds(capsys, status.main, ["-d", "2"])
    assert "round 1: 3 picked, 2 labelled, 1 vetoed" in text
    assert f"vetoed, and left out until --forget_vetoes: {', '.join(sorted([first, three]))} (" in text
    assert "1 wrong body part" in text and "1 too hard" in text
    assert state(capsys)["vetoes"] == {first: "wrong body part", three: "too hard"}


def test_repeated_call_needs_no_list(again, capsys):
    path = listed(again, picked(again)[0])
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--exclude", path])
    before = again.record().read_bytes()
    succeeds(capsys, select.main, SELECT)
    assert again.record().read_bytes() == before


def test_vetoed_image_may_be_removed(again, capsys):
    first = picked(again)[0]
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--exclude", listed(again, f"{first}\tunusable")])
    (again.images() / f"{first}_0000.png").unlink()
    succeeds(capsys, select.main, [*SELECT, "--overwrite"])
    assert again.selection()["vetoes"] == {first: "unusable"}


def test_exclusions_of_an_older_record_last(again, capsys):
    first = picked(again)[0]
    succeeds(capsys, select.main, [*SELECT, "--overwrite", "--exclude", listed(again, first)])
    content = again.selection()
    del content["vetoes"]
    again.record().write_text(json.dumps(content))
    succeeds(capsys, select.main, [*SELECT, "--overwrite"])
    assert again.selection()["vetoes"] == {first: None} and first not in picked(again)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["t_01\tbroken"], ["'broken'", "t_01", "unusable, wrong body part, duplicate, too hard"]),
        (["t_01\tunusable\tduplicate"], ["'unusable\\tduplicate'", "t_01"]),
        (["t_01\tunusable", "t_01\tduplicate"], ["two reasons for t_01"]),
        (["t_77\tunusable"], ["--exclude", "t_77", "t_00"]),
    ],
)
def test_list_of_vetoes_that_does_not_fit(again, capsys, lines, words):
    before = again.record().read_bytes()
    fails(capsys, select.main, [*SELECT, "--overwrite", "--exclude", listed(again, *lines)], *words)
    assert again.record().read_bytes() == before


def test_record_with_an_unknown_reason_is_refused(again, capsys):
    content = {**again.selection(), "vetoes": {"t_01": "boring"}}
    again.record().write_text(json.dumps(content))
    fails(capsys, status.main, ["-d", "2"], "selection.json", "vetoes.t_01", "unusable", '"boring"')


def test_reasons_are_read_from_a_list(tmp_path):
    (tmp_path / "list.txt").write_text("b\r\n\r\n a\ttoo hard \r\n'=c\tduplicate\r\n", encoding="utf-8-sig", newline="")
    assert read_vetoes(tmp_path / "list.txt") == {"a": "too hard", "b": None, "=c": "duplicate"}
    assert read_vetoes(None) == {}
