"""The pretraining of HSSL, from unlabelled pools and a target's plans to weights of the whole U-Net."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint
from nnunetv2_xssr.pretrain.engine import train
from nnunetv2_xssr.pretrain.held_out import held_out
from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs, PreprocessedPool
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.hssl.weights import CITATION, save_weights
from nnunetv2_xssr.pretrain.inputs import draw_batch, share_of_one_value
from nnunetv2_xssr.pretrain.processes import first_holds_weights, on_first
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.schema import read_as
from nnunetv2_xssr.records.workspace import Workspace

if TYPE_CHECKING:
    from lightning_fabric import Fabric

WEIGHTS = "hssl_weights.pth"
_PATCHES_LOOKED_AT = 16
_FLAT = 0.9  # share of one value: MRI in the range of CT's soft tissue has 0.96


def group_of(pools: list[ImagePool], *, file: Path | None) -> list[int]:
    """The group of every pool: by the file, otherwise by the names of the channels, in any order.

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
        names = [" ".join(sorted(name.strip().casefold() for name in pool.channel_names or ())) for pool in pools]
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


def parts_that_fit(plans: TargetPlans, *, batch_size: int, n_processes: int) -> int:
    """In how many parts a batch is computed so that a part has no more views than the batch that nnU-Net planned.

    The planned batch is what fits a GPU; an image has two views. A part has one image at least.
    """
    share = batch_size // n_processes
    fits = (parts for parts in range(1, share + 1) if share % parts == 0)
    planned = max(1, plans.configuration.batch_size // 2)
    return next((parts for parts in fits if share // parts <= planned), 1)


def pretrain_hssl(
    plans: TargetPlans,
    pools: list[PreprocessedPool],
    *,
    groups: list[int],
    channels: int,
    saved_channels: int,
    settings: Settings,
    fabric: "Fabric",
    resume: bool,
    show_batch: Path | None = None,
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
    show_batch : Path, optional
        Where to draw a batch before the training.

    Returns
    -------
    Path
        ``hssl_weights.pth``.

    Raises
    ------
    UserError
        As `engine.train` raises it.
    """
    learned, kept_out = zip(*(_split(pool, seed=settings.seed) for pool in pools), strict=True)
    held_out_alone = [pool for pool in kept_out if pool is not None]
    objective = HSSLObjective(
        plans,
        channels=channels,
        pairs=PatchPairs(list(learned), patch_size=plans.patch_size, seed=settings.seed),
        held_out=PatchPairs(held_out_alone or list(learned), patch_size=plans.patch_size, seed=settings.seed + 1),
        groups=groups,
        health_note="on held-out images" if held_out_alone else "on images that it learns from",
    )

    def look() -> None:
        for sentence in flat_pools(pools, patch_size=plans.patch_size, seed=settings.seed):
            logger.warning(sentence)
        if show_batch:
            draw_batch(show_batch, objective, batch_size=settings.batch_size)

    on_first(fabric, look)
    folder = Workspace(plans.dataset).hssl(plans_name=plans.plans_name, configuration=plans.configuration_name)
    path = folder / WEIGHTS
    with first_holds_weights(fabric, folder):
        final = train(objective, settings=settings, fabric=fabric, folder=folder, resume=resume)

        def save() -> None:
            network, weights = plans.build_network(channels), load_checkpoint(final)["weights"]
            network.load_state_dict({k.removeprefix("unet."): v for k, v in weights.items() if k.startswith("unet.")})
            save_weights(path, network, plans=plans, channels=saved_channels, citations=[CITATION])

        on_first(fabric, save)
    return path


def lone_images(pools: list[PreprocessedPool]) -> list[str]:
    """A sentence for every pool of a single image, whose patches are contrasted with each other as if of several.

    Raises
    ------
    UserError
        If that image is all there is.
    """
    alone = [pool.name for pool in pools if len(pool.files) == 1]
    if len(pools) == len(alone) == 1:
        raise UserError(
            f"{alone[0]} has one image that can be used, and images are contrasted with each other; give more with -s"
        )
    return [
        f"{name} has one image that can be used: nothing of its own is contrasted with it but its own patches, and its "
        f"task is that image; give more, or leave {name} out"
        for name in alone
    ]


def flat_pools(pools: list[PreprocessedPool], *, patch_size: tuple[int, ...], seed: int) -> list[str]:
    """A sentence for every pool in half of whose patches nearly all values are one, as where a scale clips them."""
    sentences = []
    for pool in pools:
        pairs = PatchPairs([pool], patch_size=patch_size, seed=seed)
        share = float(np.median([share_of_one_value(pairs.plain(i)) for i in range(_PATCHES_LOOKED_AT)]))
        if share > _FLAT:
            sentences.append(
                f"in half of the patches of {pool.name} {100 * share:.0f} % of the values are nearly one and the same: "
                f"nothing is learned from them; check its channel names, which decide its scale; see --show_batch"
            )
    return sentences


def _split(pool: PreprocessedPool, *, seed: int) -> tuple[PreprocessedPool, PreprocessedPool | None]:
    """Cases to learn from and held-out cases; None where none are held out."""
    out = held_out(pool.groups, seed=seed)
    return (pool.only(~out), pool.only(out)) if out.any() else (pool, None)
