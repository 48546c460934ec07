"""The fully labelled target of a benchmark: a pool to choose from, and test cases that are held out."""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.case_table import check_names
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.records.files import sha256_files
from nnunetv2_xssr.records.folds import draw_groups
from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.selection import parse_budget

TEST_SHARE, SEED = 0.2, 0
LEAST_TEST, LEAST_POOL = 4, 10  # cases


def hold_out(target: ImagePool, *, test: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Pool and test cases of a target, each sorted; no group (patient) is in both.

    Parameters
    ----------
    target : ImagePool
    test : sequence of str or None
        The test cases; by default a fifth of the groups, or of the cases where there are none, drawn at random.

    Raises
    ------
    UserError
        If a case has no label, the test cases do not fit the target, or too few cases are left.
    """
    unlabelled = [case.identifier for case in target.cases if not case.labelled]
    if unlabelled:
        raise UserError(
            f"{len(unlabelled)} of {len(target)} cases of {target.name} have no label ({first_few(unlabelled)}); the "
            f"benchmark needs a fully labelled target"
        )
    groups = {case.identifier: case.group_name for case in target.cases}
    if test is None:
        drawn = draw_groups(list(groups.values()), share=TEST_SHARE, seed=SEED)
        held = {case for case, out in zip(groups, drawn, strict=True) if out}
    else:
        check_names("--test", test, target)
        held = set(test)
    _check_apart({case: group for case, group in groups.items() if case in held}, groups)
    parts = sorted(set(groups) - held), sorted(held)
    for what, part, least in zip(("pool", "test set"), parts, (LEAST_POOL, LEAST_TEST), strict=True):
        if len(part) < least:
            raise UserError(
                f"the {what} must have at least {least} cases; got {len(part)} of {len(target)} in {target.name}"
            )
    return parts


def _check_apart(held: dict[str, str], groups: dict[str, str]) -> None:
    shared = sorted({group for case, group in groups.items() if case not in held} & set(held.values()))
    if shared:
        raise UserError(
            f"--test and the pool share {len(shared)} groups ({first_few(shared)}); put all cases of a group (patient) "
            f"into the test set, or none"
        )


def copies_in_both(target: ImagePool, *, pool: Sequence[str], test: Sequence[str]) -> str | None:
    """A sentence about test cases whose images the pool holds too, byte for byte; None where there is none."""
    cases, in_test = target.only([*pool, *test]).cases, set(test)
    of_size: dict[tuple[int, ...], list[Case]] = {}
    for case in cases:
        of_size.setdefault(tuple(file.stat().st_size for file in case.files), []).append(case)
    copies = []
    for alike in of_size.values():  # only these need to be read
        if len({case.identifier in in_test for case in alike}) == 2:
            hashes = {case.identifier: sha256_files(case.files) for case in alike}
            twins = {digest: case for case, digest in hashes.items() if case not in in_test}
            copies += [f"{case} of {twins[hashes[case]]}" for case in in_test & hashes.keys() if hashes[case] in twins]
    if not copies:
        return None
    return (
        f"{len(copies)} of {len(test)} test cases are copies of cases in the pool, byte for byte "
        f"({first_few(sorted(copies))}): their Dice says nothing of new images; a group in --cases keeps them together"
    )


def parse_budgets(texts: Sequence[str], *, pool_size: int) -> list[int]:
    """Budgets in cases, increasing.

    Raises
    ------
    UserError
        If one does not fit the pool, or two are the same number of cases.
    """
    found: dict[int, str] = {}
    for text in texts:
        k = parse_budget(text, pool_size=pool_size)
        if k >= pool_size:
            raise UserError(f"-b must be less than the {pool_size} cases of the pool; got {text!r}")
        if k in found:
            raise UserError(f"-b {found[k]} and {text} are both {k} of {pool_size} cases in the pool; leave one out")
        found[k] = text
    return sorted(found)


def label_files(target: ImagePool) -> dict[str, Path]:
    """The label file of every case of a dataset that is labelled throughout."""
    workspace = Workspace(target.name)
    return {case: workspace.label_file(case, target.dataset_json) for case in target.identifiers}


def data_hash(target: ImagePool) -> str:
    """SHA-256 of all images and labels: what was measured on others is not taken for a result on these."""
    labels = label_files(target)
    return sha256_files(file for case in target.cases for file in (*case.files, labels[case.identifier]))
