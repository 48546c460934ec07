"""How many cases to pick: -b auto, and what select tells about fewer and more."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from making import TARGET, compared_by, fails, succeeds, write_picture

from nnunetv2_xssr.commands import select
from nnunetv2_xssr.commands.select_text import spent_words
from nnunetv2_xssr.pipeline.budget import pick
from nnunetv2_xssr.pipeline.plan import Choice, FoldPlan
from nnunetv2_xssr.report.budget_text import gains, knee_words, next_words
from nnunetv2_xssr.selection import Constraints
from nnunetv2_xssr.selection import select as select_rows

CASES = [f"t_{i:02d}" for i in range(10)]
CURVE = {"budget": [1, 2, 3, 4, 10], "mean_distance": [1.0, 0.5, 0.4, 0.3, 0.0], "knee": 2}


def run(capsys, *argv, budget="auto"):
    return succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", budget, "-device", "cpu", *argv])


def test_auto_picks_the_ranking_up_to_its_knee(workspace, capsys):
    out = run(capsys)
    (selection,) = workspace.selection()["selections"]
    (pool, source), how = compared_by(workspace.encoder(), "2", "1")
    ranking = select_rows(pool, 10, source=source, horizon=10, **how)
    knee = ranking.by_budget.knee
    assert [pick["case"] for pick in selection["picks"]] == [CASES[i] for i in ranking.picks[:knee]]
    assert selection["by_budget"]["knee"] == knee and selection["alpha"] == ranking.alpha
    assert selection["by_budget"]["mean_distance"] == list(ranking.by_budget.mean_distance)
    assert selection["alpha_curve"]["mean_distance"] == list(ranking.curve.mean_distance)
    assert workspace.selection()["settings"]["budget"] == "auto"
    assert "as many of 10 cases as the knee of the coverage tells, at most 10, are picked for annotation" in out
    assert f"-b auto: {knee} cases picked, the knee of the coverage" in out
    assert f"is at {knee}, as many as are picked" in out


def test_auto_keeps_the_alpha_of_the_whole_ranking():
    """Calibrated anew for the knee, alpha could be another, and the picks not those of the knee."""
    others = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        pool, source = rng.normal(size=(60, 3)), rng.normal(1, 1, (20, 3))
        fold = FoldPlan([str(i) for i in range(60)], [], None, Constraints(), None)
        chosen = pick(
            fold,
            pool,
            select=select_rows,
            choice=Choice(budget="auto"),
            source=source,
            labelled=np.empty(0, int),
            components=None,
            widths=None,
            doubt=None,
        )
        ranking = select_rows(pool, 60, source=source, horizon=60)
        assert chosen.picks.tolist() == ranking.picks[: ranking.by_budget.knee].tolist()
        assert chosen.curve == ranking.curve and chosen.by_budget.knee == len(chosen.picks)
        others += select_rows(pool, len(chosen.picks), source=source).alpha != chosen.alpha
    assert others > 0


def test_auto_counts_what_is_labelled(workspace, capsys):
    write_picture(workspace.raw / TARGET / "labelsTr" / "t_03.png", np.zeros((40, 48), np.uint8))
    run(capsys)
    (selection,) = workspace.selection()["selections"]
    assert "t_03" not in [pick["case"] for pick in selection["picks"]]
    assert selection["by_budget"]["budget"][-1] == 9


def test_auto_of_a_study_takes_each_folds_own_knee(workspace, capsys):
    for case in CASES:
        write_picture(workspace.raw / TARGET / "labelsTr" / f"{case}.png", np.zeros((40, 48), np.uint8))
    run(capsys)
    for selection in workspace.selection()["selections"]:
        assert len(selection["picks"]) == selection["by_budget"]["knee"]


def test_auto_with_limits_that_it_knows(workspace, capsys):
    table = workspace.root / "cases.csv"
    table.write_text("case,group\n" + "".join(f"{case},p{i // 5}\n" for i, case in enumerate(CASES)))
    run(capsys, "--cases", str(table), "--max_per_group", "1")
    (selection,) = workspace.selection()["selections"]
    assert len(selection["picks"]) <= 2 and selection["by_budget"]["budget"] == [1, 2]


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--strategy", "kmeans"], "--strategy kmeans"),
        (["--domain_quota", "equal"], "--domain_quota"),
        (["--scheduler", "local", "--strategy", "xssr_sum"], "knee"),
    ],
)
def test_auto_says_what_it_does_not_go_with(workspace, capsys, argv, part):
    argv = ["-d", "2", "-s", "1", "-b", "auto", "-device", "cpu", *argv]
    fails(capsys, select.main, argv, part, "give")


def test_auto_does_not_know_costs(workspace, capsys):
    table = workspace.root / "cases.csv"
    table.write_text("case,cost\n" + "".join(f"{case},2\n" for case in CASES))
    argv = ["-d", "2", "-s", "1", "-b", "auto", "-device", "cpu", "--cases", str(table)]
    fails(capsys, select.main, argv, "-b auto", "cost")


def test_select_tells_and_keeps_what_more_would_add(workspace, capsys):
    out = run(capsys, budget="3")
    (selection,) = workspace.selection()["selections"]
    curve = selection["by_budget"]
    assert curve["budget"] == list(range(1, 11))
    assert curve["mean_distance"][2] == pytest.approx(selection["mean_distance"], rel=1e-12)
    told = re.search(r"the next 5, 7 cases would bring the pool ([\d.]+), ([\d.]+) % nearer", out)
    at = curve["mean_distance"]
    assert [float(t) for t in told.groups()] == pytest.approx(
        [100 * (1 - at[7] / at[2]), 100 * (1 - at[9] / at[2])], abs=0.051
    )


def test_gains_are_those_of_the_curve():
    assert [
        (gain.cases, gain.mean_distance, gain.nearer) for gain in gains({**CURVE, "budget": [1, 2, 3, 5, 10]}, 5)
    ] == [(5, 0.0, 1.0)]
    copies = {"budget": [1, 2, 3], "mean_distance": [0.1, 4e-6, 1e-6]}  # but for rounding
    assert [gain.nearer for gain in gains(copies, 2)] == [0.0]
    assert gains(CURVE, 10) == [] and next_words(CURVE, 10) == "no further case can be picked"


@pytest.mark.parametrize(
    ("picked", "words"), [(2, "as many as are picked"), (1, "1 more than picked"), (4, "2 fewer than")]
)
def test_knee_in_words(picked, words):
    assert words in knee_words(CURVE, picked) and "up to 10 cases is at 2" in knee_words(CURVE, picked)


def test_a_knee_that_hardly_bends_is_told():
    line = {"budget": [1, 2, 3, 4, 5], "mean_distance": [1.0, 0.79, 0.59, 0.4, 0.2], "knee": 4}
    assert "hardly bends" in knee_words(line, 3) and "hardly bends" not in knee_words(CURVE, 3)
    flat = {"budget": [1, 2], "mean_distance": [0.0, 0.0], "knee": 1}
    assert "hardly bends" in knee_words(flat, 1)


def test_everything_picked_leaves_nothing_to_add(workspace, capsys):
    out = run(capsys, budget="100%")
    assert "no further case can be picked" in out and "nan" not in out


@pytest.mark.parametrize(("count", "words"), [(1, "1 case picked"), (2, "2 cases picked")])
def test_one_pick_is_a_case(count, words):
    assert spent_words(SimpleNamespace(picks=[None] * count, budget=None), "case").startswith(f"-b auto: {words},")
