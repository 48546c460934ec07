"""Image pools: the ordered cases of an nnU-Net raw dataset or of a plain folder; labels are neither needed nor read."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.dicom import convert_dicom, holds_dicom
from nnunetv2_xssr.images.dicom_headers import is_dicom
from nnunetv2_xssr.images.readers import choose_reader
from nnunetv2_xssr.images.trees import case_name, check_alone, check_images, files_below, files_in, readable_endings
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.files import sha256
from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.names import check_line, refuse_names
from nnunetv2_xssr.records.workspace import Workspace, channel_names_of, find_dataset, is_visible, may_name_dataset

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

_CHANNEL_FILE = re.compile(r"(.+)_(\d{4})", re.DOTALL)
_DICOM = "DICOM"  # in the place of an ending, which its files need not have


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of a pool.

    Attributes
    ----------
    identifier : str
    files : tuple of Path
        One file per channel, or one file with several channels.
    labelled : bool
        Whether a label file exists; it is never opened.
    domain : str or None
        Site, scanner or stain.
    group : str or None
        Such as the patient: training and validation never share one.
    cost : float or None
        Of the annotation, in any unit.
    slices : (int, int or None) or None
        The first and the last slice that may be a candidate, from 0 along the third axis of the file; None for the
        last of the file, or no such limits.
    """

    identifier: str
    files: tuple[Path, ...]
    labelled: bool = False
    domain: str | None = None
    group: str | None = None
    cost: float | None = None
    slices: tuple[int, int | None] | None = None

    @property
    def group_name(self) -> str:
        """What must not be torn apart: the name of the group, or of the case where it has none."""
        return self.identifier if self.group is None else f"group {self.group}"


@dataclass(frozen=True, kw_only=True)
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
        The reader is chosen by it.
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
        """The names of the cases, in order."""
        return [case.identifier for case in self.cases]

    def by_identifier(self) -> dict[str, Case]:
        """The cases by name."""
        return {case.identifier: case for case in self.cases}

    def only(self, identifiers: Iterable[str]) -> "ImagePool":
        """The pool of these cases only."""
        wanted = set(identifiers)
        return replace(self, cases=tuple(case for case in self.cases if case.identifier in wanted))

    def reader(self) -> "BaseReaderWriter":
        """nnU-Net's reader for the files of this pool, chosen once.

        Raises
        ------
        UserError
            If no reader of nnU-Net reads any file of the pool, or dataset.json names one that it does not have.
        """
        return self._reader

    @cached_property
    def _reader(self) -> "BaseReaderWriter":
        reader = choose_reader(self.dataset_json, [case.files[0] for case in self.cases])
        if reader is not None:
            return reader()
        raise UserError(
            f"nnU-Net has no reader for the {self.file_ending} files of {self.name}, such as {self.cases[0].files[0]}; "
            f"replace or convert them"
        )


def open_pool(
    text: str, *, channel_names: Sequence[str] | None = None, recursive: bool = False, patient_ids: bool = True
) -> ImagePool:
    """The pool of an nnU-Net dataset (name or number) or of a folder of images, for which see `folder_pool`.

    Parameters
    ----------
    text : str
    channel_names, recursive, patient_ids
        Of a folder.

    Raises
    ------
    UserError
        If there is no such dataset or folder, it holds no image, or its files do not make whole cases.
    """
    folder, looks_like_dataset = Path(text), may_name_dataset(text)
    if folder.is_dir() and not looks_like_dataset:
        return folder_pool(folder, channel_names=channel_names, recursive=recursive, patient_ids=patient_ids)
    if not looks_like_dataset:
        raise UserError(f"{text!r} is neither a folder nor the name or number of an nnU-Net dataset")
    return dataset_pool(find_dataset(text))


def open_pools(texts: Sequence[str], **options) -> list[ImagePool]:
    """Several pools as `open_pool` opens them; a `UserError` says if two are the same."""
    pools = [open_pool(text, **options) for text in texts]
    names = [pool.name for pool in pools]
    for text, name in zip(texts, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"the source {text} ({name}) is given {names.count(name)} times; give it once")
    return pools


def dataset_pool(name: str) -> ImagePool:
    """The pool of all images in ``imagesTr`` and in the ``dataset`` table of dataset.json, labelled or not.

    Raises
    ------
    UserError
        If there is no image, or dataset.json or the files do not fit nnU-Net.
    """
    workspace = Workspace(name)
    dataset_json = read_dataset_json(workspace.dataset_json)
    ending = dataset_json["file_ending"]
    _check_ending(ending, workspace.raw)
    table, domains, groups = (dataset_json.get(key, {}) for key in ("dataset", "domains", "groups"))
    # As nnU-Net reads the table, but a case without label is welcome.
    listed = {
        identifier: tuple(workspace.listed(image).resolve() for image in entry["images"])
        for identifier, entry in table.items()
    }
    channel_files = _channel_files(filter(is_visible, workspace.images.glob(f"*{ending}")), ending)
    _check_numbering(channel_files, ending)
    files = channel_files | listed
    if not files:
        raise UserError(f"no image *_0000{ending} in {workspace.images}; put the images of the pool there")

    def described(identifier: str) -> Case:
        return Case(
            identifier=identifier,
            files=files[identifier],
            labelled=workspace.label_file(identifier, dataset_json).is_file(),
            domain=domains.get(identifier),
            group=groups.get(identifier),
        )

    pool = ImagePool(
        name=name,
        cases=tuple(described(identifier) for identifier in sorted(files)),
        file_ending=ending,
        channel_names=channel_names_of(dataset_json),
        dataset_json=dataset_json,
    )
    return _checked(pool)


def folder_pool(
    folder: Path, *, channel_names: Sequence[str] | None = None, recursive: bool = False, patient_ids: bool = True
) -> ImagePool:
    """The pool of all images in a plain folder: each is a case, or a channel of one if all are named as in nnU-Net.

    Where there is no such image, DICOM series in the folder and below are converted into the caches of the pool.

    Parameters
    ----------
    folder : Path
    channel_names : sequence of str, optional
        The channels of the images, if they are known.
    recursive : bool
        Take the images in all folders below too. A case is then named after its path; its first folder is its group,
        unless all have the same.
    patient_ids : bool
        Group cases from DICOM by patient.
    """
    name = f"{folder.resolve().name}_{sha256([str(folder.resolve()).encode()])[:8]}"
    ending, images = _images_in(folder, recursive)
    if ending == _DICOM:
        with caches_lock(name):
            volumes = convert_dicom(folder, Workspace(name).dicom, patient_ids=patient_ids)
        ending = ".nii.gz"
        cases = [Case(identifier=one.case, files=(one.image,), group=one.group) for one in volumes]
    elif not images:
        raise _no_image(folder, recursive=recursive)
    elif recursive:
        check_images(folder, images)
        cases = _nested_cases(folder, images, ending, channel_names=channel_names)
    else:
        grouped = _grouped(images, ending, channel_names=channel_names)
        cases = [Case(identifier=identifier, files=files) for identifier, files in grouped.items()]
    cases.sort(key=lambda case: case.identifier)
    return _checked(_plain_pool(name, cases, ending))


def _plain_pool(name: str, cases: Iterable[Case], ending: str) -> ImagePool:
    known = {"file_ending": ending}
    return ImagePool(name=name, cases=tuple(cases), file_ending=ending, channel_names=None, dataset_json=known)


def takes_dicom(folder: Path, *, recursive: bool = False) -> bool:
    """Whether `folder_pool` would convert DICOM series."""
    return _images_in(folder, recursive)[0] == _DICOM


def _images_in(folder: Path, recursive: bool) -> tuple[str, list[Path]]:
    """The images to take and their ending, or `_DICOM` alone where there are none but DICOM series."""
    endings = defaultdict(list)
    readable = readable_endings()
    for file in files_below(folder) if recursive else files_in(folder):
        # The longest first, so that .nii.gz is not taken for .gz.
        ending = next((ending for ending in reversed(readable) if file.name.lower().endswith(ending)), None)
        if ending or is_dicom(file):
            endings[file.name[-len(ending) :] if ending else _DICOM].append(file)
    if len(endings) > 1:
        raise UserError(
            f"{folder} holds images of several kinds ({', '.join(sorted(endings))}), so that two files could be "
            f"one case; keep one kind per folder"
        )
    for ending, images in endings.items():
        return ending, images
    return (_DICOM if holds_dicom(folder) else ""), []


def _no_image(folder: Path, *, recursive: bool) -> UserError:
    readable, below = readable_endings(), files_below(folder)
    nested = [file for file in below if file.name.lower().endswith(readable)]
    if nested and not recursive:
        way_out = f"give {folder / 'imagesTr'}" if (folder / "imagesTr").is_dir() else "give --recursive to take them"
        return UserError(
            f"no image in {folder} itself, but {len(nested)} in folders below, such as {nested[0]}; {way_out}"
        )
    if any(file.suffix.lower() in (".jpg", ".jpeg") for file in below):
        _check_ending(".jpg", folder)
    return UserError(
        f"no image in {folder} that nnU-Net reads ({', '.join(readable)}), and no DICOM; give another folder"
    )


def _grouped(
    images: list[Path], ending: str, *, channel_names: Sequence[str] | None = None
) -> dict[str, tuple[Path, ...]]:
    """The files of each case, of images in one folder.

    Names that end with ``_0000``, ``_0001``, ... may be those of channels, or of frames. Where the channels are known,
    files that have all of them are cases. Where they are not, the log tells what the files were taken for.
    """
    by_file: dict[str, tuple[Path, ...]] = {image.name[: -len(ending)]: (image,) for image in images}
    grouped = _channel_files(images, ending)
    # Names such as slice_0012.png look like channel 12 of a case; they are channels only if every case has a channel 0.
    if sum(map(len, grouped.values())) < len(images) or not all(
        found[0].name.endswith(f"_0000{ending}") for found in grouped.values()
    ):
        return by_file
    several = max(map(len, grouped.values())) > 1
    if several and channel_names and _count_channels(images, ending) == len(channel_names):
        count = len(images)
        logger.info("each of %d files, such as %s, has all channels: each is a case", count, images[0])
        return by_file
    _check_numbering(grouped, ending)
    if several and not channel_names:
        names = [file.name for file in next(iter(grouped.values()))]
        cases = f"{len(grouped)} case{'s' * (len(grouped) > 1)} of {len(names)} channels"
        where = images[0].parent
        logger.info(
            "%s: %s, by names such as %s; rename the files if each is a case", where, cases, first_few(names, 2)
        )
    return grouped


def _count_channels(images: list[Path], ending: str) -> int:
    """How many channels the first file that can be read has; 0 if none can."""
    pool = _plain_pool("", [Case(identifier=image.name, files=(image,)) for image in images], ending)
    for image in images:
        with suppress(Exception):  # readers raise whatever their library raises
            return len(pool.reader().read_images([str(image)])[0])
    return 0


def _nested_cases(folder: Path, images: list[Path], ending: str, *, channel_names: Sequence[str] | None) -> list[Case]:
    by_folder = defaultdict(list)
    for image in images:
        by_folder[image.parent.relative_to(folder).parts].append(image)
    several = len({parts[:1] for parts in by_folder}) > 1
    cases: dict[str, Case] = {}
    for parts, inside in by_folder.items():
        for stem, files in _grouped(inside, ending, channel_names=channel_names).items():
            identifier = case_name((*parts, stem))
            case = Case(identifier=identifier, files=files, group=parts[0] if parts and several else None)
            twin = cases.setdefault(identifier, case)
            if twin is not case:
                raise UserError(f"{twin.files[0]} and {files[0]} would both be case {identifier}; rename one")
    return list(cases.values())


def _check_ending(ending: str, folder: Path) -> None:
    if ending.lower() in (".jpg", ".jpeg"):
        raise UserError(
            f"{folder} holds {ending} images, which nnU-Net does not read because they are lossy; convert them to .png"
        )


def _channel_files(paths: Iterable[Path], ending: str) -> dict[str, tuple[Path, ...]]:
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
    seen: dict[str, str] = {}
    refuse_names("a folder", [pool.name])
    refuse_names(f"a case of {pool.name}", pool.identifiers)
    facts = {fact for case in pool.cases for fact in (case.domain, case.group) if fact is not None}
    refuse_names(f"a domain or group of {pool.name}", sorted(facts), check=check_line)
    check_alone(file for case in pool.cases for file in case.files if file.is_file())
    for case in pool.cases:
        missing = [file for file in case.files if not file.is_file()]
        if missing:
            raise UserError(f"case {case.identifier} of {pool.name}: {missing[0]} does not exist; add it")
        if len(case.files) != n_files:
            raise UserError(
                f"case {case.identifier} of {pool.name} has {len(case.files)} of {n_files} channel files "
                f"({first_few([file.name for file in case.files])}); add what is missing, remove the case, or rename "
                f"its files if each is a case"
            )
        twin = seen.setdefault(unicodedata.normalize("NFC", case.identifier).lower(), case.identifier)
        if twin != case.identifier:
            raise UserError(
                f"cases {twin} and {case.identifier} of {pool.name} differ in upper and lower case only, or in how "
                f"accents are stored, which many file systems do not keep apart; rename one"
            )
    return pool
