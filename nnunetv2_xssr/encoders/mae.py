"""Our encoder: an ensemble of masked autoencoders, pretrained on the unlabelled images of the sources."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Len
from pydantic import with_config
from torch import nn
from torch.nn import functional as F
from typing_extensions import NotRequired, TypedDict

from nnunetv2_xssr.encoders.pooling import GRID, FeatureLayout, symmetries
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import UNNAMED, channel_order, normalisation_schemes
from nnunetv2_xssr.images.extract import ACQUIRED, FILE, LEAST_VIEWS, Look
from nnunetv2_xssr.images.normalise import Window, window_text
from nnunetv2_xssr.images.views import VIEWS_VERSION, Views
from nnunetv2_xssr.pretrain.checkpoint import encoder_identity, load_checkpoint, weights_hash
from nnunetv2_xssr.pretrain.mae import Ensemble
from nnunetv2_xssr.pretrain.schedule import AUTO
from nnunetv2_xssr.records.schema import THEIRS, Count, Number, check_shape


@with_config(THEIRS)
class _Architecture(TypedDict):
    members: Annotated[Count, Ge(1)]
    features_per_stage: Annotated[list[Annotated[Count, Ge(1)]], Len(2)]
    dim: NotRequired[Literal[2, 3]]


@with_config(THEIRS)
class _Training(TypedDict):
    epochs: Any  # checked with the number of those that are done


@with_config(THEIRS)
class _Views(TypedDict):
    view_size: int | list[int]
    views: Annotated[Count, Ge(1)]
    channel_names: Annotated[list[str], Len(1)]
    view_channels: Annotated[list[str], Len(1)]
    pixel: Number | None
    axis: Literal["acquired", "axial", "coronal", "sagittal", "file"] | None
    window: Annotated[list[Number], Len(2, 2)] | None


@with_config({**THEIRS, "arbitrary_types_allowed": True})
class _Checkpoint(TypedDict):
    """What is read of a finished pretraining; `Autoencoder.of` compares the weights with the architecture."""

    architecture: _Architecture
    weights: dict[str, torch.Tensor]
    views: dict[str, Any]
    sources: dict[str, str]
    epoch: Count
    training: _Training
    learned_on: NotRequired[dict[str, str | int]]


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """The encoders of an ensemble of autoencoders, ready to embed.

    Attributes
    ----------
    name, identity, weights, layout
        See `nnunetv2_xssr.encoders.encoder.Encoder`; the pooled features of all members lie side by side.
    members : ModuleList of PlainConvEncoder
        Each maps images (n, channels, height, width) to features (n, d, rows, columns).
    views : dict
        What it was trained on: ``view_size``, ``channel_names`` and ``normalisation``, nnU-Net's scheme per channel.
    sources : dict
        Name and hash of every pool that it learned from.
    where : str
        The checkpoint, for error messages.
    epochs : int or "auto" or None
        For which it was pretrained.
    learned_on : dict or None
        Device, threads and version of torch, which change the last bits of weights; None of older versions.
    """

    name: str
    members: nn.ModuleList
    identity: str
    weights: str
    layout: FeatureLayout
    views: dict
    sources: dict[str, str]
    where: str
    epochs: int | str | None = None
    learned_on: dict | None = None
    transform = "none; all symmetries"

    @classmethod
    def of(cls, content: dict, *, name: str, where: str, device: str) -> "Autoencoder":
        """The encoder of what a checkpoint holds: ``architecture``, ``weights``, ``views`` and ``sources``.

        Raises
        ------
        UserError
            If the weights do not fit the architecture, or the architecture is one of another version.
        """
        try:
            model = Ensemble(**content["architecture"])
            model.load_state_dict(content["weights"])
            views, sources = content["views"], content["sources"]
        except Exception:  # torch raises whatever it meets
            raise UserError(
                f"{where} is no masked autoencoder of this version of nnunetv2_xssr; give a checkpoint of "
                f"nnUNetv2_xssr_pretrain, or pretrain anew"
            ) from None
        before, last = (len(model.members) * n for n in content["architecture"]["features_per_stage"][-2:])
        return cls(
            name=name,
            members=nn.ModuleList(member.get_submodule("encoder") for member in model.members).eval().to(device),
            identity=encoder_identity(content),
            weights=weights_hash(content["weights"]),
            layout=FeatureLayout(last, before, GRID ** content["architecture"].get("dim", 2)),
            views=views,
            sources=sources,
            where=where,
            epochs=content.get("training", {}).get("epochs"),
            learned_on=content.get("learned_on"),
        )

    @property
    def look(self) -> Look:
        """The scale, axis, number and window of the views that it learned from, to which all others are brought.

        Slices as files have them are taken where annotators draw on them, and say nothing about whole cases.
        """
        axis = ACQUIRED if self.views["axis"] in (FILE, None) else self.views["axis"]
        views, window = max(self.views["views"], LEAST_VIEWS), self.views["window"]
        return Look(pixel=self.views["pixel"], axis=axis, views=views, window=window and tuple(window))

    def for_pool(self, views: Views) -> Callable[[np.ndarray], np.ndarray]:
        """The channels in the order that it learned: see `nnunetv2_xssr.encoders.encoder.Encoder`."""
        order = list(check_encoder_fits(self, views))
        return lambda case: embed_views(self, case[:, order])


def load_encoder(path: Path, *, device: str) -> Autoencoder:
    """Load the encoder of a finished pretraining.

    Raises
    ------
    UserError
        If the file is not a checkpoint of ours, or that of an unfinished pretraining.
    """
    checkpoint = load_checkpoint(path)
    if "views" not in checkpoint:
        raise UserError(
            f"{path} is a checkpoint of nnUNetv2_hssl_pretrain, whose weights are for nnUNetv2_train; give one of "
            f"nnUNetv2_xssr_pretrain"
        )
    advice = "so it is no masked autoencoder of this version: delete it to pretrain anew, or give another"
    check_shape(checkpoint, _Checkpoint, where=str(path), advice=advice)
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
    check_shape(checkpoint["views"], _Views, where=f"{path}: views", advice=advice)
    return Autoencoder.of(checkpoint, name="mae", where=str(path), device=device)


def check_channels(encoder: Autoencoder, channel_names: Sequence[str], pool_name: str) -> tuple[int, ...]:
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
            f"the encoder {encoder.where} learned from {len(learned)} channels without names, by z-score, but "
            f"{pool_name} has {', '.join(channel_names)} ({', '.join(normalisation_schemes(channel_names))}); pretrain "
            f"anew with --channel_names {shlex.join(channel_names)}, or give another --encoder"
        )
    if order is None:
        raise UserError(
            f"the encoder {encoder.where} was trained on {len(learned)} channels ({', '.join(learned)}) but "
            f"{pool_name} has {len(channel_names)} ({', '.join(channel_names)}); give another --encoder or source"
        )
    return order


def check_look(encoder: Autoencoder, *, dim: int, axis: str | None, window: Window | None) -> None:
    """Compare what the user asks of the views with what the encoder learned from, before any image is read.

    Parameters
    ----------
    encoder : Autoencoder
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
            f"the encoder {encoder.where} learned from {_kind(encoder.views['view_size'])}; give --dim {learned}, or "
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
                f"the encoder {encoder.where} learned from {had}; leave {option} out, or pretrain anew: "
                f"nnUNetv2_xssr_pretrain {option}"
            )


def check_encoder_fits(encoder: Autoencoder, views: Views) -> tuple[int, ...]:
    """Where in the views the encoder's channels are, in the order that it learned.

    Raises
    ------
    UserError
        If the encoder was trained on other channels or another kind of views.
    """
    size, found_size = encoder.views["view_size"], views.settings["view_size"]
    if size != found_size:
        raise UserError(
            f"the encoder {encoder.where} was trained on {_kind(size)} but {views.pool.name} is read as "
            f"{_kind(found_size)}; give another --encoder or --dim"
        )
    check_channels(encoder, views.channel_names, views.pool.name)
    shown, learned = views.settings["view_channels"], encoder.views["view_channels"]
    if UNNAMED in (*views.channel_names, *encoder.views["channel_names"]):
        return tuple(range(len(shown)))
    order = channel_order(shown, like=learned)  # CT is shown in several windows
    if order is None:
        raise UserError(
            f"the encoder {encoder.where} learned from {', '.join(learned)}, but {views.pool.name} is shown as "
            f"{', '.join(shown)}; read it with the look of the encoder, or give another --encoder"
        )
    return order


def _kind(size: int | list[int]) -> str:
    return "2D views" if isinstance(size, int) else "whole volumes"


@torch.inference_mode()
def embed_views(encoder: Autoencoder, views: np.ndarray) -> np.ndarray:
    """Pooled features of the views of one case, shape (views, encoder.layout.size).

    Parameters
    ----------
    views : array of shape (views, channels, height, width), or (1, channels, depth, height, width)
    """
    device = next(encoder.members.parameters()).device
    turned = torch.cat(list(symmetries(torch.from_numpy(views.astype(np.float32)).to(device))))
    of_members = zip(*(_pooled(member, turned, n=len(views)) for member in encoder.members), strict=True)
    return torch.cat([feature for features in of_members for feature in features], dim=1).cpu().numpy()


def _pooled(member: Any, turned: torch.Tensor, *, n: int) -> list[torch.Tensor]:
    """What one member sees of n views, of which all symmetries are given: the three parts of `FeatureLayout`."""
    *stages, last = member.stages
    x = turned
    for stage in stages:
        x = stage(x)
    average = x.flatten(2).mean(dim=2).unflatten(0, (-1, n)).mean(dim=0)
    pool = F.adaptive_avg_pool2d if x.ndim == 4 else F.adaptive_avg_pool3d
    x = x[:n]  # the views as they are
    return [last(x).flatten(2).mean(dim=2), average, pool(x, GRID).flatten(1)]
