"""Options that make the same call from any folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2_xssr.encoders.registry import ENCODERS
from nnunetv2_xssr.records.workspace import may_name_dataset


def from_anywhere(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of nnUNetv2_xssr_select with full paths where a folder or file stands in the place of a name."""
    kept = dict(config)
    if "s" in kept:
        folders = {source for source in kept["s"] if Path(source).is_dir() and not may_name_dataset(source)}
        kept["s"] = [str(Path(source).absolute()) if source in folders else source for source in kept["s"]]
    name, colon, file = kept.get("encoder", "mae").rpartition(":")
    if file not in ENCODERS and Path(file).exists():
        kept["encoder"] = f"{name}{colon}{Path(file).absolute()}"
    return kept
