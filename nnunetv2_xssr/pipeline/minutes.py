"""How long a case takes, for a budget that is a time."""

from collections.abc import Iterable
from dataclasses import replace

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pipeline.plan import Choice
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.timesheet import Minutes, mean_minutes
from nnunetv2_xssr.selection import parse_minutes


def with_minutes(choice: Choice, told: Iterable[Minutes]) -> Choice:
    """The choice with the minutes per case, or per slice, where its budget is a time; the log says which and whence.

    Parameters
    ----------
    choice : Choice
        Its own minutes count, if it has any.
    told : iterable of Minutes
        What the annotators of earlier rounds have filled in.

    Raises
    ------
    UserError
        If neither tells.
    """
    if parse_minutes(choice.budget) is None:
        return choice
    unit, found = choice.unit, mean_minutes(told, unit=choice.unit)
    if choice.minutes_per_case is not None:
        logger.info("-b %s: %g minutes per %s, as given", choice.budget, choice.minutes_per_case, unit)
        return choice
    if found is None:
        raise UserError(
            f"-b {choice.budget[:50]} needs the minutes per {unit}, and no collected worklist tells any; give "
            f"--minutes_per_case"
        )
    mean, count = max(round(found[0], 2), 0.01), found[1]
    words = f"the mean of {count} {unit}{'s' * (count > 1)} in the collected worklists"
    logger.info("-b %s: %g minutes per %s, %s", choice.budget, mean, unit, words)
    return replace(choice, minutes_per_case=mean)
