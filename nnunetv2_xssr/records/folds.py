"""Which cases may be selected for a fold, and how selected cases are split for cross-validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.split import Split, read_split

_SEED = 12345  # nnU-Net's, so that without groups the folds are those that stock nnU-Net makes


def cross_validation(cases: Sequence[str], groups: Mapping[str, str] | None = None, n_folds: int = 5) -> Split:
    """Split cases into folds: leave-one-out below five of them; a single case validates on itself.

    Parameters
    ----------
    cases : sequence of str
    groups : mapping from case to str, optional
        Cases of one group (patient) are never torn apart between training and validation.
    """
    cases = sorted(cases)
    if groups:
        names = [groups.get(case, case) for case in cases]
        n_folds = min(n_folds, len(set(names)))
    n_folds = min(n_folds, len(cases))
    if n_folds < 2:
        return [{"train": cases, "val": cases}]
    if groups:
        from sklearn.model_selection import GroupKFold

        parts = GroupKFold(n_folds).split(cases, groups=names)
        array = np.array(cases)
        return [{"train": array[train].tolist(), "val": array[val].tolist()} for train, val in parts]
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    split = generate_crossval_split(cases, seed=_SEED, n_splits=n_folds)
    return [{part: [str(case) for case in fold[part]] for part in ("train", "val")} for fold in split]


def study_folds(cases: Sequence[str], folders: Sequence[Path], groups: Mapping[str, str] | None) -> Split:
    """The folds of a fully labelled dataset: the user's ``splits_final.json``, else those that nnU-Net would make.

    Parameters
    ----------
    cases : sequence of str
        The pool.
    folders : sequence of Path
        Where ``splits_final.json`` may lie, in the order they are looked at.
    groups : mapping, optional
        See `cross_validation`.

    Raises
    ------
    UserError
        If the user's split names a case that the pool does not have.
    """
    for folder in folders:
        path = folder / "splits_final.json"
        if not path.is_file():
            continue
        folds = read_split(path)
        unknown = sorted({case for fold in folds for part in fold.values() for case in part} - set(cases))
        if unknown:
            raise UserError(
                f"{path} names {len(unknown)} cases that the pool does not have ({', '.join(unknown[:3])}); "
                f"mend the split or the pool"
            )
        return folds
    return cross_validation(cases, groups)
