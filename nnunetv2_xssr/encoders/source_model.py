"""A trained nnU-Net of the source site as an encoder: what it sees, what it predicts, and how sure it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pydantic import with_config
from torch import nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from nnunetv2_xssr.encoders.encoder import Opened, Request
from nnunetv2_xssr.encoders.pooling import FeatureLayout
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import UNNAMED, channel_order, normalisation_schemes
from nnunetv2_xssr.images.extract import VIEW_SIZE
from nnunetv2_xssr.images.normalise import hounsfield, view_channels
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.checkpoint import load_tensors
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.files import sha256_files, sha256_json
from nnunetv2_xssr.records.preprocessed import NetworkPlans, PlansFile, nnunet_reading
from nnunetv2_xssr.records.schema import THEIRS, check_shape, read_as
from nnunetv2_xssr.records.workspace import channel_names_of

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

EXAMPLE = ".../nnUNetTrainer__nnUNetPlans__2d"
_ADVICE = "give another model, or train it again"


@with_config(THEIRS)
class _Configured(TypedDict):
    configuration: str


@with_config(THEIRS)
class _Checkpoint(TypedDict):
    network_weights: dict[str, Any]
    init_args: _Configured


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
    view's image, as in nnU-Net. CT is read back from the windows of the view, which end at -1350 and 1300 HU.

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
        strides = np.array(self.configuration.network_arch_init_kwargs["strides"]).reshape(-1, 2)
        multiple = int(np.prod(strides, axis=0).max())
        return max(2, round(side / multiple)) * multiple  # instance norm needs more than one place

    def _normalised(self, view: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
        """The channels of the plans, from those of a view (several windows per channel of CT)."""
        parts = np.split(view, np.cumsum([len(view_channels((name,), window)) for name in self.channel_names])[:-1])
        channels = []
        for number, (name, part) in enumerate(zip(self.channel_names, parts, strict=True)):
            values = part[0].astype(np.float32)
            if normalisation_schemes((name,)) == ["CTNormalization"]:
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
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    request.check_slices("nnunet")
    folder = Path(request.argument)
    plans_file, dataset_file = folder / "plans.json", folder / "dataset.json"
    for file in (plans_file, dataset_file):
        if not file.is_file():
            raise UserError(f"{folder} is no folder of a trained nnU-Net: there is no {file.name}; give {EXAMPLE}")
    one = "checkpoint_final.pth"
    files = sorted(folder.glob(f"fold_[0-9]*/{one}")) or sorted(folder.glob(f"fold_all/{one}"))
    if not files:
        raise UserError(f"{folder} has no fold_X/checkpoint_final.pth: its training is not finished; finish one fold")
    content, dataset_json = read_as(plans_file, PlansFile, advice=_ADVICE), read_dataset_json(dataset_file)
    checkpoints = [_load(file) for file in files]
    name = checkpoints[0]["init_args"]["configuration"]
    with nnunet_reading(plans_file):
        plans = PlansManager(cast(dict, content))
        configuration, intensities = plans.get_configuration(name), plans.foreground_intensity_properties_per_channel
        check_shape(
            configuration.configuration, NetworkPlans, where=f"{plans_file}: configurations.{name}", advice=_ADVICE
        )
    if len(configuration.patch_size) != 2:
        raise UserError(f"{folder} is of the configuration {name}, but views are 2D; give the folder of a 2d one")
    names = channel_names_of(dataset_json)
    if list(configuration.normalization_schemes) != normalisation_schemes(names):
        raise UserError(
            f"{folder} normalises by {', '.join(configuration.normalization_schemes)}, but views of {', '.join(names)} "
            f"by {', '.join(normalisation_schemes(names))}; give another --encoder"
        )
    weights = sha256_files(files)
    with nnunet_reading(dataset_file):
        labels = plans.get_label_manager(dataset_json)
    with nnunet_reading(plans_file):
        networks = [
            _network(configuration, len(names), labels.num_segmentation_heads, checkpoint["network_weights"], file)
            for file, checkpoint in zip(files, checkpoints, strict=True)
        ]
    return SourceModel(
        name=f"nnunet:{folder}",
        folder=folder,
        weights=weights,
        identity=sha256_json(["nnunet", 1, weights, sha256_files([plans_file, dataset_file])]),
        networks=[network.eval().to(request.device) for network in networks],
        labels=labels,
        channel_names=names,
        configuration=configuration,
        intensities=intensities,
    )


def _load(file: Path) -> dict:
    """A checkpoint of nnU-Net."""
    return cast(dict, check_shape(load_tensors(file), _Checkpoint, where=str(file), advice=_ADVICE))


def _network(configuration: Any, channels: int, outputs: int, weights: dict, file: Path) -> nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    network = get_network_from_plans(
        configuration.network_arch_class_name,
        dict(configuration.network_arch_init_kwargs),
        list(configuration.network_arch_init_kwargs_req_import),
        channels,
        outputs,
        allow_init=False,
        deep_supervision=False,
    )
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise UserError(
            f"the weights in {file} do not fit the network of plans.json beside it, as those of a trainer with a "
            f"network of its own; give another model"
        ) from None
    if not all(hasattr(network, part) for part in ("encoder", "decoder")):
        raise UserError(f"{file} is no U-Net with encoder and decoder; give another model")
    return network
