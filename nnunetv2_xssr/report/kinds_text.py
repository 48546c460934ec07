"""Whether selecting is likely to matter, in words: of how many kinds the pool is, and what a random draw would miss."""

from collections.abc import Mapping
from typing import Any

_SHOWN = 6  # sizes of kinds
# In docs/evidence.md pools of one kind of 40, 42, 72, 85, 85 and 120 cases gained 2.7, 7.8, 0.1, 2.2, 1.0 and 1.4 Dice,
# with intervals of the first, the second and the fourth that leave 0 out; that of 400 gained none.
ONE_KIND = "selecting clearly gained Dice in three of six such pools of 40 to 120 cases, and nothing in one of 400"


def kinds_words(kinds: Mapping[str, Any] | None, *, picked: int, unit: str) -> str | None:
    """Several kinds, and how many a random draw would miss; or one, and what selecting gave there.

    Parameters
    ----------
    kinds : dict or None
        The fields of `nnunetv2_xssr.selection.kinds.Kinds`; None in older records, and of pools too large to look.
    picked : int
        How many cases or slices are picked.
    unit : {"case", "slice"}
    """
    if kinds is None:
        return None
    sizes = kinds["sizes"]
    if len(sizes) == 1:
        return (
            f"one kind: no groups of {unit}s stand out in the pool, so there is none that a random draw could miss; "
            f"{ONE_KIND}"
        )
    told = ", ".join(map(str, sizes[:_SHOWN])) + (", ..." if len(sizes) > _SHOWN else "")
    missed = f"{kinds['missed']}" if kinds["missed"] else "none"
    return (
        f"several kinds: the pool falls into {len(sizes)} groups ({told} {unit}s); a random draw of {picked} would "
        f"miss {missed_words(kinds['missed_by_random'])} of them on average, the picks miss {missed}"
    )


def missed_words(missed: float) -> str:
    """How many groups random draws miss on average."""
    return f"{missed:.1f}" if missed >= 0.05 else "none"
