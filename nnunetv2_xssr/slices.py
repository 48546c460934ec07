"""Slices of volumes as what is chosen and annotated: their names in a pool, their place in a file, sparse labels.

A candidate slice is one of the views of its volume (`nnunetv2_xssr.views`) and is named ``volume/number of the view``.
In a label everything but the chosen slices holds nnU-Net's ignore label, on which nothing is learned.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunetv2_xssr.label_check import UnfitLabel, label_values
from nnunetv2_xssr.pools import Case, ImagePool, read_case
from nnunetv2_xssr.views import VIEWS_PER_VOLUME, foreground_slices

IGNORE = "ignore"  # nnU-Net's name of the label


def slice_name(volume: str, view: int) -> str:
    """The name of a candidate slice."""
    return f"{volume}/{view}"


def slice_names(volume: str) -> list[str]:
    """The names of a volume's candidate slices, in the order of its views."""
    return [slice_name(volume, view) for view in range(VIEWS_PER_VOLUME)]


def volume_of(name: str) -> str:
    """The volume of a slice; a case that is no slice is its own."""
    return name.split("/")[0]


def view_of(name: str) -> int:
    """The number of the view that a slice is."""
    return int(name.split("/")[1])


def row_per_slice(rows: np.ndarray) -> np.ndarray:
    """From shape (volumes, views, ...) to (volumes * views, 1, ...): every slice as a case with one view."""
    return rows.reshape(-1, 1, *rows.shape[2:])


def slice_pool(pool: ImagePool) -> ImagePool:
    """Every candidate slice as a case, whose group is its volume."""
    cases = tuple(
        replace(case, identifier=name, group=case.identifier)
        for case in pool.cases
        for name in slice_names(case.identifier)
    )
    return replace(pool, cases=cases)


def view_slices(case: Case, reader) -> list[int]:
    """Where a volume's views lie in its file: slices, counted from 0."""
    return foreground_slices(read_case(case, reader)[0], VIEWS_PER_VOLUME).tolist()


def with_ignore(dataset_json: dict) -> dict:
    """The description of the dataset with an ignore label: the highest value, as nnU-Net wants it."""
    highest = max(label_values(dataset_json))
    if IGNORE in dataset_json["labels"]:
        return dataset_json
    return {**dataset_json, "labels": {**dataset_json["labels"], IGNORE: highest + 1}}


def write_template(path: Path, case: Case, pool: ImagePool, slices: Collection[int]) -> None:
    """Write a label to draw in: 0 on these slices, the ignore label everywhere else."""
    reader = pool.reader()
    image, properties = reader.read_images([str(file) for file in case.files])
    label = np.full(image.shape[1:], pool.dataset_json["labels"][IGNORE], np.uint8)
    label[sorted(slices)] = 0
    reader.write_seg(label, str(path), properties)


def check_slices(file: Path, label: np.ndarray, slices: Collection[int], ignore: int) -> None:
    """Raise `UnfitLabel` unless a label of shape (z, y, x) is whole on these slices and ignored on all others."""
    ignored = label == ignore
    holes = [i for i in sorted(slices) if ignored[i].any()]
    if holes:
        raise UnfitLabel(
            f"{file.name}: slice {_some(holes)} still holds {ignore} (ignore) somewhere; draw all of it, with 0 for "
            f"background"
        )
    strange = [i for i in np.flatnonzero(~ignored.all(axis=(1, 2))).tolist() if i not in slices]
    if strange:
        raise UnfitLabel(
            f"{file.name}: slice {_some(strange)} is not all {ignore} (ignore), though only {_some(sorted(slices))} "
            f"was asked for; begin again with the template, or set the others to {ignore}"
        )


def _some(slices: list[int]) -> str:
    return ", ".join(map(str, slices[:5])) + (", ..." if len(slices) > 5 else "")
