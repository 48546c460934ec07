"""The encoders by name, as ``--encoder`` takes them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from nnunetv2_xssr.encoders import dictionary, intensity, opened_mae, source_model, timm_model, untrained
from nnunetv2_xssr.encoders.encoder import Opened, Request
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import is_there

DEFAULT = "mae"
ENCODERS: dict[str, Callable[[Request], Opened]] = {
    "mae": opened_mae.open_mae,
    "untrained": untrained.open_untrained,
    "nnunet": source_model.open_source_model,
    "timm": timm_model.open_timm,
    "intensity": intensity.open_intensity,
    "dictionary": dictionary.open_dictionary,
}
_TAKES = {"nnunet": "MODEL_FOLDER", "timm": "NAME"}  # after a colon
SPELLINGS = tuple(f"{name}:{_TAKES[name]}" if name in _TAKES else name for name in ENCODERS)


def open_encoder(
    spelling: str,
    *,
    weights: Path | None,
    learn_from: Sequence[str],
    dim: int,
    device: str,
    epochs: int | None = None,
) -> Opened:
    """Open what ``--encoder`` names, and check it as far as that goes before an image is read.

    Parameters
    ----------
    spelling : str
        One of `SPELLINGS`, or a checkpoint of nnUNetv2_xssr_pretrain.
    weights : Path or None
        Of a timm model.
    learn_from : sequence of str
        Names of the pools that an encoder may learn from.
    dim : {2, 3}
    device : {"cpu", "cuda", "mps"}
    epochs : int, optional
        Of the pretraining of an encoder that must be pretrained.

    Raises
    ------
    UserError
        If there is no such encoder, or it cannot be used.
    """
    name, colon, argument = spelling.partition(":")
    if weights is not None and name != "timm":
        raise UserError(f"--encoder_weights is for --encoder timm:NAME; got --encoder {spelling}: leave it out")
    if epochs is not None and spelling != DEFAULT:
        raise UserError(
            f"--pretrain_epochs is for the encoder that select pretrains; got --encoder {spelling}: leave it out"
        )
    if name in _TAKES and not argument:
        raise UserError(f"--encoder {name} needs to be told which: --encoder {name}:{_TAKES[name]}")
    if name not in ENCODERS or (colon and name not in _TAKES):
        name, argument = "mae", spelling
        if not is_there(Path(spelling)):
            raise UserError(
                f"there is no encoder checkpoint {spelling}; --encoder takes a file of nnUNetv2_xssr_pretrain or one "
                f"of {', '.join(SPELLINGS)}"
            )
    return ENCODERS[name](
        Request(argument=argument, weights=weights, learn_from=tuple(learn_from), dim=dim, device=device, epochs=epochs)
    )
