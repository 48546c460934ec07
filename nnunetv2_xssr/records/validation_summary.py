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
    for name, of_labels in read_label_dice(path, advice="validate again: nnUNetv2_train with --val").items():
        values = [dice for dice in of_labels if not math.isnan(dice)]
        found[name] = sum(values) / len(values) if values else 1.0
    return found


def read_label_dice(path: Path, *, advice: str) -> dict[str, list[float]]:
    """Name of every predicted file to the Dice of each label, NaN where neither case nor prediction has it."""
    return {
        Path(one["prediction_file"]).name: [label["Dice"] for label in one["metrics"].values()]
        for one in read_as(path, _Summary, advice=advice)["metric_per_case"]
    }
