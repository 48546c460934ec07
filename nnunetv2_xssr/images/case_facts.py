"""What reading a case tells besides its views: which slices these show, and how its file lies in the patient."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.errors import first_few
from nnunetv2_xssr.images.channels import UNNAMED
from nnunetv2_xssr.images.extract import PLANES

_LETTERS = "?LRPAIS"  # where an axis of a file runs; numbers are kept in their place
_NUMBERS = 14  # of a row, before the slices
_CHANNELS = 52  # of which a row tells whether they hold one value only: as many as float64 has digits for


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """What is known of one case that was read.

    Attributes
    ----------
    axis : int
        Canonical axis along which its slices were taken; -1 of whole volumes.
    orientation : str
        Where the axes of its file run, such as ``LPS``; ``???`` where it does not tell.
    spacing : tuple of float
        Millimetres along x, y and z of the array that was read.
    size : tuple of int
        Along the same axes.
    across : int
        Which of these axes its slices lie across; -1 of whole volumes.
    open, of : int
        Slices that may be candidates, and how many they would be without a region of interest.
    constant : tuple of int
        The channels, from 0, that hold one value only, as those of a missing sequence do; rows keep the first 52.
    above_zero : bool
        Whether a channel of CT holds nothing below 0 HU, where air and fat are.
    slices : tuple of int
        What every view shows, as the file counts along its third axis where slices are taken along that; -1 if the
        volume has no candidate.
    """

    axis: int
    orientation: str
    spacing: tuple[float, ...]
    size: tuple[int, ...]
    across: int
    open: int
    of: int
    constant: tuple[int, ...] = ()
    above_zero: bool = False
    slices: tuple[int, ...]

    @staticmethod
    def columns(n_views: int) -> int:
        """Length of the row of a case with so many views."""
        return _NUMBERS + n_views

    def row(self) -> np.ndarray:
        """The facts as float64 numbers, none of them NaN."""
        letters = [_LETTERS.index(letter) for letter in self.orientation]
        # A half is told from what the channels add up to, and rows without it are read as ever.
        constant = sum(2**channel for channel in self.constant if channel < _CHANNELS) + 0.5 * self.above_zero
        numbers = [self.axis, *letters, *self.spacing, *self.size, self.across, self.open, self.of, constant]
        return np.array([*numbers, *self.slices], float)

    @classmethod
    def of_row(cls, row: np.ndarray) -> "CaseFacts":
        """The facts that `row` has made a row of."""
        whole = row.astype(int).tolist()
        return cls(
            axis=whole[0],
            orientation="".join(_LETTERS[number] for number in whole[1:4]),
            spacing=tuple(row[4:7].tolist()),
            size=tuple(whole[7:10]),
            across=whole[10],
            open=whole[11],
            of=whole[12],
            constant=tuple(channel for channel in range(whole[13].bit_length()) if whole[13] >> channel & 1),
            above_zero=bool(row[13] % 1),
            slices=tuple(whole[_NUMBERS:]),
        )

    @property
    def candidates(self) -> dict[int, int]:
        """Every slice that may be chosen, and the first view that shows it."""
        first = {place: self.slices.index(place) for place in self.slices}
        return {place: view for place, view in first.items() if place >= 0}

    @property
    def plane(self) -> list[int]:
        """The axes of `size` and `spacing` that lie in its slices; all of whole volumes."""
        return [axis for axis in range(3) if axis != self.across]


def mixture(name: str, facts: Sequence[CaseFacts]) -> str | None:
    """A sentence about what differs between the files of a pool, with counts; None where nothing does."""
    several = max(fact.size[2] for fact in facts) > 1
    orientations = Counter(fact.orientation for fact in facts)
    planes = Counter("whole" if fact.axis < 0 else PLANES[fact.axis] for fact in facts)
    said = []
    if len(orientations) > 1:
        told = {code: "untold" if "?" in code else code for code in orientations}
        said.append("stored orientations: " + _counts({told[code]: n for code, n in orientations.items()}))
    if len(planes) > 1:
        said.append("slicing axes: " + _counts(planes))
    axes = 3 if several else 2
    spacings = {tuple(float(f"{mm:.2g}") for mm in fact.spacing[:axes]) for fact in facts}
    if len(spacings) > 1:
        every = [mm for spacing in spacings for mm in spacing]
        said.append(f"spacings: {len(spacings)} kinds, from {min(every):g} to {max(every):g} mm")
    millimetres = [[fact.size[axis] * fact.spacing[axis] for axis in fact.plane] for fact in facts]
    pixels = [[fact.size[axis] for axis in fact.plane] for fact in facts]
    if millimetres != pixels:  # as in pictures, which tell none
        said += _unlike("fields of view in mm", millimetres)
    said += _unlike("sizes in pixels", pixels)
    return f"{name} mixes {'; '.join(said)}" if said else None


def _unlike(what: str, extents: Sequence[Sequence[float]]) -> list[str]:
    """What to say of extents whose areas differ by more than a factor of two: less is seldom seen in a view."""
    areas = np.prod(extents, axis=1)
    few = int((areas < areas.max() / 2).sum())
    if not few:
        return []
    smallest, largest = (" x ".join(f"{side:.4g}" for side in extents[i]) for i in (areas.argmin(), areas.argmax()))
    return [f"{what}: {few} of {len(areas)} are less than half of the largest, from {smallest} to {largest}"]


def missing_channels(name: str, facts: Mapping[str, CaseFacts], channel_names: Sequence[str]) -> list[str]:
    """A sentence for every channel that holds one value only in some cases of a pool."""
    said = []
    for number, channel in enumerate(channel_names):
        cases = [case for case, fact in facts.items() if number in fact.constant]
        if cases:
            called = f"channel {number}" if channel == UNNAMED else f"channel {channel}"
            count = f"{len(cases)} of {len(facts)} cases"
            said.append(f"{name}: {called} holds one value only in {count} ({first_few(cases)}); it may be missing")
    return said


def no_hounsfield(name: str, facts: Mapping[str, CaseFacts]) -> list[str]:
    """A sentence about cases whose CT is in other units, as it seems: they look unlike all others."""
    cases = [case for case, fact in facts.items() if fact.above_zero]
    if not cases:
        return []
    return [
        f"{name}: CT holds nothing below 0 in {len(cases)} of {len(facts)} cases ({first_few(cases)}); air is -1000 in "
        f"Hounsfield units, in which the windows are: see whether an offset is missing"
    ]


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in Counter(found).most_common())
