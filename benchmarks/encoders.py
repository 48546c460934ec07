"""What evidence.py compares cases by: the encoders by name, each giving features of a pool and of a source.

An entry of ``ENCODERS`` takes the views of target and source, the rows of the pool among the target's, a seed and a
folder for what it keeps, and returns `Features`. An encoder that knows no seed is listed in ``SEEDLESS``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from proxies import shrink

from nnunetv2_xssr.benchmark.arms import Features
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.embedding import Encoder, embed_views, load_encoder
from nnunetv2_xssr.pretrain.mae import Ensemble
from nnunetv2_xssr.pretrain.pooling import COMPONENTS, GRID, FeatureLayout, choose_embedding, features
from nnunetv2_xssr.pretrain.processes import start
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import ARCHITECTURE, MEMBERS, pretrain
from nnunetv2_xssr.records.files import atomic, sha256_json


def checkpoint_of(source: Views, seed: int, folder: Path) -> Path:
    """Where the masked autoencoder of a source and a seed lies."""
    return folder / f"mae_{source.pool.name}_{seed}" / "checkpoint_final.pth"


def pretrained(source: Views, seed: int, folder: Path) -> Path:
    """The checkpoint of the masked autoencoder of a source and a seed, pretrained where it is missing."""
    kept = checkpoint_of(source, seed, folder)
    return pretrain([source], settings=Settings(seed=seed), fabric=start("cpu"), resume=True, folder=kept.parent)


def mae(target: Views, source: Views, rows: Sequence[int], seed: int, folder: Path) -> Features:
    """The masked autoencoder that learned from the source, as nnUNetv2_xssr_select embeds with it."""
    encoder = load_encoder(pretrained(source, seed, folder), device="cpu")
    return _compared(encoder, target, source, rows, folder)


def untrained(target: Views, source: Views, rows: Sequence[int], seed: int, folder: Path) -> Features:
    """The same network with its first weights: what a trained one must beat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Ensemble(MEMBERS, input_channels=source.rows.shape[2], **ARCHITECTURE)
    before, last = (MEMBERS * n for n in ARCHITECTURE["features_per_stage"][-2:])
    encoder = Encoder(
        members=torch.nn.ModuleList(member.encoder for member in model.members).eval(),
        identity=sha256_json(["untrained", seed, MEMBERS, ARCHITECTURE, source.rows.shape[2]]),
        layout=FeatureLayout(last, before, GRID**2),
        views={},
        sources={},
        path=Path(),
    )
    return _compared(encoder, target, source, rows, folder)


def _compared(encoder: Encoder, target: Views, source: Views, rows: Sequence[int], folder: Path) -> Features:
    of_target, of_source = (_pooled(encoder, views, folder) for views in (target, source))
    kind = choose_embedding(of_target[rows], encoder.layout, kind="auto")
    pool, archive = (features(pooled, encoder.layout, kind=kind) for pooled in (of_target[rows], of_source))
    return Features(pool=pool, source=archive, components=COMPONENTS[kind])


def _pooled(encoder: Encoder, views: Views, folder: Path) -> np.ndarray:
    """What the encoder keeps of every case, from disk where it was computed before."""
    path = folder / f"{sha256_json([encoder.identity, views.hashes, views.settings])[:16]}.npy"
    if not path.is_file():
        pooled = np.stack([embed_views(encoder, case) for case in views.rows])
        with atomic(path) as temporary:
            np.save(temporary, pooled)
    return np.load(path)


def thumbnails(target: Views, source: Views, rows: Sequence[int], seed: int, folder: Path) -> Features:
    """The intensities at 16 x 16 pixels, the mean over the slices of volumes: no network at all."""
    pool, archive = (
        shrink(np.asarray(views.rows, np.float32).mean(axis=1), 16).reshape(len(views.rows), -1)
        for views in (target, source)
    )
    return Features(pool=pool[rows], source=archive, components=None)


ENCODERS: dict[str, Callable[[Views, Views, Sequence[int], int, Path], Features]] = {
    "mae": mae,
    "untrained": untrained,
    "thumbnails": thumbnails,
}
SEEDLESS = ("thumbnails",)
