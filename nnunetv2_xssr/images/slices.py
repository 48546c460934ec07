"""Candidate slices of volumes: their names in a pool and their places in a file.

A candidate slice is one view of its volume (`nnunetv2_xssr.images.views`). Its name is that of the volume, a slash,
which no case has in its name, and the number of the view.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_xssr.images.extract import Look, choose_slices
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.reading import read_image
from nnunetv2_xssr.images.views import VIEWS_PER_VOLUME

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


def slice_name(volume: str, view: int) -> str:
    """The name of a candidate slice."""
    return f"{volume}/{view}"


def slice_names(volume: str) -> list[str]:
    """The names of a volume's candidate slices, in the order of its views."""
    return [slice_name(volume, view) for view in range(VIEWS_PER_VOLUME)]


def volume_of(name: str) -> str:
    """The volume of a slice; of a case that is no slice the case itself."""
    return name.split("/")[0]


def view_of(name: str) -> int:
    """The number of the view that shows a slice."""
    return int(name.split("/")[1])


def row_per_slice(rows: np.ndarray) -> np.ndarray:
    """Reshape (volumes, views, ...) to (volumes * views, 1, ...): each slice is a case with one view."""
    return rows.reshape(-1, 1, *rows.shape[2:])


def slice_pool(pool: ImagePool) -> ImagePool:
    """The pool of all candidate slices; each is a case whose group is its volume."""
    cases = tuple(
        replace(case, identifier=name, group=case.identifier)
        for case in pool.cases
        for name in slice_names(case.identifier)
    )
    return replace(pool, cases=cases)


def view_slices(case: Case, reader: "BaseReaderWriter") -> list[int]:
    """The slices that the views of a volume show, counted from 0 along the third axis of its file."""
    image, properties = read_image(case, reader)
    geometry = Geometry.of(properties)
    chosen = choose_slices(image, VIEWS_PER_VOLUME, geometry=geometry, look=Look(as_stored=True))
    return geometry.in_file(chosen.places, image.shape[1 + geometry.source[chosen.axis]]).tolist()
