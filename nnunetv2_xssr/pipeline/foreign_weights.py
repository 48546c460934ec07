"""Weights that others trained, made into a file that nnU-Net starts a training from."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from nnunetv2_xssr.errors import UserError, first_few, one_of
from nnunetv2_xssr.pretrain.hssl.foreign import STEMS, further_layers, read_foreign, stem_channels, transfer
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.hssl.weights import Match, save_weights
from nnunetv2_xssr.records.files import remove_leftovers
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.workspace import check_environment, find_dataset

_NAMES = 5  # of each kind are told


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What became of a checkpoint.

    Attributes
    ----------
    path : Path
        The file for ``nnUNetv2_train -pretrained_weights``.
    dataset : str
    match : Match
        What was taken, adapted, dropped, and what the network has of its own initial values.
    share : float
        Of the tensors that were looked for, those that were found.
    """

    path: Path
    dataset: str
    match: Match
    share: float


def convert_weights(
    checkpoint: str | Path,
    *,
    target: str,
    configuration: str,
    output: str | Path,
    plans_name: str = "nnUNetPlans",
    encoder_only: bool = False,
    stem: str | None = None,
    least: float = 1.0,
) -> Converted:
    """Bring a checkpoint of nnssl, nnU-Net, MONAI's DynUNet or a plain state dict into the network of a target's plans.

    Only tensors and plain values are read, so that no foreign code runs. What the checkpoint does not have keeps
    nnU-Net's initial values. What matches, is adapted, is dropped and is missing goes to the log before anything is
    written.

    Parameters
    ----------
    checkpoint : path
    target : str
        nnU-Net dataset, by name or number; it must be planned.
    configuration : str
        Of the plans: ``2d``, ``3d_fullres``, ...
    output : path
        The file to write; it must not exist.
    plans_name : str
    encoder_only : bool
        Take the encoder, and leave the decoder at its initial values.
    stem : {"mean", "repeat"}, optional
        How the first layer is made for another number of channels: the mean of the old ones, or these in turn. By
        default another number is refused.
    least : float
        Refuse if a smaller share of the network's tensors is found, segmentation layers aside; from 0 to 1. What a
        checkpoint has beyond them in the same stages counts as not found: it is of another architecture.

    Returns
    -------
    Converted

    Raises
    ------
    UserError
        If the plans or the checkpoint cannot be used, or too little of the network is found.
    """
    check_environment()
    output, checkpoint = Path(output), Path(checkpoint)
    if stem not in (None, *STEMS):
        raise one_of("--stem", STEMS, stem)
    if not 0 <= least <= 1:
        raise UserError(f"--least must be a share from 0 to 1; got {least}")
    if os.path.lexists(output):
        raise UserError(f"{output} exists already; name another file with -o, or remove it")
    plans = TargetPlans.load(find_dataset(target), configuration_name=configuration, plans_name=plans_name)
    weights = read_foreign(checkpoint)
    channels = len(plans.inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is missing is the same for every call
        network = plans.build_network(channels)
    theirs = stem_channels(weights, network)
    if stem is None and theirs not in (None, channels):
        raise UserError(
            f"{checkpoint} takes {theirs} channels but {plans.dataset} has {channels} "
            f"({', '.join(plans.inputs)}); give --stem mean or --stem repeat"
        )
    match = transfer(weights, network, encoder_only=encoder_only, stem=stem)
    further = further_layers(weights, network, encoder_only=encoder_only)
    for sentence in _told(match, further):
        logger.info(sentence)
    found = len(match.matched) + len(match.adapted)
    share = found / (found + len(match.missing) + len(further))
    if share < least or not found:
        wanted = f"less than the share {least:g} of --least" if share < least else "nothing to begin with"
        more = f", and {len(further)} beyond them in the same stages" if further else ""
        whole_encoder = not encoder_only and not any(name.startswith("encoder.") for name in match.missing + further)
        raise UserError(
            f"{checkpoint} has {found} of {found + len(match.missing)} tensors of {plans_name} {configuration}"
            f"{' (encoder)' * encoder_only}, {wanted}{more}; the first: {(match.missing + further)[0]}; "
            f"give weights of the same plans{', or --encoder_only' * whole_encoder}"
        )
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    broken = [name for name, value in tensors if not value.isfinite().all()]
    if broken:
        raise UserError(
            f"{checkpoint} holds NaN or infinity in {len(broken)} tensors ({first_few(broken)}), as after a training "
            f"that diverged; give another checkpoint"
        )
    remove_leftovers(output)
    save_weights(output, network, plans=plans, channels=channels)
    return Converted(path=output, dataset=plans.dataset, match=match, share=share)


def _told(match: Match, further: list[str]) -> list[str]:
    kinds = {
        "match": match.matched,
        "are adapted": match.adapted,
        "of the checkpoint are dropped": match.dropped,
        "are missing and keep their initial values": match.missing,
    }
    if further:
        kinds["of the dropped are of stages that are taken, as in another architecture"] = further
    return [
        f"{len(names)} tensors {what}" + (f": {first_few(names, _NAMES)}" if names else "")
        for what, names in kinds.items()
    ]
