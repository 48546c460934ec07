"""The checkpoint of HSSL: what ``nnUNetv2_train -pretrained_weights`` and nnU-Net's fine-tuning commands read."""

from dataclasses import dataclass

import torch
from torch import nn

from nnunetv2_xssr.errors import UserError

CITATION = "Zheng et al., Hierarchical Self-Supervised Learning for Medical Image Segmentation (arXiv 2107.04886)"
_SEGMENTATION = ".seg_layers."  # what nnU-Net leaves out when it loads pretrained weights


@dataclass(frozen=True)
class Match:
    """How weights meet a network.

    Attributes
    ----------
    matched, adapted, dropped, missing : lists of str
        Keys that fit, whose stem must be changed for another number of channels, that the network has no place for
        (segmentation layers included), and that the network needs and does not get.
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
        return text + (f", {len(self.missing)} are missing: {', '.join(self.missing[:3])}" if self.missing else "")


def match_weights(weights: dict[str, torch.Tensor], network: nn.Module) -> Match:
    """Compare weights with what a network needs, key by key, as nnU-Net's loader does but without its assertions."""
    expected = {key: value.shape for key, value in network.state_dict().items() if _SEGMENTATION not in key}
    stem = set(stem_keys(network))
    match = Match([], [], [key for key in weights if key not in expected], [])
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


def stem_keys(network: nn.Module) -> list[str]:
    """Every name of the one weight that takes the input channels; nnU-Net registers it several times."""
    first = next(parameter for parameter in network.encoder.parameters() if parameter.ndim > 2)
    return [key for key, value in network.state_dict(keep_vars=True).items() if value is first]


def for_channels(weights: dict[str, torch.Tensor], keys: list[str], channels: int) -> dict[str, torch.Tensor]:
    """Weights whose stem takes another number of channels: every channel gets the mean, scaled to keep the sum."""
    changed = dict(weights)
    for key in keys:
        old = weights[key]
        mean = old.mean(dim=1, keepdim=True) * (old.shape[1] / channels)
        changed[key] = mean.expand(-1, channels, *old.shape[2:]).contiguous()
    return changed


def checkpoint_content(network: nn.Module, architecture: dict, configuration: dict, name: str, channels: int) -> dict:
    """What to save: tensors on the CPU and plain values only.

    Parameters
    ----------
    network : nn.Module
        The pretrained U-Net.
    architecture : dict
        ``architecture`` of the target's plans.
    configuration : dict
        ``patch_size``, ``spacing``, ``normalization_schemes``, ``use_mask_for_norm`` of the configuration.
    name : str
        Of the configuration.
    channels : int
        Input channels that the saved stem takes.
    """
    weights = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    keys = stem_keys(network)
    if weights[keys[0]].shape[1] != channels:
        weights = for_channels(weights, keys, channels)
    return {
        "network_weights": weights,
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": architecture["network_class_name"].rsplit(".", 1)[-1],
                "arch_kwargs": architecture["arch_kwargs"],
                "arch_kwargs_requiring_import": architecture["_kw_requires_import"],
            },
            "pretrain_plan": {"configurations": {name: configuration}},
            "pretrain_num_input_channels": channels,
            "recommended_downstream_patchsize": configuration["patch_size"],
            "key_to_encoder": network.key_to_encoder,
            "key_to_stem": network.key_to_stem,
            "keys_to_in_proj": list(network.keys_to_in_proj),
            "key_to_lpe": None,
        },
        "citations": [CITATION],
    }


def check_loadable(content: dict, network: nn.Module, where: str) -> Match:
    """Raise `UserError` unless nnU-Net's loader would take these weights for this network."""
    match = match_weights(content["network_weights"], network)
    if match.missing or match.adapted:
        raise UserError(
            f"the weights {where} do not fit the network of these plans: {match}; pretrain with the target's plans"
        )
    return match
