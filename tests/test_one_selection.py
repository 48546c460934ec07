"""All files of a selection are of one selection; where a select was interrupted, it is said, and typed again."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import slicing
from making import TARGET, fails, picture, read_worklist, succeeds, write_picture

from nnunetv2_xssr.annotation.handover import drawn_labels, write_handover
from nnunetv2_xssr.annotation.sparse_labels import with_ignore
from nnunetv2_xssr.commands import collect, select, status, verify
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.manifest import Manifest, check_own_split, id_in_report, id_in_worklist
from nnunetv2_xssr.records.selection import Pick, SelectionRecord
from nnunetv2_xssr.records.split import read_split
from nnunetv2_xssr.records.workspace import Workspace

OVERWRITE = ["-d", "2", "-s", "1", "-b", "4", "-device", "cpu", "--overwrite"]


class Killed(BaseException):
    """Ends a command as a kill does: nothing catches it."""


def killed_before(patch, wanted):
    """End the process before a file of this name is put into its place, or before the n-th one is."""
    replace, n = os.replace, [0]

    def replaced(old, new):
        n[0] += 1
        if wanted in (Path(new).name, n[0]):
            raise Killed
        replace(old, new)

    patch.setattr(os, "replace", replaced)


def ids(workspace):
    """The id of the selection in every one of its files."""
    files = Workspace(TARGET)
    return [
        SelectionRecord.load(files.record).id if files.record.is_file() else None,
        Manifest.load(files.manifest).selection,
        id_in_report(files.report),
        id_in_worklist(files.worklist(1)),
    ]


def test_every_file_has_the_id(again, capsys):
    assert len(set(ids(again))) == 1 and re.fullmatch(r"s[0-9a-f]{15}", ids(again)[0])
    assert {row["selection"] for row in read_worklist(Workspace(TARGET).worklist(1))} == {ids(again)[0]}
    assert json.loads(succeeds(capsys, status.main, ["-d", "2", "--json"]))["interrupted"] is None


@pytest.mark.parametrize(
    ("before", "first"),
    [
        *((file, False) for file in ("worklist.csv", "report.html", "selection.json")),
        ("selection.json", True),
    ],
)
def test_interrupted_select_is_said_and_typed_again(again, capsys, monkeypatch, before, first):
    """Killed before it has put this file into its place, also where it is the first select."""
    if first:
        again.forget_selection()
    monkeypatch.setattr(sys, "argv", ["/somewhere/nnUNetv2_xssr_select", *OVERWRITE])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_before(patch, before)
        select.main(OVERWRITE)
    typed = "type again: nnUNetv2_xssr_select -d 2 -s 1 -b 4 -device cpu --overwrite"
    assert typed in succeeds(capsys, status.main, ["-d", "2"])
    before = again.results_of_select()
    fails(capsys, collect.main, ["-d", "2"], typed)
    assert again.results_of_select() == before
    assert "was interrupted" not in succeeds(capsys, select.main, OVERWRITE)
    assert len(set(ids(again))) == 1
    assert "was interrupted" not in succeeds(capsys, status.main, ["-d", "2"])


def test_options_of_a_round_outlive_an_interrupted_next_one(again, capsys, monkeypatch):
    labelled_by_the_annotator(again)
    succeeds(capsys, collect.main, ["-d", "2"])
    files, following = Workspace(TARGET), ["-d", "2", "-s", "1", "-b", "2", "-device", "cpu"]
    options = files.config.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_before(patch, "selection.json")
        select.main(following)
    succeeds(capsys, select.main, following)
    assert files.round_config(1).read_bytes() == options != files.config.read_bytes()


def test_nothing_is_wrong_before_the_manifest_is_written(again, capsys, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_before(patch, "manifest.json")
        select.main(OVERWRITE)
    assert "was interrupted" not in succeeds(capsys, status.main, ["-d", "2"])
    assert len(again.selection()["selections"][0]["picks"]) == 3


def test_record_that_was_edited_is_said(again, capsys):
    content = again.selection()
    content["selections"][0]["picks"].pop()
    again.record().write_text(json.dumps(content))
    assert "or a file was changed" in succeeds(capsys, status.main, ["-d", "2"])
    fails(capsys, collect.main, ["-d", "2"], "or a file was changed", "nnUNetv2_xssr_select -d")


def labelled_by_the_annotator(again):
    for pick in again.selection()["selections"][0]["picks"]:
        pixels = picture(3)
        write_picture(Workspace(TARGET).handover(1) / "labels" / f"{pick['case']}.png", (pixels > 110).astype("uint8"))


@pytest.mark.parametrize("change", ["split", "interrupted", "none", "older version"])
def test_training_refuses_the_split_of_another_selection(again, capsys, monkeypatch, change):
    labelled_by_the_annotator(again)
    succeeds(capsys, collect.main, ["-d", "2"])
    files = Workspace(TARGET)
    split = read_split(files.split)
    if change == "split":
        split[0]["train"], split[0]["val"] = split[0]["val"], split[0]["train"]
    elif change == "interrupted":
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_before(patch, "selection.json")
            select.main([*OVERWRITE[:4], "-b", "2", *OVERWRITE[6:]])
    elif change == "older version":
        files.manifest.unlink()
    if change in ("none", "older version"):
        check_own_split(files, split)
        return
    with pytest.raises(UserError, match="splits_xssr.json is not the split of .*selection.json.*verify -d Dataset002"):
        check_own_split(files, split)


def test_selection_of_an_older_version_has_no_id(again, capsys):
    files = Workspace(TARGET)
    files.manifest.unlink()
    files.report.write_text("<html></html>")
    files.worklist(1).write_text("rank,case\n1,t_00\n")
    assert "was interrupted" not in succeeds(capsys, status.main, ["-d", "2"])


def sliced_picks(*places):
    none = dict.fromkeys(("domain", "group", "cost", "score"))
    parts = dict.fromkeys(("density", "novelty", "diversity"), 0.0)
    return [
        Pick(rank=i + 1, case=case, slice=place, stands_for=1, **none, **parts)
        for i, (case, place) in enumerate(places)
    ]


def test_killed_handover_of_slices_is_written_again(empty, monkeypatch, tmp_path):
    """Killed before any of its files: none of the templates counts as drawn in."""
    slicing.with_volumes(empty)
    pool = dataset_pool(slicing.VOLUMES)
    pool = type(pool)(**{**vars(pool), "dataset_json": with_ignore(pool.dataset_json)})
    old, new = sliced_picks(("v_0", 3), ("v_1", 5)), sliced_picks(("v_1", 9), ("v_2", 5), ("v_3", 6))
    folder, n, ended = tmp_path / "round_01", 0, False
    while not ended:
        n += 1
        write_handover(folder, pool, old, alpha=None, selection="sold")
        with monkeypatch.context() as patch:
            killed_before(patch, n)
            try:
                write_handover(folder, pool, new, alpha=None, selection="snew")
                ended = True
            except Killed:
                pass
        assert drawn_labels(folder) == [], f"killed before file {n}"
        write_handover(folder, pool, new, alpha=None, selection="snew")
        assert [file.name for file in sorted((folder / "labels").iterdir())] == [f"v_{i}.nii.gz" for i in (1, 2, 3)]
        assert drawn_labels(folder) == []
    assert n > 8


def test_the_split_of_a_study_is_none_of_an_annotation(workspace, capsys):
    """It would be trained on as if its picks were those of the record."""
    labels = Workspace(TARGET).labels
    for case in dataset_pool(TARGET).identifiers:
        write_picture(labels / f"{case}.png", (picture(1) > 110).astype(np.uint8))
    succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"])
    assert read_split(Workspace(TARGET).split)
    drawn = workspace.root / "drawn.txt"
    drawn.write_text("t_00\nt_01\n")
    succeeds(capsys, select.main, [*OVERWRITE, "--labelled", drawn])
    assert Manifest.load(Workspace(TARGET).manifest).split is None and not Workspace(TARGET).split.exists()
    succeeds(capsys, verify.main, ["-d", "2"])
    succeeds(capsys, collect.main, ["-d", "2"])
    kept = Workspace(TARGET).split.read_bytes()
    succeeds(capsys, select.main, [*OVERWRITE, "--labelled", drawn, "--alpha", "0.5"])
    assert Workspace(TARGET).split.read_bytes() == kept  # which collect has written
