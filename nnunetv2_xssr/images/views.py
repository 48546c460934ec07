"""Views of a pool: the small square pictures of its cases, made once and kept on disk."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_facts import CaseFacts, missing_channels, mixture, no_hounsfield
from nnunetv2_xssr.images.case_rows import CaseRows, check_unchanged, file_hashes
from nnunetv2_xssr.images.channels import UNNAMED, channel_order, different_channels, normalisation_schemes
from nnunetv2_xssr.images.extract import (
    PLANES,
    VIEW_SIZE,
    VOLUME_SIZE,
    Look,
    Slices,
    choose_slices,
    extract_volume,
    show_slices,
)
from nnunetv2_xssr.images.geometry import FLAT_RULES, Geometry, stored_orientation
from nnunetv2_xssr.images.memory import memory_of
from nnunetv2_xssr.images.normalise import view_channels
from nnunetv2_xssr.images.padding import CT_RULES, crop_to_body, is_above_zero
from nnunetv2_xssr.images.pictures import constant_channels
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import BrokenImage, first_readable, is_volume, none_usable, read_image
from nnunetv2_xssr.images.regions import Regions
from nnunetv2_xssr.images.scale import tells_size
from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.workspace import Workspace

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

_APART = 32  # times larger or smaller than its pool no case is, but one whose spacing is in another unit
VIEWS_VERSION = 7  # of the rules of views; raise it when they change, so that no view made by older ones is used


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
        missing = missing_channels(self.pool.name, self.facts, self.channel_names)
        return [*([mixed] if mixed else []), *missing, *no_hounsfield(self.pool.name, self.facts)]


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
    return read_views(
        how_seen(pool, channel_names=channel_names, dim=dim, look=look, regions=regions), skip_broken=skip_broken
    )


def read_views(seen: "HowSeen", *, skip_broken: bool) -> Views:
    """The views of a pool, for which see `prepare_views`, once it is decided how they are seen."""
    pool = seen.pool
    with caches_lock(pool.name):
        hashes = file_hashes(pool)
        (views, *of_views), (facts, *of_facts) = seen.caches(hashes)
        store, notes = CaseRows.open(views, *of_views), CaseRows.open(facts, *of_facts)
        broken = _read_missing(pool, seen.views_of, store, notes, skip_broken=skip_broken)
    kept = [i for i, case in enumerate(pool.cases) if case.identifier not in broken]
    if not kept:
        raise none_usable(pool.name, [*broken.values()])
    usable = pool.only(pool.cases[i].identifier for i in kept)
    done = Views(
        pool=usable,
        rows=store.rows if not broken else store.rows[kept],
        hashes={k: hashes[k] for k in usable.identifiers},
        channel_names=seen.channel_names,
        settings=seen.settings,
        cache=store.key,
        facts={pool.cases[i].identifier: CaseFacts.of_row(notes.rows[i]) for i in kept},
        facts_cache=notes.key,
        broken=tuple(broken.values()),
    )
    for sentence in done.mixtures:
        logger.info(sentence)
    return done


@dataclass(frozen=True, kw_only=True)
class HowSeen:
    """How the cases of a pool are seen, decided before their images are read.

    Attributes
    ----------
    pool : ImagePool
    channel_names : tuple of str
    settings : dict
    shape : tuple of int
        Of the views of a case.
    views_of : callable
        Reads a case; returns its views and its `CaseFacts`.
    """

    pool: ImagePool
    channel_names: tuple[str, ...]
    settings: dict
    shape: tuple[int, ...]
    views_of: Callable[[Case], tuple[np.ndarray, CaseFacts]]

    def caches(self, hashes: dict[str, str]) -> tuple[tuple, tuple]:
        """What `CaseRows.open` takes for the views of these cases, and for their facts."""
        caches, columns = Workspace(self.pool.name).caches, (CaseFacts.columns(self.shape[0]),)
        return (
            (caches / "views", hashes, self.settings, self.shape, np.float16),
            (caches / "facts", hashes, self.settings, columns, np.float64),
        )


def how_seen(
    pool: ImagePool,
    *,
    channel_names: tuple[str, ...] | None,
    dim: int,
    look: Look | None,
    regions: Regions | None,
) -> HowSeen:
    """Decide how a pool is seen: arguments and errors as of `prepare_views`."""
    reader = pool.reader()
    names, order = _channels(pool, channel_names)
    # One volume makes a pool of volumes, whatever its name; a flat case among them shows its slice in every view.
    has_volumes = any(is_volume(case, reader) for case in pool.cases)
    if dim == 3 and not has_volumes:
        raise UserError(f"--dim 3 needs volumes, but {pool.name} holds 2D images; choose --dim 2")
    look, regions = look or Look(), regions or Regions()
    n_views = look.views if dim == 2 and has_volumes else 1
    if not tells_size(pool):
        look = replace(look, pixel=None)
    settings = _settings(names, order=order, n_views=n_views, dim=dim, reader=type(reader).__name__, look=look)
    return HowSeen(
        pool=pool,
        channel_names=names,
        settings={**settings, "limits": regions.digest(pool)},
        shape=(n_views, len(settings["view_channels"]), *([VIEW_SIZE] * 2 if dim == 2 else [VOLUME_SIZE] * 3)),
        views_of=partial(
            _case_views,
            reader=reader,
            channel_names=names,
            order=order,
            n_views=n_views,
            dim=dim,
            look=look,
            regions=regions,
        ),
    )


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
    check = check_unchanged(pool.only(pool.cases[i].identifier for i in missing))
    with read_ahead(views_of, [pool.cases[i] for i in missing], memory=memory) as read:
        for i, case_views in zip(progress, read, strict=True):
            try:
                views, facts = case_views.result()
            except BrokenImage as error:
                if not skip_broken:
                    raise
                broken[pool.cases[i].identifier] = str(error)
            else:
                check(pool.cases[i])
                store.write(i, views)
                notes.write(i, facts.row())
    return broken


def _settings(
    channel_names: tuple[str, ...], *, order: tuple[int, ...], n_views: int, dim: int, reader: str, look: Look
) -> dict:
    schemes = normalisation_schemes(channel_names)
    return {
        "version": VIEWS_VERSION,
        **({"ct": CT_RULES} if "CTNormalization" in schemes else {}),
        **({"flat": FLAT_RULES} if (n_views, dim, reader) == (1, 2, "SimpleITKIO") else {}),
        "reader": reader,
        "view_size": VIEW_SIZE if dim == 2 else [VOLUME_SIZE] * 3,
        "views": n_views,
        "normalisation": schemes,
        "view_channels": view_channels(channel_names, look.window),
        "pixel": look.pixel if dim == 2 else None,
        "axis": look.axis if dim == 2 else None,
        "window": look.window and list(look.window),
        "channel_order": list(order),
    }


def _channels(pool: ImagePool, wanted: tuple[str, ...] | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The channels of the views, and where in the images they are."""
    names = wanted or pool.channel_names or (UNNAMED,) * len(first_readable(pool)[1])
    own = pool.channel_names or names
    order = channel_order(own, like=names)
    if order is None:
        raise different_channels("the rest", names, pool.name, own)
    return names, order


def _check_scale(where: str, extent: tuple[float, float], *, whole: float, look: Look) -> None:
    """Raise `BrokenImage` for slices of another order of size than a view, which would show next to nothing of them.

    Parameters
    ----------
    where : str
    extent : (float, float)
        Millimetres of a slice without margins.
    whole : float
        Of the longest side of the volume.
    look : Look
    """
    shown = VIEW_SIZE * (look.pixel or 0.0)
    if shown and (max(extent) > shown * _APART or whole < shown / _APART):
        rows, columns = extent
        raise BrokenImage.advising(
            f"{where} is {rows:.4g} x {columns:.4g} mm in a slice, but a view of the pool shows {shown:.4g} mm",
            "fix its spacing",
            "take a source of its size",
        )


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
    geometry, above_zero = Geometry.of(properties), is_above_zero(image, channel_names)
    image = crop_to_body(image, channel_names, geometry=geometry)
    if look.axis in PLANES and image.shape[1] > 1 and not geometry.known:
        raise BrokenImage(f"{where} does not tell how it lies in the patient; leave --axis {look.axis} out")
    chosen = None
    try:
        if dim == 2:
            limits = regions.limits(case, image.shape[1:], properties, reader)
            chosen = choose_slices(image, n_views, geometry=geometry, look=look, limits=limits)
            whole = max(n * mm for n, mm in zip(image.shape[1:], geometry.spacing, strict=True) if n > 1)
            _check_scale(where, chosen.extent, whole=whole, look=look)
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
        **_of_slices(chosen, geometry),
        orientation=stored_orientation(properties) or "???",
        spacing=tuple(reversed(geometry.spacing)),
        size=tuple(reversed(image.shape[1:])),
        constant=tuple(constant_channels(image, channel_names)),
        above_zero=above_zero,
    )
    return views, facts


def _of_slices(chosen: Slices | None, geometry: Geometry) -> dict[str, Any]:
    """The facts about the slices that were chosen; of whole volumes there are none."""
    if chosen is None:
        return {"axis": -1, "across": -1, "open": 0, "of": 0, "slices": (0,)}
    across = 2 - geometry.source[chosen.axis]
    slices = tuple(chosen.in_file.tolist())
    return {"axis": chosen.axis, "across": across, "open": chosen.open, "of": chosen.of, "slices": slices}
