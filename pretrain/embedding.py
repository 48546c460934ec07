"""Embeddings of cases: one row of features a case, kept on disk and computed only where it is missing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from nnunetv2_xssr.case_rows import CaseRows
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pretrain.checkpoint import encoder_identity, load_checkpoint
from nnunetv2_xssr.pretrain.mae import MaskedAutoencoder
from nnunetv2_xssr.pretrain.schedule import AUTO
from nnunetv2_xssr.views import Views, pool_folder


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder, ready to embed.

    Attributes
    ----------
    module : nn.Module
        Image tensor (n, channels, height, width) to features (n, d, rows, columns).
    identity : str
        SHA-256 of weights, architecture and views.
    n_features : int
    views : dict
        ``view_size`` and ``normalisation``, nnU-Net's schemes, one a channel: what it was trained on.
    sources : dict
        Name and hash of every pool that it learned from.
    path : Path
    """

    module: nn.Module
    identity: str
    n_features: int
    views: dict
    sources: dict[str, str]
    path: Path


def load_encoder(path: Path, device: str) -> Encoder:
    """Load the encoder of a finished pretraining.

    Raises
    ------
    UserError
        If the file is not a finished checkpoint of ours.
    """
    checkpoint = load_checkpoint(path)
    if "optimizer" in checkpoint:
        done, epochs = checkpoint["epoch"], checkpoint["training"]["epochs"]
        raise UserError(
            f"{path} is an unfinished pretraining ({done} of {'more' if epochs == AUTO else epochs} epochs); "
            f"finish it with nnUNetv2_xssr_pretrain --c and give its checkpoint_final.pth"
        )
    model = MaskedAutoencoder(**checkpoint["architecture"])
    model.load_state_dict(checkpoint["weights"])
    return Encoder(
        model.encoder.eval().to(device),
        encoder_identity(checkpoint),
        checkpoint["architecture"]["features_per_stage"][-1],
        checkpoint["views"],
        checkpoint["sources"],
        path,
    )


def check_encoder_fits(encoder: Encoder, views: Views) -> None:
    """Raise `UserError` unless the encoder was trained on as many channels, normalised alike, and on such views."""
    size, found_size = encoder.views["view_size"], views.settings["view_size"]
    if size != found_size:
        raise UserError(
            f"the encoder {encoder.path} was trained on {_kind(size)} but {views.pool.name} is read as "
            f"{_kind(found_size)}; give another --encoder or --dim"
        )
    expected, found = encoder.views["normalisation"], views.settings["normalisation"]
    if expected != found:
        raise UserError(
            f"the encoder {encoder.path} was trained on {len(expected)} channels ({', '.join(expected)}) but "
            f"{views.pool.name} has {len(found)} ({', '.join(found)}); give another --encoder or source"
        )


def _kind(size: int | list[int]) -> str:
    return "2D views" if isinstance(size, int) else "whole volumes"


@torch.inference_mode()
def embed_case(encoder: Encoder, views: np.ndarray) -> np.ndarray:
    """Features of one case, shape (d,): the last stage, averaged over its positions and over the case's views.

    Parameters
    ----------
    views : array of shape (views, channels, height, width)
    """
    device = next(encoder.module.parameters()).device
    features = encoder.module(torch.from_numpy(views.astype(np.float32)).to(device))
    return features.mean(dim=(0, 2, 3)).cpu().numpy()


def embed(encoder: Encoder, views: Views) -> CaseRows:
    """Embed every case of a pool that is not embedded yet; float32 rows of shape (d,).

    A case is embedded alone, so that its row depends neither on its neighbours nor on where a run was interrupted.
    """
    check_encoder_fits(encoder, views)
    settings = {"encoder": encoder.identity, "views": views.settings}
    store = CaseRows.open(
        pool_folder(views.pool) / "embeddings", views.hashes, settings, (encoder.n_features,), np.float32
    )
    for i in tqdm(store.missing(), desc=f"embedding {views.pool.name}", unit="case"):
        store.write(i, embed_case(encoder, views.rows[i]))
    return store
