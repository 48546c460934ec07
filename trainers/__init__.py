"""Stage 3: nnU-Net trainers that train on exactly the selected cases.

``XSSRTrainer`` trains on the default selection. ``XSSRTrainer_NAME``, and ``XSSRTrainer_50epochs_NAME``, trains on the
selection NAME: nnU-Net names the folder of the results after the trainer, so two selections need two names.
"""

import re
from functools import cache

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.workspace import check_name
from nnunetv2_xssr.trainers.xssr_trainer import (
    XSSRTrainer,
    XSSRTrainer_5epochs,
    XSSRTrainer_10epochs,
    XSSRTrainer_20epochs,
    XSSRTrainer_50epochs,
    XSSRTrainer_100epochs,
    XSSRTrainer_250epochs,
)

__all__ = [
    "XSSRTrainer",
    "XSSRTrainer_5epochs",
    "XSSRTrainer_10epochs",
    "XSSRTrainer_20epochs",
    "XSSRTrainer_50epochs",
    "XSSRTrainer_100epochs",
    "XSSRTrainer_250epochs",
]


def __getattr__(name: str) -> type[XSSRTrainer]:
    if name == "XSSRTrainer_demo":
        from nnunetv2_xssr.trainers.demo import XSSRTrainer_demo

        return XSSRTrainer_demo
    return _trainer_of_selection(name)


@cache  # one class per name, so that it can be pickled
def _trainer_of_selection(name: str) -> type[XSSRTrainer]:
    parts = re.fullmatch(r"(XSSRTrainer(?:_demo|_\d+epochs)?)_(.+)", name)
    if parts is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        check_name(parts[2])
    except UserError as error:
        raise AttributeError(f"no trainer can be called {name}: {error}") from None
    base = globals().get(parts[1]) or __getattr__(parts[1])
    return type(name, (base,), {"selection": parts[2], "__module__": __name__, "__doc__": base.__doc__})
