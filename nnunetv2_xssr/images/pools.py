"""Image pools: the ordered cases of an nnU-Net raw dataset or of a plain folder, labels neither needed nor read."""

import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.records.dataset_json import name_problem, read_dataset_json
from nnunetv2_xssr.records.files import sha256
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.workspace import Workspace, channel_names_of, find_dataset, is_visible, names_dataset

_CHANNEL_FILE = re.compile(r"(.+)_(\d{4})", re.DOTALL)


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
    slices_as_stored : bool
        Whether a slice is one along the third axis of the file, as annotators see it, whatever the reader turns.
    """

    name: str
    cases: tuple[Case, ...]
    file_ending: str
    channel_names: tuple[str, ...] | None
    dataset_json: dict
    slices_as_stored: bool = False

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
        """nnU-Net's reader for the files of this pool.

        Raises
        ------
        UserError
            If nnU-Net has none that reads a file of the pool.
        """
        return self._reader

    @cached_property
    def _reader(self):
        from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

        from nnunetv2_xssr.images.stored_slices import StoredSlicesIO

        reader = self._choose_reader()
        return StoredSlicesIO() if self.slices_as_stored and reader is NibabelIOWithReorient else reader()

    def _choose_reader(self) -> type:
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        # A .tif may be a picture or a stack: for it nnU-Net tries which of its readers reads an example, and prints a
        # traceback for each that does not.
        is_tif = self.file_ending.lower() in (".tif", ".tiff")
        for example in (str(case.files[0]) for case in self.cases) if is_tif else [None]:
            with suppress(RuntimeError), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
                return determine_reader_writer_from_dataset_json(self.dataset_json, example, verbose=False)
        raise UserError(
            f"nnU-Net has no reader for the {self.file_ending} files of {self.name}, such as {self.cases[0].files[0]}; "
            f"replace or convert them"
        )


def open_pool(text: str, *, channel_names: Sequence[str] | None = None) -> ImagePool:
    """The pool of an nnU-Net dataset (name or number) or of a folder of images.

    Parameters
    ----------
    text : str
    channel_names : sequence of str, optional
        The channels that are looked for: see `folder_pool`.

    Raises
    ------
    UserError
        If there is no such dataset or folder, it holds no image, or its files do not make whole cases.
    """
    folder = Path(text)
    looks_like_dataset = re.fullmatch(r"\d+", text) or names_dataset(text)
    if folder.is_dir() and not looks_like_dataset:
        return folder_pool(folder, channel_names=channel_names)
    if not looks_like_dataset:
        raise UserError(f"{text!r} is neither a folder nor the name or number of an nnU-Net dataset")
    return dataset_pool(find_dataset(text))


def open_pools(texts: Sequence[str], *, channel_names: Sequence[str] | None = None) -> list[ImagePool]:
    """Several pools as `open_pool` opens them; a `UserError` says if two are the same."""
    pools = [open_pool(text, channel_names=channel_names) for text in texts]
    names = [pool.name for pool in pools]
    for text, name in zip(texts, names, strict=True):
        if names.count(name) > 1:
            raise UserError(f"the source {text} ({name}) is given {names.count(name)} times; give it once")
    return pools


def dataset_pool(name: str) -> ImagePool:
    """The pool of all images in ``imagesTr`` and in the ``dataset`` table of dataset.json, labelled or not."""
    workspace = Workspace(name)
    folder = workspace.raw
    dataset_json = read_dataset_json(workspace.dataset_json)
    ending = dataset_json["file_ending"]
    _check_ending(ending, folder)
    files = _listed_files(folder, dataset_json)
    channel_files = _channel_files(filter(is_visible, workspace.images.glob(f"*{ending}")), ending)
    _check_numbering(channel_files, ending)
    files = channel_files | files
    if not files:
        raise UserError(f"no image *_0000{ending} in {workspace.images}; put the images of the pool there")
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
    return _checked(ImagePool(name, cases, ending, channel_names_of(dataset_json), dataset_json))


def _listed_files(folder: Path, dataset_json: dict) -> dict[str, tuple[Path, ...]]:
    # As nnU-Net reads the table, but a case without label is welcome.
    return {
        identifier: tuple((folder / image).resolve() for image in entry["images"])
        for identifier, entry in dataset_json.get("dataset", {}).items()
    }


def _has_label(folder: Path, identifier: str, ending: str, listed: dict) -> bool:
    label = listed.get(identifier, {}).get("label")
    return (folder / label if label else folder / "labelsTr" / f"{identifier}{ending}").is_file()


def folder_pool(folder: Path, *, channel_names: Sequence[str] | None = None) -> ImagePool:
    """The pool of all images in a plain folder: each is a case, or a channel of one if all are named as in nnU-Net.

    Names that end with ``_0000``, ``_0001``, ... may be those of channels, or of frames. Where the channels are known,
    files that have all of them are cases. Where they are not, the log tells what the files were taken for.

    Parameters
    ----------
    folder : Path
    channel_names : sequence of str, optional
        The channels of the images, if they are known.

    Raises
    ------
    UserError
        If the folder holds no image, or the files do not make whole cases.
    """
    ending, images = _images_of_one_kind(folder)
    grouped = _channel_files(images, ending)
    # Names such as slice_0012.png look like channel 12 of a case; they are channels only if every case has a channel 0.
    if sum(map(len, grouped.values())) < len(images) or not all(
        found[0].name.endswith(f"_0000{ending}") for found in grouped.values()
    ):
        grouped = {}
    name = f"{folder.resolve().name}_{sha256([str(folder.resolve()).encode()])[:8]}"

    def pool(files: dict[str, tuple[Path, ...]]) -> ImagePool:
        cases = tuple(Case(identifier, files[identifier]) for identifier in sorted(files))
        return ImagePool(name, cases, ending, None, {"file_ending": ending})

    by_file = pool({image.name[: -len(ending)]: (image,) for image in images})
    if not grouped:
        return _checked(by_file)
    has_several = max(map(len, grouped.values())) > 1
    if has_several and channel_names and _count_channels(by_file) == len(channel_names):
        logger.info(
            "%s: each of %d files, such as %s, has all channels: each is a case", folder, len(images), images[0].name
        )
        return _checked(by_file)
    _check_numbering(grouped, ending)
    by_channel = _checked(pool(grouped))
    if has_several and not channel_names:
        files = [file.name for file in by_channel.cases[0].files]
        cases = f"{len(by_channel)} case{'s' * (len(by_channel) > 1)} of {len(files)} channels"
        logger.info(
            "%s: %s, by names such as %s; rename the files if each is a case", folder, cases, first_few(files, 2)
        )
    return by_channel


def _images_of_one_kind(folder: Path) -> tuple[str, list[Path]]:
    """The ending of the images in a folder, and these, sorted."""
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    readable = sorted({ending for io in LIST_OF_IO_CLASSES for ending in io.supported_file_endings}, key=len)
    files = [path for path in sorted(folder.iterdir()) if is_visible(path) and not path.is_dir()]
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
            f"one case; keep one kind per folder"
        )
    ((ending, images),) = endings.items()
    return ending, images


def _count_channels(pool: ImagePool) -> int:
    """How many channels the first file of a pool has; 0 if it cannot be read, which is told when it is read."""
    try:
        return len(pool.reader().read_images([str(pool.cases[0].files[0])])[0])
    except Exception:  # readers raise whatever their library raises
        return 0


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
        if problem := name_problem(case.identifier):
            raise UserError(f"a file of {pool.name} {problem}")
        missing = [file for file in case.files if not file.is_file()]
        if missing:
            raise UserError(f"case {case.identifier} of {pool.name}: {missing[0]} does not exist; add it")
        if len(case.files) != n_files:
            raise UserError(
                f"case {case.identifier} of {pool.name} has {len(case.files)} of {n_files} channel files "
                f"({first_few([file.name for file in case.files])}); add what is missing, remove the case, or rename "
                f"its files if each is a case"
            )
        twin = seen.setdefault(case.identifier.lower(), case.identifier)
        if twin != case.identifier:
            raise UserError(
                f"cases {twin} and {case.identifier} of {pool.name} differ in upper and lower case only, which many "
                f"file systems do not keep apart; rename one"
            )
    return pool
