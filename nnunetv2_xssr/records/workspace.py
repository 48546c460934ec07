"""Where nnU-Net keeps things: its three folders and the names of datasets."""

import os
import re
from pathlib import Path

from nnunetv2_xssr.errors import UserError


def nnunet_folder(variable: str) -> Path:
    """The folder that ``nnUNet_raw``, ``nnUNet_preprocessed`` or ``nnUNet_results`` names."""
    value = os.environ.get(variable)
    if not value:
        raise UserError(
            f"the environment variable {variable} is not set; set it to the folder that nnU-Net uses "
            f"(nnU-Net's documentation, setting_up_paths.md)"
        )
    return Path(value)


def check_environment() -> None:
    """Raise `UserError` unless all three of nnU-Net's variables are set."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        nnunet_folder(variable)


def find_dataset(name_or_number: str) -> str:
    """Full name (``Dataset001_Name``) of a raw dataset that is given by name or by number.

    Raises
    ------
    UserError
        If there is none, or the number has two.
    """
    raw = nnunet_folder("nnUNet_raw")
    known = sorted(p.name for p in raw.glob("Dataset[0-9][0-9][0-9]_*") if p.is_dir())
    if name_or_number in known:
        return name_or_number
    if re.fullmatch(r"\d{1,3}", name_or_number):
        found = [name for name in known if int(name[7:10]) == int(name_or_number)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"dataset {name_or_number} is not unique in {raw} ({', '.join(found)}); give a name")
    raise UserError(
        f"no dataset {name_or_number!r} in {raw} (nnUNet_raw), which holds {', '.join(known) or 'none'}; "
        f"give a name such as Dataset001_Name or its number"
    )


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder that a person put there, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    by_system = ("Thumbs.db", "desktop.ini")
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.name not in by_system)
