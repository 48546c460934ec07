"""A trained nnU-Net of the source site as an encoder: what it sees, what it predicts, and how sure it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from annotated_types import Gt, Len
from pydantic import with_config
from torch.nn import functional as F
from typing_extensions import TypedDict

from nnunetv2_xssr.encoders.encoder import Opened, Request
from nnunetv2_xssr.encoders.pooling import FeatureLayout
from nnunetv2_xssr.encoders.trained_model import open_trained_model
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import UNNAMED, channel_order, normalisation_schemes
from nnunetv2_xssr.images.extract import VIEW_SIZE
from nnunetv2_xssr.images.normalise import hounsfield, view_channels
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.records.files import sha256_files, sha256_json
from nnunetv2_xssr.records.preprocessed import nnunet_reading
from nnunetv2_xssr.records.schema import THEIRS, Number, check_shape

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager


_Lengths = Annotated[list[Annotated[Number, Gt(0)]], Len(2, 2)]


@with_config(THEIRS)
class _Pixels(TypedDict):
    """Of a 2D configuration, how large its pixels are and how many of them an image has."""

    spacing: _Lengths
    median_image_size_in_voxels: _Lengths


@with_config(THEIRS)
class _Intensities(TypedDict):
    """Of a channel of CT, what nnU-Net clips and normalises it by."""

    mean: Number
    std: Number
    percentile_00_5: Number
    percentile_99_5: Number


@dataclass(frozen=True, kw_only=True)
class SourceModel(Opened):
    """A trained 2D nnU-Net with its folds.

    The features of a view are, per fold, those of the bottleneck and of the last stage of the decoder, each as the
    average over all places, over the predicted foreground and over the predicted background, weighted by the predicted
    probabilities; then the share of every label, the entropy of the prediction, and how much of it is disagreement of
    the folds (Houlsby et al. 2011). Predictions are the mean of the folds, as nnU-Net's are. Features of several folds
    lie side by side: a feature of one fold has nothing to do with that of another fold that has its number.

    Simplified, as views are what is there: a view is enlarged to the pixels of the plans (where images tell no size, to
    the median size of the images that were learned from), as a whole and by bilinear interpolation; there are no
    windows that slide, no mirroring, and slices may be turned otherwise than in their file. Z-scores are those of the
    view's image, as in nnU-Net. CT is read back from the windows of the view, which end at -1000 and 1300 HU.

    Attributes
    ----------
    name : str
    folder : Path
    weights, identity : str
    networks : list of Module
        One per fold.
    labels : LabelManager
        Of nnU-Net.
    channel_names : tuple of str
    configuration : ConfigurationManager
        Of nnU-Net.
    intensities : dict
        nnU-Net's statistics of the foreground, by the number of the channel.
    """

    name: str
    folder: Path
    weights: str
    identity: str
    networks: list[Any]
    labels: "LabelManager"
    channel_names: tuple[str, ...]
    configuration: Any
    intensities: dict[str, dict[str, float]]
    transform = "the pixels and the normalisation of the plans"

    @property
    def layout(self) -> FeatureLayout:
        """See `nnunetv2_xssr.encoders.encoder.Encoder`."""
        channels = self.networks[0].encoder.output_channels
        per_fold = 3 * (channels[-1] + channels[0])
        return FeatureLayout(0, len(self.networks) * per_fold + self.labels.num_segmentation_heads + 2, 0)

    def check_channels(self, channel_names: Sequence[str], pool_name: str) -> None:
        """Compare them with those of the plans: see `Opened`."""
        if channel_order(channel_names, like=self.channel_names) is None:
            raise UserError(
                f"the model {self.folder} was trained on {len(self.channel_names)} channels "
                f"({', '.join(self.channel_names)}) but {pool_name} has {len(channel_names)} "
                f"({', '.join(channel_names)}); give another --encoder"
            )

    def ready(self, sources: Sequence[Views], *, seed: int) -> "SourceModel":
        """Nothing is learned: see `Opened`."""
        return self

    def for_pool(self, views: Views) -> Callable[[np.ndarray], np.ndarray]:
        """At the pixels of the plans: see `nnunetv2_xssr.encoders.encoder.Encoder`."""
        self.check_channels(views.channel_names, views.pool.name)
        window = views.settings["window"] and tuple(views.settings["window"])
        shown = views.settings["view_channels"]
        unnamed = UNNAMED in views.channel_names
        order = range(len(shown)) if unnamed else channel_order(shown, like=view_channels(self.channel_names, window))
        rows, side = list(order or ()), self._side(views.settings["pixel"])
        device = next(self.networks[0].parameters()).device

        def features(case: np.ndarray) -> np.ndarray:
            found = []
            for view in case[:, rows]:
                image = torch.from_numpy(self._normalised(view, window))[None].to(device)
                image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
                found.append(self._of_view(image).cpu().numpy())
            return np.stack(found)

        return features

    def _side(self, pixel: float | None) -> int:
        """Pixels of an enlarged view: a multiple of what the network divides them by."""
        if pixel is None:
            side = max(self.configuration.median_image_size_in_voxels)
        else:
            side = VIEW_SIZE * pixel / float(np.prod(self.configuration.spacing)) ** 0.5
        strides = [np.broadcast_to(stride, 2) for stride in self.configuration.network_arch_init_kwargs["strides"]]
        multiple = int(np.prod(strides, axis=0).max())
        return max(2, round(side / multiple)) * multiple  # instance norm needs more than one place

    def _normalised(self, view: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
        """The channels of the plans, from those of a view (several windows per channel of CT)."""
        parts = np.split(view, np.cumsum([len(view_channels((name,), window)) for name in self.channel_names])[:-1])
        channels = []
        for number, (name, part) in enumerate(zip(self.channel_names, parts, strict=True)):
            values = part[0].astype(np.float32)
            if is_ct(name):
                known = self.intensities[str(number)]
                values = np.clip(hounsfield(part, window), known["percentile_00_5"], known["percentile_99_5"])
                values = (values - known["mean"]) / max(known["std"], 1e-8)
            channels.append(values)
        return np.stack(channels).astype(np.float32)

    @torch.inference_mode()
    def _of_view(self, image: torch.Tensor) -> torch.Tensor:
        """The features of an image of shape (1, channels, height, width)."""
        of_folds = [_see(network, image) for network in self.networks]
        folds = torch.stack([self.labels.apply_inference_nonlin(logits[0]) for *_, logits in of_folds])
        mean, regions = folds.mean(dim=0), self.labels.has_regions
        foreground = mean.amax(dim=0) if regions else 1 - mean[0]
        found = [weighted for *stages, _ in of_folds for stage in stages for weighted in _averages(stage, foreground)]
        doubt = _entropy(mean, regions=regions)
        agreed = torch.stack([_entropy(fold, regions=regions) for fold in folds]).mean()
        return torch.cat([*found, mean.flatten(1).mean(dim=1), torch.stack([doubt, doubt - agreed])]).float()


def is_ct(channel_name: str) -> bool:
    """Whether nnU-Net normalises a channel of this name as CT."""
    return normalisation_schemes((channel_name,)) == ["CTNormalization"]


def _see(network: Any, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The bottleneck, the last stage of the decoder, and the logits."""
    skips, last = network.encoder(image), []
    hook = network.decoder.stages[-1].register_forward_hook(lambda _, __, output: last.append(output))
    try:
        logits = network.decoder(skips)
    finally:
        hook.remove()
    return skips[-1], last[0], logits


def _averages(stage: torch.Tensor, foreground: torch.Tensor) -> list[torch.Tensor]:
    """Averages of a stage (1, d, rows, columns): over all places, over the foreground, over the background."""
    weight = F.adaptive_avg_pool2d(foreground[None], (stage.shape[2], stage.shape[3]))[0]
    weights = (torch.ones_like(weight), weight, 1 - weight)
    return [(stage[0] * one).sum(dim=(1, 2)) / one.sum().clamp(min=1e-6) for one in weights]


def _entropy(probabilities: torch.Tensor, *, regions: bool) -> torch.Tensor:
    """The mean over all places, in nats; that of regions, which may overlap, is the sum over the regions."""
    terms = torch.special.entr(probabilities)
    if regions:
        terms = terms + torch.special.entr(1 - probabilities)
    return terms.sum(dim=0).mean()


def open_source_model(request: Request) -> SourceModel:
    """Open a folder that nnUNetv2_train wrote: see `nnunetv2_xssr.encoders.registry`.

    Raises
    ------
    UserError
        If the folder is none of a trained model, or the model is not a 2D U-Net.
    """
    request.check_slices("nnunet")
    model = open_trained_model(Path(request.argument))
    folder, configuration, names = model.folder, model.configuration, model.channel_names
    if len(configuration.patch_size) != 2:
        raise UserError(
            f"{folder} is of the configuration {model.configuration_name}, but views are 2D; give the folder of a 2d "
            f"one"
        )
    if list(configuration.normalization_schemes) != normalisation_schemes(names):
        raise UserError(
            f"{folder} normalises by {', '.join(configuration.normalization_schemes)}, but views of {', '.join(names)} "
            f"by {', '.join(normalisation_schemes(names))}; give another --encoder"
        )
    where, advice = f"{model.plans_file}: configurations.{model.configuration_name}", "restore the plans of the model"
    check_shape(configuration.configuration, _Pixels, where=where, advice=advice)
    with nnunet_reading(model.plans_file):
        intensities = model.plans.foreground_intensity_properties_per_channel
        known = {i: intensities[str(i)] for i, name in enumerate(names) if is_ct(name)}
    for i, one in known.items():
        where = f"{model.plans_file}: foreground_intensity_properties_per_channel.{i}"
        check_shape(one, _Intensities, where=where, advice=advice)
    networks = model.networks()
    for network, file in zip(networks, model.files, strict=True):
        if not all(hasattr(network, part) for part in ("encoder", "decoder")):
            raise UserError(f"{file} is no U-Net with encoder and decoder; give another model")
    weights = sha256_files(model.files)
    return SourceModel(
        name=f"nnunet:{folder}",
        folder=folder,
        weights=weights,
        identity=sha256_json(["nnunet", 1, weights, sha256_files([model.plans_file, model.dataset_file])]),
        networks=[network.to(request.device) for network in networks],
        labels=model.labels,
        channel_names=names,
        configuration=configuration,
        intensities=intensities,
    )
