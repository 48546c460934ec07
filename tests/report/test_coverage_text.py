"""Coverage and alpha in words."""

import pytest

from nnunetv2_xssr.report.coverage_text import alpha_words, coverage_words


@pytest.mark.parametrize(
    ("ours", "random", "words"),
    [
        (0.723, 0.807, "0.723 (random picks: 0.807, 12 % worse)"),
        (0.8, 0.72, "0.800 (random picks: 0.720, 10 % better)"),
        (0.5, 0.5, "0.500 (random picks: 0.500, as good)"),
        (0.0, 0.5, "0.000 (random picks: 0.500)"),
        (0.0, 0.0, "0.000 (random picks: 0.000)"),
        (4e-6, 0.28, "0.000 (random picks: 0.280)"),
    ],
)
def test_coverage(ours, random, words):
    assert coverage_words(ours, random=random) == f"mean distance to the nearest pick: {words}"


@pytest.mark.parametrize(
    ("alpha", "curve", "criterion", "words"),
    [
        (0.2, {0: 0.604, 0.1: 0.7, 0.2: 0.6}, "mean_distance", "best coverage; alpha = 0 is within 1 %"),
        (0.2, {0: 0.604, 0.1: 0.605, 0.2: 0.6}, "mean_distance", "best coverage; alpha = 0, 0.1 are within 1 %"),
        (1.0, {0: 0.9, 1.0: 0.6}, "covering_radius", "smallest covering radius"),
        (1.0, {0: 0.9, 1.0: 0.6}, "novel_mean_distance", "best coverage of what is new"),
        (0.0, {0: 0.0, 1.0: 0.0}, "mean_distance", "every slice, or a copy of it, is picked"),
        (0.0, {0: 0.0, 1.0: 0.2}, "novel_mean_distance", "every slice that is new at all, or a copy of it, is picked"),
        (0.3, {0.3: 0.5}, "mean_distance", "not calibrated"),
    ],
)
def test_alpha(alpha, curve, criterion, words):
    lists = {"alpha": list(curve), criterion: list(curve.values())}
    assert alpha_words(alpha, curve=lists, criterion=criterion, unit="slice") == f"alpha = {alpha:g} ({words})"


def test_strategy_without_alpha():
    assert alpha_words(None, curve=None, criterion="mean_distance", unit="case") is None
