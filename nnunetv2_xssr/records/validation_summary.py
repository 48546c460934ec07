"""What nnU-Net's validation of a fold says of every case."""

import math
from pathlib import Path

from pydantic import with_config
from typing_extensions import TypedDict

from nnunetv2_xssr.records.schema import THEIRS, read_as


@with_config(THEIRS)
class _Overlap(TypedDict):
    Dice: float


@with_config(THEIRS)
class _OfCase(TypedDict):
    metrics: dict[str, _Overlap]
    prediction_file: str


@with_config(THEIRS)
class _Summary(TypedDict):
    metric_per_case: list[_OfCase]


def read_dice(path: Path) -> dict[str, float]:
    """Name of every predicted file to its mean Dice over labels, by ``validation/summary.json``.

    A label that neither the case nor the prediction has counts for nothing; a case without any is all right (1).
    """
    found = {}
    for one in read_as(path, _Summary, advice="validate again: nnUNetv2_train with --val")["metric_per_case"]:
        values = [label["Dice"] for label in one["metrics"].values() if not math.isnan(label["Dice"])]
        found[Path(one["prediction_file"]).name] = sum(values) / len(values) if values else 1.0
    return found
