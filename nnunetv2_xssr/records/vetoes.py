"""Why a case shall not be annotated."""

from typing import Literal, get_args

Reason = Literal["unusable", "wrong body part", "duplicate", "too hard"]
REASONS: tuple[Reason, ...] = get_args(Reason)
