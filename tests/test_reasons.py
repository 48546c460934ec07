"""The reason of a pick in words."""

import numpy as np
import pytest

from nnunetv2_xssr.annotation.reasons import FAR, TYPICAL, UNLIKE, reason
from nnunetv2_xssr.records.selection import Pick
from nnunetv2_xssr.selection import select


def pick(density=0.0, novelty=0.0, diversity=0.5, stands_for=1, score=0.5, rank=2):
    return Pick(
        rank=rank,
        case="a",
        domain=None,
        group=None,
        cost=None,
        density=density,
        novelty=novelty,
        diversity=diversity,
        score=score,
        stands_for=stands_for,
    )


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"density": TYPICAL, "stands_for": 32}, "typical of 31 other cases"),
        ({"density": TYPICAL, "stands_for": 2}, "typical of 1 other case"),
        ({"density": TYPICAL - 0.01, "stands_for": 32}, "stands for 31 other cases"),
        ({"density": 1.0, "stands_for": 1}, "stands for no other case"),
        ({"novelty": FAR, "stands_for": 2}, "stands for 1 other case; among the farthest from the source"),
        ({"novelty": FAR - 0.01}, "stands for no other case"),
        ({"diversity": UNLIKE}, "stands for no other case; among the least like those chosen before"),
        ({"diversity": UNLIKE - 0.01}, "stands for no other case"),
        ({"diversity": 0.0}, "stands for no other case; looks just like a chosen one"),
        ({"diversity": 0.0, "rank": 1}, "stands for no other case"),
        (
            {"density": 0.9, "novelty": 1.0, "diversity": 1.0, "stands_for": 5},
            "typical of 4 other cases; among the farthest from the source; among the least like those chosen before",
        ),
        ({"stands_for": 3, "score": None}, "stands for 2 other cases"),
    ],
)
def test_words(parts, words):
    assert reason(pick(**parts), alpha=0.5) == words
    assert reason(pick(**parts), alpha=None) == words


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        (0, "typical of 4 other cases; among the least like those chosen before"),
        (0.1, "typical of 4 other cases; among the farthest from the source; among the least like those chosen before"),
        (1, "typical of 4 other cases; among the farthest from the source"),
    ],
)
def test_what_had_no_weight_is_no_reason(alpha, words):
    assert reason(pick(density=0.9, novelty=1.0, diversity=1.0, stands_for=5), alpha=alpha) == words


def test_the_last_picks_of_a_budget_that_buys_everything_are_not_said_to_be_unlike_all_others():
    """What is left last is the farthest of all from the picks, although a pick is nearly its copy."""
    pool = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.001, 1.0]])
    chosen = select(pool, 4)
    assert chosen.diversity[3] == 1 and {*chosen.picks[:3], 3, 2} == {0, 1, 2, 3}
    last = pick(diversity=chosen.diversity[3], stands_for=chosen.stands_for[3], score=None, rank=4)
    assert reason(last, alpha=chosen.alpha) == "stands for no other case; among the least like those chosen before"
