"""Removal of caches that no selection needs any more."""

import re
from pathlib import Path

from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.workspace import Workspace, all_records


def clean_caches(dataset: str) -> dict[Path, int]:
    """Remove the views, their facts and the embeddings of a dataset that no record of a selection refers to.

    Records of every name, round and dataset count: the dataset may be the source of another one. A selection that has
    not been written yet is not known of, so none should be running.

    Parameters
    ----------
    dataset : str
        Full name of the dataset, or name of the pool of a plain folder.

    Returns
    -------
    dict
        Every file that was removed, and how many bytes it had.

    Raises
    ------
    UserError
        If a record cannot be read; nothing is removed then.
    """
    with caches_lock(dataset):
        return _clean(Workspace(dataset).caches, dataset)


def _clean(caches: Path, dataset: str) -> dict[Path, int]:
    needed = set()
    for path in all_records():
        provenance = SelectionRecord.load(path).provenance
        needed |= {provenance.get(f"{kind}_cache", {}).get(dataset) for kind in ("views", "facts", "embeddings")}
    removed = {}
    for file in sorted(caches.glob("*/*")):
        # Former versions wrote an index.json without a key.
        match = re.fullmatch(r"(?:rows|index)_?([0-9a-f]*)\.(?:npy|json)", file.name)
        if match and match[1] not in needed:
            removed[file] = file.stat().st_size
            file.unlink()
    return removed
