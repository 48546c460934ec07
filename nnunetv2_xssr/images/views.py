"""Views: the small square images of a case that the encoder learns from and embeds."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import CaseRows, file_hashes
from nnunetv2_xssr.images.channels import UNNAMED, channel_order, different_channels, normalisation_schemes
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import BrokenImage, is_volume, read_case
from nnunetv2_xssr.records.workspace import Workspace

VIEWS_VERSION = 1  # of the rules of this module; raise it when they change, so that no view made by older ones is used
VIEW_SIZE = 128  # pixels, height and width
VOLUME_SIZE = 64  # voxels along every axis of a volume that is one view
VIEWS_PER_VOLUME = 8
# nnU-Net takes the statistics of CT from the labelled foreground, which a pool may not have. A fixed window keeps what
# its scheme is for: Hounsfield units stay comparable between cases.
CT_WINDOW = {"mean": 0.0, "std": 500.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}


def normalise(image: np.ndarray, channel_names: tuple[str, ...]) -> np.ndarray:
    """Normalise every channel of one case by nnU-Net's scheme for its name; shape (channels, z, y, x) in and out."""
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    return np.stack(
        [
            get_normalization_scheme(name)(use_mask_for_norm=False, intensityproperties=CT_WINDOW).run(channel.copy())
            for name, channel in zip(channel_names, image, strict=True)
        ]
    )


def foreground(volume: np.ndarray, axis: int = 0) -> slice:
    """Where along an axis the foreground of a volume of shape (z, y, x) lies.

    Foreground is what is brighter than the volume's mean; a slice belongs to it with at least a tenth of the
    foreground of the fullest slice.
    """
    per_slice = np.moveaxis(volume > volume.mean(), axis, 0).sum(axis=(1, 2))
    inside = np.flatnonzero(per_slice >= 0.1 * per_slice.max())
    return slice(int(inside[0]), int(inside[-1]) + 1)


def foreground_slices(volume: np.ndarray, n: int) -> np.ndarray:
    """Evenly spaced axial slices inside the `foreground` of a volume of shape (z, y, x); int array of shape (n,)."""
    inside = foreground(volume)
    # The middle of n equal parts, so that the first and the last slice, which show least, are not among them.
    return np.floor(inside.start + (np.arange(n) + 0.5) / n * (inside.stop - inside.start)).astype(int)


def extract_views(image: np.ndarray, channel_names: tuple[str, ...], n_views: int) -> np.ndarray:
    """Views of one case.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
        As nnU-Net's readers give it.
    channel_names : tuple of str
    n_views : int
        1 for a 2D case; for a volume the number of axial slices.

    Returns
    -------
    array of shape (n_views, channels, VIEW_SIZE, VIEW_SIZE), float16
    """
    slices = foreground_slices(image[0], n_views) if image.shape[1] > 1 else np.zeros(n_views, int)
    views = torch.from_numpy(normalise(image, channel_names)[:, slices]).transpose(0, 1)
    views = F.interpolate(views, (VIEW_SIZE, VIEW_SIZE), mode="bilinear", antialias=True, align_corners=False)
    return views.numpy().astype(np.float16)


def extract_volume(image: np.ndarray, channel_names: tuple[str, ...]) -> np.ndarray:
    """A volume as one view: the box around its foreground, resized to a cube.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
    channel_names : tuple of str

    Returns
    -------
    array of shape (1, channels, VOLUME_SIZE, VOLUME_SIZE, VOLUME_SIZE), float16
    """
    box = [foreground(image[0], axis) for axis in range(3)]
    volume = torch.from_numpy(normalise(image, channel_names)[:, box[0], box[1], box[2]])[None]
    # First up, then down by averages: trilinear interpolation alone would skip voxels.
    larger = [max(size, VOLUME_SIZE) for size in volume.shape[2:]]
    volume = F.interpolate(volume, larger, mode="trilinear", align_corners=False)
    return F.interpolate(volume, [VOLUME_SIZE] * 3, mode="area").numpy().astype(np.float16)


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of a pool.

    Attributes
    ----------
    pool : ImagePool
        Without the cases that were set aside.
    rows : memory-mapped float16 array
        Of shape (cases, views, channels, VIEW_SIZE, VIEW_SIZE), or for volumes as a whole (cases, 1, channels,
        VOLUME_SIZE, VOLUME_SIZE, VOLUME_SIZE).
    hashes : dict
        SHA-256 of every case's files.
    channel_names : tuple of str
        In the order of the rows.
    settings : dict
        Plain values that decide how the views of a case look.
    cache : str
        The key of the rows in ``views`` of the pool's caches: see `CaseRows`.
    broken : tuple of str
        A sentence for every case that was set aside.
    """

    pool: ImagePool
    rows: np.ndarray
    hashes: dict[str, str]
    channel_names: tuple[str, ...]
    settings: dict
    cache: str
    broken: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """2, or 3 for volumes as a whole."""
        return self.rows.ndim - 3


def prepare_views(
    pool: ImagePool, *, channel_names: tuple[str, ...] | None = None, skip_broken: bool = False, dim: int = 2
) -> Views:
    """Read every image of a pool once and keep its views on disk; what an earlier run read is not read again.

    Parameters
    ----------
    pool : ImagePool
    channel_names : tuple of str, optional
        The channels of the views, in this order; by default those of the pool. A pool without names is taken to have
        its channels in this order, or, without it, channels that nnU-Net normalises by z-score.
    skip_broken : bool
        Set broken cases aside instead of raising.
    dim : {2, 3}
        3 keeps a volume as one view, 2 takes slices of it.

    Raises
    ------
    BrokenImage
        At the first case that cannot be used, unless ``skip_broken``.
    UserError
        If no case can be used, the pool has other channels, or ``dim`` is 3 for 2D images.
    """
    reader = pool.reader()
    names, order = _channels(pool, channel_names, reader)
    # One volume makes a pool of volumes, wherever it lies; a flat case among them shows its slice in every view.
    has_volumes = any(is_volume(case, reader) for case in pool.cases)
    if dim == 3 and not has_volumes:
        raise UserError(f"--dim 3 needs volumes, but {pool.name} holds 2D images; choose --dim 2")
    n_views = VIEWS_PER_VOLUME if dim == 2 and has_volumes else 1
    settings = _settings(names, order=order, n_views=n_views, dim=dim, reader=type(reader).__name__)
    shape = (n_views, len(names), *([VIEW_SIZE] * 2 if dim == 2 else [VOLUME_SIZE] * 3))
    hashes = file_hashes(pool)
    store = CaseRows.open(Workspace(pool.name).caches / "views", hashes, settings, shape, np.float16)
    broken, missing = {}, store.missing()

    def views_of(case: Case) -> np.ndarray:
        return _case_views(case, reader, channel_names=names, order=order, n_views=n_views, dim=dim)

    progress = tqdm(missing, desc=f"reading {pool.name}", unit="case", disable=None)
    with read_ahead(views_of, [pool.cases[i] for i in missing]) as read:
        for i, views in zip(progress, read, strict=True):
            try:
                store.write(i, views.result())
            except BrokenImage as error:
                if not skip_broken:
                    raise
                broken[pool.cases[i].identifier] = str(error)
    kept = [i for i, case in enumerate(pool.cases) if case.identifier not in broken]
    if not kept:
        raise UserError(f"no case of {pool.name} can be used; the first: {next(iter(broken.values()))}")
    usable = pool.only(pool.cases[i].identifier for i in kept)
    return Views(
        pool=usable,
        rows=store.rows if not broken else store.rows[kept],
        hashes={k: hashes[k] for k in usable.identifiers},
        channel_names=names,
        settings=settings,
        cache=store.key,
        broken=tuple(broken.values()),
    )


def _settings(channel_names: tuple[str, ...], *, order: tuple[int, ...], n_views: int, dim: int, reader: str) -> dict:
    return {
        "version": VIEWS_VERSION,
        "reader": reader,
        "view_size": VIEW_SIZE if dim == 2 else [VOLUME_SIZE] * 3,
        "views": n_views,
        "normalisation": normalisation_schemes(channel_names),
        "ct_window": CT_WINDOW,
        "channel_order": list(order),
    }


def _channels(pool: ImagePool, wanted: tuple[str, ...] | None, reader) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The channels of the views, and where in the images they are."""
    names = wanted or pool.channel_names or (UNNAMED,) * _count_channels(pool, reader)
    order = channel_order(pool.channel_names or names, like=names)
    if order is None:
        raise different_channels("what is looked for", names, pool.name, pool.channel_names)
    return names, order


def _count_channels(pool: ImagePool, reader) -> int:
    """The number of channels of the first case that can be read; of broken ones it does not matter."""
    for case in pool.cases:
        with suppress(BrokenImage):
            return len(read_case(case, reader))
    return 1


def _case_views(
    case: Case, reader, *, channel_names: tuple[str, ...], order: tuple[int, ...], n_views: int, dim: int
) -> np.ndarray:
    image = read_case(case, reader)
    where = f"case {case.identifier}: {case.files[0]}"
    if len(image) != len(channel_names):
        files = "" if len(case.files) == 1 else f" with {len(case.files) - 1} more channel files"
        raise BrokenImage(
            f"{where}{files} has {len(image)} channels but the pool has {len(channel_names)} "
            f"({', '.join(channel_names)}); fix channel_names in dataset.json or the image"
        )
    if dim == 2 and n_views == 1 and image.shape[1] > 1:
        raise BrokenImage(f"{where} is a volume of {image.shape[1]} slices in a pool of 2D images; keep them apart")
    image = image[list(order)]
    try:
        views = extract_views(image, channel_names, n_views) if dim == 2 else extract_volume(image, channel_names)
    except AssertionError as error:  # nnU-Net's RGB scheme checks its range this way
        raise BrokenImage(f"{where} does not fit its normalisation: {error}") from None
    if not np.isfinite(views).all():
        raise BrokenImage(
            f"{where} has values up to {np.abs(image).max():g} after normalisation, beyond half precision (65504); "
            f"choose another normalisation by its channel name"
        )
    return views
