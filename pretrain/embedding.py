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
    normalisation : list of str
        nnU-Net's schemes, one a channel, that it was trained with.
    sources : dict
        Name and hash of every pool that it learned from.
    path : Path
    """

    module: nn.Module
    identity: str
    n_features: int
    normalisation: list[str]
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
        checkpoint["views"]["normalisation"],
        checkpoint["sources"],
        path,
    )


def check_encoder_fits(encoder: Encoder, views: Views) -> None:
    """Raise `UserError` unless the encoder was trained on as many channels, normalised alike."""
    expected, found = encoder.normalisation, views.settings["normalisation"]
    if expected != found:
        raise UserError(
            f"the encoder {encoder.path} was trained on {len(expected)} channels ({', '.join(expected)}) but "
            f"{views.pool.name} has {len(found)} ({', '.join(found)}); give another --encoder or source"
        )


@torch.inference_mode()
def embed_views(encoder: Encoder, views: np.ndarray) -> np.ndarray:
    """Features of the views of one case, shape (views, d): the last stage, averaged over its positions.

    Parameters
    ----------
    views : array of shape (views, channels, height, width)
    """
    device = next(encoder.module.parameters()).device
    features = encoder.module(torch.from_numpy(views.astype(np.float32)).to(device))
    return features.mean(dim=(2, 3)).cpu().numpy()


def embed_case(encoder: Encoder, views: np.ndarray) -> np.ndarray:
    """Features of one case, shape (d,): the mean of those of its views, shape (views, channels, height, width)."""
    return embed_views(encoder, views).mean(axis=0)


def embed(encoder: Encoder, views: Views) -> CaseRows:
    """Embed every case of a pool that is not embedded yet; float32 rows of shape (d,).

    A case is embedded alone, so that its row depends neither on its neighbours nor on where a run was interrupted.
    """
    return _embed(encoder, views, "embeddings", (encoder.n_features,), embed_case)


def embed_slices(encoder: Encoder, views: Views) -> CaseRows:
    """Embed every view of a pool on its own; float32 rows of shape (views, d), one a case."""
    return _embed(encoder, views, "slice_embeddings", (views.rows.shape[1], encoder.n_features), embed_views)


def _embed(encoder: Encoder, views: Views, folder: str, row_shape: tuple[int, ...], features) -> CaseRows:
    check_encoder_fits(encoder, views)
    settings = {"encoder": encoder.identity, "views": views.settings}
    store = CaseRows.open(pool_folder(views.pool) / folder, views.hashes, settings, row_shape, np.float32)
    for i in tqdm(store.missing(), desc=f"embedding {views.pool.name}", unit="case"):
        store.write(i, features(encoder, views.rows[i]))
    return store
