"""Weights that others trained (nnssl, nnU-Net, MONAI's DynUNet, plain state dicts) brought into a U-Net of plans.

A checkpoint names one weight in several ways (nnU-Net's aliases ``decoder.encoder.*`` and ``*.all_modules.*``), below a
prefix such as ``module.``, or in the words of another library. Here every weight of the network is looked for under all
of these.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.pretrain.checkpoint import load_tensors
from nnunetv2_xssr.pretrain.hssl.network import UNet
from nnunetv2_xssr.pretrain.hssl.weights import SEGMENTATION, Match, for_channels, stem_keys

STEMS = ("mean", "repeat")
_HOLDERS = ("network_weights", "state_dict", "model_state_dict", "model", "network", "net", "weights")
# MONAI's DynUNet is the same network in other words; its convolutions have no bias, which is a bias of zero.
_DYNUNET = (
    (r"conv(\d)\.conv\.(\w+)", lambda m: f"convs.{int(m[1]) - 1}.conv.{m[2]}"),
    (r"norm(\d)\.(\w+)", lambda m: f"convs.{int(m[1]) - 1}.norm.{m[2]}"),
)


def read_foreign(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, wherever it keeps them: where there are most.

    Weights are dense tensors of floating-point numbers: whole numbers are counters, or stand for others.

    Raises
    ------
    UserError
        If the file is missing, cut off, holds more than tensors and plain values, or has no weights.
    """
    content = load_tensors(path)
    tensors: dict[str, torch.Tensor] = {}
    for holder in (content, *(content.get(name) for name in _HOLDERS)):
        named = holder.items() if isinstance(holder, dict) else ()
        found = {k: v for k, v in named if isinstance(k, str) and _is_weight(v)}
        tensors = max(tensors, found, key=len)  # beside a whole network there may be a loss
    if not tensors:
        raise UserError(
            f"{path} holds no weights, itself or under {', '.join(_HOLDERS)}, but "
            f"{first_few(list(content)) or 'nothing'}; save the state_dict() of the network"
        )
    return tensors


def _is_weight(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout is torch.strided


def transfer(
    weights: Mapping[str, torch.Tensor], network: UNet, *, encoder_only: bool = False, stem: str | None = None
) -> Match:
    """Copy into a network what fits it; what does not keeps its values. Segmentation layers are never taken.

    Parameters
    ----------
    weights : mapping of tensors
        As `read_foreign` returns them.
    network : UNet
    encoder_only : bool
        Leave the decoder as it is.
    stem : {"mean", "repeat"}, optional
        How the first layer is made for another number of channels: see `weights.for_channels`. By default it does not
        fit then.

    Returns
    -------
    Match
        By the names of the network's parameters and buffers, each once; ``dropped`` by those of the checkpoint.
    """
    state, taken = network.state_dict(), set()
    wanted = {
        name: aliases
        for name, aliases in _aliases(network).items()
        if SEGMENTATION not in name
        and (name.startswith("encoder.") or not encoder_only)
        and state[name].is_floating_point()  # others are counters, which say nothing about an image
    }
    found = _renamed(weights, network)
    stems = set(stem_keys(network))
    match = Match(matched=[], adapted=[], dropped=[], missing=[])
    chosen = {}
    for name, aliases in wanted.items():
        alias = next((one for one in aliases if one in found), None)
        if alias is None:
            match.missing.append(name)
            continue
        key, value = found[alias]
        wants = state[name].shape
        if value.shape != wants and name in stems and stem and _but_channels(value.shape) == _but_channels(wants):
            value = for_channels({name: value}, keys=[name], channels=wants[1], how=stem)[name]
            match.adapted.append(f"{name} from {weights[key].shape[1]} channels to {wants[1]}")
        elif value.shape == wants:
            match.matched.append(name)
        else:
            match.missing.append(f"{name} of shape {tuple(wants)} (got {tuple(value.shape)})")
            continue
        chosen[name] = value
        taken |= {found[one][0] for one in aliases if one in found}
    match.dropped.extend(key for key in weights if key not in taken)
    network.load_state_dict(chosen, strict=False)  # into modules, so that every alias follows
    return match


def stem_channels(weights: Mapping[str, torch.Tensor], network: UNet) -> int | None:
    """Input channels of the checkpoint's first layer; None if it has none that the network knows."""
    found = _renamed(weights, network)
    return next((found[key][1].shape[1] for key in stem_keys(network) if key in found and found[key][1].ndim > 1), None)


def further_layers(weights: Mapping[str, torch.Tensor], network: UNet, *, encoder_only: bool = False) -> list[str]:
    """What a checkpoint has beyond a network's stages in these very stages, by its own keys: more layers, shortcuts.

    Without these the others compute something else: the checkpoint is of another architecture.
    """
    ours = network.state_dict()
    pattern = rf"(?:{'encoder' if encoder_only else 'encoder|decoder'})\.stages\.\d+\."
    stages = {begins[0] for begins in (re.match(pattern, name) for name in ours) if begins}
    return [
        key
        for name, (key, _) in _renamed(weights, network).items()
        if name not in ours and ".all_modules." not in name and name.startswith(tuple(stages))
    ]


def _aliases(network: UNet) -> dict[str, list[str]]:
    """Every weight of a network by its first name, with all of its names."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, value in network.state_dict(keep_vars=True).items():
        names[id(value)].append(name)
    return {aliases[0]: aliases for aliases in names.values()}


def _renamed(weights: Mapping[str, torch.Tensor], network: UNet) -> dict[str, tuple[str, torch.Tensor]]:
    """The checkpoint's tensors, named as the network would name them: its own key, and the tensor."""
    if of_dynunet := _dynunet_in(weights):
        return _from_dynunet(of_dynunet, network)
    expected = network.state_dict().keys()
    anchor = stem_keys(network)[0]
    # The prefix under which most of the network is found, or of its encoder alone: aliases end like the names that they
    # stand for.
    prefixes = {("", "")}
    for ours in ("", "encoder."):
        end = anchor.removeprefix(ours)
        prefixes |= {(key.removesuffix(end), ours) for key in weights if key.endswith(end)}

    def found(prefix: tuple[str, str]) -> int:
        theirs, ours = prefix
        return sum(theirs + key.removeprefix(ours) in weights for key in expected if key.startswith(ours))

    # Of two whole networks the one with the shorter prefix, then by the alphabet: the same one in every run.
    theirs, ours = max(sorted(prefixes, key=lambda one: (len(one[0]), *one)), key=found)
    named = {ours + key.removeprefix(theirs): key for key in weights if key.startswith(theirs)}
    deeper = _deeper(named, network)

    def moved(part: re.Match) -> str:
        return f"decoder.{part[1]}.{int(part[2]) + deeper}."

    return {
        re.sub(r"^decoder\.(stages|transpconvs)\.(\d+)\.", moved, name): (key, weights[key])
        for name, key in named.items()
    }


def _deeper(named: Iterable[str], network: UNet) -> int:
    """How many stages a network has more than a checkpoint of a whole one; 0 where parts of it are missing.

    A decoder counts its stages from the bottleneck on, so that those of one resolution have other numbers.
    """
    encoder, decoder = (_count(named, rf"^{part}\.stages") for part in ("encoder", "decoder"))
    return len(network.decoder.stages) - decoder if decoder == encoder - 1 else 0


def _dynunet_in(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, torch.Tensor]]:
    """The stages of a DynUNet by its own names, each with its key; of two networks those of the one with more."""
    anchor, found = "input_block.conv1.conv.weight", []
    prefixes = [key.removesuffix(anchor) for key in weights if f".{key}".endswith(f".{anchor}")]
    for prefix in sorted(prefixes, key=lambda one: (len(one), one)):
        named = {key.removeprefix(prefix): key for key in weights if key.startswith(prefix)}
        # ``skip_layers`` has the same weights once more.
        stages = ("input_block.", "downsamples.", "bottleneck.", "upsamples.")
        found.append({name: (key, weights[key]) for name, key in named.items() if name.startswith(stages)})
    return max(found, key=len, default={})


def _from_dynunet(
    weights: Mapping[str, tuple[str, torch.Tensor]], network: UNet
) -> dict[str, tuple[str, torch.Tensor]]:
    # A deeper or shallower network has the same stages at the same resolutions.
    n_downs, n_ups = (_count(weights, f"^{part}") for part in ("downsamples", "upsamples"))
    deeper = len(network.decoder.stages) - n_ups
    found = {}
    for their_name, (key, value) in weights.items():
        name = their_name.replace("input_block.", "encoder.stages.0.0.")
        name = re.sub(r"^downsamples\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) + 1}.0.", name)
        name = name.replace("bottleneck.", f"encoder.stages.{n_downs + 1}.0.")
        if up := re.match(r"upsamples\.(\d+)\.(transp_conv\.conv|conv_block)\.", name):
            part = "transpconvs" if up[2] == "transp_conv.conv" else "stages"
            name = f"decoder.{part}.{int(up[1]) + deeper}.{name[up.end() :]}"
        for pattern, words in _DYNUNET:
            name = re.sub(pattern + "$", words, name)
        found[name] = key, value
    for name, value in network.state_dict().items():
        weight = name.removesuffix("bias") + "weight"
        if name.endswith((".conv.bias", "bias")) and name not in found and weight in found and value.ndim == 1:
            found[name] = found[weight][0], torch.zeros_like(value)
    return found


def _count(keys: Iterable[str], part: str) -> int:
    numbers = (re.search(rf"{part}\.(\d+)\.", key) for key in keys)
    return 1 + max((int(number[1]) for number in numbers if number), default=-1)


def _but_channels(shape: torch.Size) -> tuple[int, ...]:
    return (*shape[:1], *shape[2:])
