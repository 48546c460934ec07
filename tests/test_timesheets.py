"""Budgets that are a time, and the minutes that annotators fill into the worklist."""

import csv
import io
import json

import pytest
from making import TARGET, fails, read_worklist, succeeds
from test_annotation import COLLECT, collected, draw, handover, picked, steps

from nnunetv2_xssr.annotation.timesheets import read_minutes
from nnunetv2_xssr.commands import collect, select
from nnunetv2_xssr.records.spreadsheets import table_rows, write_table

SELECT = ["-d", "2", "--encoder", "intensity", "-device", "cpu"]


def saved(path):
    """The rows of a worklist as select or `fill` has written it."""
    if path.read_bytes().startswith(b"\xff\xfe"):
        return read_worklist(path)
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def fill(path, minutes, delimiter=",", encoding="utf-8-sig"):
    """Fill the column of a worklist, as a spreadsheet saves it."""
    rows = saved(path)
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], delimiter=delimiter)
    table.writeheader()
    table.writerows({**row, "minutes": cell} for row, cell in zip(rows, minutes, strict=True))
    path.write_text(text.getvalue(), encoding=encoding, newline="")


def minutes_in(path):
    return [row["minutes"] for row in saved(path)]


def known(workspace):
    return json.loads((workspace.record().parent / "manifest.json").read_text())["minutes"]


def test_time_with_minutes_given(workspace, capsys):
    out = succeeds(capsys, select.main, [*SELECT, "-b", "25min", "--minutes_per_case", "8"])
    assert "-b 25min: 8 minutes per case, as given" in out
    assert f"{TARGET}: 3 of 10 cases are picked" in out and len(picked(workspace)) == 3


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8-sig"), (";", "cp1252"), ("\t", "utf-16")])
def test_next_round_knows_the_minutes(workspace, capsys, delimiter, encoding):
    succeeds(capsys, select.main, [*SELECT, "-b", "25min", "--minutes_per_case", "8"])
    fill(handover(workspace) / "worklist.csv", ["10", "7,5", ""], delimiter, encoding)
    cases = picked(workspace)
    draw(workspace, *cases)
    out = succeeds(capsys, collect.main, COLLECT)
    assert "minutes per case: 8.75, the mean of 2" in out
    assert [(one["case"], one["minutes"]) for one in known(workspace)] == [(cases[0], 10), (cases[1], 7.5)]
    assert not any("--minutes_per_case" in step for step in steps(capsys))
    out = succeeds(capsys, select.main, [*SELECT, "-b", "0.5h"])
    assert "-b 0.5h: 8.75 minutes per case, the mean of 2 cases in the collected worklists" in out
    assert len(picked(workspace)) == 3 and len(known(workspace)) == 2
    assert minutes_in(handover(workspace, 2) / "worklist.csv") == [""] * 3


def test_only_labelled_cases_count_and_corrections_do(workspace, capsys):
    succeeds(capsys, select.main, [*SELECT, "-b", "2"])
    first, second = picked(workspace)
    worklist = handover(workspace) / "worklist.csv"
    fill(worklist, ["4", "9"])
    draw(workspace, first)
    succeeds(capsys, collect.main, COLLECT)
    assert [(one["case"], one["minutes"]) for one in known(workspace)] == [(first, 4)]
    fill(worklist, ["", "6"])
    draw(workspace, second)
    succeeds(capsys, collect.main, COLLECT)
    assert [(one["case"], one["minutes"]) for one in known(workspace)] == [(second, 6)]


def test_worklist_beside_the_labels_that_came_back(workspace, capsys):
    succeeds(capsys, select.main, [*SELECT, "-b", "2"])
    draw(workspace, *picked(workspace))
    returned = handover(workspace).rename(workspace.root / "returned")
    fill(returned / "worklist.csv", ["4", "9"])
    assert "the mean of 2" in succeeds(capsys, collect.main, [*COLLECT, "-l", returned / "labels"])


def test_select_typed_again_keeps_what_was_filled_in(workspace, capsys):
    succeeds(capsys, select.main, [*SELECT, "-b", "2"])
    worklist = handover(workspace) / "worklist.csv"
    fill(worklist, ["4", "so so"], ";")
    succeeds(capsys, select.main, [*SELECT, "-b", "2"])
    assert minutes_in(worklist) == ["4", "so so"]
    worklist.write_bytes(b"\0\1")
    fails(capsys, select.main, [*SELECT, "-b", "2"], "worklist.csv cannot be read")


def note_beside(rows):
    rows[1].append("blurred")


def case_changed_by_a_spreadsheet(rows):
    rows[1][rows[0].index("case")] = "blurred"
    rows[1][rows[0].index("minutes")] = "7"


def note_below(rows):
    rows.append(["blurred", "are the first two"])


def two_rows_of_a_case(rows):
    rows[0].append("remark")
    rows[1].append("blurred")
    rows.append([*rows[1][:-1], "no, sharp"])


@pytest.mark.parametrize("write", [note_beside, case_changed_by_a_spreadsheet, note_below, two_rows_of_a_case])
def test_notes_without_a_place_in_the_new_worklist_are_kept(workspace, capsys, write):
    succeeds(capsys, select.main, [*SELECT, "-b", "2"])
    worklist = handover(workspace) / "worklist.csv"
    kept = worklist.with_name("worklist.csv.kept_1")
    _, rows = table_rows(worklist)
    rows = [[*cells, *[""] * (len(rows[0][1]) - len(cells))] for _, cells in rows]
    write(rows)
    write_table(worklist, rows)
    before = worklist.read_bytes()
    out = succeeds(capsys, select.main, [*SELECT, "-b", "2"])
    assert kept.read_bytes() == before and f"kept as {kept.name}" in out
    succeeds(capsys, select.main, [*SELECT, "-b", "2"])
    assert not worklist.with_name("worklist.csv.kept_2").exists()


@pytest.mark.parametrize("raters", [[], ["--raters", "ann", "bob"]])
def test_notes_on_cases_that_are_picked_no_longer_are_kept(workspace, capsys, raters):
    succeeds(capsys, select.main, [*SELECT, "-b", "3", *raters])
    lists = sorted(handover(workspace).glob("worklist_*.csv")) or [handover(workspace) / "worklist.csv"]
    before = {}
    for worklist in lists:
        _, rows = table_rows(worklist)
        write_table(worklist, [[*rows[0][1], "remark"], *([*cells, "hard"] for _, cells in rows[1:])])
        before[worklist] = worklist.read_bytes()
    succeeds(capsys, select.main, [*SELECT, "-b", "1", "--overwrite"])
    for worklist, content in before.items():
        kept = worklist.with_name(f"{worklist.name}.kept_1")
        assert (worklist if raters else kept).read_bytes() == content


@pytest.mark.parametrize("cell", ["ten", "0", "-3", "1,500", "inf", "nan", "5" * 5000, "1e3", "7.5.1", "٣"])
def test_cell_that_is_no_number(workspace, capsys, cell):
    succeeds(capsys, select.main, [*SELECT, "-b", "2"])
    fill(handover(workspace) / "worklist.csv", ["4", cell])
    draw(workspace, *picked(workspace))
    assert collect.main(COLLECT) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.out.splitlines() if line.startswith("does not fit: ")]
    assert "worklist.csv, row 3, column minutes: must be a number above 0" in line and cell[:50] in line
    assert len(line) < 400 and "labelled now: 2 of 10" in printed.out and len(known(workspace)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"case,slice,minutes\nv_0,3,5\nv_9,3,5\n", ["row 3, column case: 'v_9' was not chosen"]),
        (b"case,slice,minutes\nv_0,3,5\nv_0,7,5\n", ["row 3, column slice: '7' was not chosen"]),
        (b"case,slice,minutes\nv_0,3,5\nv_0,,5\n", ["row 3, column slice: '' was not chosen"]),
        (b"case,slice,minutes\nv_0,3,5\n\nv_0,3,6\n", ["row 4, column case: v_0 has minutes in a row above"]),
        (b"case,slice,minutes\nv_0,3,5\nv_1,x,5\n", ["row 3, column slice: 'x' was not chosen"]),
        (b"rank,slice,minutes\n1,3,5\n", ["has no column case"]),
        (b"", ["has no column case"]),
        (b"\0\1\2", ["cannot be read"]),
        (b'case,minutes\n"v_0,5\n', ["cannot be read"]),
    ],
)
def test_worklist_that_does_not_fit(tmp_path, content, words):
    path = tmp_path / "worklist.csv"
    path.write_bytes(content)
    found, unfit = read_minutes(path, asked={("v_0", 3), ("v_1", None)})
    assert len(unfit) == 1 and all(word in unfit[0] for word in words), unfit
    assert sum(one is not None for one in found.values()) == (b"v_0,3,5" in content)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-b", "60min"], ["-b 60min needs the minutes per case", "--minutes_per_case"]),
        (["-b", "5min", "--minutes_per_case", "8"], ["5min buys nothing at 8 minutes each"]),
        (["-b", "5", "--minutes_per_case", "8"], ["--minutes_per_case needs a time such as -b 60min"]),
        (["-b", "5h", "--minutes_per_case", "0"], ["--minutes_per_case must be a number above 0"]),
        (["-b", "5h", "--minutes_per_case", "nan"], ["--minutes_per_case must be a number above 0"]),
    ],
)
def test_options_that_do_not_fit(workspace, capsys, argv, words):
    fails(capsys, select.main, [*SELECT, *argv], *words)


def test_minutes_of_cases_say_nothing_about_slices(workspace, capsys):
    succeeds(capsys, select.main, [*SELECT, "-b", "2"])
    fill(handover(workspace) / "worklist.csv", ["4", "9"])
    collected(workspace, capsys)
    argv = [*SELECT, "-b", "60min", "--unit", "slice"]
    fails(capsys, select.main, argv, "-b 60min needs the minutes per slice")
