"""The minutes that annotators have told of: what a case, or a slice, takes."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from nnunetv2_xssr.records.schema import OURS, Count, FileName, Number


@dataclass(frozen=True, kw_only=True)
class Minutes:
    """What one row of a worklist took.

    Attributes
    ----------
    case : str
    slice : int or None
        Counted as in a `Pick`; None for a whole case.
    rater : str or None
        Who drew it, where the worklist was dealt out.
    minutes : float
        Above 0.
    """

    __pydantic_config__ = OURS

    case: FileName
    slice: Count | None
    rater: FileName | None
    minutes: Number


def mean_minutes(entries: Iterable[Minutes], *, unit: str) -> tuple[float, int] | None:
    """The mean minutes of a case or of a slice, and how many cases or slices tell it; None where none does.

    Parameters
    ----------
    entries : iterable of Minutes
    unit : {"case", "slice"}
        Which of them count.
    """
    told = [one for one in entries if (one.slice is None) == (unit == "case")]
    return (fmean(one.minutes for one in told), len({(one.case, one.slice) for one in told})) if told else None
