"""The pretraining of HSSL, from unlabelled pools and a target's plans to weights of the whole U-Net."""

import io
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint
from nnunetv2_xssr.pretrain.engine import train
from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs, PreprocessedPool
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.hssl.weights import check_loadable, checkpoint_content
from nnunetv2_xssr.pretrain.processes import first_holds_weights
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.records.files import atomic
from nnunetv2_xssr.records.schema import read_as
from nnunetv2_xssr.records.workspace import Workspace

WEIGHTS = "hssl_weights.pth"
_HELD_OUT = 10  # one of so many cases is held out
_LEAST = 20  # no case of a smaller pool is held out


def group_of(pools: list[ImagePool], *, file: Path | None) -> list[int]:
    """The group of every pool: by the file, otherwise by the names of the channels.

    Parameters
    ----------
    pools : list of ImagePool
    file : Path, optional
        JSON: ``{"chest X-ray": ["Dataset101_Hannover", ...], ...}``.

    Raises
    ------
    UserError
        If the file names an unknown dataset, leaves one out or names one twice.
    """
    if file is None:
        names = [" ".join(pool.channel_names or ("no names",)).lower() for pool in pools]
    else:
        names = _groups_by_file(pools, file)
    known = sorted(set(names))
    return [known.index(name) for name in names]


def _groups_by_file(pools: list[ImagePool], file: Path) -> list[str]:
    groups = read_as(file, dict[str, list[str]], advice='write groups of datasets such as {"CT": ["Dataset003_Liver"]}')
    named = [(member, group) for group, members in groups.items() for member in members]
    known = [pool.name for pool in pools]
    for member, _ in named:
        if member not in known:
            raise UserError(f"{file} names {member!r}, which is not among the datasets -s: {first_few(known)}")
    for name in known:
        count = sum(member == name for member, _ in named)
        if count != 1:
            raise UserError(f"{file} must put every dataset into one group; {name} is in {count}")
    return [dict(named)[name] for name in known]


def common_channels(pools: list[ImagePool], plans: TargetPlans) -> int:
    """The number of channels that all pools have.

    Raises
    ------
    UserError
        If the numbers differ.
    """
    channels = {pool.name: len(pool.channel_names or plans.channel_names) for pool in pools}
    if len(set(channels.values())) > 1:
        listed = first_few([f"{name} has {count}" for name, count in channels.items()])
        raise UserError(f"one network needs equally many channels everywhere, but {listed}; leave some out")
    return next(iter(channels.values()))


def pretrain_hssl(
    plans: TargetPlans,
    pools: list[PreprocessedPool],
    *,
    groups: list[int],
    channels: int,
    saved_channels: int,
    settings: Settings,
    fabric: Fabric,
    resume: bool,
) -> Path:
    """Train the network of the plans on the pools, and write its weights for ``nnUNetv2_train -pretrained_weights``.

    Parameters
    ----------
    plans : TargetPlans
    pools : list of PreprocessedPool
    groups : list of int
        Group of every pool.
    channels, saved_channels : int
        Of the images, and of the saved stem.
    settings : Settings
    fabric : Fabric
        As `processes.start` returns it.
    resume : bool
        Continue from ``checkpoint_latest.pth`` if there is one.

    Returns
    -------
    Path
        ``hssl_weights.pth``.

    Raises
    ------
    UserError
        As `engine.train` raises it.
    """
    learned, held_out = zip(*(_split(pool) for pool in pools), strict=True)
    some = any(a is not b for a, b in zip(learned, held_out, strict=True))
    objective = HSSLObjective(
        plans,
        channels=channels,
        pairs=PatchPairs(list(learned), patch_size=plans.patch_size, seed=settings.seed),
        held_out=PatchPairs(list(held_out), patch_size=plans.patch_size, seed=settings.seed + 1),
        groups=groups,
        fabric=fabric,
        health_note="on held-out images" if some else "on images that it learns from",
    )
    folder = Workspace(plans.dataset).hssl(plans_name=plans.plans_name, configuration=plans.configuration_name)
    path = folder / WEIGHTS
    with first_holds_weights(fabric, folder):
        final = train(objective, settings=settings, fabric=fabric, folder=folder, resume=resume)
        if fabric.is_global_zero:
            weights = load_checkpoint(final)["weights"]
            _export(path, weights, plans=plans, channels=channels, saved_channels=saved_channels)
    fabric.barrier()
    return path


def _split(pool: PreprocessedPool) -> tuple[PreprocessedPool, PreprocessedPool]:
    """Cases to learn from and held-out cases; for a small pool both are the whole pool."""
    if len(pool.files) < _LEAST:
        return pool, pool
    out = np.arange(len(pool.files)) % _HELD_OUT == 0
    return pool.only(~out), pool.only(out)


def _export(path: Path, weights: dict, *, plans: TargetPlans, channels: int, saved_channels: int) -> None:
    network = plans.build_network(channels)
    network.load_state_dict({k.removeprefix("unet."): v for k, v in weights.items() if k.startswith("unet.")})
    configuration = {
        key: plans.preprocessing()[key] for key in ("spacing", "normalization_schemes", "use_mask_for_norm")
    }
    configuration["patch_size"] = list(plans.patch_size)
    content = checkpoint_content(
        network,
        architecture=plans.architecture,
        configuration=configuration,
        name=plans.configuration_name,
        channels=saved_channels,
    )
    check_loadable(content, plans.build_network(saved_channels), where=str(path))
    # To memory first: on a full disk torch's own writer ends in a RuntimeError about its internals.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
