"""The scale of a pool: how large its cases are in millimetres, so that the median one fills a view."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt
from pydantic import with_config
from typing_extensions import TypedDict

from nnunetv2_xssr.images.case_rows import file_hashes, known_hashes
from nnunetv2_xssr.images.channels import normalisation_schemes
from nnunetv2_xssr.images.extract import ACQUIRED, FILE, VIEW_SIZE, Look, slice_extents, views_for
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.memory import memory_of
from nnunetv2_xssr.images.normalise import Window
from nnunetv2_xssr.images.padding import crop_to_body
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import BrokenImage, read_image, third_axis
from nnunetv2_xssr.records.files import is_there, write_json
from nnunetv2_xssr.records.locks import caches_lock, only_reads
from nnunetv2_xssr.records.schema import OURS, Number, read_as
from nnunetv2_xssr.records.workspace import Workspace

_SAMPLE = 16  # cases that tell the scale of a pool
_GLANCE = 3  # of these that are read where their scale cannot be kept
_STEP = 1.1  # scales are rounded up to a power of this, so that a few more cases seldom change the scale of all

_Extent = tuple[Annotated[Number, Gt(0)], Annotated[Number, Ge(0)]]


@with_config(OURS)
class _Extents(TypedDict):
    """What `slice_extents` measures."""

    acquired: _Extent
    axial: _Extent
    coronal: _Extent
    sagittal: _Extent
    file: _Extent


def common_look(pools: Sequence[ImagePool], *, dim: int, axis: str | None = None, window: Window | None = None) -> Look:
    """The look with the scale and the number of slices of some pools: their median case fills a view.

    What a case fills is the larger side of a slice, without its margins of zeros. Whole volumes and pictures that tell
    no size have no common scale: they are fitted into the view one by one.

    Parameters
    ----------
    pools : sequence of ImagePool
        Of which sixteen cases each, evenly spaced, are looked at; with the names of their channels, as far as these are
        known.
    dim : {2, 3}
    axis : str, optional
        Along which slices are taken: see `Look`.
    window : (float, float), optional
        See `Look`.
    """
    look = Look(axis=axis or ACQUIRED, window=window)
    if dim == 3 or not all(map(tells_size, pools)):
        return look
    extents = [extent[look.axis] for pool in pools for extent in _extents(pool)]
    if not extents:
        return look  # every case is broken, as reading them will say
    side, depth = np.median(extents, axis=0).tolist()
    pixel = _STEP ** math.ceil(math.log(side / VIEW_SIZE, _STEP))
    digits = 6 + max(0, -4 - math.floor(math.log10(pixel)))  # files in metres have pixels of 1e-8
    return replace(look, pixel=round(pixel, digits), views=views_for(depth))


def candidates_look(pool: ImagePool, look: Look) -> Look:
    """The look for slices as candidates: those that an annotator draws on, as many as the longest volume needs.

    So the candidates of a volume depend on nothing but itself, and later rounds find them again.
    """
    reader = pool.reader()
    depths = [n * mm for n, mm in (third_axis(case, reader) for case in pool.cases) if n > 1]
    return replace(look, axis=FILE, views=views_for(max(depths, default=0.0)))


def tells_size(pool: ImagePool) -> bool:
    """Whether the files of a pool tell millimetres, which .png and .bmp do not."""
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    return not isinstance(pool.reader(), NaturalImage2DIO)


def _extents(pool: ImagePool) -> list[dict[str, list[float]]]:
    """`slice_extents` of some cases, kept on disk by what their files hold, because volumes are slow to read."""
    with caches_lock(pool.name):
        return _measured(pool, Workspace(pool.name).caches / "extents.json")


def _measured(pool: ImagePool, path: Path) -> list[dict[str, list[float]]]:
    known = read_as(path, dict[str, _Extents], advice="delete it: it is made anew") if is_there(path) else {}
    some = [pool.cases[i] for i in np.unique(np.linspace(0, len(pool) - 1, min(len(pool), _SAMPLE)).astype(int))]
    # Where nothing may be written, only files that are known are told by what they hold.
    hashes = known_hashes(pool) if only_reads() else file_hashes(pool)
    names = pool.channel_names or ()
    # Of CT the table and the air around a body are left out, of the same image under another name they are not.
    ct = [str(i) for i, scheme in enumerate(normalisation_schemes(names)) if scheme == "CTNormalization"][:1]
    cases = {" CT ".join([hashes.get(case.identifier, case.identifier), *ct]): case for case in some}
    unknown = {digest: case for digest, case in cases.items() if digest not in known}
    if only_reads():
        unknown = dict(list(unknown.items())[:_GLANCE])
    new, reader = {}, pool.reader()

    def measure(case: Case) -> dict[str, tuple[float, float]]:
        image, properties = read_image(case, reader)
        geometry = Geometry.of(properties)
        if len(image) == len(names):  # else reading its views will say what does not fit
            image = crop_to_body(image, names, geometry=geometry)
        return slice_extents(image, geometry=geometry)

    with read_ahead(measure, unknown.values(), memory=partial(memory_of, reader=reader)) as measured:
        for digest, found in zip(unknown, measured, strict=True):
            with suppress(BrokenImage):
                new[digest] = found.result()
    if new and not only_reads():
        write_json(path, {**known, **new})
    return [extents for digest, extents in {**known, **new}.items() if digest in cases]
