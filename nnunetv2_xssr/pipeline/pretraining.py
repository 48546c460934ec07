"""Pretraining for Python: an encoder, or the whole U-Net, from unlabelled images."""

import math
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images import channels as named_channels
from nnunetv2_xssr.images.extract import check_axis, check_volumes
from nnunetv2_xssr.images.new_dataset import check_channel_names
from nnunetv2_xssr.images.normalise import check_window, parse_window
from nnunetv2_xssr.images.pools import ImagePool, open_pools
from nnunetv2_xssr.images.scale import common_look
from nnunetv2_xssr.images.views import Views, how_seen, read_views
from nnunetv2_xssr.pretrain.held_out import shared_images
from nnunetv2_xssr.pretrain.hssl import EPOCHS, LEAST_BATCH
from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
from nnunetv2_xssr.pretrain.hssl.patches import PreprocessedPool, preprocess_pool
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.hssl.pretrain import (
    common_channels,
    group_of,
    lone_images,
    parts_that_fit,
    pretrain_hssl,
)
from nnunetv2_xssr.pretrain.hssl.sources import Source, far_spacings
from nnunetv2_xssr.pretrain.hssl.weights import match_weights
from nnunetv2_xssr.pretrain.inputs import check_picture
from nnunetv2_xssr.pretrain.processes import first_holds, first_on_rank_zero, on_first, start, stop_reported_once
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import pretrain
from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.logs import log_to, logger
from nnunetv2_xssr.records.workspace import Workspace, check_environment, encoder_folder, find_dataset

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def pretrain_encoder(
    sources: Sequence[str],
    *,
    dim: int = 2,
    channel_names: Sequence[str] | None = None,
    axis: str | None = None,
    window: str | None = None,
    recursive: bool = False,
    patient_ids: bool = True,
    resume: bool = False,
    skip_broken: bool = False,
    device: str | None = None,
    num_gpus: int = 1,
    precision: str = "32-true",
    show_batch: Path | None = None,
    **settings,
) -> Path:
    """Pretrain a masked autoencoder on unlabelled images; every process of a run calls this.

    Parameters
    ----------
    sources : sequence of str
        nnU-Net datasets, by name or number, or folders of images.
    dim : {2, 3}
        What the encoder sees of volumes: slices, or the whole volume.
    channel_names : sequence of str, optional
        The channels of images in folders, which decide their normalisation; z-score by default.
    axis : {"axial", "coronal", "sagittal", "file"}, optional
        Along which slices of volumes are seen; by default that of acquisition.
    window : str, optional
        The only window in which CT is seen, centre and width such as ``"40/400"``; by default three.
    recursive, patient_ids : bool
        How folders are read: `nnunetv2_xssr.images.pools.folder_pool`.
    resume : bool
        Continue an interrupted pretraining.
    skip_broken : bool
        Set cases aside that cannot be read.
    device : {"cuda", "cpu", "mps"}, optional
        The best there is by default.
    num_gpus : int
        Of this machine.
    precision : {"32-true", "bf16-mixed", "16-mixed"}
    show_batch : Path, optional
        Where to save a picture of what the network is shown in the first batch, before the training.
    **settings
        Fields of `nnunetv2_xssr.pretrain.settings.Settings`: ``epochs``, ``batch_size``, ``seed``, ``accumulate``.

    Returns
    -------
    Path
        ``checkpoint_final.pth``; ``progress.png`` and ``reconstructions.png`` lie beside it.

    Raises
    ------
    UserError
        If a source cannot be used, or a setting does not fit.
    """
    check_environment()
    chosen = Settings(**settings)
    check_picture(show_batch)
    check_axis(axis, dim=dim)
    ct_window = parse_window(window)
    fabric = start(resolve_device(device), n_devices=num_gpus, precision=precision)

    def read() -> tuple[list[Views], list[str]]:
        chosen.check_parts(n_processes=fabric.world_size, compares_samples=False)
        pools = open_pools(list(sources), channel_names=channel_names, recursive=recursive, patient_ids=patient_ids)
        channels = _channels(pools, channel_names)
        check_window(ct_window, channels)
        named = named_channels.with_channels(pools, channels)
        look = common_look(named, dim=dim, axis=axis, window=ct_window)
        seen = [how_seen(pool, channel_names=channels, dim=dim, look=look, regions=None) for pool in pools]
        check_volumes(axis, (one.shape[0] for one in seen))
        found = [read_views(one, skip_broken=skip_broken) for one in seen]
        return found, shared_images({one.pool.name: one.hashes for one in found})

    views, shared = first_on_rank_zero(fabric, read)
    folder = encoder_folder([one.pool.name for one in views], dim=dim)
    with first_holds(fabric, lambda: log_to(folder / "pretrain.log")):
        if fabric.is_global_zero:
            for sentence in (sentence for one in views for sentence in one.broken):
                logger.info("set aside: %s", sentence)
            for sentence in shared:
                logger.warning(sentence)
        with stop_reported_once(fabric):
            return pretrain(views, settings=chosen, fabric=fabric, resume=resume, show_batch=show_batch)


def _channels(pools: Sequence[ImagePool], channel_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The channels of all sources: those of the datasets, and as the user says of folders."""
    named = named_channels.common_channels(pools)
    if channel_names is None:
        return named
    folders = _folders(pools)
    if named and named_channels.channel_order(channel_names, like=named) is None:
        raise named_channels.different_channels("the sources", named, "--channel_names", channel_names)
    for pool in folders:
        check_channel_names(pool, channel_names)
    return tuple(channel_names)


def _folders(pools: Sequence[ImagePool]) -> list[ImagePool]:
    """The pools of folders, whose channels the user names; a `UserError` if there are none."""
    folders = [pool for pool in pools if not pool.channel_names]
    if not folders:
        raise UserError("--channel_names is about folders; datasets have their own in dataset.json: leave it out")
    return folders


def pretrain_unet(
    target: str,
    *,
    configuration: str,
    sources: Sequence[str],
    plans_name: str = "nnUNetPlans",
    groups: Path | None = None,
    like_channels: int | None = None,
    channel_names: Sequence[str] | None = None,
    recursive: bool = False,
    patient_ids: bool = True,
    resume: bool = False,
    skip_broken: bool = False,
    device: str | None = None,
    num_gpus: int = 1,
    precision: str = "32-true",
    show_batch: Path | None = None,
    **settings,
) -> Path:
    """Pretrain the network of a target's plans on unlabelled images (HSSL); every process of a run calls this.

    Parameters
    ----------
    target : str
        nnU-Net dataset, by name or number, whose plans the network follows.
    configuration : str
        Of the plans: ``2d``, ``3d_fullres``, ...
    sources : sequence of str
        nnU-Net datasets, by name or number, or folders of images; each is a task. The target may be one of them.
    plans_name : str
    groups : Path, optional
        JSON file with the tasks that belong together; by default those with the same channel names.
    like_channels : int, optional
        Input channels of the saved stem; those of the images by default.
    channel_names : sequence of str, optional
        The channels of images in folders, which decide their normalisation; those of the target by default.
    recursive, patient_ids : bool
        How folders are read: `nnunetv2_xssr.images.pools.folder_pool`.
    resume : bool
        Continue an interrupted pretraining.
    skip_broken : bool
        Set cases aside that cannot be read.
    device : {"cuda", "cpu", "mps"}, optional
        The best there is by default.
    num_gpus : int
        Of this machine.
    precision : {"32-true", "bf16-mixed", "16-mixed"}
    show_batch : Path, optional
        Where to save a picture of what the network is shown in the first batch, before the training.
    **settings
        Fields of `nnunetv2_xssr.pretrain.settings.Settings`: ``epochs``, ``batch_size``, ``seed``, ``accumulate``.

    Returns
    -------
    Path
        ``hssl_weights.pth``, for ``nnUNetv2_train -pretrained_weights``; ``progress.png`` lies beside it.

    Raises
    ------
    UserError
        If the plans or a source cannot be used, or a setting does not fit.
    """
    check_environment()
    check_picture(show_batch)
    plans = TargetPlans.load(find_dataset(target), configuration_name=configuration, plans_name=plans_name)
    folders = {"recursive": recursive, "patient_ids": patient_ids}
    pools = _named(open_pools(list(sources), channel_names=channel_names, **folders), channel_names, plans)
    channels, group_of_pools = common_channels(pools, plans), group_of(pools, file=groups)
    saved = _saved_channels(like_channels, channels=channels, plans=plans)
    # Even, so that a GPU can compute it in two parts: those of an odd one may be single images.
    batch_size = max(LEAST_BATCH, plans.configuration.batch_size // 2 * 2)
    chosen = Settings(**{"epochs": EPOCHS, "batch_size": batch_size} | settings)
    fabric = start(resolve_device(device), n_devices=num_gpus, precision=precision)
    chosen = _for_processes(chosen, plans, fabric, given=settings)

    def read() -> tuple[list[Source], list[PreprocessedPool], list[str]]:
        chosen.check_parts(n_processes=fabric.world_size, compares_samples=HSSLObjective.compares_samples)
        opened = [Source.of(pool, plans) for pool in pools]
        prepared = []
        for source in opened:
            with caches_lock(source.pool.name):
                prepared.append(preprocess_pool(source, skip_broken=skip_broken))
        told = [*shared_images({pool.name: pool.hashes for pool in prepared}), *lone_images(prepared)]
        return opened, prepared, told

    on_first(fabric, lambda: _log_match(plans, channels=channels, saved=saved))
    opened, prepared, told = first_on_rank_zero(fabric, read)
    folder = Workspace(plans.dataset).hssl(plans_name=plans_name, configuration=configuration)
    with first_holds(fabric, lambda: log_to(folder / "pretrain.log")):
        if fabric.is_global_zero:
            _log_sources(opened, prepared, plans, told)
        with stop_reported_once(fabric):
            return pretrain_hssl(
                plans,
                prepared,
                groups=group_of_pools,
                channels=channels,
                saved_channels=saved,
                settings=chosen,
                fabric=fabric,
                resume=resume,
                show_batch=show_batch,
            )


def _for_processes(chosen: Settings, plans: TargetPlans, fabric: "Fabric", *, given: Container[str]) -> Settings:
    """The settings, of which a batch that is not given suits the processes, and its parts the GPU."""
    n_processes = fabric.world_size
    if "batch_size" not in given:
        chosen = replace(chosen, batch_size=math.ceil(chosen.batch_size / n_processes) * n_processes)
    if "accumulate" not in given and fabric.device.type != "cpu":
        parts = parts_that_fit(plans, batch_size=chosen.batch_size, n_processes=n_processes)
        chosen = replace(chosen, accumulate=parts)
    return chosen


def _named(pools: list[ImagePool], channel_names: Sequence[str] | None, plans: TargetPlans) -> list[ImagePool]:
    """The pools, of which folders have the channels that the user names, by default those of the target."""
    if channel_names is not None:
        for pool in _folders(pools):
            check_channel_names(pool, channel_names)
    return named_channels.with_channels(pools, channel_names or plans.channel_names)


def _saved_channels(like_channels: int | None, *, channels: int, plans: TargetPlans) -> int:
    wanted = len(plans.inputs)
    if like_channels is None and channels != wanted:
        raise UserError(
            f"the images have {channels} channels but {plans.dataset} has {wanted} ({', '.join(plans.inputs)}); "
            f"--like_channels {wanted} saves a stem that fits it"
        )
    if like_channels is not None and not 1 <= like_channels <= 1000:
        raise UserError(f"--like_channels must be between 1 and 1000; got {like_channels}")
    return like_channels or channels


def _log_match(plans: TargetPlans, *, channels: int, saved: int) -> None:
    match = match_weights(plans.build_network(channels).state_dict(), plans.build_network(saved))
    logger.info("nnUNetv2_train will load, for %s, %s: %s", plans.plans_name, plans.configuration_name, match)


def _log_sources(sources: list[Source], prepared: list[PreprocessedPool], plans: TargetPlans, told: list[str]) -> None:
    for sentence in (sentence for pool in prepared for sentence in pool.broken):
        logger.info("set aside: %s", sentence)
    for source in sources:
        logger.info("normalisation of %s: %s", source.pool.name, source.normalisation)
    if far := far_spacings(sources, plans):
        logger.warning(far)
    for sentence in told:
        logger.warning(sentence)
    if len(sources) == 1:
        logger.info("one dataset only: there are no tasks and groups to contrast")
