"""The statistics of the benchmark, on numbers whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_xssr.benchmark import statistics
from nnunetv2_xssr.benchmark.statistics import (
    Gain,
    annotation_saved,
    budgets_won,
    conclusion,
    gain,
    gains_by_domain,
    mean_over_studies,
    monotone,
    percentile_within,
    worst_cases,
    worst_tenth,
)

CURVE = st.lists(st.floats(0, 1), min_size=1, max_size=8).map(np.array)


def simulated(rng, *, seeds, draws, cases, spread, effect=0.0):
    """Dice points of a strategy and of random draws: hard cases are hard for both, and each arm has its own."""
    hard, own = rng.normal(0, 8, cases), rng.normal(0, 2, cases)
    noise = rng.normal(0, 4, (seeds + draws, cases))
    level = rng.normal(0, spread, (seeds + draws, 1))
    everything = hard + noise + level
    return everything[:seeds] + own - own.mean() + effect, everything[seeds:]


@pytest.mark.parametrize(
    "seeds, draws, cases, spread", [(3, 10, 100, 1.5), (5, 10, 100, 1.0), (5, 30, 30, 1.5), (2, 10, 60, 1.0)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(monkeypatch, seeds, draws, cases, spread):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(100):
        ours, random = simulated(rng, seeds=seeds, draws=draws, cases=cases, spread=spread, effect=2.0)
        one = gain(ours, random)
        found.append(one.low <= 2.0 <= one.high)
    assert 0.88 <= np.mean(found) <= 0.995


def test_a_clear_effect_is_seen_and_none_is_not():
    rng = np.random.default_rng(1)
    assert gain(*simulated(rng, seeds=5, draws=10, cases=100, spread=0.5, effect=5.0)).seen
    assert not gain(*simulated(rng, seeds=5, draws=10, cases=100, spread=0.5)).seen


def test_a_gain_does_not_change_with_what_both_share_and_turns_with_the_arms():
    ours, random = simulated(np.random.default_rng(2), seeds=4, draws=6, cases=40, spread=1.0)
    one, shifted, turned = gain(ours, random), gain(ours + 7, random + 7), gain(random, ours)
    assert (shifted.mean, shifted.low, shifted.high) == pytest.approx((one.mean, one.low, one.high))
    assert turned.mean == pytest.approx(-one.mean)
    assert one.low < one.mean < one.high


def test_budgets_of_one_draw_stay_together():
    """Two budgets with the same Dice tell no more than one: the interval must not shrink."""
    ours, random = simulated(np.random.default_rng(3), seeds=4, draws=6, cases=40, spread=2.0)
    one, twice = gain(ours, random), gain(np.stack([ours] * 2, axis=1), np.stack([random] * 2, axis=1))
    assert (twice.low, twice.high) == pytest.approx((one.low, one.high))


def test_cases_of_one_patient_tell_no_more_than_one():
    """Every case five times over: without their patients the interval would be less than half as wide."""
    ours, random = simulated(np.random.default_rng(6), seeds=1, draws=30, cases=20, spread=0.0, effect=1.0)
    patients = [f"p{i}" for i in range(20)]
    one = gain(ours, random, groups=patients)
    copies = [np.repeat(dice, 5, axis=-1) for dice in (ours, random)]
    told, untold = gain(*copies, groups=[one for one in patients for _ in range(5)]), gain(*copies)
    assert told.high - told.low == pytest.approx(one.high - one.low, rel=0.1)
    assert untold.high - untold.low < 0.6 * (one.high - one.low)
    by_domain = gains_by_domain(*copies, domains=["A"] * 100, groups=[one for one in patients for _ in range(5)])
    assert by_domain == {"A": told}


def test_a_single_seed_has_the_interval_of_the_cases_and_draws():
    ours, random = simulated(np.random.default_rng(4), seeds=1, draws=10, cases=60, spread=0.0)
    one = gain(ours, random)
    assert one.low < one.mean < one.high


def test_studies_are_the_units_of_a_mean_over_studies():
    assert mean_over_studies(np.full(12, 1.5)) == Gain(1.5, 1.5, 1.5)
    rng = np.random.default_rng(5)
    held = [(one := mean_over_studies(rng.normal(1.0, 2.0, 12))).low <= 1.0 <= one.high for _ in range(200)]
    assert 0.87 <= np.mean(held) <= 0.99


def test_worst_cases():
    dice = np.arange(101.0)[None]
    assert worst_cases(dice) == 5
    assert worst_tenth(dice) == np.mean(range(10))
    assert worst_tenth(dice[:, :5]) == 0  # one case at least


def test_percentile_within_random_draws():
    random = np.array([1.0, 2.0, 3.0, 4.0])
    assert percentile_within(np.array([2.5]), random) == 50
    assert percentile_within(np.array([2.0]), random) == 37.5
    assert percentile_within(np.array([0.0, 9.0]), random) == 50
    assert percentile_within(random, random) == 50


def test_budgets_won():
    assert budgets_won(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 3.0, 2.0], [1.0, 2.0, 3.0]])) == 2


@given(CURVE)
def test_monotone_is_the_nearest_curve_that_never_falls(values):
    fitted = monotone(values)
    assert (np.diff(fitted) >= -1e-12).all()
    assert fitted.mean() == pytest.approx(values.mean())  # as least squares leaves it
    assert monotone(fitted) == pytest.approx(fitted)
    assert ((values - fitted) ** 2).sum() <= ((values - np.maximum.accumulate(values)) ** 2).sum() + 1e-9


@pytest.mark.parametrize(
    "dice, saved",
    [
        (0.7, 10 - 5),  # reached exactly at a budget
        (0.75, np.sqrt(10 * 100) - 5),  # half way, over the logarithm
        (0.6, 5 - 5),
        (0.5, None),  # below the curve
        (0.9, None),  # never reached
    ],
)
def test_annotation_saved(dice, saved):
    found = annotation_saved(dice, n_cases=5, budgets=np.array([5, 10, 100]), random=np.array([0.6, 0.7, 0.8]))
    assert found == (saved if saved is None else pytest.approx(saved))


def test_annotation_saved_takes_the_first_of_equal_budgets():
    curve = np.array([0.5, 0.7, 0.7, 0.9])
    assert annotation_saved(0.7, n_cases=10, budgets=np.array([5, 20, 40, 80]), random=curve) == pytest.approx(10)


def test_gains_by_domain_look_at_their_cases_only():
    ours, random = np.zeros((3, 10)), np.zeros((4, 10))
    ours[:, 5:] = 1.0
    found = gains_by_domain(ours, random, domains=["a"] * 5 + ["b"] * 5)
    assert (found["a"], found["b"]) == (Gain(0.0, 0.0, 0.0), Gain(1.0, 1.0, 1.0))


def test_the_sentence_says_no_difference_seen_where_the_interval_holds_0():
    sentence = conclusion(
        {"better": Gain(2.0, 0.5, 3.5), "same": Gain(0.4, -1.0, 1.8), "worse": Gain(-3.0, -4.0, -2.0)}, judge="a judge"
    )
    assert sentence.startswith(
        "Better than random draws: better (+2.0, +0.5 to +3.5); worse than random draws: worse (-3.0"
    )
    assert "no difference seen: same (+0.4, -1.0 to +1.8)" in sentence and sentence.endswith("by a judge.")
    assert conclusion({"same": Gain(0.4, -1.0, 1.8)}, judge="a judge").startswith("No difference seen: same")
