"""Foundation models of the library timm, by local weights: nothing is downloaded."""

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from nnunetv2_xssr.encoders.encoder import Opened, Request
from nnunetv2_xssr.encoders.pooling import GRID, FeatureLayout, pool_places
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.normalise import view_channels
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.checkpoint import check_kind
from nnunetv2_xssr.records.files import sha256_files, sha256_json


@dataclass(frozen=True, kw_only=True)
class TimmModel(Opened):
    """A model of timm, whose last feature map (of a transformer: its patch tokens) is pooled.

    Three channels are taken as colours, as the three windows of CT are; of any other number each is seen alone, as a
    grey image, and the features of all lie side by side. Channels from 0 to 1 are normalised as the model has learned;
    z-scores are so already.

    Attributes
    ----------
    name, identity, weights : str
        See `nnunetv2_xssr.encoders.encoder.Encoder`.
    model : Module
    width : int
        Features of its last feature map.
    channels : int
        Of the views; 0 before they are known.
    """

    name: str
    identity: str
    weights: str
    model: Any
    width: int
    channels: int = 0

    @property
    def size(self) -> int:
        """Pixels of the images that the model has learned from, along both axes."""
        return self.model.pretrained_cfg["input_size"][-1]

    @property
    def transform(self) -> str:
        """See `nnunetv2_xssr.encoders.encoder.Encoder`."""
        return f"bicubic to {self.size} x {self.size}, mean and deviation of the model; all symmetries"

    @property
    def layout(self) -> FeatureLayout:
        """See `nnunetv2_xssr.encoders.encoder.Encoder`."""
        images = 1 if self.channels == 3 else self.channels
        return FeatureLayout(0, images * self.width, GRID**2)

    def ready(self, sources: Sequence[Views], *, seed: int) -> "TimmModel":
        """Nothing is learned: see `Opened`."""
        return TimmModel(**{**vars(self), "channels": sources[0].rows.shape[2]})

    def for_pool(self, views: Views) -> Callable[[np.ndarray], np.ndarray]:
        """The same for every pool but for the normalisation: see `nnunetv2_xssr.encoders.encoder.Encoder`."""
        window = views.settings["window"]
        is_score = [
            scheme == "ZScoreNormalization"
            for name, scheme in zip(views.channel_names, views.settings["normalisation"], strict=True)
            for _ in view_channels((name,), window)
        ]
        mean, std = (torch.tensor(self.model.pretrained_cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
        scores = torch.tensor(is_score).reshape(-1, 1, 1)
        device = next(self.model.parameters()).device

        def maps(images: torch.Tensor) -> torch.Tensor:
            colours = images[:, None] if self.channels == 3 else images[:, :, None].expand(-1, -1, 3, -1, -1)
            kept = scores[None] if self.channels == 3 else scores[:, None]
            colours = torch.where(kept, colours, (colours - mean) / std).flatten(0, 1)
            colours = F.interpolate(colours, (self.size, self.size), mode="bicubic", align_corners=False)
            return _last_map(self.model, colours.to(device)).unflatten(0, (len(images), -1)).flatten(1, 2)

        return lambda case: pool_places(maps, torch.from_numpy(case.astype(np.float32)))


def open_timm(request: Request) -> TimmModel:
    """Open a model by name and weights: see `nnunetv2_xssr.encoders.registry`.

    Raises
    ------
    UserError
        If timm cannot be imported, knows no such model, or the weights do not fit all of it.
    """
    request.check_slices("timm")
    timm, name = _timm(), request.argument
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.0)
        raise UserError(f"timm {timm.__version__} has no model {name!r}; the nearest names are {', '.join(near)}")
    if request.weights is None:
        raise UserError(
            f"--encoder timm:{name} needs --encoder_weights FILE: model.safetensors from https://huggingface.co/timm, "
            f"or, where there is a network, torch.save(timm.create_model({name!r}, pretrained=True).state_dict(), FILE)"
        )
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError) as error:  # a tag that does not exist
        raise UserError(f"timm {timm.__version__} cannot make {name!r}: {error}") from None
    if not hasattr(model, "forward_intermediates"):
        raise UserError(
            f"the model {name} of timm gives no feature maps; give another one, such as a vit, or a convnext"
        )
    _load(model, request.weights, name)
    weights = sha256_files([request.weights])
    return TimmModel(
        name=f"timm:{name}",
        identity=sha256_json(["timm", 1, name, weights]),
        weights=weights,
        model=model.eval().to(request.device),
        width=_last_map(model, torch.zeros(1, *model.pretrained_cfg["input_size"], device=request.device)).shape[1],
    )


@torch.inference_mode()
def _last_map(model: Any, images: torch.Tensor) -> torch.Tensor:
    """The last feature map, shape (n, features, rows, columns)."""
    return model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[-1]


def _timm() -> ModuleType:
    """The library, which takes seconds to import, and is not needed by anything else."""
    try:
        import timm
    except Exception as error:  # without torchvision's operators it is a RuntimeError, an ImportError or another one
        raise UserError(
            f"--encoder timm needs the library timm, whose import fails ({error}); install timm, and a "
            f"torchvision that fits torch {torch.__version__}"
        ) from None
    return timm


def _load(model: Any, file: Path, name: str) -> None:
    """Load weights in any form that timm knows; a head is left out, and nothing else may be missing or left over."""
    from timm.models import load_state_dict

    if not file.is_file():
        raise UserError(f"there is no file --encoder_weights {file}")
    try:
        with open(file, "rb") as opened:
            check_kind(opened)
        state = load_state_dict(str(file), weights_only=True)
        to_timm = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        state = to_timm(state, model) if to_timm else state
    except Exception as error:  # of safetensors, pickle, zip, or of names that timm's filter does not expect
        raise UserError(
            f"--encoder_weights {file} is cut off or holds no weights that timm can read ({type(error).__name__})"
        ) from None
    own = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    others = [key for key in state if key not in fitting and not key.startswith(tuple(f"{head}." for head in heads))]
    missing = [key for key in own if key not in fitting]
    if missing or others:
        raise UserError(
            f"--encoder_weights {file} fits {len(fitting)} of {len(own)} weights of {name}, and {len(others)} in it "
            f"are of no use ({first_few(missing or others)}); give the weights of this very model"
        )
    model.load_state_dict(fitting)
