"""Several annotators: who of them draws what."""

from collections.abc import Mapping, Sequence

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.names import refuse_names
from nnunetv2_xssr.records.selection import Pick

RATER, BETWEEN = "rater", "; "  # the column of the worklist, and what stands between several of them
Dealt = Mapping[str, Sequence[str]]  # case to its raters, in the order in which they were named


def check_raters(raters: Sequence[str]) -> None:
    """Raise `UserError` unless these are names of two or more raters, which go into names of files and folders."""
    refuse_names("a rater of --raters", raters)
    refuse_names("a rater of --raters", raters, check=_check_cell)
    if len(raters) < 2 or len({name.casefold() for name in raters}) < len(raters):
        raise UserError(f"--raters must be two or more different names; got {' '.join(raters)[:100]}")


def _check_cell(name: str) -> str:
    if ";" in name or name.startswith("."):
        raise ValueError("must have no ; and no dot ahead")
    return name


def deal(picks: Sequence[Pick], *, raters: Sequence[str], shared: int, seed: int) -> dict[str, list[str]]:
    """Deal cases out: some to all raters, drawn at random, and each of the others to one.

    The others are dealt in the order of their ranks, each to who has least so far (in cost where cases have one, else
    in cases or slices), at random where several have. So all raters get early and late cases, and the loads differ by
    one case at most. All slices of a volume go to one rater, because its label is one file.

    Parameters
    ----------
    picks : sequence of Pick
    raters : sequence of str
    shared : int
        How many cases all raters draw; at most all.
    seed : int

    Returns
    -------
    dealt : dict
        Case to raters, in the order of the ranks.
    """
    rng = np.random.default_rng(seed)
    weight: dict[str, float] = {}
    for pick in picks:
        weight[pick.case] = weight.get(pick.case, 0.0) + (pick.cost or 1.0)
    common = set(rng.permutation(list(weight))[:shared].tolist())
    load, dealt = np.zeros(len(raters)), {}
    for case, own in weight.items():
        if case in common:
            dealt[case] = list(raters)
            continue
        least = np.flatnonzero(load == load.min())
        one = int(rng.choice(least))
        load[one] += own
        dealt[case] = [raters[one]]
    return dealt


def cases_of(dealt: Dealt, rater: str) -> list[str]:
    """What a rater draws."""
    return [case for case, raters in dealt.items() if rater in raters]


def raters_of(dealt: Dealt) -> list[str]:
    """All raters, in the order in which they were named where all of them draw some case."""
    whole = max(dealt.values(), key=len, default=())
    return list(dict.fromkeys(rater for raters in (whole, *dealt.values()) for rater in raters))
