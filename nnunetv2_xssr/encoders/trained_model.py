"""A folder that nnUNetv2_train wrote: the plans and the folds of a trained nnU-Net."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import with_config
from torch import nn
from typing_extensions import NotRequired, TypedDict

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pretrain.checkpoint import load_tensors
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.preprocessed import NetworkPlans, PlansFile, nnunet_reading
from nnunetv2_xssr.records.schema import THEIRS, check_shape, read_as
from nnunetv2_xssr.records.workspace import channel_names_of

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

EXAMPLE = ".../nnUNetTrainer__nnUNetPlans__2d"
_ADVICE = "give another model, or train it again"
CHECKPOINT = "checkpoint_final.pth"


@with_config(THEIRS)
class _Configured(TypedDict):
    configuration: str


@with_config(THEIRS)
class _Checkpoint(TypedDict):
    network_weights: dict[str, Any]
    init_args: _Configured
    inference_allowed_mirroring_axes: NotRequired[list[int] | tuple[int, ...] | None]


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The finished folds of one trained network.

    Attributes
    ----------
    folder, plans_file, dataset_file : Path
    checkpoints : dict
        Fold (``"0"``, or ``"all"``) to what nnU-Net saved of it.
    configuration_name : str
    plans, configuration : PlansManager, ConfigurationManager
        Of nnU-Net.
    dataset_json : dict
    labels : LabelManager
        Of nnU-Net.
    channel_names : tuple of str
    """

    folder: Path
    plans_file: Path
    dataset_file: Path
    checkpoints: dict[str, dict]
    configuration_name: str
    plans: Any
    configuration: Any
    dataset_json: dict
    labels: "LabelManager"
    channel_names: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """The checkpoints."""
        return [self.folder / f"fold_{fold}" / CHECKPOINT for fold in self.checkpoints]

    def only(self, fold: str) -> "TrainedModel":
        """The model of one fold."""
        return replace(self, checkpoints={fold: self.checkpoints[fold]})

    def networks(self) -> list[nn.Module]:
        """One network per fold, on the processor and ready to predict.

        Raises
        ------
        UserError
            If the weights do not fit the network of the plans.
        """
        with nnunet_reading(self.plans_file):
            return [self._network(*one) for one in zip(self.files, self.checkpoints.values(), strict=True)]

    def _network(self, file: Path, checkpoint: dict) -> nn.Module:
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        network = get_network_from_plans(
            self.configuration.network_arch_class_name,
            dict(self.configuration.network_arch_init_kwargs),
            list(self.configuration.network_arch_init_kwargs_req_import),
            len(self.channel_names),
            self.labels.num_segmentation_heads,
            allow_init=False,
            deep_supervision=False,
        )
        try:
            network.load_state_dict(checkpoint["network_weights"])
        except RuntimeError:
            raise UserError(
                f"the weights in {file} do not fit the network of plans.json beside it, as those of a trainer with a "
                f"network of its own; give another model"
            ) from None
        return network.eval()


def open_trained_model(folder: Path, *, folds: Collection[str] | None = None) -> TrainedModel:
    """Open a folder that nnUNetv2_train wrote.

    Parameters
    ----------
    folder : Path
    folds : collection of str, optional
        The folds to take; by default all that are finished, and ``all`` where no other is.

    Raises
    ------
    UserError
        If the folder is none of a trained model, or none of its folds is finished.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans_file, dataset_file = folder / "plans.json", folder / "dataset.json"
    for file in (plans_file, dataset_file):
        if not file.is_file():
            raise UserError(f"{folder} is no folder of a trained nnU-Net: there is no {file.name}; give {EXAMPLE}")
    numbered = [file for file in folder.glob(f"fold_*/{CHECKPOINT}") if re.fullmatch(r"fold_\d+", file.parent.name)]
    files = sorted(numbered) or sorted(folder.glob(f"fold_all/{CHECKPOINT}"))
    if folds is not None:
        files = [folder / f"fold_{fold}" / CHECKPOINT for fold in folds]
    if not files:
        raise UserError(f"{folder} has no fold_X/{CHECKPOINT}: its training is not finished; finish one fold")
    content, dataset_json = read_as(plans_file, PlansFile, advice=_ADVICE), read_dataset_json(dataset_file)
    checkpoints = {file.parent.name.removeprefix("fold_"): _load(file) for file in files}
    name = next(iter(checkpoints.values()))["init_args"]["configuration"]
    with nnunet_reading(plans_file):
        plans = PlansManager(cast(dict, content))
        configuration = plans.get_configuration(name)
        check_shape(
            configuration.configuration, NetworkPlans, where=f"{plans_file}: configurations.{name}", advice=_ADVICE
        )
    with nnunet_reading(dataset_file):
        labels = plans.get_label_manager(dataset_json)
    return TrainedModel(
        folder=folder,
        plans_file=plans_file,
        dataset_file=dataset_file,
        checkpoints=checkpoints,
        configuration_name=name,
        plans=plans,
        configuration=configuration,
        dataset_json=dataset_json,
        labels=labels,
        channel_names=channel_names_of(dataset_json),
    )


def _load(file: Path) -> dict:
    """A checkpoint of nnU-Net."""
    return cast(dict, check_shape(load_tensors(file), _Checkpoint, where=str(file), advice=_ADVICE))
