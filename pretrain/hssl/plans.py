"""The target's plans: the network, the patch, and the preprocessing of images."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from annotated_types import Ge, Len

from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.pretrain.hssl.network import UNet
from nnunetv2_xssr.pretrain.hssl.statistics import PoolStatistics
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.files import is_there, sha256_json
from nnunetv2_xssr.records.preprocessed import PLAN_AGAIN, NetworkPlans, PlansFile, nnunet_reading
from nnunetv2_xssr.records.schema import Count, Number, check_shape, read_as
from nnunetv2_xssr.records.workspace import Workspace, channel_names_of, dataset_number

_MASKED_BELOW = 0.75  # nnU-Net's: where cropping leaves less of an image, zero is background and stays zero


class _ImagePlans(NetworkPlans):
    """What images are preprocessed by."""

    batch_size: Annotated[Count, Ge(1)]
    spacing: Annotated[list[Number], Len(2, 3)]
    use_mask_for_norm: Annotated[list[bool], Len(1)]
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TargetPlans:
    """One configuration of a target dataset's plans.

    Attributes
    ----------
    dataset, plans_name, configuration_name : str
    manager : nnunetv2 PlansManager
    configuration : nnunetv2 ConfigurationManager
    dataset_json : dict
    """

    dataset: str
    plans_name: str
    configuration_name: str
    manager: Any
    configuration: Any
    dataset_json: dict

    @classmethod
    def load(cls, dataset: str, *, configuration_name: str, plans_name: str = "nnUNetPlans") -> "TargetPlans":
        """Read the plans that ``nnUNetv2_plan_and_preprocess`` wrote.

        Raises
        ------
        UserError
            If there are none, or they lack the configuration.
        """
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        workspace = Workspace(dataset)
        dataset_json = read_dataset_json(workspace.dataset_json)
        file = workspace.plans(plans_name)
        if not is_there(file):
            raise UserError(
                f"{dataset} has no plans {file}; run nnUNetv2_plan_experiment -d {dataset_number(dataset)} (after "
                f"nnUNetv2_extract_fingerprint), or name others with -p"
            )
        plans = cast(dict, read_as(file, PlansFile, advice=PLAN_AGAIN))
        if configuration_name not in plans["configurations"]:
            raise one_of(f"-c, the configurations of {file},", plans["configurations"], configuration_name)
        with nnunet_reading(file):
            manager = PlansManager(plans)
            configuration = manager.get_configuration(configuration_name)
            check_shape(
                configuration.configuration,
                _ImagePlans,
                where=f"{file}: configurations.{configuration_name}",
                advice=PLAN_AGAIN,
            )
            loaded = cls(
                dataset=dataset,
                plans_name=plans_name,
                configuration_name=configuration_name,
                manager=manager,
                configuration=configuration,
                dataset_json=dataset_json,
            )
            loaded._check(file)
        return loaded

    def _check(self, file: Path) -> None:
        """Raise `UserError`, or what nnU-Net raises, unless everything that is read later is there."""
        import nnunetv2
        from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

        configuration, intensities = self.configuration, self.manager.foreground_intensity_properties_per_channel
        schemes = str(Path(nnunetv2.__path__[0], "preprocessing", "normalization"))
        _ = self.identity, self.inputs, configuration.resampling_fn_data
        where = f"{file}: configurations.{self.configuration_name}"
        if len(configuration.normalization_schemes) != len(self.channel_names):
            dataset_json = Workspace(self.dataset).dataset_json
            raise UserError(f"{file} is not for the channels of {dataset_json}; {PLAN_AGAIN}")
        if len(self.patch_size) != len(self.spacing):
            raise UserError(f"{where}: patch_size and spacing must have as many axes; {PLAN_AGAIN}")
        if configuration.preprocessor_class is None:
            raise UserError(f"{where}: nnU-Net has no preprocessor {configuration.preprocessor_name}; {PLAN_AGAIN}")
        for i, scheme in enumerate(configuration.normalization_schemes):
            if recursive_find_python_class(schemes, scheme, "nnunetv2.preprocessing.normalization") is None:
                raise UserError(f"{where}: nnU-Net has no normalisation {scheme}; {PLAN_AGAIN}")
            if scheme == "CTNormalization" and str(i) not in intensities:
                raise UserError(f"{file}: foreground_intensity_properties_per_channel lacks channel {i}; {PLAN_AGAIN}")

    def for_pool(self, names: tuple[str, ...], statistics: PoolStatistics) -> "TargetPlans":
        """These plans for the images of another pool: normalised by its channels' names and its own statistics.

        As nnU-Net would plan it for that pool alone; spacing, transposition and network stay the target's.
        """
        from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
        from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

        schemes = [get_normalization_scheme(name) for name in names]
        small = statistics.cropped < _MASKED_BELOW
        normalisation = {
            "normalization_schemes": [scheme.__name__ for scheme in schemes],
            "use_mask_for_norm": [
                small and bool(scheme.leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true)
                for scheme in schemes
            ],
        }
        by_number = {str(i): value for i, value in enumerate(statistics.intensities)}
        return replace(
            self,
            manager=PlansManager({**self.manager.plans, "foreground_intensity_properties_per_channel": by_number}),
            configuration=ConfigurationManager({**self.configuration.configuration, **normalisation}),
            dataset_json={**self.dataset_json, "channel_names": {str(i): name for i, name in enumerate(names)}},
        )

    @property
    def spacing(self) -> tuple[float, ...]:
        """To which images are resampled, in millimetres along the axes of a patch."""
        return tuple(float(size) for size in self.configuration.spacing)

    def along_patch(self, spacing: tuple[float, ...]) -> tuple[float, ...]:
        """A spacing in the order of a file's axes, along the axes of a patch."""
        return tuple(spacing[axis] for axis in self.manager.transpose_forward)[-len(self.spacing) :]

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Pixels or voxels along every axis of a patch."""
        return tuple(int(size) for size in self.configuration.patch_size)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The target's channels, in order."""
        return channel_names_of(self.dataset_json)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What ``nnUNetv2_train`` gives to the network: the target's channels, and in a cascade labels after them."""
        if self.configuration.previous_stage_name is None:
            return self.channel_names
        labels = self.manager.get_label_manager(self.dataset_json).foreground_labels
        return (*self.channel_names, *(f"label {label} of the stage before" for label in labels))

    @property
    def architecture(self) -> dict:
        """The plans' ``architecture``: class name, arguments, and the arguments whose value is imported by its name."""
        return {
            "network_class_name": self.configuration.network_arch_class_name,
            "arch_kwargs": dict(self.configuration.network_arch_init_kwargs),
            "_kw_requires_import": list(self.configuration.network_arch_init_kwargs_req_import),
        }

    def preprocessing(self) -> dict:
        """Plain values that decide the preprocessed images."""
        kept = ("spacing", "normalization_schemes", "use_mask_for_norm", "resampling_fn_data")
        settings = {key: self.configuration.configuration[key] for key in kept}
        settings["resampling_fn_data_kwargs"] = self.configuration.configuration["resampling_fn_data_kwargs"]
        settings["preprocessor"] = self.configuration.preprocessor_name
        settings["transpose_forward"] = list(self.manager.transpose_forward)
        settings["intensities"] = self.manager.foreground_intensity_properties_per_channel
        return settings

    def preprocess(self, image: np.ndarray, properties: dict) -> np.ndarray:
        """Crop, normalise and resample as nnU-Net does for this configuration; shape (channels, z, y, x) in and out."""
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        data, _, _ = preprocessor.run_case_npy(
            image, None, properties, self.manager, self.configuration, self.dataset_json
        )
        return data

    def build_network(self, input_channels: int) -> UNet:
        """The network that ``nnUNetv2_train`` builds, with initial weights from torch's generator.

        Raises
        ------
        UserError
            If it is not a U-Net of an encoder and a decoder with skips.
        """
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        architecture = self.architecture
        with nnunet_reading(Workspace(self.dataset).plans(self.plans_name)):
            outputs = self.manager.get_label_manager(self.dataset_json).num_segmentation_heads
            network = get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                input_channels,
                outputs,
                allow_init=True,
                deep_supervision=True,
            )
        if not all(hasattr(network, part) for part in ("encoder", "decoder", "keys_to_in_proj")):
            raise UserError(
                f"HSSL pretrains PlainConvUNet and ResidualEncoderUNet; the plans {self.plans_name} of {self.dataset} "
                f"ask for {architecture['network_class_name']}"
            )
        with nnunet_reading(Workspace(self.dataset).plans(self.plans_name)):
            strides = tuple(np.prod(network.encoder.strides, axis=0).tolist())
        if len(strides) != len(self.patch_size) or np.any(np.mod(self.patch_size, strides)):
            raise UserError(
                f"the network of {self.configuration_name} in the plans {self.plans_name} of {self.dataset} takes "
                f"patches of multiples of {_by(strides)}; got a patch_size of {_by(self.patch_size)}; {PLAN_AGAIN}"
            )
        return network

    @property
    def identity(self) -> str:
        """SHA-256 of everything in the plans that decides the weights."""
        outputs = self.manager.get_label_manager(self.dataset_json).num_segmentation_heads
        return sha256_json([self.preprocessing(), self.architecture, self.patch_size, outputs])


def _by(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))
