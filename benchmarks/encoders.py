"""What evidence.py and embedding.py compare cases by: encoders by name, each giving features of a pool and of a source.

An entry of ``ENCODERS`` takes the views of target and source, the rows of the pool among the target's, a seed and a
folder for what it keeps, and returns `Features`. An encoder that knows no seed is listed in ``SEEDLESS``. Those of
``WITH_EMBEDDING`` are the encoders with one kind of embedding in place of the one that select takes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from nnunetv2_xssr.benchmark.arms import Features
from nnunetv2_xssr.encoders.embedding import intensities_of, kept_layout
from nnunetv2_xssr.encoders.encoder import Encoder
from nnunetv2_xssr.encoders.pooling import compare
from nnunetv2_xssr.encoders.registry import open_encoder
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.processes import start
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import pretrain
from nnunetv2_xssr.records.files import atomic, sha256_json


def is_there(name: str, source: Views, seed: int, folder: Path) -> bool:
    """Whether an encoder can be used without pretraining."""
    return not learns(name) or _checkpoint(source, seed, folder).is_file()


def learns(name: str) -> bool:
    """Whether an encoder is a masked autoencoder."""
    return name.split("_")[0] == "mae"


def _checkpoint(source: Views, seed: int, folder: Path) -> Path:
    return folder / f"mae_{source.pool.name}_{seed}" / "checkpoint_final.pth"


def pretrained(source: Views, seed: int, folder: Path) -> Path:
    """The checkpoint of the masked autoencoder of a source and a seed, pretrained where it is missing."""
    kept = _checkpoint(source, seed, folder).parent
    return pretrain([source], settings=Settings(seed=seed), fabric=start("cpu"), resume=True, folder=kept)


def registered(
    name: str, target: Views, source: Views, rows: Sequence[int], seed: int, folder: Path, *, kind: str = "auto"
) -> Features:
    """Features by an encoder of nnUNetv2_xssr_select, as that compares cases by it."""
    return compared(opened(name, source, seed, folder), target, source, rows, folder, kind=kind)


def opened(name: str, source: Views, seed: int, folder: Path) -> Encoder:
    """An encoder of nnUNetv2_xssr_select, ready to embed."""
    spelling = str(pretrained(source, seed, folder)) if name == "mae" else name
    encoder = open_encoder(spelling, weights=None, learn_from=[source.pool.name], dim=2, device="cpu")
    return encoder.ready([source], seed=seed)


def compared(
    encoder: Encoder, target: Views, source: Views, rows: Sequence[int], folder: Path, *, kind: str = "auto"
) -> Features:
    """Features by which cases are compared, by default of the kind that select takes."""
    of_target, of_source = (pooled_by(encoder, views, folder) for views in (target, source))
    found = compare([of_target[rows], of_source], kept_layout(encoder, target.rows.shape[2]), embedding=kind)
    return Features(pool=found.features[0], source=found.features[1], **found.how)


def pooled_by(encoder: Encoder, views: Views, folder: Path) -> np.ndarray:
    """What select keeps of every case; what the encoder sees comes from disk where it was computed before."""
    path = folder / f"{sha256_json([encoder.identity, views.hashes, views.settings])[:16]}.npy"
    if not path.is_file():
        embed_case = encoder.for_pool(views)
        pooled = np.stack([embed_case(case) for case in views.rows])
        with atomic(path) as temporary:
            np.save(temporary, pooled)
    pooled = np.load(path)
    if not encoder.layout.cells:
        return pooled
    intensities = intensities_of(views)
    return np.concatenate([pooled, np.stack([intensities(case) for case in views.rows])], axis=2)


def thumbnails(target: Views, source: Views, rows: Sequence[int], seed: int, folder: Path) -> Features:
    """The intensities at 16 x 16 pixels, the mean over the slices of volumes: no network at all."""
    means = (torch.from_numpy(np.asarray(views.rows, np.float32).mean(axis=1)) for views in (target, source))
    pool, archive = (F.interpolate(images, (16, 16), mode="area").flatten(1).numpy() for images in means)
    return Features(pool=pool[rows], source=archive, components=None)


ENCODERS: dict[str, Callable[[Views, Views, Sequence[int], int, Path], Features]] = {
    **{name: partial(registered, name) for name in ("mae", "untrained", "intensity", "dictionary")},
    "thumbnails": thumbnails,
}
WITH_EMBEDDING = {
    f"{name}_{kind}": partial(registered, name, kind=kind)
    for name in ("mae", "untrained")
    for kind in ("grid+intensity", "grid", "average")
}
SEEDLESS = ("intensity", "thumbnails")
