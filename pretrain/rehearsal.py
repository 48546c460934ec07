"""How long a pretraining will take, by a few of its batches; nothing is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint
from nnunetv2_xssr.pretrain.engine import LATEST, TIMED, Run, check_resumable, training_of
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.stopping import StopRequest
from nnunetv2_xssr.pretrain.training import MaskedAutoencoding

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def rehearse(sources: Sequence[Views], *, settings: Settings, fabric: "Fabric", folder: Path) -> tuple[dict, float]:
    """Train an autoencoder for a few batches, and keep nothing of it.

    Parameters
    ----------
    sources : sequence of Views
        Of a few cases.
    settings : Settings
        With a number of epochs.
    fabric : Fabric
        As `processes.start` returns it.
    folder : Path
        Where an unfinished pretraining may lie, with which the real one would go on.

    Returns
    -------
    content : dict
        Of a checkpoint, as far as an encoder is made of it.
    seconds : float
        That what is left of all epochs would take.

    Raises
    ------
    UserError
        If the unfinished one was made with other settings.
    """
    objective = MaskedAutoencoding(list(sources), seed=settings.seed)
    latest, done = folder / LATEST, 0
    if latest.is_file():
        checkpoint = load_checkpoint(latest)
        training = training_of(objective, settings=settings, fabric=fabric)
        check_resumable(checkpoint, {"training": training}, path=latest)
        done = checkpoint["step"]
    run = Run(objective, settings=settings, fabric=fabric)
    with StopRequest() as request:
        for _ in range(1 + TIMED):
            run.train_step(request)
    content = {**objective.describe(), "weights": run.result()["weights"]}
    return content, run.seconds() * (1 - done / (run.n_steps or 1))
