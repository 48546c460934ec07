"""A raw dataset of nnU-Net from a plain folder of images that nobody has labelled yet."""

import filecmp
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.pools import ImagePool, dataset_pool, folder_pool, takes_dicom
from nnunetv2_xssr.images.reading import first_readable, spacing_file
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.files import atomic, write_json
from nnunetv2_xssr.records.locks import dataset_lock
from nnunetv2_xssr.records.names import check_trimmed, refuse_names
from nnunetv2_xssr.records.workspace import (
    Workspace,
    channel_names_of,
    dataset_number,
    datasets_in,
    nnunet_folder,
    visible_files,
)


@contextmanager
def new_dataset(folder: Path, name: str, **options) -> Iterator[str]:
    """Make a dataset for a block, as `make_dataset` does; a `UserError` in the block removes a dataset that is new."""
    workspace = Workspace(_full_name(name))
    existed = workspace.raw.exists()
    with dataset_lock(workspace):
        existed = existed or bool(visible_files(workspace.raw))  # another command may have made it meanwhile
        try:
            yield make_dataset(folder, name, **options)
        except UserError:
            if not existed:
                shutil.rmtree(workspace.raw, ignore_errors=True)
            raise


def make_dataset(
    folder: Path,
    name: str,
    *,
    channel_names: Sequence[str] | None,
    labels: Sequence[str] | None,
    recursive: bool = False,
    patient_ids: bool = True,
) -> str:
    """Make ``nnUNet_raw/DatasetXXX_Name`` of a folder of images, and return its name.

    The images are linked where the file system can, else copied; the folder itself is not changed. Called again with
    the same arguments it adds the images that are new in the folder. Of DICOM series the converted volumes are linked.

    Parameters
    ----------
    folder : Path
    name : str
        ``123_Name`` or ``Dataset123_Name``.
    channel_names : sequence of str
        One per channel, as nnU-Net wants them.
    labels : sequence of str
        What is to be drawn, in the order of the values 1, 2, ...
    recursive, patient_ids : bool
        See `folder_pool`. dataset.json keeps the groups of the cases; without ``patient_ids`` earlier groups go.

    Raises
    ------
    UserError
        If the name does not fit or another dataset has its number, or the images, channels and labels do not fit.
    """
    dataset, pool, description = _described(
        folder, name, channel_names=channel_names, labels=labels, recursive=recursive, patient_ids=patient_ids
    )
    _link_images(_links(pool, dataset / "imagesTr", description["file_ending"]))
    _describe(dataset / "dataset.json", description, pool, keep_groups=patient_ids)
    return dataset.name


def planned_dataset(folder: Path, name: str, **options) -> ImagePool:
    """The pool of the dataset that `make_dataset` would make with these arguments; nothing is written."""
    dataset, pool, description = _described(folder, name, **options)
    _links(pool, dataset / "imagesTr", description["file_ending"])
    there = dataset_pool(dataset.name) if (dataset / "dataset.json").is_file() else None
    cases = {case.identifier: case for case in (*pool.cases, *(there.cases if there else ()))}
    return ImagePool(
        name=dataset.name,
        cases=tuple(cases[identifier] for identifier in sorted(cases)),
        file_ending=pool.file_ending,
        channel_names=channel_names_of(description),
        dataset_json=there.dataset_json if there else description,
    )


def _described(
    folder: Path,
    name: str,
    *,
    channel_names: Sequence[str] | None,
    labels: Sequence[str] | None,
    recursive: bool = False,
    patient_ids: bool = True,
) -> tuple[Path, ImagePool, dict]:
    """The raw dataset, the pool of the folder, and what dataset.json is to hold."""
    if not channel_names or not labels:
        given = {"--channel_names": channel_names, "--labels": labels}
        missing = " and ".join(option for option, names in given.items() if not names)
        raise UserError(f"-i needs {missing} to write dataset.json; see nnUNetv2_xssr_select --help")
    refuse_names("a channel of --channel_names", channel_names, check=check_trimmed)
    refuse_names("a label of --labels", labels, check=check_trimmed)
    dataset = Workspace(_full_name(name)).raw
    if not folder.is_dir():
        raise UserError(f"-i must be a folder of images; got {folder}")
    _check_labels(labels)
    if len(channel_names) > 1 and takes_dicom(folder, recursive=recursive):  # before they are converted
        raise UserError(f"--channel_names must name 1 channel of DICOM series; got {' '.join(channel_names)}")
    pool = folder_pool(folder, channel_names=channel_names, recursive=recursive, patient_ids=patient_ids)
    check_channel_names(pool, channel_names)
    description = {
        "channel_names": {str(i): channel for i, channel in enumerate(channel_names)},
        "labels": {"background": 0, **{label: i + 1 for i, label in enumerate(labels)}},
        "numTraining": 0,
        "file_ending": pool.file_ending.lower(),
        # nnU-Net takes the cases of this table and leaves all other images alone: it is what lets unlabelled images lie
        # in imagesTr.
        "dataset": {},
    }
    _check_same(dataset, description)
    return dataset, pool, description


def _describe(path: Path, description: dict, pool: ImagePool, *, keep_groups: bool) -> None:
    """Write dataset.json if it is missing, and the groups of the pool's cases into it."""
    old = read_dataset_json(path) if path.is_file() else None
    new = dict(old or description)
    before = new.pop("groups", {})
    if groups := (before if keep_groups else {}) | {case.identifier: case.group for case in pool.cases if case.group}:
        new["groups"] = groups
    if new != old:
        write_json(path, new)


def _full_name(text: str) -> str:
    match = re.fullmatch(r"(?:Dataset)?(\d{3,})_([A-Za-z0-9_-]+)", text)
    if not match:
        raise UserError(
            f"-d must give the new dataset a number of three digits or more and a name, as 123_Name; got {text!r}"
        )
    number, name = match.groups()
    full = f"Dataset{number}_{name}"
    for other in datasets_in(nnunet_folder("nnUNet_raw")):
        if other.name != full and dataset_number(other.name) == int(number):
            raise UserError(f"the number {number} is taken by {other}; give {full} another number")
    return full


def _check_labels(labels: Sequence[str]) -> None:
    wrong = [label for label in labels if label in ("background", "ignore") or list(labels).count(label) > 1]
    if wrong:
        raise UserError(
            f"--labels must name what is to be drawn, each once, without background and ignore; got {' '.join(labels)}"
        )


def check_channel_names(pool: ImagePool, channel_names: Sequence[str]) -> None:
    """Raise `UserError` unless ``--channel_names`` names as many channels as the images of a folder have."""
    case, image = first_readable(pool)
    if len(image) == len(channel_names):
        return
    has = f"{case.files[0]} has"
    if len(case.files) > 1:
        names = first_few([file.name for file in case.files], 2)
        has = f"case {case.identifier} has in files that count as its channels by their names ({names})"
    raise UserError(
        f"--channel_names must name {len(image)} channels, as many as {has}; got {len(channel_names)} "
        f"({', '.join(channel_names)})"
    )


def _check_same(dataset: Path, description: dict) -> None:
    if not (dataset / "dataset.json").is_file():
        return
    old = read_dataset_json(dataset / "dataset.json")
    old["labels"] = {name: value for name, value in (old.get("labels") or {}).items() if name != "ignore"}  # of slices
    for key in ("channel_names", "labels", "file_ending"):
        if old.get(key) != description[key]:
            raise UserError(
                f"{dataset} exists already with {key} {old.get(key)}, not {description[key]}; give the images of -i "
                f"another number and name"
            )


def _links(pool: ImagePool, images: Path, ending: str) -> dict[Path, Path]:
    """The files of the dataset, and what each is a link to."""
    wanted = {
        images / f"{case.identifier}_{number:04d}{ending}": file
        for case in pool.cases
        for number, file in enumerate(case.files)
    }
    if ending in (".tif", ".tiff"):  # nnU-Net reads the spacing of a stack from a file beside it
        sidecars = {images / f"{case.identifier}.json": spacing_file(case) for case in pool.cases}
        wanted |= {new: old for new, old in sidecars.items() if old}
    strange = [path for path in visible_files(images) if path not in wanted]
    if strange:
        raise UserError(
            f"{images} holds {len(strange)} files that are not from -i ({strange[0].name}); leave -i out to select "
            f"from the dataset as it is, or give the images of -i another number and name"
        )
    return wanted


def _link_images(wanted: Mapping[Path, Path]) -> None:
    next(iter(wanted)).parent.mkdir(parents=True, exist_ok=True)
    for new, old in tqdm(wanted.items(), desc="linking images", unit="file", disable=None):
        if new.exists():
            if not filecmp.cmp(old, new):
                raise UserError(f"{new} differs from {old}; delete the one that is wrong and run the command again")
        else:
            _link_or_copy(old.resolve(), new)


def _link_or_copy(old: Path, new: Path) -> None:
    # Hard links and not symbolic ones: they need no privilege on Windows and outlive a move of either folder.
    try:
        os.link(old, new)
    except OSError:
        with atomic(new) as temporary:
            shutil.copy2(old, temporary)
