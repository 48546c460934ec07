"""The real image packs that benchmarks run on: where they lie, and their domains as nnU-Net raw datasets."""

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records import read_json, write_json


def pack_folder(name: str) -> Path:
    """The folder of a pack: in ``XSSR_PACKS``, else in ``../shared/data`` beside the checkout."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("XSSR_PACKS", default)) / name
    if not (folder / "dataset.json").is_file():
        raise UserError(f"the pack {name} is not in {folder.parent}; set XSSR_PACKS to the folder that holds it")
    return folder


def write_domain(
    pack: str,
    domain: str,
    dataset: Path,
    labelled: bool,
    extra: str | None = None,
    only: Collection[str] | None = None,
) -> list[str]:
    """Copy one domain of a pack into an nnU-Net raw dataset; return its labelled cases.

    Parameters
    ----------
    dataset : Path
        ``.../nnUNet_raw/DatasetXXX_Name``.
    labelled : bool
        Whether the labels come along.
    extra : str, optional
        A folder of the pack with further, unlabelled images.
    only : collection of str, optional
        Cases of the domain to copy, in the place of all.
    """
    folder = pack_folder(pack)
    description = read_json(folder / "dataset.json")
    ending = description["file_ending"]
    cases = sorted(
        case for case, name in description["domains"].items() if name == domain and (only is None or case in only)
    )
    images = [file for case in cases for file in (folder / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}")]
    if extra:
        images += (folder / extra).glob(f"*{ending}")
    for sub, files in (
        ("imagesTr", images),
        ("labelsTr", [folder / "labelsTr" / f"{case}{ending}" for case in cases] if labelled else []),
    ):
        for file in files:
            (dataset / sub).mkdir(parents=True, exist_ok=True)
            if not (dataset / sub / file.name).exists():
                shutil.copyfile(file, dataset / sub / file.name)
    keep = {key: description[key] for key in ("channel_names", "labels", "file_ending")}
    write_json(dataset / "dataset.json", {**keep, "numTraining": len(cases)})
    return cases
