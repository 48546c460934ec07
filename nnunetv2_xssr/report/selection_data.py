"""What a selection left on disk, read back for the report: nothing is computed anew and no image is opened."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from nnunetv2_xssr.encoders.pooling import FeatureLayout, features
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_facts import CaseFacts
from nnunetv2_xssr.images.case_rows import CaseRows, read_index
from nnunetv2_xssr.images.slices import candidate_rows, row_per_slice, slice_name, volume_of
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.selection import FoldSelection, Pick, SelectionRecord
from nnunetv2_xssr.records.split import selected_split
from nnunetv2_xssr.records.workspace import Workspace, channel_names_of


@dataclass(frozen=True)
class PoolData:
    """The views and embeddings of a pool; without views where embeddings were made elsewhere.

    Attributes
    ----------
    name : str
    identifiers : list of str
        The cases that were embedded, or their slices (`nnunetv2_xssr.images.slices`) where slices are chosen.
    embeddings : float32 array of shape (identifiers, d)
        What they were compared by.
    hashes : dict
        SHA-256 of the files of every case, or volume, that the views were made of; empty without views.
    """

    name: str
    identifiers: list[str]
    embeddings: np.ndarray
    hashes: dict[str, str]
    _views: np.ndarray | None
    _row: dict[str, int]

    @property
    def views_per_case(self) -> int:
        """How many views are shown of one case."""
        return 1 if self._views is None else len(self._shown(self._views[0]))

    def views(self, identifier: str) -> np.ndarray | None:
        """The views of one case, all slices of a whole volume, or the one slice that is named.

        Returns
        -------
        float16 array of shape (views, channels, height, width), or None
        """
        return None if self._views is None else self._shown(self._views[self._row[identifier]])

    @staticmethod
    def _shown(views: np.ndarray) -> np.ndarray:
        return views if views.ndim == 4 else views[0].swapaxes(0, 1)


@dataclass(frozen=True)
class SelectionData:
    """A selection with the pools it was made from.

    Attributes
    ----------
    record : SelectionRecord
    target : PoolData
    sources : list of PoolData
    members : list of list of str
        The cases, or slices, that every selection of the record was made from.
    channel_names : list of str
    """

    record: SelectionRecord
    target: PoolData
    sources: list[PoolData]
    members: list[list[str]]
    channel_names: list[str]


def identifier_of(pick: Pick) -> str:
    """What a pick is called in its pool: its case, or its slice."""
    return pick.case if pick.slice is None else slice_name(pick.case, pick.slice)


def load_record(workspace: Workspace) -> SelectionRecord:
    """The record of a selection; a `UserError` says if there is none."""
    path = workspace.record
    if not path.is_file():
        command = f"nnUNetv2_xssr_select -d {workspace.dataset}{workspace.options}"
        raise UserError(f"there is no selection {path} to report on; make one with {command}")
    return SelectionRecord.load(path)


def load_selection_data(record: SelectionRecord) -> SelectionData:
    """Read back what a selection was made from.

    Raises
    ------
    UserError
        If what lies on disk is not what it was made from any more.
    """
    workspace = record.workspace
    path, dataset = workspace.record, workspace.dataset
    target, *sources = _open_pools([dataset, *record.provenance["source"]], record, path)
    channel_names = list(channel_names_of(read_dataset_json(workspace.dataset_json)))
    return SelectionData(record, target, sources, _members(record, target, path), channel_names)


def _open_pools(names: list[str], record: SelectionRecord, path: Path) -> list[PoolData]:
    by_slice, views = record.settings["unit"] == "slice", 1
    for name in names:
        index = read_index(Workspace(name).caches / "embeddings", _key(record, path, "embeddings", name))
        views = 1 if by_slice else max(views, index["row_shape"][0])
    return [_open_pool(name, record, path, views=views) for name in names]


def _key(record: SelectionRecord, path: Path, kind: str, pool: str) -> str:
    """Of the rows of a pool that a record was made from."""
    keys = cast(dict, record.provenance).get(f"{kind}_cache", {})
    if pool not in keys:
        raise UserError(
            f"{path} does not tell which {kind} of {pool} it was made from, as those of an older version; "
            f"run nnUNetv2_xssr_select again"
        )
    return keys[pool]


def _open_pool(name: str, record: SelectionRecord, path: Path, *, views: int) -> PoolData:
    """The data of one pool; the pool with most has so many views per case."""
    folder, kind = Workspace(name).caches, cast(dict, record.provenance)["embedding"]
    by_slice, key = record.settings["unit"] == "slice", partial(_key, record, path, pool=name)
    embeddings, index = CaseRows.load(folder / "embeddings", key("embeddings"))
    layout = FeatureLayout(*index["settings"]["layout"])
    if record.settings.get("embeddings"):  # made elsewhere, without views
        compared = features(embeddings.rows, layout, kind=kind)
        return PoolData(name, embeddings.identifiers, compared, {}, None, {})
    seen, of_views = CaseRows.load(folder / "views", key("views"))
    row = {identifier: i for i, identifier in enumerate(seen.identifiers)}
    identifiers, rows, shown = embeddings.identifiers, embeddings.rows, seen.rows
    n_views = rows.shape[1]
    if by_slice and n_views > 1:  # a flat source is compared as it is
        facts, _ = CaseRows.load(folder / "facts", key("facts"))
        slices = candidate_rows({case: CaseFacts.of_row(facts.rows[row[case]]) for case in identifiers})
        rows, shown = row_per_slice(rows, slices.values()), shown.reshape(-1, 1, *shown.shape[2:])
        row = {name: row[volume_of(name)] * n_views + number % n_views for name, number in slices.items()}
        identifiers = list(slices)
    compared = features(rows, layout, kind=kind, views=views)
    return PoolData(name, identifiers, compared, of_views["cases"], shown, row)


def _members(record: SelectionRecord, target: PoolData, path: Path) -> list[list[str]]:
    gone = set(record.settings["excluded"])
    usable = [identifier for identifier in target.identifiers if identifier not in gone]
    left_out = [set(one.left_out) for one in record.selections]
    if record.mode == "study":
        folds = selected_split(record.workspace)
        left_out = [cases.union(fold["val"]) for cases, fold in zip(left_out, folds, strict=False)]
    members = [[identifier for identifier in usable if identifier not in cases] for cases in left_out]
    if len(members) != len(record.selections) or not all(map(_could_be_from, record.selections, members)):
        raise UserError(
            f"{path} does not fit {record.workspace.split}, or is of an older version; run nnUNetv2_xssr_select again"
        )
    return members


def _could_be_from(selection: FoldSelection, names: list[str]) -> bool:
    picked = {identifier_of(pick) for pick in selection.picks}
    return len(names) == selection.pool_size and picked <= set(names)
