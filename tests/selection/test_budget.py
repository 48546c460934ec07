"""Budgets as users write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection import parse_budget, parse_cost_budget, parse_minutes


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("5%", 452, 22),  # the paper's
        ("5%", 19, 1),
        ("1%", 3, 1),
        ("100%", 7, 7),
        ("2.5%", 200, 5),
        ("29%", 100, 29),  # 0.29 * 100 is 28.999... in binary
        ("22", 452, 22),
        ("1", 1, 1),
        ("452", 452, 452),
    ],
)
def test_what_a_budget_buys(text, n, expected):
    assert parse_budget(text, pool_size=n) == expected


@pytest.mark.parametrize("text", ["0", "-3", "101%", "100.1%", "0%", "0.0%", "5 %", " 5", "abc", "", "%", "1.5", "11"])
def test_refused(text):
    with pytest.raises(UserError) as caught:
        parse_budget(text, pool_size=10)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "minutes", "expected"),
    [
        ("60min", 8, 7),
        ("2h", 8, 15),
        ("1.5h", 30, 3),
        ("1h30min", 30, 3),
        ("0.3min", 0.1, 3),  # 0.3 / 0.1 is 2.999... in binary
        ("100h", 8, 30),  # all that are left
    ],
)
def test_what_a_time_buys(text, minutes, expected):
    assert parse_budget(text, pool_size=100, available=30, minutes_per_case=minutes) == expected


@pytest.mark.parametrize("text", ["7min", "0min", "0h"])
def test_time_that_buys_nothing(text):
    with pytest.raises(UserError, match=f"{text} buys nothing at 8 minutes each"):
        parse_budget(text, pool_size=100, minutes_per_case=8)


@pytest.mark.parametrize("text", ["60", "60 min", "60m", "min", "", "1:30", "-5min", "30min1h", "5%", "1e3min", "infh"])
def test_no_time(text):
    assert parse_minutes(text) is None


def test_time_without_minutes_per_case():
    with pytest.raises(UserError, match="whole number of cases"):
        parse_budget("60min", pool_size=100)


def test_percentage_counts_the_whole_pool_but_buys_only_what_is_left():
    assert parse_budget("50%", pool_size=100, available=80) == 50
    assert parse_budget("50%", pool_size=100, available=30) == 30


def test_number_beyond_what_is_left():
    with pytest.raises(UserError, match="between 1 and 30"):
        parse_budget("31", pool_size=100, available=30)


@given(st.integers(1, 100), st.integers(1, 10_000))
def test_percentage_is_the_floor_and_at_least_one(percent, n):
    assert parse_budget(f"{percent}%", pool_size=n) == max(1, percent * n // 100)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("7.5", 7.5), ("5%", 10), ("0.5%", 1), ("100%", 150), ("500", 150)]
)
def test_what_a_budget_of_cost_allows(text, expected):
    assert parse_cost_budget(text, total=200, available=150) == expected


@pytest.mark.parametrize("text", ["0", "0%", "101%", "-1", "5 %", "", "1e3", "inf"])
def test_budget_of_cost_refused(text):
    with pytest.raises(UserError, match="total cost") as caught:
        parse_cost_budget(text, total=200, available=200)
    assert repr(text) in str(caught.value)
