"""The functions of docs/python.md, where they are called otherwise than commands call them."""

import numpy as np
import pytest
from making import TARGET, write_picture

import nnunetv2_xssr as xssr

OPTIONS = {"budget": 3, "sources": ["1"], "encoder": "intensity", "device": "cpu"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sources": "Dataset001_Source"}, "sources must be a list of names; got the text 'Dataset001_Source'"),
        ({"excluded": "t_00"}, "excluded must be a list of names"),
        ({"labelled": "t_00"}, "labelled must be a list of names"),
        ({"raters": "AB"}, "raters must be a list of names"),
        ({"domain_quota": "equal"}, "domain_quota must be a list of names"),
        ({"excluded": ["t_01"], "veto_reasons": {"t_00": "duplicate"}}, "veto_reasons names t_00, which excluded does"),
    ],
)
def test_what_would_be_taken_for_something_else_is_refused(workspace, options, words):
    with pytest.raises(xssr.UserError, match=words):
        xssr.select_cases(TARGET, **{**OPTIONS, **options})
    assert not workspace.record().exists()


def test_datasets_are_named_by_number(workspace):
    first = xssr.select_cases(2, **OPTIONS)
    assert first == xssr.select_cases("2", **OPTIONS) and xssr.project_status(2).dataset == TARGET
    assert (
        xssr.verify_selection(2).changed == [] and xssr.write_report("2") == workspace.record().parent / "report.html"
    )


def test_paths_may_be_texts(workspace):
    features, table = workspace.root / "features.npz", workspace.root / "cases.csv"
    cases = [f"t_{i:02d}" for i in range(10)]
    np.savez(features, cases=np.array(cases), features=np.random.default_rng(0).normal(size=(10, 4)))
    table.write_text("case,group\n" + "".join(f"{case},p{i // 2}\n" for i, case in enumerate(cases)))
    options = {"budget": 3, "max_per_group": 1}
    first = xssr.select_cases(TARGET, **options, embeddings=str(features), cases=str(table))
    assert first == xssr.select_cases(TARGET, **options, embeddings=features, cases=table)
    for case in first.picked:
        write_picture(workspace.root / "back" / f"{case}.png", np.eye(40, 48, dtype=np.uint8))
    assert xssr.collect_labels(TARGET, labels=str(workspace.root / "back")).labelled == sorted(first.picked)
    with pytest.raises(xssr.UserError, match="nowhere"):
        xssr.select_cases(TARGET, **options, embeddings=features, cases=table, prelabel="nowhere")


def test_names_come_in_any_order(workspace):
    first = xssr.select_cases(TARGET, **OPTIONS, labelled={"t_00", "t_05"})
    assert first == xssr.select_cases(TARGET, **OPTIONS, labelled=["t_05", "t_00"])
