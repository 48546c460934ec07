"""nnUNetv2_xssr_benchmark: from a labelled dataset to results, resumed, on a cluster, and with bad input."""

import csv
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from making import SOURCE, TARGET, fails, picture, succeeds, write_dataset_json, write_picture, write_pictures

from nnunetv2_xssr.benchmark import fast_judge, run, statistics
from nnunetv2_xssr.commands.benchmark import main

CASES = [f"t_{i:02d}" for i in range(24)]


@pytest.fixture
def labelled(empty, monkeypatch):
    """A source and a fully labelled target of two domains and twelve patients, and a judge of two iterations."""
    write_pictures(empty.raw / SOURCE, 6, first_seed=100, prefix="s")
    write_dataset_json(empty.raw / SOURCE)
    write_pictures(empty.raw / TARGET, 24, first_seed=200, labelled=24, shift=1.0, prefix="t")
    write_dataset_json(empty.raw / TARGET, domains={case: "AB"[i % 2] for i, case in enumerate(CASES)})
    monkeypatch.setattr(fast_judge, "ITERATIONS", 2)
    monkeypatch.setattr(statistics, "RESAMPLES", 20)
    monkeypatch.setattr(run, "_workers", lambda judge, device: (1, []))
    table = empty.root / "cases.csv"
    table.write_text("case,patient\n" + "".join(f"{case},p{i // 2}\n" for i, case in enumerate(CASES)))
    return empty


def command(workspace, *more):
    argv = ["-d", "2", "-s", "1", "-b", "2", "--strategies", "coreset", "--draws", "2", "--seeds", "1"]
    return [*argv, "--judge", "fast", "-device", "cpu", "-o", workspace.root / "out", *more]


def large_command(workspace, draws=3):
    more = ["--draws", draws, "--seeds", "2", "--cases", workspace.root / "cases.csv"]
    return command(workspace, "-b", "2", "20%", "--strategies", "xssr", "coreset", *more)


def record(workspace):
    return json.loads((workspace.root / "out" / "benchmark.json").read_text())


def results(workspace):
    return sorted((workspace.root / "out" / "jobs").glob("*.json"))


def test_from_data_to_results_and_again(labelled, capsys):
    printed = succeeds(capsys, main, large_command(labelled))
    assert "by the fast judge" in printed and "at most 15" in printed  # 7 selections at 2 budgets, and the whole pool
    arms, test = record(labelled)["arms"], set(record(labelled)["test"])
    patient = {case: i // 2 for i, case in enumerate(CASES)}
    chosen = {case for arm in arms for case in arm["cases"]}
    assert len(test) == 6 and chosen == set(CASES) - test
    assert not {patient[case] for case in test} & {patient[case] for case in chosen}
    sets = {tuple(arm["cases"]) for arm in arms}
    assert len(results(labelled)) == len(sets) <= len(arms) == 15
    out = labelled.root / "out"
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert len(rows) == 15 and {row["strategy"] for row in rows} == {"xssr", "coreset", "random", "whole pool"}
    assert all(0 <= float(row["dice_mean"]) <= 1 for row in rows)
    text = (out / "results.md").read_text()
    assert printed.splitlines()[-4] in text  # the sentence
    assert "| A | " in text and "| B | " in text
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 3 and "http" not in page.replace("http-equiv", "")

    before = {file: file.stat().st_mtime_ns for file in results(labelled)}
    again = succeeds(capsys, main, large_command(labelled))
    assert "trainings: 0" in again and {file: file.stat().st_mtime_ns for file in results(labelled)} == before
    assert (out / "results.md").read_text() == text

    succeeds(capsys, main, large_command(labelled, draws=4))
    assert set(before) < set(results(labelled))  # a further draw, and nothing anew
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_dry_run_does_nothing(labelled, capsys):
    printed = succeeds(capsys, main, command(labelled, "--training_seeds", "2", "--dry_run"))
    assert "at most 8" in printed and "encoders to pretrain: 1" in printed
    assert re.search(r"at a time: at most [1-9][\d.]* (s|min|h)$", printed, re.M), printed  # in hours it would be 0.0
    assert not (labelled.root / "out").exists()


def test_jobs_for_a_cluster(labelled, capsys):
    file = labelled.root / "jobs.txt"
    printed = succeeds(capsys, main, command(labelled, "--jobs", file))
    lines = file.read_text().splitlines()
    assert f"wrote {len(lines)} commands" in printed and not results(labelled)
    for line in lines:
        name, *argv = shlex.split(line)
        assert name == "nnUNetv2_xssr_benchmark"
        succeeds(capsys, main, argv)
    assert len(results(labelled)) == len(lines)
    assert "trainings: 0" in succeeds(capsys, main, command(labelled))
    fails(capsys, main, ["-o", labelled.root / "out", "--job", "0123", "-device", "cpu"], "--job", "0123")


def test_a_test_file_decides(labelled, capsys):
    wanted = CASES[3:9]
    (labelled.root / "test.txt").write_text("\n".join(wanted))
    succeeds(capsys, main, command(labelled, "--test", labelled.root / "test.txt", "--jobs", labelled.root / "jobs"))
    assert record(labelled)["test"] == wanted


def test_without_a_source_the_encoder_learns_from_the_pool_alone(labelled, capsys, monkeypatch):
    from nnunetv2_xssr.benchmark import arms

    learned, pretrain = [], arms.pretrain

    def spy(views, **rest):
        learned.extend(views)
        return pretrain(views, **rest)

    monkeypatch.setattr(arms, "pretrain", spy)
    argv = command(labelled, "--jobs", labelled.root / "jobs")
    assert argv[2:4] == ["-s", "1"]
    succeeds(capsys, main, argv[:2] + argv[4:])
    pool = set(CASES) - set(record(labelled)["test"])
    assert [set(views.pool.identifiers) for views in learned] == [pool]
    assert all(len(views.rows) == len(pool) == len(views.hashes) for views in learned)


def test_another_folder_for_other_data(labelled, capsys):
    succeeds(capsys, main, command(labelled, "--jobs", labelled.root / "jobs"))
    label = labelled.raw / TARGET / "labelsTr" / "t_00.png"
    pixels = picture(1) > 120
    write_picture(label, pixels.astype(np.uint8))
    fails(capsys, main, command(labelled), "other data", "-o")


def _remove_a_label(workspace):
    (workspace.raw / TARGET / "labelsTr" / "t_07.png").unlink()


def _few_cases(workspace):
    for case in CASES[8:]:
        for file in workspace.raw.glob(f"{TARGET}/*/{case}*"):
            file.unlink()


def _names(*names):
    return lambda workspace: (workspace.root / "test.txt").write_text("\n".join(names))


@pytest.mark.parametrize("source", [["-s", "1"], []])
@pytest.mark.parametrize("encoder", ["intensity", "dictionary"])
def test_another_encoder_chooses_and_nothing_is_pretrained(labelled, capsys, encoder, source):
    argv = command(labelled, "--encoder", encoder)
    argv[argv.index("-s") : argv.index("-s") + 2] = source
    printed = succeeds(capsys, main, argv)
    assert "encoders to pretrain: 0" in printed and record(labelled)["settings"]["encoder"] == encoder
    assert not list(labelled.root.rglob("checkpoint_final.pth"))


BAD = {
    "a target without labels": ([], _remove_a_label, ["1 of 24", "t_07", "no label"]),
    "unknown test cases": (["--test", "test.txt"], _names("t_00", "t_99"), ["--test", "t_99"]),
    "a group in both parts": (
        ["--test", "test.txt", "--cases", "cases.csv"],
        _names("t_00", "t_02", "t_03", "t_04", "t_05"),
        ["--test", "pool", "group p0"],
    ),
    "too few cases": ([], _few_cases, ["at least", "cases"]),
    "too small a test set": (["--test", "test.txt"], _names("t_00"), ["test set", "at least 4", "got 1"]),
    "an empty pool": (["--test", "test.txt"], _names(*CASES), ["pool", "at least 10", "got 0"]),
    "an unknown strategy": (["--strategies", "best"], None, ["--strategies", "facility_location", "'best'"]),
    "random as a strategy": (["--strategies", "random"], None, ["--strategies", "'random'"]),
    "a strategy twice": (["--strategies", "xssr", "xssr"], None, ["xssr 2 times"]),
    "an unknown judge": (["--judge", "me"], None, ["--judge", "fast", "'me'"]),
    "one draw": (["--draws", "1"], None, ["--draws", "2 or more"]),
    "no encoder": (["--seeds", "0"], None, ["--seeds", "1 or more"]),
    "an unknown encoder": (["--encoder", "eyes"], None, ["--encoder", "eyes", "intensity"]),
    "weights of an encoder without": (["--encoder_weights", "w.pth"], None, ["--encoder_weights", "timm"]),
    "the whole pool as a budget": (["-b", "100%"], None, ["-b", "'100%'"]),
    "budgets of the same size": (["-b", "2", "12%"], None, ["-b", "2 and 12%"]),
    "a budget that is none": (["-b", "few"], None, ["'few'"]),
    "the target as its source": (["-s", "2"], None, ["is the target itself"]),
    "an unknown target": (["-d", "77"], None, ["'77'"]),
    "no plans for nnU-Net": (["--judge", "nnunet"], None, ["nnUNetv2_plan_and_preprocess -d 2"]),
    "a trainer of another kind": (["--judge", "nnunet", "-tr", "nnUNetTrainer"], None, ["-tr", "XSSRTrainer_50epochs"]),
    "a job of no benchmark": (None, None, ["benchmark.json", "does not exist"]),
}


@pytest.mark.parametrize("options, prepare, parts", [pytest.param(*case, id=name) for name, case in BAD.items()])
def test_bad_input(labelled, capsys, monkeypatch, options, prepare, parts):
    monkeypatch.chdir(labelled.root)
    if prepare:
        prepare(labelled)
    argv = command(labelled, *options) if options is not None else ["--job", "0123", "-o", "out"]
    sentence = fails(capsys, main, argv, *parts)
    assert len(sentence) < 400 and not (labelled.root / "out").exists()


def test_the_target_or_a_job_must_be_given(capsys):
    with pytest.raises(SystemExit):
        main(["-b", "2"])
    assert "-d" in capsys.readouterr().err


INTENSITY = ["--encoder", "intensity"]


def test_what_a_killed_job_has_left_stops_nobody(labelled, capsys):
    left = labelled.root / "out" / "jobs" / ".xssr_tmp_0123_abcdefgh.json"
    left.parent.mkdir(parents=True)
    left.touch()
    succeeds(capsys, main, command(labelled, *INTENSITY))


def test_copies_on_both_sides_are_told(labelled, capsys):
    shutil.copy(labelled.images() / "t_01_0000.png", labelled.images() / "t_05_0000.png")
    shutil.copy(labelled.images() / "t_01_0000.png", labelled.images() / "t_02_0000.png")
    (labelled.root / "test.txt").write_text("\n".join(CASES[3:9]))
    printed = succeeds(capsys, main, command(labelled, "--test", labelled.root / "test.txt", "--dry_run"))
    assert "1 of 6 test cases are copies of cases in the pool, byte for byte (t_05 of t_0" in printed
    (labelled.root / "test.txt").write_text("\n".join(CASES[:6]))  # copies on one side alone
    assert "copies" not in succeeds(capsys, main, command(labelled, "--test", labelled.root / "test.txt", "--dry_run"))


def test_an_encoder_that_learned_from_test_cases_is_not_taken(labelled, capsys):
    argv = command(labelled, "--jobs", labelled.root / "jobs", "--test", labelled.root / "test.txt")
    argv = argv[:2] + argv[4:]  # without a source the pool teaches the encoder
    (labelled.root / "test.txt").write_text("\n".join(CASES[:6]))
    succeeds(capsys, main, argv)
    (labelled.root / "out" / "benchmark.json").unlink()  # as if it had been killed before
    (labelled.root / "test.txt").write_text("\n".join(CASES[6:12]))
    fails(capsys, main, argv, "seed_0/checkpoint_final.pth was made with other sources", "delete it to start anew")


def test_a_folder_of_the_same_name_elsewhere_is_another_source(labelled, capsys, monkeypatch):
    for place in ("a", "b"):
        for i in range(4):
            write_picture(labelled.root / place / "archive" / f"slice_{i:04d}.png", picture(900 + i))
    argv = command(labelled, *INTENSITY)
    argv[argv.index("-s") + 1] = "archive"
    monkeypatch.chdir(labelled.root / "a")
    printed = succeeds(capsys, main, argv)
    assert "has all channels: each is a case" in printed  # as in select
    assert "trainings: 0" in succeeds(capsys, main, argv)
    monkeypatch.chdir(labelled.root / "b")
    fails(capsys, main, argv, "other data, sources")


def test_a_label_that_no_test_case_holds_is_told(labelled, capsys):
    description = labelled.raw / TARGET / "dataset.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"labels": {"background": 0, "blob": 1, "hole": 2}}))
    assert "no test case holds label 2 (hole)" in succeeds(capsys, main, command(labelled, *INTENSITY))


def test_measures_that_not_all_machines_took_are_left_out(labelled, capsys):
    succeeds(capsys, main, command(labelled, *INTENSITY))
    file = results(labelled)[0]
    content = json.loads(file.read_text())
    content["measures"]["surface_dice"] = content["measures"]["dice"]
    file.write_text(json.dumps(content))
    printed = succeeds(capsys, main, command(labelled, *INTENSITY))
    assert f"only 1 of {len(results(labelled))} trainings measured surface_dice: it is left out" in printed
    del content["measures"]["dice"][record(labelled)["test"][0]]
    file.write_text(json.dumps(content))
    fails(capsys, main, command(labelled, *INTENSITY), file, "lacks the dice of t_", "delete it to train again")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda kept: kept["arms"].pop(), "one arm for every strategy"),
        (lambda kept: kept["arms"].append(kept["arms"][0]), "one arm for every strategy"),
        (lambda kept: kept["arms"].__setitem__(slice(None), kept["arms"][:1]), "one arm for every strategy"),
        (lambda kept: kept["arms"][1]["cases"].pop(), "as many cases as their budget"),
        (lambda kept: kept["arms"][1]["cases"].__setitem__(0, kept["test"][0]), "none of them a test case"),
        (lambda kept: kept["domains"].pop(), "a domain"),
        (lambda kept: kept["groups"].pop(), "a group or none"),
    ],
)
def test_a_record_whose_parts_do_not_go_together(labelled, capsys, change, words):
    argv = command(labelled, *INTENSITY, "--jobs", labelled.root / "jobs")
    succeeds(capsys, main, argv)
    kept = record(labelled)
    change(kept)
    (labelled.root / "out" / "benchmark.json").write_text(json.dumps(kept))
    fails(capsys, main, argv, labelled.root / "out" / "benchmark.json", words, "delete it to plan anew")


def test_a_domain_of_one_test_case_has_no_interval(labelled, capsys):
    description = labelled.raw / TARGET / "dataset.json"
    content = json.loads(description.read_text())
    content["domains"]["t_04"] = "one|alone"
    description.write_text(json.dumps(content))
    (labelled.root / "test.txt").write_text("\n".join(CASES[3:9]))
    succeeds(capsys, main, command(labelled, *INTENSITY, "--test", labelled.root / "test.txt"))
    rows = (labelled.root / "out" / "results.md").read_text().splitlines()
    (alone,), (others,) = ([row for row in rows if row.startswith(f"| {name} |")] for name in ("one\\|alone", "A"))
    assert re.fullmatch(r"\| one\\\|alone \| 1 \| [+-]\d+\.\d \(no interval\) \|", alone), alone
    assert re.search(r"\| 2 \| [+-]\S+, [+-]\S+ to [+-]\S+ \|$", others), others


def test_patients_are_in_the_record(labelled, capsys):
    succeeds(capsys, main, large_command(labelled)[:-2] + ["--jobs", labelled.root / "jobs"])
    kept = record(labelled)
    assert kept["groups"] == kept["test"]
    argv = command(labelled, *INTENSITY, "--cases", labelled.root / "cases.csv", "-o", labelled.root / "other")
    succeeds(capsys, main, argv)
    kept = json.loads((labelled.root / "other" / "benchmark.json").read_text())
    assert kept["groups"] == [f"group p{int(case[2:]) // 2}" for case in kept["test"]]


def test_what_the_intervals_do_not_cover_is_told(labelled, capsys):
    argv = command(labelled, *INTENSITY, "--seeds", "2", "--cases", labelled.root / "cases.csv")
    printed = succeeds(capsys, main, argv)
    same = "All 2 encoder seeds chose the same cases by coreset: these intervals cover neither other encoders nor other"
    few = "The test set holds 3 groups only: intervals over so few are too narrow."
    out = labelled.root / "out"
    for text in (printed, (out / "results.md").read_text(), (out / "report.html").read_text()):
        assert same in text and few in text
    printed = succeeds(capsys, main, command(labelled, *INTENSITY, "-o", labelled.root / "other"))
    assert "With one encoder seed the intervals do not cover other seeds." in printed
    assert "The test set holds 5 cases only" in printed and "chose the same" not in printed


def test_the_page_has_every_table_of_the_text(labelled, capsys):
    succeeds(capsys, main, command(labelled, *INTENSITY))
    text = (labelled.root / "out" / "results.md").read_text()
    page = (labelled.root / "out" / "report.html").read_text()
    headers = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    headers = [cells for cells in headers if cells[0] in ("cases", "strategy", "domain of the test cases")]
    assert len(headers) == 3 == page.count("<table>")
    assert all(f"<th>{cell}</th>" in page for cells in headers for cell in cells)
