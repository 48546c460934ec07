"""Corrected labels: which cases may be replaced, and the old label that is kept beside the hand-overs."""

import filecmp
from collections.abc import Collection
from pathlib import Path

from nnunetv2_xssr.annotation.label_files import copy_whole
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.reading import spacing_file
from nnunetv2_xssr.records.workspace import Workspace


def check_replaceable_labels(
    named: Collection[str], pool: ImagePool, *, arrived: Collection[str], folder: Path
) -> None:
    """Raise `UserError` unless each of these cases has a label already, and a new one has arrived in the folder."""
    home = Workspace(pool.name).labels
    for case in sorted(named):
        name = f"{case}{pool.file_ending}"
        if not (home / name).is_file():
            raise UserError(f"--replace names {case}, whose label was never collected; leave it out")
        if case not in arrived:
            raise UserError(f"--replace names {case}, but {folder} holds no new {name}; give its folder with -l")


def keep_labels(workspace: Workspace, cases: Collection[str], pool: ImagePool) -> dict[str, Path]:
    """Copy the labels of these cases beside the hand-overs, under the next free number; the copies by case."""
    kept, of_pool = {}, pool.by_identifier()
    for case in sorted(cases):
        label, number, last = workspace.labels / f"{case}{pool.file_ending}", 1, None
        while (new := workspace.replaced / f"{case}_{number:02d}{pool.file_ending}").exists():
            number, last = number + 1, new
        if last and filecmp.cmp(label, last, shallow=False):  # by a run that was interrupted before it replaced it
            kept[case] = last
            continue
        if sidecar := spacing_file(of_pool[case]):
            copy_whole(sidecar, new.with_name(f"{case}_{number:02d}.json"))
        copy_whole(label, new)
        kept[case] = new
    return kept
