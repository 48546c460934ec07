"""nnUNetv2_xssr_select: what it writes and tells."""

import json
import re

import numpy as np
import pytest
from making import SOURCE, TARGET, compared_by, fails, picture, succeeds, write_picture

from nnunetv2_xssr.commands import collect, report, select, verify
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.selection import select as select_rows
from nnunetv2_xssr.trainer_link import linking

CASES = [f"t_{i:02d}" for i in range(10)]


def run(capsys, *argv, source=("-s", "1"), budget="3"):
    return succeeds(capsys, select.main, ["-d", "2", *source, "-b", budget, "-device", "cpu", *argv])


def picked(workspace, fold=0):
    return [pick["case"] for pick in workspace.selection()["selections"][fold]["picks"]]


def listed(workspace, *names):
    path = workspace.root / "list.txt"
    path.write_text("\ufeff" + "\r\n".join(names) + "\n\n", "utf-8")
    return path


def label(workspace, *cases):
    for case in cases:
        write_picture(workspace.raw / TARGET / "labelsTr" / f"{case}.png", np.zeros((40, 48), np.uint8))


def test_record_is_what_the_selection_of_the_embeddings_gives(workspace, capsys):
    run(capsys, budget="4")
    (pool, source), how = compared_by(workspace.encoder(), TARGET, SOURCE)
    expected = select_rows(pool, 4, source=source, **how)
    record = workspace.selection()
    (selection,) = record["selections"]
    assert picked(workspace) == [CASES[i] for i in expected.picks]
    assert selection["alpha"] == expected.alpha
    assert selection["alpha_curve"]["mean_distance"] == list(expected.curve.mean_distance)
    for key in ("mean_distance", "covering_radius", "random_mean_distance"):
        assert selection[key] == pytest.approx(getattr(expected, key), rel=1e-12)
    for rank, pick in enumerate(selection["picks"]):
        assert pick["rank"] == rank + 1
        assert pick["domain"] == "AB"[int(pick["case"][-1]) % 2]
        assert pick["score"] is None  # of the weighted sums only
        for part in ("density", "novelty", "diversity", "stands_for"):
            assert pick[part] == getattr(expected, part)[rank]
    assert record["mode"] == "annotation" and record["dataset"] == TARGET
    assert set(record["versions"]) >= {"nnunetv2_xssr", "nnunetv2", "torch", "numpy"}
    assert set(record["provenance"]) >= {"pool", "source", "encoder", "embeddings"}
    assert record["provenance"]["embedding"] in ("grid+intensity", "grid")
    assert SelectionRecord.load(workspace.record()).to_dict() == record


def test_no_split_is_written_of_cases_without_a_label(workspace, capsys):
    out = run(capsys, budget="4")
    assert not workspace.split().exists() and "splits_xssr" not in out


def test_what_it_tells(workspace, capsys):
    out = run(capsys, budget="4")
    assert f"{TARGET}: 4 of 10 cases are picked for annotation." in out
    table = [line.split() for line in out.splitlines() if re.match(r"\s*\d+\s+t_", line)]
    assert [row[1] for row in table] == picked(workspace)
    assert [row[0] for row in table] == ["1", "2", "3", "4"]
    assert re.search(r"rank\s+case\s+domain\s+density\s+novelty\s+diversity\s+stands_for", out)
    assert "alpha = " in out and re.search(r"mean distance to the nearest pick: \d\.\d{3} \(random picks: ", out)
    assert f"wrote {workspace.record()}" in out
    handover = workspace.raw / TARGET / "annotate" / "round_01"
    assert f"annotate the images in {handover}, as its README.txt says" in out
    assert out.rstrip().endswith("nnUNetv2_xssr_collect -d 2")


def test_without_a_source_it_learns_from_the_pool(workspace, capsys):
    out = run(capsys, source=())
    assert "No source (-s)" in out and "novelty is off" in out
    assert workspace.encoder(TARGET).is_file()
    (selection,) = workspace.selection()["selections"]
    assert selection["alpha"] == 0.0
    assert all(pick["novelty"] == 0 for pick in selection["picks"])


def test_encoder_is_learned_when_there_is_none(workspace, capsys):
    workspace.encoder().unlink()
    out = run(capsys)
    assert f"no encoder {workspace.encoder()} yet: pretraining on {SOURCE}" in out
    assert workspace.encoder().is_file()


def test_source_may_be_a_folder_and_several(workspace, capsys):
    for i in range(3):
        write_picture(workspace.root / "archive" / f"{i}.png", picture(700 + i))
    run(capsys, source=("-s", "1", str(workspace.root / "archive")))
    source = workspace.selection()["provenance"]["source"]
    assert sorted(name.split("_")[0] for name in source) == ["Dataset001", "archive"]


def test_given_encoder(workspace, capsys):
    elsewhere = workspace.encoder().rename(workspace.root / "mine.pth")
    run(capsys, "--encoder", elsewhere)
    assert not workspace.encoder().exists()
    assert workspace.selection()["settings"]["encoder"] == str(elsewhere)


@pytest.mark.parametrize("strategy", ["random", "coreset"])
def test_other_strategies(workspace, capsys, strategy):
    run(capsys, "--strategy", strategy)
    (selection,) = workspace.selection()["selections"]
    assert len(selection["picks"]) == 3 and selection["alpha"] is None
    assert all(pick["score"] is None for pick in selection["picks"])


def test_given_alpha_is_not_calibrated(workspace, capsys):
    out = run(capsys, "--alpha", "0.25")
    (selection,) = workspace.selection()["selections"]
    assert selection["alpha"] == 0.25 and selection["alpha_curve"]["alpha"] == [0.25]
    assert "not calibrated" in out


def test_excluded_cases_are_as_if_not_there(workspace, capsys):
    run(capsys, "--exclude", listed(workspace, "t_00", "t_05"), budget="8")
    assert sorted(picked(workspace)) == sorted(set(CASES) - {"t_00", "t_05"})
    assert workspace.selection()["selections"][0]["pool_size"] == 8


def test_percentage_counts_what_is_left_after_exclusion(workspace, capsys):
    run(capsys, "--exclude", listed(workspace, "t_00", "t_05"), budget="50%")
    assert len(picked(workspace)) == 4


def test_given_labelled_cases_start_the_selection_and_cost_nothing(workspace, capsys):
    out = run(capsys, "--labelled", listed(workspace, "t_01", "t_02"), budget="8")
    assert "2 have a label already and cost nothing" in out
    assert sorted(picked(workspace)) == sorted(set(CASES) - {"t_01", "t_02"})


def test_cases_with_a_label_count_as_labelled(workspace, capsys):
    label(workspace, "t_03", "t_04")
    run(capsys, budget="2")
    (selection,) = workspace.selection()["selections"]
    assert selection["labelled"] == ["t_03", "t_04"] and not set(picked(workspace)) & {"t_03", "t_04"}


def test_study_when_every_case_has_a_label(workspace, capsys):
    label(workspace, *CASES)
    own = [{"train": CASES[:6], "val": CASES[6:]}, {"train": CASES[4:], "val": CASES[:4]}]
    (workspace.preprocessed / TARGET / "splits_final.json").write_text(json.dumps(own))
    before = (workspace.preprocessed / TARGET / "splits_final.json").read_bytes()
    out = run(capsys, "--exclude", listed(workspace, "t_05", "t_09"), budget="2")
    assert "this is a study: 2 of 5 training cases are picked in each of 2 folds" in out
    assert workspace.selection()["mode"] == "study"
    split = json.loads(workspace.split().read_text())
    for number, (ours, theirs) in enumerate(zip(split, own, strict=True)):
        assert ours["val"] == [case for case in theirs["val"] if case not in ("t_05", "t_09")]
        assert sorted(ours["train"]) == sorted(picked(workspace, number))
        assert len(ours["train"]) == 2 and set(ours["train"]) <= set(theirs["train"]) - {"t_05", "t_09"}
    assert (workspace.preprocessed / TARGET / "splits_final.json").read_bytes() == before


def test_study_of_one_fold(workspace, capsys):
    label(workspace, *CASES)
    own = [{"train": CASES[:6], "val": CASES[6:]}]
    (workspace.preprocessed / TARGET / "splits_final.json").write_text(json.dumps(own))
    assert "2 of 6 training cases are picked in the only fold, whose validation" in run(capsys, budget="2")


def test_names_that_differ_in_upper_and_lower_case_only(again, capsys):
    """On many file systems one would replace the other."""
    before = again.results_of_select()
    argv = ["-d", "2", "-s", "1", "-b", "2", "--name", "Xssr", "-device", "cpu"]
    fails(capsys, select.main, argv, "--name Xssr differs from the selection xssr", "give another name")
    assert again.results_of_select() == before


def test_study_whose_folds_leave_cases_out(workspace, capsys):
    """Such as those that a user keeps for a test: they are in no fold, and are neither picked nor stood for."""
    label(workspace, *CASES)
    own = [{"train": CASES[:5], "val": CASES[5:7]}, {"train": CASES[3:8], "val": CASES[:3]}]
    (workspace.preprocessed / TARGET / "splits_final.json").write_text(json.dumps(own))
    out = run(capsys, "--exclude", listed(workspace, "t_04"), budget="2")
    assert "2 of 4 training cases are picked in each of 2 folds" in out
    assert [one["left_out"] for one in workspace.selection()["selections"]] == [CASES[7:], CASES[8:]]
    facts = json.loads(succeeds(capsys, report.main, ["-d", "2", "--json"]))
    assert [one["pool_size"] for one in facts["selections"]] == [4, 4]
    assert "changed" not in succeeds(capsys, verify.main, ["-d", "2"])


def test_labelled_list_makes_annotation_of_a_study(workspace, capsys):
    for case in CASES:
        write_picture(workspace.raw / TARGET / "labelsTr" / f"{case}.png", np.eye(40, 48, dtype=np.uint8))
    out = run(capsys, "--labelled", listed(workspace, "t_00"), budget="2")
    assert workspace.selection()["mode"] == "annotation"
    # What is picked has its label already: only the split is missing.
    assert out.rstrip().endswith("next:\n  nnUNetv2_xssr_collect -d 2")
    succeeds(capsys, collect.main, ["-d", "2"])
    split = json.loads(workspace.split().read_text())
    assert sorted(case for fold in split for case in fold["val"]) == sorted(["t_00", *picked(workspace)])


def test_domains_and_patients_from_a_table(workspace, capsys):
    table = workspace.root / "cases.csv"
    table.write_text("case,domain,patient\n" + "".join(f"{c},site{i // 5},p{i // 2}\n" for i, c in enumerate(CASES)))
    run(capsys, "--cases", table, budget="10")
    (selection,) = workspace.selection()["selections"]
    assert {pick["case"]: pick["domain"] for pick in selection["picks"]} == {
        c: f"site{i // 5}" for i, c in enumerate(CASES)
    }


def test_everything_picked(workspace, capsys):
    out = run(capsys, budget="100%")
    assert sorted(picked(workspace)) == CASES
    assert workspace.selection()["selections"][0]["mean_distance"] == 0
    assert "nan" not in out and "inf" not in out


def test_many_picks_end_in_a_line(workspace, capsys):
    for i in range(10, 45):
        write_picture(workspace.images() / f"t_{i}_0000.png", picture(400 + i))
    out = run(capsys, budget="40")
    assert "... and 10 more in the record" in out


def test_link_is_made_and_told(workspace, capsys, monkeypatch):
    linking.link_path().unlink()
    found = iter([False, True])
    monkeypatch.setattr(linking, "trainer_found", lambda: next(found))
    out = run(capsys)
    assert f"linked XSSRTrainer into nnU-Net: {linking.link_path()}" in out and "--remove" in out
    assert linking.is_linked()


def test_two_runs_write_the_same_bytes(workspace, capsys):
    run(capsys)
    before = workspace.results_of_select()
    workspace.forget_selection()
    run(capsys)
    assert workspace.results_of_select() == before


def test_scheduler_selects_from_partitions(workspace, capsys, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    by_sum = ("--strategy", "xssr_sum")
    run(capsys, *by_sum, budget="4")
    here = workspace.selection()
    bytes_of_pool = compared_by(workspace.encoder(), TARGET)[0][0].nbytes
    partitions = workspace.record().parent / "partitions"
    cluster = {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**cluster) as workers:
        address = (*by_sum, "--scheduler", workers.scheduler_address)
        error = fails(capsys, select.main, ["-d", "2", "-s", "1", "-b", "4", "-device", "cpu", *address])
        assert "scheduler was None, now True" in error
        run(capsys, *address, "--overwrite", budget="4")
        assert json.loads((partitions / "partitions.json").read_text())["n_partitions"] == 1
        assert workspace.selection()["selections"][0]["picks"] == here["selections"][0]["picks"]  # one partition: exact
        from nnunetv2_xssr.pipeline import scheduler

        monkeypatch.setattr(scheduler, "PARTITION_BYTES", -(-bytes_of_pool // 4))
        run(capsys, *address, budget="4")
        assert len(list(partitions.glob("rows_*"))) == 4
        assert len(set(picked(workspace))) == 4
        measured = (partitions / "distances_00000.npy").stat().st_mtime_ns
        run(capsys, *address, "--overwrite", "--alpha", "0.5", budget="4")
        assert (partitions / "distances_00000.npy").stat().st_mtime_ns == measured


def test_scheduler_is_for_the_weighted_sum_only(workspace, capsys):
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", "--scheduler", "local", "--strategy", "coreset"]
    fails(capsys, select.main, argv, "--scheduler works with --strategy xssr_sum only; got coreset")


def test_scheduler_that_does_not_answer_is_found_before_long_work(workspace, capsys, monkeypatch):
    pytest.importorskip("distributed", reason="Dask is not installed")
    monkeypatch.setattr("nnunetv2_xssr.selection.distributed._TIMEOUT", 0.5)
    workspace.encoder().unlink()
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", "--scheduler", "tcp://127.0.0.1:9"]
    argv += ["--strategy", "xssr_sum"]
    fails(capsys, select.main, argv, "no Dask scheduler with a worker answers at 'tcp://127.0.0.1:9'")
    assert not workspace.encoder().exists()
