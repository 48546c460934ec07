"""Stage 3: nnU-Net trainers that train on exactly the selected cases.

``XSSRTrainer`` trains on the default selection. ``XSSRTrainer_NAME``, and ``XSSRTrainer_50epochs_NAME``, trains on the
selection NAME: nnU-Net names the folder of the results after the trainer, so two selections need two names.
``XSSRTrainer_pretrained`` starts from pretrained weights; it comes in the same lengths, and for the same selections.
"""

import re
from functools import cache

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, check_name
from nnunetv2_xssr.trainers import demo
from nnunetv2_xssr.trainers.pretrained import XSSRTrainer_pretrained, XSSRTrainer_pretrained_frozen
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
    "XSSRTrainer_pretrained",
    "XSSRTrainer_pretrained_frozen",
]


_KINDS = {"": None, "_pretrained": XSSRTrainer_pretrained, "_pretrained_frozen": XSSRTrainer_pretrained_frozen}
_LENGTHS = {
    "": None,
    "_5epochs": XSSRTrainer_5epochs,
    "_10epochs": XSSRTrainer_10epochs,
    "_20epochs": XSSRTrainer_20epochs,
    "_50epochs": XSSRTrainer_50epochs,
    "_100epochs": XSSRTrainer_100epochs,
    "_250epochs": XSSRTrainer_250epochs,
    "_demo": demo.XSSRTrainer_demo,
}


@cache  # one class per name, so that it can be pickled
def __getattr__(name: str) -> type[XSSRTrainer]:
    kinds, lengths = ("|".join(sorted(words, reverse=True)) for words in (_KINDS, _LENGTHS))
    parts = re.fullmatch(f"XSSRTrainer({kinds})({lengths})(?:_(.+))?", name)
    if parts is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    selection = parts[3] or DEFAULT_NAME
    try:
        check_name(selection)
    except UserError as error:
        raise AttributeError(f"no trainer can be called {name}: {error}") from None
    bases = tuple(base for base in (_KINDS[parts[1]], _LENGTHS[parts[2]]) if base) or (XSSRTrainer,)
    if bases[0].__name__ == name:
        return bases[0]
    return type(name, bases, {"selection": selection, "__module__": __name__, "__doc__": bases[0].__doc__})
