"""Embeddings of cases: their pooled feature maps, kept on disk and computed only for cases that lack them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import CaseRows
from nnunetv2_xssr.images.channels import UNNAMED, channel_order, normalisation_schemes
from nnunetv2_xssr.images.extract import ACQUIRED, FILE, LEAST_VIEWS, Look
from nnunetv2_xssr.images.normalise import Window, window_text
from nnunetv2_xssr.images.views import VIEWS_VERSION, Views
from nnunetv2_xssr.pretrain.checkpoint import encoder_identity, load_checkpoint
from nnunetv2_xssr.pretrain.mae import Ensemble
from nnunetv2_xssr.pretrain.pooling import GRID, FeatureLayout, symmetries
from nnunetv2_xssr.pretrain.schedule import AUTO
from nnunetv2_xssr.records.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A pretrained encoder, ready to embed.

    Attributes
    ----------
    members : ModuleList of PlainConvEncoder
        Each maps images (n, channels, height, width) to features (n, d, rows, columns).
    identity : str
        SHA-256 of weights, architecture and views.
    layout : FeatureLayout
        The order of the pooled features of a view; those of all members lie side by side.
    views : dict
        What it was trained on: ``view_size``, ``channel_names`` and ``normalisation``, nnU-Net's scheme per channel.
    sources : dict
        Name and hash of every pool that it learned from.
    path : Path
        The checkpoint.
    """

    members: nn.ModuleList
    identity: str
    layout: FeatureLayout
    views: dict
    sources: dict[str, str]
    path: Path

    @property
    def look(self) -> Look:
        """The scale, axis, number and window of the views that it learned from, to which all others are brought.

        Slices as files have them are taken where annotators draw on them, and say nothing about whole cases.
        """
        axis = ACQUIRED if self.views["axis"] in (FILE, None) else self.views["axis"]
        views, window = max(self.views["views"], LEAST_VIEWS), self.views["window"]
        return Look(pixel=self.views["pixel"], axis=axis, views=views, window=window and tuple(window))


def load_encoder(path: Path, *, device: str) -> Encoder:
    """Load the encoder of a finished pretraining.

    Raises
    ------
    UserError
        If the file is not a checkpoint of ours, or that of an unfinished pretraining.
    """
    checkpoint = load_checkpoint(path)
    done, epochs = checkpoint["epoch"], checkpoint["training"]["epochs"]
    if "optimizer" in checkpoint or (isinstance(epochs, int) and done < epochs):
        raise UserError(
            f"{path} is an unfinished pretraining ({done} of {'more' if epochs == AUTO else epochs} epochs); "
            f"finish it with nnUNetv2_xssr_pretrain --c and give its checkpoint_final.pth"
        )
    if checkpoint["views"].get("version") != VIEWS_VERSION:
        raise UserError(
            f"{path} learned from views as an older version made them; pretrain anew, or delete it and run select"
        )
    model = Ensemble(**checkpoint["architecture"])
    model.load_state_dict(checkpoint["weights"])
    before, last = (len(model.members) * n for n in checkpoint["architecture"]["features_per_stage"][-2:])
    return Encoder(
        members=nn.ModuleList(member.encoder for member in model.members).eval().to(device),
        identity=encoder_identity(checkpoint),
        layout=FeatureLayout(last, before, GRID ** checkpoint["architecture"].get("dim", 2)),
        views=checkpoint["views"],
        sources=checkpoint["sources"],
        path=path,
    )


def check_channels(encoder: Encoder, channel_names: Sequence[str], pool_name: str) -> tuple[int, ...]:
    """Where among these channels those of the encoder are, in the order that it learned.

    Raises
    ------
    UserError
        If the encoder was trained on other channels, or on some with another normalisation.
    """
    learned = encoder.views["channel_names"]
    order = channel_order(channel_names, like=learned)
    if order is None and UNNAMED in learned and len(learned) == len(channel_names):
        raise UserError(
            f"the encoder {encoder.path} learned from {len(learned)} channels without names, by z-score, but "
            f"{pool_name} has {', '.join(channel_names)} ({', '.join(normalisation_schemes(channel_names))}); pretrain "
            f"anew with --channel_names {shlex.join(channel_names)}, or give another --encoder"
        )
    if order is None:
        raise UserError(
            f"the encoder {encoder.path} was trained on {len(learned)} channels ({', '.join(learned)}) but "
            f"{pool_name} has {len(channel_names)} ({', '.join(channel_names)}); give another --encoder or source"
        )
    return order


def check_look(encoder: Encoder, *, dim: int, axis: str | None, window: Window | None) -> None:
    """Compare what the user asks of the views with what the encoder learned from, before any image is read.

    Parameters
    ----------
    encoder : Encoder
    dim : {2, 3}
    axis, window
        See `Look`; None asks for what the encoder learned.

    Raises
    ------
    UserError
        If they differ.
    """
    learned = 2 if isinstance(encoder.views["view_size"], int) else 3
    if learned != dim:
        raise UserError(
            f"the encoder {encoder.path} learned from {_kind(encoder.views['view_size'])}; give --dim {learned}, or "
            f"another --encoder"
        )
    windows = "the three windows" if encoder.look.window is None else f"--window {window_text(encoder.look.window)}"
    for differs, option, had in (
        (axis not in (None, encoder.views["axis"]), f"--axis {axis}", f"--axis {encoder.views['axis']}"),
        (window not in (None, encoder.look.window), f"--window {window and window_text(window)}", windows),
    ):
        if differs:
            had = "slices along the axis of acquisition" if had == f"--axis {ACQUIRED}" else had
            raise UserError(
                f"the encoder {encoder.path} learned from {had}; leave {option} out, or pretrain anew: "
                f"nnUNetv2_xssr_pretrain {option}"
            )


def check_encoder_fits(encoder: Encoder, views: Views) -> tuple[int, ...]:
    """Where in the views the encoder's channels are, in the order that it learned.

    Raises
    ------
    UserError
        If the encoder was trained on other channels or another kind of views.
    """
    size, found_size = encoder.views["view_size"], views.settings["view_size"]
    if size != found_size:
        raise UserError(
            f"the encoder {encoder.path} was trained on {_kind(size)} but {views.pool.name} is read as "
            f"{_kind(found_size)}; give another --encoder or --dim"
        )
    check_channels(encoder, views.channel_names, views.pool.name)
    shown, learned = views.settings["view_channels"], encoder.views["view_channels"]
    if UNNAMED in (*views.channel_names, *encoder.views["channel_names"]):
        return tuple(range(len(shown)))
    order = channel_order(shown, like=learned)  # CT is shown in several windows
    if order is None:
        raise UserError(
            f"the encoder {encoder.path} learned from {', '.join(learned)}, but {views.pool.name} is shown as "
            f"{', '.join(shown)}; read it with the look of the encoder, or give another --encoder"
        )
    return order


def _kind(size: int | list[int]) -> str:
    return "2D views" if isinstance(size, int) else "whole volumes"


@torch.inference_mode()
def embed_views(encoder: Encoder, views: np.ndarray) -> np.ndarray:
    """Pooled features of the views of one case, shape (views, encoder.layout.size).

    Parameters
    ----------
    views : array of shape (views, channels, height, width), or (1, channels, depth, height, width)
    """
    device = next(encoder.members.parameters()).device
    turned = torch.cat(list(symmetries(torch.from_numpy(views.astype(np.float32)).to(device))))
    of_members = zip(*(_pooled(member, turned, n=len(views)) for member in encoder.members), strict=True)
    return torch.cat([feature for features in of_members for feature in features], dim=1).cpu().numpy()


def _pooled(member: nn.Module, turned: torch.Tensor, *, n: int) -> list[torch.Tensor]:
    """What one member sees of n views, of which all symmetries are given: the three parts of `FeatureLayout`."""
    *stages, last = member.stages
    x = turned
    for stage in stages:
        x = stage(x)
    average = x.flatten(2).mean(dim=2).unflatten(0, (-1, n)).mean(dim=0)
    pool = F.adaptive_avg_pool2d if x.ndim == 4 else F.adaptive_avg_pool3d
    x = x[:n]  # the views as they are
    return [last(x).flatten(2).mean(dim=2), average, pool(x, GRID).flatten(1)]


def embed(encoder: Encoder, views: Views) -> CaseRows:
    """Embed every case of a pool that is not embedded yet; float32 rows of shape (views, encoder.layout.size).

    Each case is embedded alone, so that its row depends neither on its neighbours nor on interruptions of a run.
    """
    order = list(check_encoder_fits(encoder, views))
    settings = {
        "encoder": encoder.identity,
        "views": views.settings,
        "layout": list(encoder.layout),
        "channel_order": order,
    }
    shape = views.rows.shape[1], encoder.layout.size
    store = CaseRows.open(Workspace(views.pool.name).caches / "embeddings", views.hashes, settings, shape, np.float32)
    for i in tqdm(store.missing(), desc=f"embedding {views.pool.name}", unit="case", disable=None):
        store.write(i, embed_views(encoder, views.rows[i][:, order]))
    return store
