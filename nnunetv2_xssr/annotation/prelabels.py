"""Pre-labels: what a trained model has drawn into a hand-over, and how much of it the annotator corrected."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_xssr.annotation.label_check import IGNORE, UnfitLabel, shown
from nnunetv2_xssr.annotation.label_files import copy_whole, read_label
from nnunetv2_xssr.annotation.timesheets import read_worklist
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.overlap import mean_dice
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.records.files import is_there, sha256_files, write_json
from nnunetv2_xssr.records.schema import OURS, FileName, Number, read_as
from nnunetv2_xssr.records.workspace import Workspace, visible_files

ACCEPTED = "accepted"  # the column of the worklist
_YES, _NO = {"yes", "y", "x", "1", "true", "ja"}, {"", "no", "n", "0", "false", "nein"}
_FOLDER = "prelabels"  # in a hand-over: as they were when they were handed over
KIND, FORMAT_VERSION = "corrections of pre-labels", 1


@dataclass(frozen=True, kw_only=True)
class _Corrections:
    __pydantic_config__ = OURS

    dice: dict[FileName, Number]  # of a label with its pre-label, per case


def keep_prelabels(
    folder: Path, prelabels: Mapping[str, Path], *, drawn: Collection[str], templates: Collection[str]
) -> None:
    """Keep pre-labels in a hand-over as they were handed over, beside those to draw in, and remove earlier ones.

    Parameters
    ----------
    folder : Path
        The hand-over.
    prelabels : mapping
        Case to the folder of its pre-label's files.
    drawn : collection of str
        Names of the labels that somebody has corrected already: what these began with stays.
    templates : collection of str
        SHA-256 of what was handed over before; other files belong to the annotator, and stay.
    """
    home = folder / _FOLDER
    files = {file.name: file for one in prelabels.values() for file in visible_files(one)}
    there = visible_files(home)
    for old in there:
        if old.name not in {*files, *drawn} and sha256_files([old]) in templates and not home.is_symlink():
            old.unlink()
    for name in files.keys() - {old.name for old in there if old.name in drawn}:
        copy_whole(files[name], home / name)
    if home.is_dir() and not home.is_symlink() and not any(home.iterdir()):
        home.rmdir()


def still_accepted(folder: Path, prelabels: Mapping[str, Path]) -> set[str] | None:
    """The pre-labels that are as before and that the worklist, to be written anew, accepts; None without any."""
    if not prelabels:
        return None
    worklist = folder / "worklist.csv"
    before = {file.name: sha256_files([file]) for file in visible_files(folder / _FOLDER)}
    same = {
        case
        for case, one in prelabels.items()
        if all(sha256_files([file]) == before.get(file.name) for file in visible_files(one))
    }
    return same & _accepted_in(worklist) if before and is_there(worklist) else set()


def prelabels_note(sliced: bool) -> str:
    """What README.txt says of them."""
    where = ", on the slices to draw alone" if sliced else ""
    column = f"the column {ACCEPTED}"
    return f"""Labels to correct
-----------------
labels/ holds what a trained model has drawn in each image{where}. It is a beginning,
not the truth: load it as the segmentation of its image, correct it, and save it under the same name. A label that
comes back as it was is not taken, unless you say that it is right: write yes in its row of worklist.csv, in
{column}. Leave {_FOLDER}/ as it is.

"""


@dataclass(frozen=True, kw_only=True)
class Prelabels:
    """The pre-labels of a project.

    Attributes
    ----------
    files : dict
        Case to its pre-label as it was last handed over.
    accepted : frozenset of str
        Cases whose pre-label is right as it is.
    """

    files: dict[str, Path]
    accepted: frozenset[str]

    @classmethod
    def load(
        cls, workspace: Workspace, pool: ImagePool, *, accepted: Collection[str], folder: Path, round_number: int
    ) -> "Prelabels":
        """Find them.

        Parameters
        ----------
        workspace : Workspace
        pool : ImagePool
        accepted : collection of str
            Cases that the user accepts by name.
        folder : Path
            Of labels; the worklist beside it may accept more.
        round_number : int
            Of the round whose own worklist does where there is none.

        Raises
        ------
        UserError
            If a case is accepted that has no pre-label, or the worklist cannot be read.
        """
        files: dict[str, Path] = {}
        for handover in workspace.handovers():
            for file in visible_files(handover / _FOLDER):
                if file.name.endswith(pool.file_ending):
                    files[file.name.removesuffix(pool.file_ending)] = file
        if unknown := sorted(set(accepted) - set(files)):
            raise UserError(f"--accept names {first_few(unknown)}, which got no pre-label; leave it out")
        beside = folder.parent / "worklist.csv"
        worklist = beside if is_there(beside) else workspace.worklist(round_number)
        in_worklist = _accepted_in(worklist) if files and is_there(worklist) else set()
        return cls(files=files, accepted=frozenset({*accepted, *in_worklist} & set(files)))

    def agreement(self, case: str, label: np.ndarray, file: Path, pool: ImagePool) -> float | None:
        """The Dice of a label of shape (z, y, x) with its pre-label; None where it had none.

        Raises
        ------
        UnfitLabel
            If it is the pre-label as it was, which nobody has accepted.
        """
        if case not in self.files:
            return None
        try:
            before = np.rint(read_label(self.files[case], pool.reader())[0][0]).astype(np.int32)
            if before.min() < 0:
                raise ValueError("it holds values below 0")
        except Exception as error:  # readers raise whatever their library raises
            name, why = shown(self.files[case], pool), str(error)[:100]
            raise UnfitLabel(f"{name}: cannot be read ({why}); restore or delete it") from None
        if before.shape != label.shape:
            raise UnfitLabel(f"{shown(self.files[case], pool)}: has another size than the label; restore or delete it")
        if case not in self.accepted and np.array_equal(before, label):
            raise UnfitLabel(
                f"{shown(file, pool)}: is the pre-label as it was handed over; if it is right, collect with --accept "
                f"{case}, or write yes in the column {ACCEPTED} of worklist.csv"
            )
        return dice(before, label, ignore=pool.dataset_json["labels"].get(IGNORE))


def dice(one: np.ndarray, other: np.ndarray, *, ignore: int | None) -> float:
    """Mean Dice over the values that either label holds, without background and what either ignores; 1 without any."""
    seen = (one != ignore) & (other != ignore)
    return mean_dice(one[seen], other[seen]) if seen.any() else 1.0


def _accepted_in(worklist: Path) -> set[str]:
    """The cases whose rows all say yes."""
    said: dict[str, bool] = {}
    for number, row in read_worklist(worklist):
        case, text = row.get("case", ""), row.get(ACCEPTED, "").casefold()
        if text not in _YES | _NO:
            raise UserError(
                f"row {number} of {worklist} must have yes or nothing in the column {ACCEPTED}; got {text[:50]!r}"
            )
        said[case] = said.get(case, True) and text in _YES
    return {case for case, yes in said.items() if yes}


def keep_agreements(workspace: Workspace, new: Mapping[str, float]) -> dict[str, float]:
    """Record the Dice of labels with their pre-labels beside the hand-overs, and return that of all cases."""
    path = workspace.corrections
    known = {}
    if is_there(path):
        known = read_as(path, _Corrections, kind=KIND, version=FORMAT_VERSION, advice="delete it").dice
    both = dict(sorted({**known, **new}.items()))
    if both != known:
        write_json(path, {"kind": KIND, "format_version": FORMAT_VERSION, "dice": both})
    return both
