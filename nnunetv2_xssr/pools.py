"""Image pools: the ordered cases of an nnU-Net raw dataset or of a plain folder, labels neither needed nor read."""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.folders import find_dataset, nnunet_folder
from nnunetv2_xssr.records import read_json, sha256

_CHANNEL_FILE = re.compile(r"(.+)_(\d{4})")


class BrokenImage(UserError):
    """One case cannot be used; the others may be."""


@dataclass(frozen=True)
class Case:
    """One case of a pool.

    Attributes
    ----------
    identifier : str
    files : tuple of Path
        One file a channel, or one file with several channels.
    labelled : bool
        Whether a label file exists; it is never opened.
    domain : str or None
        Site, scanner or stain.
    group : str or None
        What must not be torn apart between training and validation, such as the patient.
    cost : float or None
        Of annotating it, in any unit.
    """

    identifier: str
    files: tuple[Path, ...]
    labelled: bool = False
    domain: str | None = None
    group: str | None = None
    cost: float | None = None


@dataclass(frozen=True)
class ImagePool:
    """The cases of one dataset or folder, sorted by identifier.

    Attributes
    ----------
    name : str
        The dataset's name, or the folder's name and a hash of its path.
    cases : tuple of Case
    file_ending : str
    channel_names : tuple of str or None
        Of the dataset; a plain folder has none.
    dataset_json : dict
        For the choice of the reader.
    """

    name: str
    cases: tuple[Case, ...]
    file_ending: str
    channel_names: tuple[str, ...] | None
    dataset_json: dict

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def identifiers(self) -> list[str]:
        return [case.identifier for case in self.cases]

    def only(self, identifiers) -> "ImagePool":
        """The pool of these cases alone."""
        wanted = set(identifiers)
        return replace(self, cases=tuple(case for case in self.cases if case.identifier in wanted))

    def reader(self):
        """nnU-Net's reader for the files of this pool."""
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        # A .tif may be a 2D picture or a stack: only for it nnU-Net must try which of its readers fits.
        example = str(self.cases[0].files[0]) if self.file_ending.lower() in (".tif", ".tiff") else None
        return determine_reader_writer_from_dataset_json(self.dataset_json, example, verbose=False)()


def open_pool(text: str) -> ImagePool:
    """The pool of an nnU-Net dataset (name or number) or of a folder of images.

    Raises
    ------
    UserError
        If there is no such dataset or folder, it holds no image, or its files do not make whole cases.
    """
    folder = Path(text)
    looks_like_dataset = re.fullmatch(r"\d{1,3}|Dataset\d{3}_.+", text)
    if folder.is_dir() and not looks_like_dataset:
        return folder_pool(folder)
    if not looks_like_dataset:
        raise UserError(f"{text!r} is neither a folder nor the name or number of an nnU-Net dataset")
    return dataset_pool(find_dataset(text))


def open_pools(texts: list[str]) -> list[ImagePool]:
    """Several pools; a `UserError` says if two are the same."""
    pools = [open_pool(text) for text in texts]
    names = [pool.name for pool in pools]
    for text, name in zip(texts, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"the source {text} ({name}) is given {names.count(name)} times; give it once")
    return pools


def dataset_pool(name: str) -> ImagePool:
    """The pool of all images in ``imagesTr`` and in the ``dataset`` table of dataset.json, labelled or not."""
    folder = nnunet_folder("nnUNet_raw") / name
    dataset_json = read_json(folder / "dataset.json")
    for key in ("channel_names", "file_ending"):
        if not dataset_json.get(key):
            raise UserError(f"{folder / 'dataset.json'} has no {key!r}, which nnU-Net needs; add it")
    ending = dataset_json["file_ending"]
    _check_ending(ending, folder)
    files = _listed_files(folder, dataset_json)
    channel_files = _channel_files((folder / "imagesTr").glob(f"*{ending}"), ending)
    _check_numbering(channel_files, ending)
    files = channel_files | files
    if not files:
        raise UserError(f"no image *_0000{ending} in {folder / 'imagesTr'}; put the images of the pool there")
    domains = dataset_json.get("domains", {})
    listed_labels = dataset_json.get("dataset", {})
    cases = tuple(
        Case(
            identifier,
            files[identifier],
            _has_label(folder, identifier, ending, listed_labels),
            domains.get(identifier),
        )
        for identifier in sorted(files)
    )
    channel_names = tuple(str(dataset_json["channel_names"][k]) for k in sorted(dataset_json["channel_names"], key=int))
    return _checked(ImagePool(name, cases, ending, channel_names, dataset_json))


def _listed_files(folder: Path, dataset_json: dict) -> dict[str, tuple[Path, ...]]:
    # As nnU-Net reads the table, but a case without label is welcome.
    return {
        identifier: tuple((folder / image).resolve() for image in entry["images"])
        for identifier, entry in dataset_json.get("dataset", {}).items()
    }


def _has_label(folder: Path, identifier: str, ending: str, listed: dict) -> bool:
    label = listed.get(identifier, {}).get("label")
    return (folder / label if label else folder / "labelsTr" / f"{identifier}{ending}").is_file()


def folder_pool(folder: Path) -> ImagePool:
    """The pool of all images in a plain folder, each a case, or a channel of one if all are named so."""
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    readable = sorted({ending for io in LIST_OF_IO_CLASSES for ending in io.supported_file_endings}, key=len)
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    endings = defaultdict(list)
    for file in files:
        for ending in reversed(readable):  # the longest first, so that .nii.gz is not taken for .gz
            if file.name.lower().endswith(ending):
                endings[file.name[-len(ending) :]].append(file)
                break
    if not endings:
        if any(file.suffix.lower() in (".jpg", ".jpeg") for file in files):
            _check_ending(".jpg", folder)
        raise UserError(f"no image in {folder} that nnU-Net reads ({', '.join(readable)}); give another folder")
    if len(endings) > 1:
        raise UserError(
            f"{folder} holds images of several kinds ({', '.join(sorted(endings))}), so that two files could be "
            f"one case; keep one kind a folder"
        )
    ((ending, images),) = endings.items()
    grouped = _channel_files(images, ending)
    # Names such as slice_0012.png look like channel 12 of a case; they are channels only if every case has a channel 0.
    as_channels = sum(map(len, grouped.values())) == len(images) and all(
        found[0].name.endswith(f"_0000{ending}") for found in grouped.values()
    )
    if as_channels:
        _check_numbering(grouped, ending)
    else:
        grouped = {image.name[: -len(ending)]: (image,) for image in images}
    name = f"{folder.resolve().name}_{sha256([str(folder.resolve()).encode()])[:8]}"
    cases = tuple(Case(identifier, grouped[identifier]) for identifier in sorted(grouped))
    return _checked(ImagePool(name, cases, ending, None, {"file_ending": ending}))


def _check_ending(ending: str, folder: Path) -> None:
    if ending.lower() in (".jpg", ".jpeg"):
        raise UserError(
            f"{folder} holds {ending} images, which nnU-Net does not read because they are lossy; convert them to .png"
        )


def _channel_files(paths, ending: str) -> dict[str, tuple[Path, ...]]:
    found = defaultdict(list)
    for path in sorted(paths):
        match = _CHANNEL_FILE.fullmatch(path.name[: -len(ending)])
        if match:
            found[match[1]].append(path)
    return {identifier: tuple(files) for identifier, files in found.items()}


def _check_numbering(grouped: dict[str, tuple[Path, ...]], ending: str) -> None:
    for identifier, files in grouped.items():
        for number, file in enumerate(files):
            if file.name != f"{identifier}_{number:04d}{ending}":
                raise UserError(
                    f"case {identifier}: channel file {identifier}_{number:04d}{ending} is missing beside {file}; "
                    f"add it or remove the case"
                )


def _checked(pool: ImagePool) -> ImagePool:
    n_files = max(len(case.files) for case in pool.cases)
    seen = {}
    for case in pool.cases:
        missing = [file for file in case.files if not file.is_file()]
        if missing:
            raise UserError(f"case {case.identifier} of {pool.name}: {missing[0]} does not exist; add it")
        if len(case.files) != n_files:
            raise UserError(
                f"case {case.identifier} of {pool.name} has {len(case.files)} of {n_files} channel files "
                f"({', '.join(file.name for file in case.files)}); add what is missing or remove the case"
            )
        twin = seen.setdefault(case.identifier.lower(), case.identifier)
        if twin != case.identifier:
            raise UserError(
                f"cases {twin} and {case.identifier} of {pool.name} differ in upper and lower case only, which many "
                f"file systems do not keep apart; rename one"
            )
    return pool


def with_case_table(pool: ImagePool, path: Path) -> ImagePool:
    """Add ``domain``, ``group`` (or ``patient``) and ``cost`` from a CSV file with a column ``case``."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the table of cases {path} cannot be read ({error})") from None
    if not rows or "case" not in rows[0]:
        raise UserError(f"the table of cases {path} must have a column 'case'; got {list(rows[0]) if rows else []}")
    table = {}
    for row in rows:
        if row["case"] in table:
            raise UserError(f"the table of cases {path} names case {row['case']} twice; keep one row")
        table[row["case"]] = row
    known = pool.identifiers
    if not set(table) & set(known):
        raise UserError(f"the table of cases {path} names no case of {pool.name}; its first case is {rows[0]['case']}")

    def described(case: Case) -> Case:
        row = table.get(case.identifier, {})
        group = row.get("group") or row.get("patient")
        cost = _cost(case, row.get("cost"), path) if "cost" in rows[0] else None
        return replace(case, domain=row.get("domain") or case.domain, group=group or case.group, cost=cost)

    return replace(pool, cases=tuple(described(case) for case in pool.cases))


def _cost(case: Case, text: str | None, path: Path) -> float:
    try:
        cost = float(text or "")
    except ValueError:
        cost = np.nan
    if not 0 < cost < np.inf:
        raise UserError(
            f"the table of cases {path} must give every case a cost above 0, or have no column 'cost'; "
            f"got {text or 'none'!r} for case {case.identifier}"
        )
    return cost


def read_case(case: Case, reader) -> np.ndarray:
    """The image of `read_image` alone."""
    return read_image(case, reader)[0]


def read_image(case: Case, reader) -> tuple[np.ndarray, dict]:
    """Read one case with nnU-Net's reader: float32 array of shape (channels, z, y, x), with z = 1 in 2D.

    Its properties, ``spacing`` among them, come along as the reader gives them.

    Raises
    ------
    BrokenImage
        If a file is cut off, empty, no image, or holds NaN, infinity or one value only.
    """

    def broken(reason: str) -> BrokenImage:
        files = ", ".join(str(file) for file in case.files)
        return BrokenImage(f"case {case.identifier}: {files} {reason}; replace it or set it aside with --skip-broken")

    try:
        image, properties = reader.read_images([str(file) for file in case.files])
        image = np.asarray(image, dtype=np.float32)
        finite = np.isfinite(image).all() and all(stored_finite(file) for file in case.files)
    except Exception as error:  # readers raise whatever their library raises
        reason = " ".join(str(error).split())[-200:] or type(error).__name__
        raise broken(f"cannot be read ({reason})") from None
    if image.ndim != 4 or 0 in image.shape:
        raise broken(f"must be an image of 2 or 3 dimensions; got shape {image.shape}")
    if not finite:
        raise broken("holds NaN or infinity")
    if image.min() == image.max():
        raise broken(f"is constant (every value is {image.min():g})")
    return image, properties


def stored_finite(file: Path) -> bool:
    """Whether a file, if it is NIfTI, is whole and holds no NaN or infinity; raises what nibabel raises if cut off."""
    # ITK, and with it nnU-Net's reader, silently takes what is missing of a cut-off NIfTI file, and NaN and infinity in
    # one, for 0. nibabel raises for the first and shows the others.
    if not file.name.lower().endswith((".nii", ".nii.gz")):
        return True
    import nibabel

    return bool(np.isfinite(np.asanyarray(nibabel.load(file).dataobj)).all())
