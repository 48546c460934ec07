"""What nnUNetv2_xssr_pretrain does, for Python: an encoder from unlabelled images."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.images.pools import open_pools
from nnunetv2_xssr.images.views import Views, prepare_views
from nnunetv2_xssr.pretrain.processes import first_on_rank_zero, start, stop_reported_once
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import pretrain
from nnunetv2_xssr.records.logs import log_to, logger
from nnunetv2_xssr.records.workspace import check_environment, encoder_folder


def pretrain_encoder(
    sources: Sequence[str],
    *,
    dim: int = 2,
    resume: bool = False,
    skip_broken: bool = False,
    device: str | None = None,
    num_gpus: int = 1,
    precision: str = "32-true",
    **settings,
) -> Path:
    """Pretrain a masked autoencoder on unlabelled images; every process of a run calls this.

    Parameters
    ----------
    sources : sequence of str
        nnU-Net datasets, by name or number, or folders of images.
    dim : {2, 3}
        What the encoder sees of volumes: slices, or the whole volume.
    resume : bool
        Continue an interrupted pretraining.
    skip_broken : bool
        Set cases aside that cannot be read.
    device : {"cuda", "cpu", "mps"}, optional
        The best there is by default.
    num_gpus : int
        Of this machine.
    precision : {"32-true", "bf16-mixed", "16-mixed"}
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
    fabric = start(resolve_device(device), n_devices=num_gpus, precision=precision)

    def read() -> list[Views]:
        chosen.check_parts(n_processes=fabric.world_size, compares_samples=False)
        pools = open_pools(list(sources))
        named = next((pool.channel_names for pool in pools if pool.channel_names), None)
        return [prepare_views(pool, named, skip_broken, dim) for pool in pools]

    views = first_on_rank_zero(fabric, read)
    folder = encoder_folder([one.pool.name for one in views], dim=dim)
    with log_to(folder / "pretrain.log") if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            for sentence in (sentence for one in views for sentence in one.broken):
                logger.info("set aside: %s", sentence)
        with stop_reported_once(fabric):
            return pretrain(views, settings=chosen, fabric=fabric, resume=resume)
