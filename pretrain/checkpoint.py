"""The encoder checkpoint: tensors and plain values only, so that loading it never runs foreign code."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import atomic, check_format, is_there, sha256, sha256_json

KIND, FORMAT_VERSION = "encoder checkpoint", 1


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint atomically; ``content`` holds tensors and plain values."""
    # To memory first: on a full disk torch's own writer ends in a RuntimeError about its internals.
    buffer = io.BytesIO()
    torch.save({"kind": KIND, "format_version": FORMAT_VERSION, **content}, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint onto the CPU.

    Raises
    ------
    UserError
        If the file is missing, cut off, not ours, or of a newer format.
    """
    if not is_there(path):
        raise UserError(f"there is no encoder checkpoint {path}; run nnUNetv2_xssr_pretrain or give another file")
    with open(path, "rb") as file:  # a file that cannot be opened is not one to delete
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # the reader raises whatever it meets
            raise UserError(
                f"{path} is cut off or not an nnunetv2_xssr {KIND}; give another file, or delete it and run "
                f"nnUNetv2_xssr_pretrain again"
            ) from None
    check_format(content, KIND, FORMAT_VERSION, path)
    return content


def load_tensors(path: Path) -> dict:
    """Read a checkpoint of another program onto the CPU: tensors, plain values and numbers of numpy, no foreign code.

    Raises
    ------
    UserError
        If the file is missing, cut off, or holds anything else.
    """
    # nnU-Net keeps its losses as numbers of numpy.
    numbers = [np.float64(0).__reduce__()[0], np.dtype, *{type(np.dtype(kind)) for kind in "fdil?"}]
    if not is_there(path):
        raise UserError(f"there is no checkpoint {path}; give another file")
    try:
        with torch.serialization.safe_globals(numbers):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError
    except Exception as error:  # the reader raises whatever it meets
        raise UserError(
            f"{path} is cut off or holds more than tensors and plain values, which could run foreign code "
            f"({type(error).__name__}); save the state_dict() of its network alone"
        ) from None
    return content


def encoder_identity(checkpoint: dict) -> str:
    """SHA-256 of everything that decides an embedding: the weights, the architecture and the settings of the views."""
    digest = sha256_json({key: checkpoint[key] for key in ("architecture", "views")}).encode()
    return sha256([digest, *_parts(checkpoint["weights"])])


def weights_hash(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the weights alone."""
    return sha256(_parts(weights))


def _parts(weights: dict[str, torch.Tensor]) -> Iterator[bytes]:
    return (part for k in sorted(weights) for part in (k.encode(), weights[k].numpy().tobytes()))
