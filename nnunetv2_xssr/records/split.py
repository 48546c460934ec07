"""The split file of a selection: exactly nnU-Net's format, read by the trainer in every process."""

from pathlib import Path

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import read_json, write_json

Split = list[dict[str, list[str]]]


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
    if not path.is_file():
        raise UserError(
            f"there is no split {path}; choose the cases first: "
            f"nnUNetv2_xssr_select -d {path.parent.name} -s SOURCE -b 5%"
        )
    split = read_json(path)
    for fold in split if isinstance(split, list) else [None]:
        fits = isinstance(fold, dict) and all(
            isinstance(fold.get(part), list) and all(isinstance(case, str) for case in fold[part])
            for part in ("train", "val")
        )
        if not fits:
            raise UserError(
                f'{path} must be a list of {{"train": [...], "val": [...]}} with names of cases, as in nnU-Net; '
                f"run nnUNetv2_xssr_select again with --overwrite"
            )
    return split


def cases_of_fold(split: Split, fold: int | str, path: Path) -> tuple[list[str], list[str]]:
    """Training and validation cases of a fold; fold ``all`` trains on, and validates with, all selected cases.

    Raises
    ------
    UserError
        If the split has no such fold, or the fold has no training or no validation case.
    """
    if fold == "all":
        selected = sorted({case for part in split for case in part["train"]})
        train, val = selected, selected
    else:
        if not 0 <= fold < len(split):
            raise UserError(
                f"fold must be one of {', '.join(map(str, range(len(split))))} or all, which are what {path} holds; "
                f"got {fold}"
            )
        train, val = split[fold]["train"], split[fold]["val"]
    for name, cases in (("training", train), ("validation", val)):
        if not cases:
            raise UserError(f"fold {fold} of {path} has no {name} case; select again with --overwrite")
    return train, val
