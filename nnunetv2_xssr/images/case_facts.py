"""What reading a case tells besides its views: which slices these show, and how its file lies in the patient."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.images.extract import PLANES

_LETTERS = "?LRPAIS"  # where an axis of a file runs; numbers are kept in their place
_NUMBERS = 12  # of a row, before the slices


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
    open, of : int
        Slices that may be candidates, and how many they would be without a region of interest.
    slices : tuple of int
        What every view shows, as the file counts along its third axis where slices are taken along that; -1 if the
        volume has no candidate.
    """

    axis: int
    orientation: str
    spacing: tuple[float, ...]
    size: tuple[int, ...]
    open: int
    of: int
    slices: tuple[int, ...]

    @staticmethod
    def columns(n_views: int) -> int:
        """Length of the row of a case with so many views."""
        return _NUMBERS + n_views

    def row(self) -> np.ndarray:
        """The facts as float64 numbers, none of them NaN."""
        letters = [_LETTERS.index(letter) for letter in self.orientation]
        return np.array([self.axis, *letters, *self.spacing, *self.size, self.open, self.of, *self.slices], float)

    @classmethod
    def of_row(cls, row: np.ndarray) -> "CaseFacts":
        """The facts that `row` has made a row of."""
        whole = row.astype(int).tolist()
        return cls(
            axis=whole[0],
            orientation="".join(_LETTERS[number] for number in whole[1:4]),
            spacing=tuple(row[4:7].tolist()),
            size=tuple(whole[7:10]),
            open=whole[10],
            of=whole[11],
            slices=tuple(whole[_NUMBERS:]),
        )

    @property
    def candidates(self) -> dict[int, int]:
        """Every slice that may be chosen, and the first view that shows it."""
        first = {place: self.slices.index(place) for place in self.slices}
        return {place: view for place, view in first.items() if place >= 0}


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
    sizes = sorted({fact.size[:axes] for fact in facts}, key=lambda size: (np.prod(size), size))
    if len(sizes) > 1:
        smallest, largest = (" x ".join(map(str, size)) for size in (sizes[0], sizes[-1]))
        said.append(f"sizes: {len(sizes)} kinds, from {smallest} to {largest}")
    return f"{name} mixes {'; '.join(said)}" if said else None


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in Counter(found).most_common())
