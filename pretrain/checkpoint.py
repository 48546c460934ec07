"""The encoder checkpoint: tensors and plain values only, so that loading it never runs foreign code."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import check_format, is_there, sha256, sha256_json, write_bytes
from nnunetv2_xssr.records.schema import check_shape

KIND, FORMAT_VERSION = "encoder checkpoint", 1


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint of ours: see `save_tensors`."""
    save_tensors(path, {"kind": KIND, "format_version": FORMAT_VERSION, **content})


def save_tensors(path: Path, content: dict) -> None:
    """Write tensors and plain values as torch does, whole or not at all."""
    # To memory first: on a full disk torch's own writer ends in a RuntimeError about its internals.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint onto the CPU.

    Raises
    ------
    UserError
        If the file is missing, cut off, not ours, or of a newer format.
    """
    if not is_there(path):
        raise UserError(f"there is no encoder checkpoint {path}; run nnUNetv2_xssr_pretrain or give another file")
    advice = "give another file, or delete it and run the pretraining that wrote it again"
    content = _load(path, f"not an nnunetv2_xssr {KIND}; {advice}")
    check_format(content, KIND, FORMAT_VERSION, path)
    return content


def load_tensors(path: Path) -> dict:
    """Read a checkpoint of another program onto the CPU: tensors, plain values and numbers of numpy, no foreign code.

    Raises
    ------
    UserError
        If the file is missing, cut off, or holds anything else.
    """
    if not is_there(path):
        raise UserError(f"there is no checkpoint {path}; give another file")
    advice = "save the state_dict() of its network alone"
    content = _load(path, f"holds more than tensors and plain values, which could run foreign code; {advice}")
    return check_shape(content, dict[str, Any], where=str(path), advice=advice)


def _load(path: Path, otherwise: str) -> Any:
    # Opened first: a file that cannot be opened is not one to delete.
    with open(path, "rb") as file, torch.serialization.safe_globals(_numbers_of_numpy()):
        try:
            check_kind(file)
            damaged = _damaged_part(file)
            content = None if damaged else torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # the readers raise whatever they meet
            raise UserError(f"{path} is cut off or {otherwise}") from None
    if damaged:
        raise UserError(f"{path} is damaged: {damaged} does not fit its checksum; restore it or give another file")
    return content


def check_kind(file: IO[bytes]) -> None:
    """Raise `ValueError` if a file is the tar archive that torch wrote long ago.

    Unpacking one runs foreign code until torch 2.6, whatever it is told (CVE-2025-32434).
    """
    is_tar = tarfile.is_tarfile(file)
    file.seek(0)
    if is_tar:
        raise ValueError("it is a tar archive")


def _numbers_of_numpy() -> list:
    """What makes the numbers of numpy as which nnU-Net keeps its losses, by its names in numpy 1 and in numpy 2."""
    make = np.float64(0).__reduce__()[0]

    def named(module: str):
        def scalar(*args):
            return make(*args)

        scalar.__module__, scalar.__qualname__ = module, "scalar"
        return scalar

    made = [named("numpy.core.multiarray"), named("numpy._core.multiarray")]
    return [*made, np.dtype, *{type(np.dtype(kind)) for kind in "fdil?"}]


def _damaged_part(file: IO[bytes]) -> str | None:
    """What does not fit its checksum in the archive that torch writes, and does not check when it reads it."""
    damaged = None
    if zipfile.is_zipfile(file):  # former versions of torch wrote no archive
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    file.seek(0)
    return damaged


def encoder_identity(checkpoint: dict) -> str:
    """SHA-256 of everything that decides an embedding: the weights, the architecture and the settings of the views."""
    digest = sha256_json({key: checkpoint[key] for key in ("architecture", "views")}).encode()
    return sha256([digest, *_parts(checkpoint["weights"])])


def weights_hash(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the weights alone."""
    return sha256(_parts(weights))


def _parts(weights: dict[str, torch.Tensor]) -> Iterator[bytes]:
    return (part for k in sorted(weights) for part in (k.encode(), weights[k].numpy().tobytes()))
