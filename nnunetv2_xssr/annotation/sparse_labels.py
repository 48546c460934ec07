"""Labels in which only some slices are drawn; all others hold nnU-Net's ignore label, on which nothing is learned."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_xssr.annotation.label_check import IGNORE, UnfitLabel, label_values
from nnunetv2_xssr.errors import first_few
from nnunetv2_xssr.images.decoding import shape_and_properties
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.grids import image_grid
from nnunetv2_xssr.images.pools import Case, ImagePool


def with_ignore(dataset_json: dict) -> dict:
    """The description of the dataset with an ignore label: the highest value, as nnU-Net wants it."""
    highest = max(label_values(dataset_json))
    if IGNORE in dataset_json["labels"]:
        return dataset_json
    return {**dataset_json, "labels": {**dataset_json["labels"], IGNORE: highest + 1}}


def write_template(path: Path, case: Case, pool: ImagePool, *, slices: Collection[int]) -> None:
    """Write a label to draw in: 0 on these slices, the ignore label everywhere else."""
    reader = pool.reader()
    shape, properties = shape_and_properties(case.files, reader)
    ignore = pool.dataset_json["labels"][IGNORE]
    label = np.full(shape, ignore, np.min_scalar_type(ignore))
    Geometry.of(properties).along_third(label)[sorted(slices)] = 0
    reader.write_seg(label, str(path), image_grid(properties))


def check_slices(name: str, label: np.ndarray, *, asked: Sequence[Collection[int]], ignore: int) -> None:
    """Raise `UnfitLabel` unless a label, slices first, is whole on asked slices and ignored on all others.

    Those of one round are enough; the sentence tells what does not fit the first of ``asked``.
    """
    ignored = label == ignore
    if any(_are_drawn(slices, ignored) for slices in asked):
        return
    slices = asked[0]
    holes = [i for i in sorted(slices) if ignored[i].any()]
    if holes:
        raise UnfitLabel(
            f"{name}: slice {first_few(holes, 5)} still holds {ignore} (ignore) somewhere; draw all of it, with 0 for "
            f"background"
        )
    strange = [i for i in np.flatnonzero(~ignored.all(axis=(1, 2))).tolist() if i not in slices]
    if strange:
        raise UnfitLabel(
            f"{name}: is not all {ignore} (ignore) on slice {first_few(strange, 5)}, but only on "
            f"{first_few(sorted(slices), 5)} drawing was asked for; use the template again, or set the others to "
            f"{ignore}, in a file of segments by one called {IGNORE}"
        )


def _are_drawn(slices: Collection[int], ignored: np.ndarray) -> bool:
    """Whether these slices, and they alone, are drawn."""
    wanted = np.isin(np.arange(len(ignored)), list(slices))
    return bool((ignored == ~wanted[:, None, None]).all())
