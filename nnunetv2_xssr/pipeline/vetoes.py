"""Which cases stay out: those that this call excludes, and those that were vetoed in earlier rounds."""

from collections.abc import Mapping
from dataclasses import replace

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.pipeline.plan import Choice
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.rounds import vetoes_of
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.vetoes import Reason


def with_vetoes(
    choice: Choice,
    target: ImagePool,
    *,
    reasons: Mapping[str, Reason | None],
    last: SelectionRecord | None,
    forget: bool,
) -> tuple[Choice, dict[str, Reason | None]]:
    """The choice without all vetoed cases, and all vetoes for the record.

    Parameters
    ----------
    choice : Choice
    target : ImagePool
    reasons : mapping
        Case to why it is excluded now; one that was given before is kept where none is given.
    last : SelectionRecord or None
        Whose vetoes last. Cases of them that have left the pool since are no mistake.
    forget : bool
        Let those of the last record go.

    Raises
    ------
    UserError
        If there is a reason of a case that is not excluded.
    """
    if strange := sorted(set(reasons) - set(choice.excluded)):
        raise UserError(f"veto_reasons names {first_few(strange)}, which excluded does not; name them there, too")
    kept = {} if forget else vetoes_of(last)
    vetoes = {**kept, **{case: reasons.get(case) or kept.get(case) for case in choice.excluded}}
    earlier = sorted(set(kept) & set(target.identifiers) - set(choice.excluded))
    if earlier:
        logger.info(
            f"vetoed before, and left out again: {first_few(earlier)}, {len(earlier)} in all; --forget_vetoes takes "
            f"them in"
        )
    return replace(choice, excluded=sorted({*choice.excluded, *earlier})), dict(sorted(vetoes.items()))
