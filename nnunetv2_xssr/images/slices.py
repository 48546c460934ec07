"""Candidate slices of volumes: their names in a pool and their places in a file.

A candidate slice is one view of its volume (`nnunetv2_xssr.images.views`). Its name is that of the volume, a slash,
which no case has in its name, and its place: from 0, along the third axis of the file.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from nnunetv2_xssr.images.case_facts import CaseFacts
from nnunetv2_xssr.images.pools import ImagePool


def slice_name(volume: str, place: int) -> str:
    """The name of a candidate slice."""
    return f"{volume}/{place}"


def volume_of(name: str) -> str:
    """The volume of a slice; of a case that is no slice the case itself."""
    return name.split("/")[0]


def place_of(name: str) -> int:
    """The place of a slice in the file of its volume."""
    return int(name.split("/")[1])


def candidate_rows(facts: Mapping[str, CaseFacts]) -> dict[str, int]:
    """The candidate slices of volumes, and which of all their views, counted through, shows each."""
    rows: dict[str, int] = {}
    first = 0
    for volume, of_volume in facts.items():
        rows |= {slice_name(volume, place): first + view for place, view in of_volume.candidates.items()}
        first += len(of_volume.slices)
    return rows


def row_per_slice(rows: np.ndarray, chosen: Collection[int]) -> np.ndarray:
    """From rows of volumes (volumes, views, ...) to those of chosen views (slices, 1, ...): each slice is a case."""
    views = rows.reshape(-1, 1, *rows.shape[2:])
    return views if len(chosen) == len(views) else views[list(chosen)]


def slice_pool(pool: ImagePool, places: Mapping[str, Collection[int]]) -> ImagePool:
    """The pool of the slices at these places of volumes; each is a case."""
    cases = tuple(
        replace(case, identifier=slice_name(case.identifier, place))
        for case in pool.cases
        for place in places.get(case.identifier, ())
    )
    return replace(pool, cases=cases)
