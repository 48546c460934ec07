"""The facts of a report: against the record, and re-computed from the embeddings."""

import json
import shutil
from importlib import import_module

import numpy as np
import pytest
from making import (
    SOURCE,
    TARGET,
    compared_by,
    fails,
    succeeds,
    volume,
    write_dataset_json,
    write_picture,
    write_volume,
)

from nnunetv2_xssr.commands import report, select
from nnunetv2_xssr.encoders.embedding import embed
from nnunetv2_xssr.encoders.mae import load_encoder
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.report import facts as facts_module
from nnunetv2_xssr.report.facts import gather
from nnunetv2_xssr.report.layout import lay_out, most_alike
from nnunetv2_xssr.report.selection_data import load_record, load_selection_data
from nnunetv2_xssr.selection.standardise import Scale, standardise

CASES = [f"t_{i:02d}" for i in range(10)]


def facts_of(capsys):
    return json.loads(succeeds(capsys, report.main, ["-d", "2", "--json"]))


def choose(capsys, *argv, budget="3"):
    return succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", budget, "-device", "cpu", "--overwrite", *argv])


def label_all(workspace):
    for case in CASES:
        write_picture(workspace.raw / TARGET / "labelsTr" / f"{case}.png", np.zeros((40, 48), np.uint8))


def distances(workspace, members):
    """Between the standardised embeddings of these cases of the target."""
    (compared,), how = compared_by(workspace.encoder(), TARGET)
    rows = compared[[CASES.index(case) for case in members]]
    z = standardise(rows, **how)[0].astype(np.float64)
    return np.sqrt(((z[:, None] - z[None]) ** 2).sum(axis=2))


def check_most_alike(workspace, selection, members):
    apart = distances(workspace, members)
    for pick in selection["picks"]:
        row = apart[members.index(pick["case"])]
        others = sorted((row[i], case) for i, case in enumerate(members) if case != pick["case"])[:4]
        assert [near["case"] for near in pick["most_alike"]] == [case for _, case in others]
        assert [near["distance"] for near in pick["most_alike"]] == pytest.approx([d for d, _ in others], abs=1e-6)


def test_facts_of_an_annotation(again, capsys):
    told = facts_of(capsys)
    record = again.selection()
    (selection,), (recorded,) = told["selections"], record["selections"]
    for name in ("dataset", "mode", "settings", "versions", "provenance", "set_aside"):
        assert told[name] == record[name]
    assert told["sources"] == {SOURCE: 6} and told["views_per_case"] == 1
    for pick, of_record in zip(selection["picks"], recorded["picks"], strict=True):
        assert {**pick, **of_record} == pick and pick["reason"]
    assert selection["domains"] == [
        {"domain": name, "pool": 5, "picked": sum(p["domain"] == name for p in recorded["picks"])} for name in "AB"
    ]
    assert selection["groups"] is None and selection["fold"] is None
    assert selection["budget"]["mean_distance"] == recorded["by_budget"]["mean_distance"]
    assert selection["budget"]["picked"] == 3 and selection["alpha"]["taken"] == recorded["alpha"]
    now, at = recorded["mean_distance"], recorded["by_budget"]["mean_distance"]
    assert [gain["cases"] for gain in selection["budget"]["next"]] == [5, 7]  # of ten cases seven are left
    assert selection["budget"]["next"][0]["nearer"] == pytest.approx(1 - at[7] / now)
    check_most_alike(again, selection, CASES)
    places = [(dot["kind"] == "source", dot["case"]) for dot in selection["map"]["dots"]]
    assert sorted(places) == [(False, case) for case in CASES] + [(True, f"s_{i:02d}") for i in range(6)]


def test_facts_of_a_study_are_those_of_each_fold(workspace, capsys):
    label_all(workspace)
    own = [{"train": CASES[:6], "val": CASES[6:]}, {"train": CASES[4:], "val": CASES[:4]}]
    (workspace.preprocessed / TARGET / "splits_final.json").write_text(json.dumps(own))
    (workspace.root / "list.txt").write_text("t_05\n")
    choose(capsys, "--exclude", str(workspace.root / "list.txt"))
    told = facts_of(capsys)
    assert [selection["fold"] for selection in told["selections"]] == [0, 1]
    for selection, fold in zip(told["selections"], own, strict=True):
        members = [case for case in fold["train"] if case != "t_05"]
        assert selection["pool_size"] == 5
        shown = {dot["case"] for dot in selection["map"]["dots"] if dot["kind"] != "source"}
        assert shown == set(members)
        check_most_alike(workspace, selection, members)


def test_domains_and_patients_of_a_table(workspace, capsys):
    table = workspace.root / "cases.csv"
    table.write_text("case,domain,patient\n" + "".join(f"{c},site{i // 7},p{i // 3}\n" for i, c in enumerate(CASES)))
    choose(capsys, "--cases", str(table), "--max_per_group", "1")
    (selection,) = facts_of(capsys)["selections"]
    assert {row["domain"]: row["pool"] for row in selection["domains"]} == {"site0": 7, "site1": 3}
    assert selection["groups"] == {"pool": 4, "picked": 3, "largest_in_pool": 3, "largest_picked": 1}


def test_map_samples_the_pool_and_the_source_but_never_the_picks(again, monkeypatch):
    monkeypatch.setattr(facts_module, "POOL_DOTS", 2)
    monkeypatch.setattr(facts_module, "SOURCE_DOTS", 1)
    (selection,) = gather(load_selection_data(load_record(Workspace(TARGET))))["selections"]
    kinds = [dot["kind"] for dot in selection["map"]["dots"]]
    assert sorted(kinds) == ["pick"] * 3 + ["pool"] * 2 + ["source"]
    picks = {dot["case"]: dot["rank"] for dot in selection["map"]["dots"] if dot["kind"] == "pick"}
    assert picks == {pick["case"]: pick["rank"] for pick in selection["picks"]}
    assert (selection["map"]["pool_left_out"], selection["map"]["source_left_out"]) == (5, 5)


def test_json_writes_nothing_and_the_report_can_be_rebuilt(again, capsys):
    page = again.record().parent / "report.html"
    before = page.read_bytes()
    page.unlink()
    facts_of(capsys)
    assert not page.exists()
    assert f"wrote {page}" in succeeds(capsys, report.main, ["-d", "2"])
    assert page.read_bytes() == before


def test_without_a_selection(workspace, capsys):
    fails(capsys, report.main, ["-d", "2"], workspace.record(), "nnUNetv2_xssr_select")


def test_report_is_of_the_images_that_were_selected_from(again, capsys):
    """Whatever was embedded of the pool since."""
    before = again.record().with_name("report.html").read_bytes()
    write_picture(again.images() / "t_10_0000.png", np.arange(1920, dtype=np.uint8).reshape(40, 48))
    embed(load_encoder(again.encoder(), device="cpu"), prepare_views(open_pool(TARGET)))
    succeeds(capsys, report.main, ["-d", "2"])
    assert again.record().with_name("report.html").read_bytes() == before


def test_caches_that_are_gone_are_named(again, capsys):
    shutil.rmtree(again.preprocessed / TARGET / "xssr" / "caches" / "embeddings")
    fails(capsys, report.main, ["-d", "2"], "embeddings/index_", "is gone", "run nnUNetv2_xssr_select again")
    before = again.results_of_select()
    succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"])
    assert again.results_of_select() == before


def test_record_of_a_former_version(again, capsys):
    record = again.selection()
    del record["provenance"]["views_cache"]
    again.record().write_text(json.dumps(record))
    fails(capsys, report.main, ["-d", "2"], again.record(), "older version", "run nnUNetv2_xssr_select again")


def test_split_of_another_study_is_not_reported_on(workspace, capsys):
    label_all(workspace)
    choose(capsys)
    split = json.loads(workspace.split().read_text())
    workspace.split().write_text(json.dumps(split[:-1]))
    fails(capsys, report.main, ["-d", "2"], "splits_xssr.json", workspace.record())


def test_most_alike_is_found_across_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(50, 3)).astype(np.float32)
    pool[20] = pool[40]  # a copy is another case
    module = import_module("nnunetv2_xssr.selection.standardise")  # the package names its function alike
    monkeypatch.setattr(module, "_BLOCK_BYTES", 8 * 3 * 7)
    picks = np.array([20, 3])
    found, rows = most_alike(pool, Scale.of(pool), picks)
    z = standardise(pool)[0].astype(np.float64)
    for pick, near, cases in zip(picks, found, rows, strict=True):
        apart = np.sqrt(((z - z[pick]) ** 2).sum(axis=1))
        apart[pick] = np.inf
        assert near == pytest.approx(np.sort(apart)[:4], abs=1e-7)
        assert apart[cases] == pytest.approx(near, abs=1e-7)
    assert rows[0, 0] == 40 and found[0, 0] == 0


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_small_and_equal_pools_have_a_map(n):
    rows = standardise(np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32))[0]
    for given in (rows, np.ones((n, 4), np.float32)):
        layout = lay_out(given)
        assert layout.positions.shape == (n, 2) and np.abs(layout.positions).max() <= 1 + 1e-9
    pool = np.ones((n, 4), np.float32)
    found, _ = most_alike(pool, Scale.of(pool), np.arange(n))
    assert found.shape == (n, min(4, n - 1)) and (found == 0).all()


def test_map_keeps_what_lies_together_together():
    rng = np.random.default_rng(1)
    centres = np.eye(3) * 10
    rows = standardise((centres[np.arange(30) % 3] + rng.normal(0, 0.3, (30, 3))).astype(np.float32))[0]
    positions = lay_out(rows).positions
    apart = np.sqrt(((positions[:, None] - positions[None]) ** 2).sum(axis=2))
    same = (np.arange(30)[:, None] - np.arange(30)[None]) % 3 == 0
    assert apart[same].max() < apart[~same].min()


@pytest.mark.parametrize(("target", "sources"), [("3", ["1"]), ("3", ["1", "4"]), ("1", ["3"])])
def test_flat_pools_beside_volumes(empty, capsys, target, sources):
    """A grid of one view has a quarter, or less, of the features of a volume's."""
    for number, depth in ((1, 1), (3, 16), (4, 16)):
        folder = empty.raw / f"Dataset{number:03d}_P"
        for i in range(4):
            write_volume(folder / "imagesTr" / f"p_{i}_0000.nii.gz", volume(10 * number + i, (depth, 20, 20))[0])
        write_dataset_json(folder, ".nii.gz", {"0": "T1"})
    argv = ["-d", target, "-s", *sources, "-b", "2", "-device", "cpu", "--encoder", "untrained"]
    succeeds(capsys, select.main, argv)
    kept = load_selection_data(load_record(Workspace(f"Dataset00{target}_P")))
    assert len({one.embeddings.shape for one in (kept.target, *kept.sources)}) == 1
