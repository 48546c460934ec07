"""How the model of the last round did on the cases that were chosen, and on those that were drawn at random."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_xssr.annotation.label_check import IGNORE
from nnunetv2_xssr.annotation.prelabels import dice
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.files import is_there
from nnunetv2_xssr.records.selection import SelectionRecord


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Dice between what the model predicted before the labels were known, and the labels.

    Attributes
    ----------
    round : int
    chosen, control : list of float
        Of the labelled cases that were chosen, and of those drawn at random; empty where no prediction was kept.
    """

    round: int
    chosen: list[float]
    control: list[float]


def compare_with_control(record: SelectionRecord, pool: ImagePool) -> Compared | None:
    """Compare kept predictions of a round's cases with their labels; None for a round without random cases.

    Nothing is known where no model was asked, where its doubt was taken out, where predictions were removed, and where
    the model has other labels.

    Parameters
    ----------
    record : SelectionRecord
    pool : ImagePool
        With the labels that were collected.
    """
    picks = record.selections[0].picks
    if not any(pick.control for pick in picks):
        return None
    found: dict[bool, list[float]] = {True: [], False: []}
    key = record.provenance.get("predictions_cache", {}).get(record.dataset)
    if key and record.doubt and _same_labels(Path(record.doubt["model"]), pool):
        folder = record.workspace.predictions(key)
        for pick in picks:
            label = record.workspace.labels / f"{pick.case}{pool.file_ending}"
            predicted = _kept_segmentation(folder / f"{pick.case}.npz")
            if predicted is not None and label.is_file():
                found[bool(pick.control)].append(_dice(predicted, label, pool))
    return Compared(round=record.round, chosen=found[False], control=found[True])


def _same_labels(model: Path, pool: ImagePool) -> bool:
    file = model / "dataset.json"
    return is_there(file) and read_dataset_json(file)["labels"] == pool.dataset_json["labels"]


def _kept_segmentation(file: Path) -> np.ndarray | None:
    if not is_there(file):
        return None
    try:
        with np.load(file) as kept:
            return kept["segmentation"]
    except Exception:  # of a damaged file zipfile, zlib and numpy raise whatever they meet
        return None


def _dice(predicted: np.ndarray, label: Path, pool: ImagePool) -> float:
    drawn = pool.reader().read_seg(str(label))[0][0].astype(np.int64)
    return dice(predicted, drawn, ignore=pool.dataset_json["labels"].get(IGNORE))
