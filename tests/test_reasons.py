"""The reason of a pick in words."""

import pytest

from nnunetv2_xssr.annotation.reasons import FAR, TYPICAL, UNLIKE, reason
from nnunetv2_xssr.records.selection import Pick


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
        ({"diversity": UNLIKE}, "stands for no other case; nothing like it chosen yet"),
        ({"diversity": UNLIKE - 0.01}, "stands for no other case"),
        ({"diversity": 0.0}, "stands for no other case; looks just like a chosen one"),
        ({"diversity": 0.0, "rank": 1}, "stands for no other case"),
        (
            {"density": 0.9, "novelty": 1.0, "diversity": 1.0, "stands_for": 5},
            "typical of 4 other cases; among the farthest from the source; nothing like it chosen yet",
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
        (0, "typical of 4 other cases; nothing like it chosen yet"),
        (0.1, "typical of 4 other cases; among the farthest from the source; nothing like it chosen yet"),
        (1, "typical of 4 other cases; among the farthest from the source"),
    ],
)
def test_what_had_no_weight_is_no_reason(alpha, words):
    assert reason(pick(density=0.9, novelty=1.0, diversity=1.0, stands_for=5), alpha=alpha) == words
