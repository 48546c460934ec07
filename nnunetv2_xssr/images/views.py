"""Views of a pool: the small square pictures of its cases, made once and kept on disk."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt
from pydantic import with_config
from tqdm import tqdm
from typing_extensions import TypedDict

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_facts import CaseFacts, missing_channels, mixture
from nnunetv2_xssr.images.case_rows import CaseRows, file_hashes
from nnunetv2_xssr.images.channels import UNNAMED, channel_order, different_channels, normalisation_schemes
from nnunetv2_xssr.images.extract import (
    ACQUIRED,
    FILE,
    PLANES,
    VIEW_SIZE,
    VOLUME_SIZE,
    Look,
    choose_slices,
    extract_volume,
    show_slices,
    slice_extents,
    views_for,
)
from nnunetv2_xssr.images.geometry import Geometry, stored_orientation
from nnunetv2_xssr.images.memory import memory_of
from nnunetv2_xssr.images.normalise import Window, view_channels
from nnunetv2_xssr.images.padding import crop_to_body
from nnunetv2_xssr.images.pictures import constant_channels
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import BrokenImage, first_readable, is_volume, read_image, third_axis
from nnunetv2_xssr.images.regions import Regions
from nnunetv2_xssr.records.files import is_there, write_json
from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.schema import OURS, Number, read_as
from nnunetv2_xssr.records.workspace import Workspace

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

VIEWS_VERSION = 5  # of the rules of views; raise it when they change, so that no view made by older ones is used
_SAMPLE = 16  # cases that tell the scale of a pool
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


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of a pool.

    Attributes
    ----------
    pool : ImagePool
        Without the cases that were set aside.
    rows : memory-mapped float16 array
        Of shape (cases, views, view channels, VIEW_SIZE, VIEW_SIZE), or for volumes as a whole (cases, 1, view
        channels, VOLUME_SIZE, VOLUME_SIZE, VOLUME_SIZE).
    hashes : dict
        SHA-256 of every case's files.
    channel_names : tuple of str
        Of the images, in the order of the rows; CT is shown in several view channels.
    settings : dict
        Plain values that decide how the views of a case look.
    cache : str
        The key of the rows in ``views`` of the pool's caches: see `CaseRows`.
    facts : dict
        What is known of every case besides.
    facts_cache : str
        The key of their rows in ``facts`` of the pool's caches.
    broken : tuple of str
        One sentence per case that was set aside.
    """

    pool: ImagePool
    rows: np.ndarray
    hashes: dict[str, str]
    channel_names: tuple[str, ...]
    settings: dict
    cache: str
    facts: dict[str, CaseFacts]
    facts_cache: str
    broken: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """2, or 3 for volumes as a whole."""
        return self.rows.ndim - 3

    @property
    def mixtures(self) -> list[str]:
        """Sentences about what differs between the cases of the pool: see `nnunetv2_xssr.images.case_facts`."""
        mixed = mixture(self.pool.name, list(self.facts.values()))
        return [*([mixed] if mixed else []), *missing_channels(self.pool.name, self.facts, self.channel_names)]


def prepare_views(
    pool: ImagePool,
    *,
    channel_names: tuple[str, ...] | None = None,
    skip_broken: bool = False,
    dim: int = 2,
    look: Look | None = None,
    regions: Regions | None = None,
) -> Views:
    """Read every image of a pool once and keep its views on disk; what an earlier run read is not read again.

    Parameters
    ----------
    pool : ImagePool
    channel_names : tuple of str, optional
        The channels of the views, in this order; those of the pool by default. In a pool without names the channels
        count as being in this order; by default they are normalised by z-score.
    skip_broken : bool
        Set broken cases aside instead of raising.
    dim : {2, 3}
        2 takes slices of a volume, 3 the whole volume as one view.
    look : Look, optional
        Scale and slices; by default every slice is fitted into its view, as it always is in pools that tell no size.
    regions : Regions, optional
        What limits the slices, where they are taken along the third axis of the files.

    Raises
    ------
    BrokenImage
        At the first case that cannot be used, unless ``skip_broken``.
    UserError
        If no case can be used, the pool has other channels, a region does not fit, or ``dim`` is 3 for 2D images.
    """
    reader = pool.reader()
    names, order = _channels(pool, channel_names)
    # One volume makes a pool of volumes, whatever its name; a flat case among them shows its slice in every view.
    has_volumes = any(is_volume(case, reader) for case in pool.cases)
    if dim == 3 and not has_volumes:
        raise UserError(f"--dim 3 needs volumes, but {pool.name} holds 2D images; choose --dim 2")
    look, regions = look or Look(), regions or Regions()
    n_views = look.views if dim == 2 and has_volumes else 1
    if not _tells_size(pool):
        look = replace(look, pixel=None)
    settings = _settings(names, order=order, n_views=n_views, dim=dim, reader=type(reader).__name__, look=look)
    settings |= {"limits": regions.digest(pool)}
    shape = (n_views, len(settings["view_channels"]), *([VIEW_SIZE] * 2 if dim == 2 else [VOLUME_SIZE] * 3))
    with caches_lock(pool.name):
        hashes = file_hashes(pool)
        caches = Workspace(pool.name).caches
        store = CaseRows.open(caches / "views", hashes, settings, shape, np.float16)
        notes = CaseRows.open(caches / "facts", hashes, settings, (CaseFacts.columns(n_views),), np.float64)
        views_of = partial(
            _case_views,
            reader=reader,
            channel_names=names,
            order=order,
            n_views=n_views,
            dim=dim,
            look=look,
            regions=regions,
        )
        broken = _read_missing(pool, views_of, store, notes, skip_broken=skip_broken)
    kept = [i for i, case in enumerate(pool.cases) if case.identifier not in broken]
    if not kept:
        raise UserError(f"no case of {pool.name} can be used; the first: {next(iter(broken.values()))}")
    usable = pool.only(pool.cases[i].identifier for i in kept)
    done = Views(
        pool=usable,
        rows=store.rows if not broken else store.rows[kept],
        hashes={k: hashes[k] for k in usable.identifiers},
        channel_names=names,
        settings=settings,
        cache=store.key,
        facts={pool.cases[i].identifier: CaseFacts.of_row(notes.rows[i]) for i in kept},
        facts_cache=notes.key,
        broken=tuple(broken.values()),
    )
    for sentence in done.mixtures:
        logger.info(sentence)
    return done


def _read_missing(
    pool: ImagePool,
    views_of: Callable[[Case], tuple[np.ndarray, CaseFacts]],
    store: CaseRows,
    notes: CaseRows,
    *,
    skip_broken: bool,
) -> dict[str, str]:
    """Read the cases that lack views or facts, and return a sentence for every broken one."""
    broken, missing = {}, sorted({*store.missing(), *notes.missing()})
    progress = tqdm(missing, desc=f"reading {pool.name}", unit="case", disable=None)
    memory = partial(memory_of, reader=pool.reader())
    with read_ahead(views_of, [pool.cases[i] for i in missing], memory=memory) as read:
        for i, case_views in zip(progress, read, strict=True):
            try:
                views, facts = case_views.result()
            except BrokenImage as error:
                if not skip_broken:
                    raise
                broken[pool.cases[i].identifier] = str(error)
            else:
                store.write(i, views)
                notes.write(i, facts.row())
    return broken


def _settings(
    channel_names: tuple[str, ...], *, order: tuple[int, ...], n_views: int, dim: int, reader: str, look: Look
) -> dict:
    return {
        "version": VIEWS_VERSION,
        "reader": reader,
        "view_size": VIEW_SIZE if dim == 2 else [VOLUME_SIZE] * 3,
        "views": n_views,
        "normalisation": normalisation_schemes(channel_names),
        "view_channels": view_channels(channel_names, look.window),
        "pixel": look.pixel if dim == 2 else None,
        "axis": look.axis if dim == 2 else None,
        "window": look.window and list(look.window),
        "channel_order": list(order),
    }


def common_look(pools: Sequence[ImagePool], *, dim: int, axis: str | None = None, window: Window | None = None) -> Look:
    """The look with the scale and the number of slices of some pools: their median case fills a view.

    What a case fills is the larger side of a slice, without its margins of zeros. Whole volumes and pictures that tell
    no size have no common scale: they are fitted into the view one by one.

    Parameters
    ----------
    pools : sequence of ImagePool
        Of which sixteen cases each, evenly spaced, are looked at.
    dim : {2, 3}
    axis : str, optional
        Along which slices are taken: see `Look`.
    window : (float, float), optional
        See `Look`.
    """
    look = Look(axis=axis or ACQUIRED, window=window)
    if dim == 3 or not all(map(_tells_size, pools)):
        return look
    extents = [extent[look.axis] for pool in pools for extent in _extents(pool)]
    if not extents:
        return look  # every case is broken, as reading them will say
    side, depth = np.median(extents, axis=0).tolist()
    power = math.ceil(math.log(side / VIEW_SIZE, _STEP))
    return replace(look, pixel=round(_STEP**power, 6), views=views_for(depth))


def candidates_look(pool: ImagePool, look: Look) -> Look:
    """The look for slices as candidates: those that an annotator draws on, as many as the longest volume needs.

    So the candidates of a volume depend on nothing but itself, and later rounds find them again.
    """
    reader = pool.reader()
    depths = [n * mm for n, mm in (third_axis(case, reader) for case in pool.cases) if n > 1]
    return replace(look, axis=FILE, views=views_for(max(depths, default=0.0)))


def _tells_size(pool: ImagePool) -> bool:
    """Whether the files of a pool tell millimetres, which .png and .bmp do not."""
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    return not isinstance(pool.reader(), NaturalImage2DIO)


def _extents(pool: ImagePool) -> list[dict[str, list[float]]]:
    """`slice_extents` of some cases, kept on disk by what their files hold, because volumes are slow to read."""
    with caches_lock(pool.name):
        return _measured(pool, Workspace(pool.name).caches / "extents.json")


def _measured(pool: ImagePool, path: Path) -> list[dict[str, list[float]]]:
    hashes = file_hashes(pool)
    known = read_as(path, dict[str, _Extents], advice="delete it: it is made anew") if is_there(path) else {}
    some = np.unique(np.linspace(0, len(pool) - 1, min(len(pool), _SAMPLE)).astype(int))
    cases = {hashes[pool.cases[i].identifier]: pool.cases[i] for i in some}
    unknown = {digest: case for digest, case in cases.items() if digest not in known}
    new, reader = {}, pool.reader()

    def measure(case: Case) -> dict[str, tuple[float, float]]:
        image, properties = read_image(case, reader)
        image = crop_to_body(image, pool.channel_names or ())
        return slice_extents(image, geometry=Geometry.of(properties))

    with read_ahead(measure, unknown.values(), memory=partial(memory_of, reader=reader)) as measured:
        for digest, found in zip(unknown, measured, strict=True):
            with suppress(BrokenImage):
                new[digest] = found.result()
    if new:
        write_json(path, {**known, **new})
    return [extents for digest, extents in {**known, **new}.items() if digest in cases]


def _channels(pool: ImagePool, wanted: tuple[str, ...] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The channels of the views, and where in the images they are."""
    names = wanted or pool.channel_names or (UNNAMED,) * len(first_readable(pool)[1])
    own = pool.channel_names or names
    order = channel_order(own, like=names)
    if order is None:
        raise different_channels("the rest", names, pool.name, own)
    return names, order


def _case_views(
    case: Case,
    *,
    reader: "BaseReaderWriter",
    channel_names: tuple[str, ...],
    order: tuple[int, ...],
    n_views: int,
    dim: int,
    look: Look,
    regions: Regions,
) -> tuple[np.ndarray, CaseFacts]:
    image, properties = read_image(case, reader)
    where = f"case {case.identifier}: {case.files[0]}"
    if len(image) != len(channel_names):
        files = "" if len(case.files) == 1 else f" with {len(case.files) - 1} more channel files"
        raise BrokenImage(
            f"{where}{files} has {len(image)} channels but the pool has {len(channel_names)} "
            f"({', '.join(channel_names)}); fix channel_names in dataset.json or the image"
        )
    if dim == 2 and n_views == 1 and image.shape[1] > 1:
        raise BrokenImage(f"{where} is a volume of {image.shape[1]} slices in a pool of 2D images; keep them apart")
    image = image if order == tuple(range(len(image))) else image[list(order)]  # that would be a copy
    image = crop_to_body(image, channel_names)
    geometry = Geometry.of(properties)
    if look.axis in PLANES and image.shape[1] > 1 and not geometry.known:
        raise BrokenImage(f"{where} does not tell how it lies in the patient; leave --axis {look.axis} out")
    chosen = None
    try:
        if dim == 2:
            limits = regions.limits(case, image.shape[1:], properties, reader)
            chosen = choose_slices(image, n_views, geometry=geometry, look=look, limits=limits)
            views = show_slices(image, channel_names, chosen, geometry=geometry, look=look)
        else:
            views = extract_volume(image, channel_names, geometry=geometry, window=look.window)
    except AssertionError as error:  # nnU-Net's RGB scheme checks its range this way
        raise BrokenImage(f"{where} does not fit its normalisation: {error}") from None
    if not np.isfinite(views).all():
        largest = max(abs(float(image.min())), abs(float(image.max())))
        raise BrokenImage(
            f"{where} has values up to {largest:g} after normalisation, beyond half precision (65504); "
            f"choose another normalisation by its channel name"
        )
    facts = CaseFacts(
        axis=-1 if chosen is None else chosen.axis,
        orientation=stored_orientation(properties) or "???",
        spacing=tuple(reversed(geometry.spacing)),
        size=tuple(reversed(image.shape[1:])),
        across=-1 if chosen is None else 2 - geometry.source[chosen.axis],
        open=0 if chosen is None else chosen.open,
        of=0 if chosen is None else chosen.of,
        constant=tuple(constant_channels(image, channel_names)),
        slices=(0,) if chosen is None else tuple(chosen.in_file.tolist()),
    )
    return views, facts
