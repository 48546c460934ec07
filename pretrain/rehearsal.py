"""How long a pretraining will take, by a few of its batches; nothing is written."""

from collections.abc import Sequence

from lightning_fabric import Fabric

from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.engine import TIMED, Run
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.stopping import StopRequest
from nnunetv2_xssr.pretrain.training import MaskedAutoencoding


def rehearse(sources: Sequence[Views], *, settings: Settings, fabric: Fabric) -> tuple[dict, float]:
    """Train an autoencoder for a few batches.

    Parameters
    ----------
    sources : sequence of Views
        Of a few cases.
    settings : Settings
        With a number of epochs.
    fabric : Fabric
        As `processes.start` returns it.

    Returns
    -------
    content : dict
        Of a checkpoint, as far as an encoder is made of it.
    seconds : float
        That all epochs would take.
    """
    objective = MaskedAutoencoding(list(sources), seed=settings.seed)
    run = Run(objective, settings=settings, fabric=fabric)
    with StopRequest() as request:
        for _ in range(1 + TIMED):
            run.train_step(request)
    content = {**objective.describe(), "weights": run.result()["weights"]}
    return content, run.seconds()
