"""Options of nnUNetv2_xssr_select that limit the picks, and what they refuse before any long work."""

import re

import numpy as np
import pytest
from making import TARGET, fails, picture, succeeds, write_picture

from nnunetv2_xssr.commands import select

CASES = [f"t_{i:02d}" for i in range(10)]


def run(capsys, *argv, budget):
    return succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", budget, "-device", "cpu", *argv])


def picked(workspace):
    return [pick["case"] for pick in workspace.selection()["selections"][0]["picks"]]


def table_of(workspace, columns, row):
    path = workspace.root / "cases.csv"
    path.write_text(f"case,{columns}\n" + "".join(f"{c},{row(i)}\n" for i, c in enumerate(CASES)))
    return path


def test_one_case_a_patient(workspace, capsys):
    table = table_of(workspace, "patient", lambda i: f"p{i // 3}")
    out = run(capsys, "--cases", table, "--max_per_group", "1", budget="5")
    assert sorted(int(case[-2:]) // 3 for case in picked(workspace)) == [0, 1, 2, 3]
    assert "only 4 of 5 cases picked: groups, quotas or the least distance leave no other" in out
    assert workspace.selection()["selections"][0]["picks"][0]["group"].startswith("p")


@pytest.mark.parametrize(("quota", "expected"), [(["equal"], [2, 2]), (["site=0=3", "site=1=1"], [3, 1])])
def test_quotas(workspace, capsys, quota, expected):
    table = table_of(workspace, "domain", lambda i: f"site={i // 7}")
    run(capsys, "--cases", table, "--domain_quota", *quota, budget="4")
    sites = [int(case[-2:]) // 7 for case in picked(workspace)]
    assert [sites.count(0), sites.count(1)] == expected


def test_costs(workspace, capsys):
    table = table_of(workspace, "cost", lambda i: 0.5 + i)
    out = run(capsys, "--cases", table, budget="20%")
    assert f"{TARGET}: cases with a cost of 10, of 50 in all, are picked for annotation" in out
    picks = workspace.selection()["selections"][0]["picks"]
    assert [pick["cost"] for pick in picks] == [0.5 + int(pick["case"][-2:]) for pick in picks]
    assert 0 < sum(pick["cost"] for pick in picks) <= 10
    assert re.search(r"picks with a cost of [\d.]+ in all, of 10", out)


def test_least_distance(workspace, capsys):
    for i in range(3):
        write_picture(workspace.images() / f"t_0{i}_0000.png", picture(77))  # copies
    run(capsys, "--min_distance", "0.001", budget="8")
    assert sum(case in ("t_00", "t_01", "t_02") for case in picked(workspace)) == 1


def test_alpha_criterion(workspace, capsys):
    out = run(capsys, "--alpha_criterion", "covering_radius", budget="4")
    (selection,) = workspace.selection()["selections"]
    curve = selection["alpha_curve"]
    assert selection["alpha"] == curve["alpha"][int(np.argmin(curve["covering_radius"]))]
    assert "(smallest covering radius" in out and set(curve) >= {"mean_distance", "novel_mean_distance", "overlap"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--alpha_criterion", "best"], "alpha_criterion must be one of mean_distance, covering_radius, novel"),
        (["--domain_quota", "fair"], "domain_quota must be one of proportional, equal, a number per domain"),
        (["--domain_quota", "A=two"], "--domain_quota must be proportional, equal, or NAME=NUMBER"),
        (["--domain_quota", "A=1", "A=1", "B=2"], "NAME=NUMBER once for every domain"),
        (["--domain_quota", "A=2", "Z=1"], "domain_quota must name domains of the pool, A, B; got Z"),
        (["--domain_quota", "A=2", "B=2"], "domain_quota must add up to the budget, 3; got 4"),
        (["--max_per_group", "1"], "--max_per_group needs to know the group of the cases"),
        (["--min_distance", "2.5"], "min_distance must be between 0 and 2"),
    ],
)
def test_refused(workspace, capsys, options, words):
    fails(capsys, select.main, ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", *options], words)


@pytest.mark.parametrize("budget", ["3", "50%", "auto"])
def test_full_groups_are_refused_before_any_work(workspace, capsys, budget):
    workspace.encoder().unlink()
    for case in ("t_00", "t_01"):
        write_picture(workspace.raw / TARGET / "labelsTr" / f"{case}.png", np.zeros((40, 48), np.uint8))
    table = table_of(workspace, "patient", lambda i: f"p{i % 2}")
    before = sorted(workspace.root.rglob("*"))
    argv = ["-d", "2", "-s", "1", "-b", budget, "-device", "cpu", "--cases", table, "--max_per_group", "1"]
    fails(capsys, select.main, argv, "max_per_group leaves none of the 8 cases without a label open; loosen it")
    assert sorted(workspace.root.rglob("*")) == before  # no encoder and no record


def test_least_distance_to_what_is_labelled_is_refused_before_a_record(workspace, capsys):
    write_picture(workspace.raw / TARGET / "labelsTr" / "t_00.png", np.zeros((40, 48), np.uint8))
    argv = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", "--min_distance", "2"]
    fails(capsys, select.main, argv, "min_distance leaves none of the 9 cases without a label open; loosen it")
    assert workspace.results_of_select() == [None, None]


@pytest.mark.parametrize("cost", ["", "0", "-1", "inf", "nan", "much"])
def test_cost_that_is_none(workspace, capsys, cost):
    table = table_of(workspace, "cost", lambda i: cost if i == 3 else 2)
    argv = ["-d", "2", "-b", "3", "-device", "cpu", "--cases", table]
    fails(capsys, select.main, argv, "a cost above 0", "for case t_03")


@pytest.mark.parametrize(("budget", "words"), [("1", "budget must be 2 or more"), ("0", "total cost such as 90")])
def test_budget_of_cost(workspace, capsys, budget, words):
    argv = ["-d", "2", "-b", budget, "-device", "cpu", "--cases", table_of(workspace, "cost", lambda i: 2)]
    fails(capsys, select.main, argv, words)


def test_limits_and_a_scheduler(workspace, capsys):
    pytest.importorskip("distributed")
    argv = ["-d", "2", "-b", "3", "-device", "cpu", "--scheduler", "local", "--min_distance", "0.1"]
    argv += ["--strategy", "xssr_sum"]
    fails(capsys, select.main, argv, "--scheduler knows no costs", "--min_distance")
