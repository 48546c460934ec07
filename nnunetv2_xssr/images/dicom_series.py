"""The DICOM series in a tree of folders: which files belong together, whether they are a volume, and its name."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunetv2_xssr.errors import first_few
from nnunetv2_xssr.images.dicom_geometry import Grid, NoVolume, SamePlace, grid_of
from nnunetv2_xssr.images.dicom_headers import (
    TELLING_APART,
    Header,
    NoImage,
    Unreadable,
    is_dicom,
    read_header,
    series_uid,
)
from nnunetv2_xssr.images.trees import case_name, files_below
from nnunetv2_xssr.records.files import sha256_json

_MOST = 1e30  # that a slope or an intercept may be, so that float32 holds what they make


@dataclass(frozen=True, kw_only=True)
class Series:
    """Files of one series.

    Attributes
    ----------
    folder : Path
        The one that holds all of them, relative to the tree.
    headers : list of Header
    broken : list of Path
        Further files of it, which cannot be read.
    """

    folder: Path
    headers: list[Header]
    broken: list[Path]

    @property
    def identity(self) -> str:
        """Stands for patient, study and series."""
        return sha256_json(self.headers[0].series)[:12]

    @property
    def number(self) -> str:
        """Of the series, as the headers have it."""
        return self.headers[0].number

    @property
    def files(self) -> list[Path]:
        """Every file of the series, broken ones included."""
        return [*(header.file for header in self.headers), *self.broken]

    def grid(self) -> Grid:
        """How its images, in the order of the headers, make a volume; `NoVolume` tells why they do not."""
        headers = self.headers
        sizes = {header.size[:2] for header in headers}
        if self.broken:
            raise NoVolume(f"files are cut off or damaged ({first_few([file.name for file in self.broken])})")
        if any(header.colours > 1 for header in headers):
            raise NoVolume("colour images, such as screenshots")
        if any("LOCALIZER" in header.image_type for header in headers):
            raise NoVolume("a localizer")
        if sum(header.size[2] for header in headers) == 1:
            raise NoVolume("a single image, no volume")
        if any(header.inverted for header in headers):
            raise NoVolume("MONOCHROME1, whose values GDCM turns round: what is bright would be dark")
        _check_rescale(headers)
        if len(sizes) > 1:
            raise NoVolume(f"images of {len(sizes)} sizes")
        for name, what in (
            ("positions", "place"),
            ("orientations", "orientation"),
            ("pixel_spacings", "pixel spacing"),
        ):
            if any(getattr(header, name) is None for header in headers):
                raise NoVolume(f"the header does not give the {what} of every image")
        if not all(header.rescaled_alike for header in headers):
            raise NoVolume("frames of several rescale slopes, of which GDCM applies one")
        try:
            return grid_of(
                np.concatenate([header.positions for header in headers]),
                orientations=np.concatenate([header.orientations for header in headers]),
                pixel_spacings=np.concatenate([header.pixel_spacings for header in headers]),
            )
        except SamePlace as error:
            of_image = [header for header in headers for _ in range(header.size[2])]
            values = [of_image[i].telling_apart for i in error.together]
            differ = [name for name in TELLING_APART.values() if len({one[name] for one in values}) > 1]
            raise NoVolume(f"{error} ({differ[0] if differ else 'several times, echoes or copies'})") from None


def _check_rescale(headers: Sequence[Header]) -> None:
    """Raise `NoVolume` unless slope and intercept say what all values are."""
    if any(header.has_table for header in headers):
        raise NoVolume("a modality LUT, which GDCM does not apply")
    if len({header.rescale != ("", "") for header in headers}) > 1:
        raise NoVolume("some images have a rescale slope and intercept, others none")
    for slope, intercept in {header.rescale for header in headers}:
        try:
            fits = 0 < abs(float(slope or 1)) < _MOST and abs(float(intercept or 0)) < _MOST
        except ValueError:
            fits = False
        if not fits:
            raise NoVolume(f"a rescale slope of {slope or 'none'} and an intercept of {intercept or 'none'}")


def find_series(tree: Path) -> tuple[list[Series], dict[Path, str]]:
    """All series in a tree of folders, and the reason for each file that belongs to none."""
    headers: dict[tuple, list[Header]] = defaultdict(list)
    unreadable: dict[str, list[Path]] = defaultdict(list)  # by Series Instance UID
    first: dict[tuple, Path] = {}
    others: dict[Path, str] = {}
    for file in tqdm(files_below(tree), desc="reading DICOM headers", unit="file", disable=None):
        if not is_dicom(file):
            others[file] = "not DICOM" if os.access(file, os.R_OK) else "cannot be opened"
            continue
        try:
            header = read_header(file)
        except Unreadable as error:
            others[file] = str(error)
            unreadable[series_uid(file)].append(file)
        except NoImage as error:
            others[file] = str(error)
        else:
            twin = first.setdefault((header.series, header.instance or file), file)
            if twin is file:
                headers[header.series].append(header)
            else:
                others[file] = f"the same SOP Instance UID as in {place(twin.parent.relative_to(tree), tree)}"
    every = []
    for key, images in headers.items():
        broken = unreadable.get(key[2], []) if key[2] else []
        for file in broken:
            others.pop(file, None)
        common = Path(os.path.commonpath([header.file.parent for header in images])).relative_to(tree)
        every.append(Series(folder=common, headers=images, broken=broken))
    return every, others


def place(folder: Path, tree: Path) -> str:
    """A folder of a tree, for a sentence."""
    return str(folder) if folder.parts else tree.resolve().name


def case_names(every: Sequence[Series], tree: Path, *, known: Mapping[str, str]) -> list[str]:
    """A name for each series, no two alike in lower case, since many file systems do not keep these apart.

    The path of its folder, with the number of the series, or a hash, where the folder holds several.

    Parameters
    ----------
    every : sequence of Series
    tree : Path
    known : mapping
        The names of series that have one, by identity: they keep it, whatever else the folder holds now.
    """
    in_folder = Counter(series.folder for series in every)
    with_number = Counter((series.folder, series.number) for series in every)
    taken = {name.lower() for name in known.values()}
    names = []
    for series in every:
        name = known.get(series.identity)
        if name is None:
            parts = list(series.folder.parts or [tree.resolve().name])
            if in_folder[series.folder] > 1:
                parts += [f"s{series.number}"] if series.number else []
                parts += [series.identity[:6]] if with_number[series.folder, series.number] > 1 else []
            name = case_name(parts)
            if name.lower() in taken:
                name = f"{name}_{series.identity[:6]}"
            taken.add(name.lower())
        names.append(name)
    return names
