"""The split file of a selection: exactly nnU-Net's format, read by the trainer in every process."""

from pathlib import Path

from pydantic import with_config
from typing_extensions import TypedDict

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import is_there, write_json
from nnunetv2_xssr.records.schema import OURS, FileName, read_as
from nnunetv2_xssr.records.workspace import Workspace

Split = list[dict[str, list[str]]]


@with_config(OURS)
class _Fold(TypedDict):
    train: list[FileName]
    val: list[FileName]


def write_split(path: Path, split: Split) -> None:
    """Write a split as nnU-Net writes its own: a list of ``{"train": [...], "val": [...]}``, one per fold."""
    write_json(path, split)


def read_split(path: Path) -> Split:
    """Read a split.

    Raises
    ------
    UserError
        If there is none, or it is not in nnU-Net's format.
    """
    folds = read_as(path, list[_Fold], advice='fix or replace it: nnU-Net has [{"train": [...], "val": [...]}, ...]')
    return [{"train": fold["train"], "val": fold["val"]} for fold in folds]


def selected_split(workspace: Workspace) -> Split:
    """Read the split of a selection.

    Raises
    ------
    UserError
        If nothing was selected under this name, or no label was collected, or the file is not in nnU-Net's format.
    """
    if not is_there(workspace.split) and is_there(workspace.record):
        raise UserError(
            f"there is no split {workspace.split}; in a study it is written by "
            f"nnUNetv2_xssr_select -d {workspace.dataset}, in annotation by "
            f"nnUNetv2_xssr_collect -d {workspace.dataset}{workspace.options}"
        )
    if not is_there(workspace.split):
        raise UserError(
            f"there is no split {workspace.split}; choose the cases first: "
            f"nnUNetv2_xssr_select -d {workspace.dataset} -s SOURCE -b 5%{workspace.options}"
        )
    return read_split(workspace.split)


def cases_in(split: Split) -> set[str]:
    """All cases of a split, whatever their part."""
    return {case for fold in split for part in ("train", "val") for case in fold[part]}


def cases_of_fold(split: Split, *, fold: int | str, path: Path) -> tuple[list[str], list[str]]:
    """Training and validation cases of a fold; fold ``all`` trains on, and validates with, all selected cases.

    Parameters
    ----------
    split : list of dict
    fold : int or "all"
    path : Path
        Of the split, for the errors.

    Raises
    ------
    UserError
        If the split has no such fold, or the fold has no training or no validation case.
    """
    if fold == "all":
        selected = sorted({case for part in split for case in part["train"]})
        train, val = selected, list(selected)
    else:
        if not 0 <= int(fold) < len(split):
            raise UserError(
                f"fold must be one of {', '.join(map(str, range(len(split))))} or all, which are what {path} holds; "
                f"got {fold}"
            )
        train, val = split[int(fold)]["train"], split[int(fold)]["val"]
    for name, cases in (("training", train), ("validation", val)):
        if not cases:
            raise UserError(f"fold {fold} of {path} has no {name} case; train another fold, or select again")
    return train, val
