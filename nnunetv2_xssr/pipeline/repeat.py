"""Options that make the same call from any folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2_xssr.encoders.registry import ENCODERS
from nnunetv2_xssr.records.workspace import may_name_dataset

_PATHS = ("encoder_weights", "embeddings", "source_embeddings", "roi", "model")


def from_anywhere(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of nnUNetv2_xssr_select with full paths where a folder or file stands in the place of a name."""
    kept = dict(config)
    if "s" in kept:
        folders = {source for source in kept["s"] if Path(source).is_dir() and not may_name_dataset(source)}
        kept["s"] = [str(Path(source).absolute()) if source in folders else source for source in kept["s"]]
    if "encoder" in kept:
        kept["encoder"] = from_root("encoder", kept["encoder"])
    return kept


def from_root(name: str, value: Any) -> Any:
    """The value of an option as the record has it: a file is the same one however its path was typed."""
    if isinstance(value, str) and name in _PATHS:
        value = Path(value)
    if isinstance(value, Path):
        return Path(os.path.abspath(value))  # and not where a link leads
    if name != "encoder":
        return value
    kind, colon, file = value.rpartition(":")
    # A model of timm is a name, whatever lies in the folder where it is typed.
    is_file = kind != "timm" and file and file not in ENCODERS and Path(file).exists()
    return f"{kind}{colon}{os.path.abspath(file)}" if is_file else value
