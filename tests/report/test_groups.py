"""The groups of a pool in the report: their sizes, their picks, and how easily random draws miss them."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from nnunetv2_xssr.records.selection import FoldSelection, Pick
from nnunetv2_xssr.report.budget_text import sure_words
from nnunetv2_xssr.report.groups import ROW, groups_of
from nnunetv2_xssr.selection.standardise import Scale

SIZES = (60, 9, 3)
MEMBERS = [f"c_{i:02d}" for i in range(sum(SIZES))]


def pool():
    """Three blobs, far apart."""
    rng = np.random.default_rng(0)
    centres = np.repeat(10 * np.eye(3), SIZES, axis=0)
    return (centres + rng.normal(scale=0.5, size=(len(MEMBERS), 3))).astype(np.float32)


def selection(picks, labelled=(), sizes=SIZES):
    nothing = dict.fromkeys(("domain", "group", "cost", "score"))
    scores = {"density": 0.0, "novelty": 0.0, "diversity": 0.0, "stands_for": 1}
    made = [Pick(rank=i + 1, case=case, **nothing, **scores) for i, case in enumerate(picks)]
    numbers = {"mean_distance": 0.1, "covering_radius": 0.1, "random_mean_distance": 0.1}
    return FoldSelection(
        pool_size=len(MEMBERS),
        budget=len(made),
        labelled=list(labelled),
        picks=made,
        alpha=None,
        alpha_curve=None,
        kinds=sizes and {"sizes": list(sizes), "missed": 0, "missed_by_random": 0.0},
        **numbers,
    )


def found(chosen):
    features = pool()
    return groups_of(chosen, MEMBERS, features, Scale.of(features))


def test_groups_with_their_picks():
    groups = found(selection(["c_65", "c_00", "c_10", "c_61"]))
    assert [group["size"] for group in groups] == list(SIZES)
    assert [group["picks"] for group in groups] == [[2, 3], [1, 4], []]
    chances = [hypergeom(len(MEMBERS), size, 4).pmf(0) for size in SIZES]
    assert [group["missed_by_random"] for group in groups] == pytest.approx(chances)
    assert groups[0]["shown"][:2] == ["c_00", "c_10"] and groups[1]["shown"][:2] == ["c_65", "c_61"]
    assert [len(group["shown"]) for group in groups] == [ROW, 9, 3]
    for group, first in zip(groups, (0, 60, 69), strict=True):
        assert set(group["shown"]) <= set(MEMBERS[first : first + group["size"]])
        assert len(set(group["shown"])) == len(group["shown"])


def test_a_group_that_was_labelled_before_cannot_be_missed():
    groups = found(selection(["c_00"], labelled=["c_70"]))
    assert groups[2]["labelled"] == 1 and groups[2]["missed_by_random"] == 0
    assert groups[1]["missed_by_random"] == pytest.approx(1 - 9 / 71)


def test_a_pool_of_one_kind_is_one_row_and_many_picks_do_not_fill_it():
    (group,) = found(selection(MEMBERS[:30], sizes=(72,)))
    assert group["size"] == 72 and group["picks"] == list(range(1, 31))
    assert group["shown"][:ROW] == MEMBERS[:ROW] and len(group["shown"]) == 2 * ROW


def test_nobody_looked():
    assert found(selection(["c_00"], sizes=None)) is None


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (0.1, "nearer to the cases of the pool than every one"),
        (0.25, "than most of 20 random draws, but not than the best"),
        (0.3, "no nearer to the cases of the pool than most"),
        (0.4, "no nearer"),
        (0.5, "farther from the cases of the pool than every"),
    ],
)
def test_how_sure(ours, words):
    curve = {"budget": [1, 2], "random_least": [1, 0.2], "random_median": [1, 0.3], "random_most": [1, 0.4]}
    assert words in sure_words({**curve, "mean_distance": [1, ours]}, 2)
