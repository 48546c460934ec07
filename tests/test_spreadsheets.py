"""Names that a spreadsheet would run as a formula are written as text, and read back as they were."""

import csv
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import SOURCE, TARGET, read_worklist, write_dataset_json, write_pictures

from nnunetv2_xssr.commands import collect, select
from nnunetv2_xssr.encoders.feature_files import FeatureFile, read_features, write_features
from nnunetv2_xssr.images.case_table import read_names, with_case_table
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.manifest import id_in_worklist
from nnunetv2_xssr.records.spreadsheets import plain_cell, safe_cell, write_table

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1", "''@x"]


@given(st.text(alphabet="'=+-@\t\ra1 "))
def test_a_cell_is_read_back_as_it_was(text):
    assert plain_cell(safe_cell(text)) == text
    assert not re.match(r"[=+\-@\t\r]", safe_cell(text))


@pytest.mark.parametrize("text", FORMULAS)
def test_what_would_run_is_text(text):
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["t_00", "a=b", "'quoted'", "", "Ü", "1-2"])
def test_other_text_stays(text):
    assert safe_cell(text) == text == plain_cell(text)


@pytest.mark.parametrize("delimiter, encoding", [(";", "cp1252"), ("\t", "utf-16"), (",", "utf-8-sig")])
def test_worklist_that_a_spreadsheet_saved_again_tells_its_selection(tmp_path, delimiter, encoding):
    path, rows = tmp_path / "worklist.csv", [["rank", "case", "selection"], [1, "Müller, A", "s1"], [2, "=b;c", "s1"]]
    write_table(path, rows)
    read = read_worklist(path)
    assert [row["case"] for row in read] == ["Müller, A", "'=b;c"] and id_in_worklist(path) == "s1"
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([list(read[0]), *(row.values() for row in read)])
    assert id_in_worklist(path) == "s1"
    path.write_bytes(b"\xff\xfe\x00")
    assert id_in_worklist(path) is None


@pytest.mark.parametrize("ending", [".csv", ".npz"])
def test_features_of_such_cases(tmp_path, ending):
    cases, rows = ["=1", "-a", "b"], np.eye(3, dtype=np.float32)
    write_features(tmp_path / f"f{ending}", FeatureFile(cases, rows))
    found, back, _ = read_features(tmp_path / f"f{ending}", option="--embeddings", cases=cases)
    assert found == cases and np.array_equal(back, rows)


def test_worklist_of_such_cases_and_back(empty, capsys):
    """The worklist is harmless, serves as a table and as a list of cases, and the labels are collected."""
    folder = empty.raw / TARGET
    write_pictures(empty.raw / SOURCE, 4, first_seed=1, prefix="s")
    write_pictures(folder, 3, first_seed=10, prefix="=c", labelled=3)
    names = [f"=c_{i:02d}" for i in range(3)]
    write_dataset_json(folder, domains=dict.fromkeys(names, "@A"), groups={case: f"+{case}" for case in names})
    labels = empty.root / "labels"
    (folder / "labelsTr").rename(labels)
    features = empty.root / "f.npz"
    write_features(features, FeatureFile(names, np.eye(3, dtype=np.float32)))
    assert select.main(["-d", "2", "-b", "3", "--embeddings", str(features), "-device", "cpu"]) == 0
    worklist = folder / "annotate" / "round_01" / "worklist.csv"
    rows = read_worklist(worklist)
    assert sorted(row["case"] for row in rows) == [f"'{case}" for case in names]
    assert {row["domain"] for row in rows} == {"'@A"} and all(row["group"].startswith("'+=c") for row in rows)
    described = with_case_table(dataset_pool(TARGET), worklist).cases
    assert [(case.domain, case.group) for case in described] == [("@A", f"+{case}") for case in names]
    listed = empty.root / "names.txt"
    listed.write_text("".join(f"{row['case']}\n" for row in rows))
    assert read_names(listed) == names
    assert collect.main(["-d", "2", "-l", str(labels)]) == 0, capsys.readouterr()
    assert "labelled now: 3 of 3" in capsys.readouterr().out
