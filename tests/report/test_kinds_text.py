"""Words about the kinds of a pool."""

from nnunetv2_xssr.report.kinds_text import kinds_words


def test_several_kinds_and_what_would_be_missed():
    kinds = {"sizes": [90, 20, 10], "missed": 0, "missed_by_random": 0.84}
    words = kinds_words(kinds, picked=6, unit="case")
    assert "3 groups (90, 20, 10 cases)" in words and "a random draw of 6 would miss 0.8 of them" in words
    assert words.endswith("the picks miss none")
    assert kinds_words({**kinds, "missed": 2}, picked=6, unit="slice").endswith("the picks miss 2")
    rare = kinds_words({**kinds, "missed_by_random": 0.04}, picked=15, unit="case")
    assert "a random draw of 15 would miss none of them on average" in rare


def test_one_kind_and_nothing_known():
    words = kinds_words({"sizes": [40], "missed": 0, "missed_by_random": 0.0}, picked=6, unit="slice")
    assert words.startswith("one kind: no groups of slices") and "none that a random draw could miss" in words
    assert "expect little" not in words  # picks of such a pool may lie much nearer to it than any random draw
    assert kinds_words(None, picked=6, unit="case") is None
