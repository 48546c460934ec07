"""Removal of caches that nothing needs any more."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import cast

from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.workspace import Workspace, all_records, folder_pools

_KINDS = ("views", "facts", "embeddings", "predictions")


def clean_caches(dataset: str) -> dict[Path, int]:
    """Remove caches of a dataset and of all plain folders: what no record of a selection refers to, and all of HSSL's.

    Views, their facts, embeddings and predictions stay while a record of any name, round and dataset refers to them:
    the pool may be the source of another one. What HSSL has preprocessed serves only to go on with a pretraining, which
    makes it anew. A selection that has not been written yet is not known of, so neither it nor HSSL should be running.

    Parameters
    ----------
    dataset : str
        Full name of the dataset.

    Returns
    -------
    dict
        Every file that was removed, and how many bytes it had.

    Raises
    ------
    UserError
        If a record cannot be read; nothing is removed then.
    """
    removed: dict[Path, int] = {}
    for pool in (dataset, *folder_pools()):
        with caches_lock(pool):
            removed |= _clean(pool)
    return removed


def _clean(pool: str) -> dict[Path, int]:
    needed = set()
    for path in all_records():
        provenance = cast(dict, SelectionRecord.load(path).provenance)
        needed |= {provenance.get(f"{kind}_cache", {}).get(pool) for kind in _KINDS}
    removed = {}
    for file in sorted(Workspace(pool).caches.glob("*/*")):
        if _unneeded(file, needed):
            removed[file] = file.stat().st_size
            file.unlink()
    for folder in {file.parent for file in removed}:
        if not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
    return removed


def _unneeded(file: Path, needed: Collection[str | None]) -> bool:
    if re.fullmatch("hssl_[0-9a-f]+", file.parent.name):
        return file.suffix in (".b2nd", ".npy")  # the latter of former versions
    if predicted := re.fullmatch("predictions_([0-9a-f]+)", file.parent.name):
        return not any(key and key.startswith(predicted[1]) for key in needed)
    # Former versions wrote an index.json without a key.
    match = re.fullmatch(r"(?:rows|index)_?([0-9a-f]*)\.(?:npy|json)", file.name)
    return match is not None and match[1] not in needed
