"""The real image packs that benchmarks run on: where they lie, and their domains as nnU-Net raw datasets."""

import csv
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from sklearn.model_selection import GroupShuffleSplit

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import read_json, write_json

# What the small networks see: whole lungs at half the resolution; nuclei, which are small, at the full one.
SMALL = {
    "CXRLung": {"spacing": [2.0, 2.0], "data_identifier": "half", "patch_size": [96, 128], "batch_size": 8},
    "NucleiDSB": {"patch_size": [128, 128], "batch_size": 8},
    "Hippocampus3D": {"patch_size": [24, 40, 24], "batch_size": 2},
}


def pack_folder(name: str) -> Path:
    """The folder of a pack: in ``XSSR_PACKS``, else in ``../shared/data`` beside the checkout."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("XSSR_PACKS", default)) / name
    if not (folder / "dataset.json").is_file():
        raise UserError(f"the pack {name} is not in {folder.parent}; set XSSR_PACKS to the folder that holds it")
    return folder


def write_domain(
    pack: str,
    domains: Collection[str],
    dataset: Path,
    labelled: bool,
    extra: str | None = None,
    only: Collection[str] | None = None,
) -> list[str]:
    """Copy some domains of a pack into an nnU-Net raw dataset; return their labelled cases.

    Parameters
    ----------
    dataset : Path
        ``.../nnUNet_raw/DatasetXXX_Name``.
    labelled : bool
        Whether the labels come along.
    extra : str, optional
        A folder of the pack with further, unlabelled images.
    only : collection of str, optional
        Cases of the domains to copy, in the place of all.
    """
    folder = pack_folder(pack)
    description = read_json(folder / "dataset.json")
    ending = description["file_ending"]
    cases = sorted(
        case for case, name in description["domains"].items() if name in domains and (only is None or case in only)
    )
    images = [file for case in cases for file in (folder / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}")]
    if extra:
        images += (folder / extra).glob(f"*{ending}")
    for sub, files in (
        ("imagesTr", images),
        ("labelsTr", [folder / "labelsTr" / f"{case}{ending}" for case in cases] if labelled else []),
    ):
        wanted = {file.name for file in files}
        for stale in (file for file in (dataset / sub).glob("*") if file.name not in wanted):
            stale.unlink()  # of another study, whose dataset was called so before studies were added
        for file in files:
            (dataset / sub).mkdir(parents=True, exist_ok=True)
            if not (dataset / sub / file.name).exists():
                shutil.copyfile(file, dataset / sub / file.name)
    keep = {key: description[key] for key in ("channel_names", "labels", "file_ending")}
    named = {case: description["domains"][case] for case in cases}
    write_json(dataset / "dataset.json", {**keep, "numTraining": len(cases), "domains": named})
    return cases


def split_by_patient(pack: str, cases: list[str]) -> tuple[list[str], list[str]]:
    """Pool and test cases; no patient is in both."""
    with open(pack_folder(pack) / "cases.csv", newline="", encoding="utf-8") as file:
        patient = {row["case"]: row.get("patient") or row["case"] for row in csv.DictReader(file)}
    splitter = GroupShuffleSplit(1, test_size=0.2, random_state=0)
    pool, test = next(splitter.split(cases, groups=[patient[case] for case in cases]))
    return [cases[i] for i in pool], [cases[i] for i in test]
