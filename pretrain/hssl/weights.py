"""The weights of HSSL in the format of ``nnUNetv2_train -pretrained_weights`` and nnU-Net's fine-tuning commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.pretrain.checkpoint import save_tensors
from nnunetv2_xssr.pretrain.hssl.network import UNet
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans

CITATION = "Zheng et al., Hierarchical Self-Supervised Learning for Medical Image Segmentation (arXiv 2107.04886)"
SEGMENTATION = ".seg_layers."  # nnU-Net leaves these out when it loads pretrained weights


@dataclass(frozen=True, kw_only=True)
class Match:
    """The comparison of weights with a network.

    Attributes
    ----------
    matched : list of str
        Keys that fit.
    adapted : list of str
        Keys of the stem, which must be changed for another number of channels.
    dropped : list of str
        Keys that the network lacks, or does not load (segmentation layers).
    missing : list of str
        Keys that the network needs and the weights lack.
    """

    matched: list[str]
    adapted: list[str]
    dropped: list[str]
    missing: list[str]

    def __str__(self) -> str:
        text = (
            f"{len(self.matched)} tensors match, {len(self.adapted)} of the stem are adapted, "
            f"{len(self.dropped)} are not transferred"
        )
        return text + (f", {len(self.missing)} are missing: {first_few(self.missing)}" if self.missing else "")


def match_weights(weights: dict[str, torch.Tensor], network: UNet) -> Match:
    """Compare weights with those of a network key by key, as nnU-Net's loader does, but without its assertions."""
    expected = {key: value.shape for key, value in network.state_dict().items() if SEGMENTATION not in key}
    stem = set(stem_keys(network))
    match = Match(matched=[], adapted=[], dropped=[key for key in weights if key not in expected], missing=[])
    for key, shape in expected.items():
        if key not in weights:
            match.missing.append(key)
        elif weights[key].shape == shape:
            match.matched.append(key)
        elif key in stem and weights[key].shape[:1] + weights[key].shape[2:] == shape[:1] + shape[2:]:
            match.adapted.append(key)
        else:
            match.missing.append(f"{key} of shape {tuple(shape)} (got {tuple(weights[key].shape)})")
    return match


def stem_keys(network: UNet) -> list[str]:
    """Every name of the one weight that takes the input channels; nnU-Net registers it several times."""
    first = next(parameter for parameter in network.encoder.parameters() if parameter.ndim > 2)
    return [key for key, value in network.state_dict(keep_vars=True).items() if value is first]


def for_channels(
    weights: dict[str, torch.Tensor], *, keys: list[str], channels: int, how: str = "mean"
) -> dict[str, torch.Tensor]:
    """Weights with a stem for another number of channels, scaled so that the size of its output stays.

    Parameters
    ----------
    weights : dict of tensors
    keys : list of str
        All names of the stem's weight.
    channels : int
        Input channels of the new stem.
    how : {"mean", "repeat"}
        Each new channel gets the mean of the old ones, or the old ones in turn.
    """
    changed = dict(weights)
    for key in keys:
        old = weights[key]
        if how == "mean":
            new = old.mean(dim=1, keepdim=True).expand(-1, channels, *old.shape[2:])
        else:
            new = old[:, torch.arange(channels) % old.shape[1]]
        changed[key] = (new * (old.shape[1] / channels)).contiguous()
    return changed


def save_weights(
    path: Path, network: UNet, *, plans: TargetPlans, channels: int, citations: Sequence[str] = ()
) -> None:
    """Write a file for ``nnUNetv2_train -pretrained_weights``, after a check that it fits the plans.

    Parameters
    ----------
    path : Path
    network : UNet
        With the weights.
    plans : TargetPlans
    channels : int
        Input channels of the saved stem.
    citations : sequence of str
        Of the weights, for nnU-Net's fine-tuning commands.

    Raises
    ------
    UserError
        If the weights do not fit the network of the plans.
    """
    content = checkpoint_content(network, plans=plans, channels=channels, citations=citations)
    check_loadable(content, plans.build_network(channels), where=str(path))
    save_tensors(path, content)


def checkpoint_content(network: UNet, *, plans: TargetPlans, channels: int, citations: Sequence[str] = ()) -> dict:
    """The content of the file of weights, tensors on the CPU and plain values only; parameters as of `save_weights`."""
    weights = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    keys = stem_keys(network)
    if weights[keys[0]].shape[1] != channels:
        weights = for_channels(weights, keys=keys, channels=channels)
    preprocessing = plans.preprocessing()
    configuration = {key: preprocessing[key] for key in ("spacing", "normalization_schemes", "use_mask_for_norm")}
    configuration["patch_size"] = list(plans.patch_size)
    architecture = plans.architecture
    return {
        "network_weights": weights,
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": architecture["network_class_name"].rsplit(".", 1)[-1],
                "arch_kwargs": architecture["arch_kwargs"],
                "arch_kwargs_requiring_import": architecture["_kw_requires_import"],
            },
            "pretrain_plan": {"configurations": {plans.configuration_name: configuration}},
            "pretrain_num_input_channels": channels,
            "recommended_downstream_patchsize": configuration["patch_size"],
            "key_to_encoder": network.key_to_encoder,
            "key_to_stem": network.key_to_stem,
            "keys_to_in_proj": list(network.keys_to_in_proj),
            "key_to_lpe": None,
        },
        "citations": list(citations),
    }


def check_loadable(content: dict, network: UNet, *, where: str) -> Match:
    """Raise `UserError` unless nnU-Net can load these weights into this network."""
    match = match_weights(content["network_weights"], network)
    if match.missing or match.adapted:
        raise UserError(
            f"the weights {where} do not fit the network of these plans: {match}; pretrain with the target's plans"
        )
    return match
