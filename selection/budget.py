"""The annotation budget as users write it: ``22`` cases, ``5%`` of the pool or ``60min``, or a cost."""

import re
from decimal import Decimal
from math import floor

from nnunetv2_xssr.errors import UserError

_NUMBER = r"\d{1,15}(?:\.\d{1,15})?"  # more digits than a double has are a slip
_TIME = re.compile(rf"(?=.)(?:({_NUMBER})h)?(?:({_NUMBER})min)?")


def parse_minutes(text: str) -> Decimal | None:
    """The minutes of a budget that is a time, such as ``"90min"``, ``"1.5h"`` or ``"1h30min"``; None of another one."""
    match = _TIME.fullmatch(text)
    return match and 60 * Decimal(match[1] or 0) + Decimal(match[2] or 0)


def parse_budget(
    text: str, *, pool_size: int, available: int | None = None, minutes_per_case: float | None = None
) -> int:
    """Return how many cases a budget buys.

    A percentage of n cases is max(1, floor(percentage * n)), as in the XSSR paper (5 % of 452 cases are 22).

    Parameters
    ----------
    text : str
        A whole number of cases (``"22"``), a percentage of the pool (``"5%"``, ``"2.5%"``), or, where the minutes per
        case are known, a time (``"60min"``, ``"2h"``): it buys as many whole cases as fit into it.
    pool_size : int
        n, the number of cases in the pool.
    available : int, optional
        How many of them can still be picked, those without a label; all by default.
    minutes_per_case : float, optional
        What annotating a case takes.

    Raises
    ------
    UserError
        If the text is none of these, or the budget is not between 1 and the number of available cases.
    """
    available = pool_size if available is None else available
    if minutes_per_case is not None and (minutes := parse_minutes(text)) is not None:
        bought = int(minutes / Decimal(str(minutes_per_case)))
        if bought < 1:
            raise UserError(f"budget {text[:50]} buys nothing at {minutes_per_case:g} minutes each; give more time")
        return min(bought, available)
    match = re.fullmatch(rf"({_NUMBER})%|(\d{{1,15}})", text)
    if not match:
        raise UserError(
            f"budget must be a whole number of cases such as 22 or a percentage such as 5% (no space); "
            f"got {text[:50]!r}"
        )
    percent, cases = match.groups()
    if percent is not None:
        # Decimal, because 0.29 * 100 is 28.999... in binary and would lose a case.
        if not 0 < Decimal(percent) <= 100:
            raise UserError(f"budget must be more than 0% and at most 100% of the pool; got {text[:50]!r}")
        # A percentage is of the whole pool; there may be fewer cases without a label.
        return min(max(1, floor(Decimal(percent) * pool_size / 100)), available)
    if not 1 <= int(cases) <= available:
        raise UserError(
            f"budget must be between 1 and {available}, the number of cases that can be picked; got {text[:50]!r}"
        )
    return int(cases)


def parse_cost_budget(text: str, *, total: float, available: float) -> float:
    """Return the total cost that a budget allows.

    Parameters
    ----------
    text : str
        A cost (``"90"``, ``"7.5"``) or a percentage of the pool's total cost (``"5%"``).
    total : float
        Cost of all cases in the pool.
    available : float
        Cost of the cases that can still be picked; the budget is at most this.

    Raises
    ------
    UserError
        If the text is neither.
    """
    match = re.fullmatch(rf"({_NUMBER})(%?)", text)
    if not match or float(match[1]) == 0 or (match[2] and float(match[1]) > 100):
        raise UserError(
            f"budget must be a total cost such as 90 or a percentage of the pool's cost such as 5% (no space), because "
            f"the cases have costs; got {text[:50]!r}"
        )
    return min(float(match[1]) * (total / 100 if match[2] else 1), available)
