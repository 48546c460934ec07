"""Which cases may be selected for a fold, and how selected cases are split for cross-validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.records.files import is_there
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.split import Split, cases_in, read_split

N_FOLDS = 5
_SEED = 12345  # nnU-Net's, so that without groups the folds are those that stock nnU-Net makes


def draw_groups(groups: Sequence[str], *, share: float, seed: int) -> np.ndarray:
    """Draw a share of the groups (patients) at random; none if there are fewer than two.

    Parameters
    ----------
    groups : sequence of str
        The group of every case.
    share : float
        Of the groups, rounded up.
    seed : int

    Returns
    -------
    bool array of shape (cases,)
        Whether a case is of a drawn group.
    """
    from sklearn.model_selection import GroupShuffleSplit

    drawn = np.zeros(len(groups), bool)
    if len(set(groups)) >= 2:
        _, places = next(GroupShuffleSplit(1, test_size=share, random_state=seed).split(groups, groups=groups))
        drawn[places] = True
    return drawn


def cross_validation(cases: Sequence[str], *, groups: Mapping[str, str] | None = None) -> Split:
    """Split cases into folds: leave-one-out below five of them; a single case validates on itself.

    Parameters
    ----------
    cases : sequence of str
    groups : mapping from case to str, optional
        Cases of one group (patient) are never torn apart between training and validation.
    """
    cases = sorted(cases)
    names = [(groups or {}).get(case, case) for case in cases]
    n_folds = min(N_FOLDS, len(set(names)))
    if n_folds < 2:
        if len(cases) > 1:
            logger.warning(
                f"all {len(cases)} cases are of group {names[0]}: nothing is left to validate on but what is trained on"
            )
        return [{"train": cases, "val": cases}]
    if groups:
        from sklearn.model_selection import GroupKFold

        parts = GroupKFold(n_folds).split(cases, groups=names)
        array = np.array(cases)
        return [{"train": array[train].tolist(), "val": array[val].tolist()} for train, val in parts]
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    split = generate_crossval_split(cases, seed=_SEED, n_splits=n_folds)
    return [{part: [str(case) for case in fold[part]] for part in ("train", "val")} for fold in split]


def grow_folds(previous: Split | None, cases: Sequence[str], *, groups: Mapping[str, str] | None = None) -> Split:
    """Split cases into folds so that those of an earlier split keep their validation part.

    So no network is validated with what the network of the same fold was trained on a round before. New groups open
    folds while there are fewer than five, then go into the smallest fold. A fold whose cases are all gone keeps its
    number and stays empty until new cases come.

    Parameters
    ----------
    previous : list of dict or None
        None makes it `cross_validation`.
    cases : sequence of str
    groups : mapping from case to str, optional
        Cases of one group (patient) are never torn apart. Where they lie in several folds of the earlier split, because
        their group was not known then, they move to the fold of the first of them, and the log says so.
    """
    if previous is None:
        return cross_validation(cases, groups=groups)
    members: dict[str, list[str]] = {}
    for case in sorted(cases):
        members.setdefault((groups or {}).get(case, case), []).append(case)
    home = {case: number for number, fold in enumerate(previous) for case in fold["val"]}
    parts: list[list[str]] = [[] for _ in range(max(len(previous), min(N_FOLDS, len(members))))]
    new = []
    for group, own in members.items():
        known = [home[case] for case in own if case in home]
        if not known:
            new.append(own)
            continue
        parts[known[0]] += own
        if len(set(known)) > 1:
            logger.info(
                f"{first_few(own)} are all of group {group}: they move to fold {known[0]}, from folds "
                f"{', '.join(map(str, sorted(set(known) - {known[0]})))}"
            )
    for own in sorted(new, key=len, reverse=True):
        min(parts, key=len).extend(own)
    while parts and not parts[-1]:
        parts.pop()
    if sum(map(bool, parts)) < 2:  # nothing would be left to train on
        return cross_validation(cases, groups=groups)
    return [{"train": sorted(set(cases) - set(part)), "val": sorted(part)} for part in parts]


def study_folds(cases: Sequence[str], *, folders: Sequence[Path], groups: Mapping[str, str] | None = None) -> Split:
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
        If the user's split names a case that the pool does not have, has one in both parts of a fold, or tears a group
        (patient) apart.
    """
    for folder in folders:
        path = folder / "splits_final.json"
        if not is_there(path):
            continue
        folds = read_split(path)
        if not folds:
            raise UserError(f"{path} has no fold; fix it, or delete it to get the folds that nnU-Net would make")
        unknown = sorted(cases_in(folds) - set(cases))
        if unknown:
            raise UserError(
                f"{path} names {len(unknown)} cases that the pool does not have ({first_few(unknown)}); "
                f"fix the split or the pool"
            )
        _check_apart(folds, groups or {}, path)
        return folds
    return cross_validation(cases, groups=groups)


def _check_apart(folds: Split, groups: Mapping[str, str], path: Path) -> None:
    for number, fold in enumerate(folds):
        both = sorted(set(fold["train"]) & set(fold["val"]))
        if both:
            raise UserError(
                f"{path} has {len(both)} cases in both parts of fold {number} ({first_few(both)}); take them out of one"
            )
        train, val = ({groups[case] for case in fold[part] if case in groups} for part in ("train", "val"))
        torn = sorted(train & val)
        if torn:
            raise UserError(
                f"{path} has {len(torn)} patients in both parts of fold {number} ({first_few(torn)}); delete or rename "
                f"it to get folds by patient, or put such folds into it"
            )
