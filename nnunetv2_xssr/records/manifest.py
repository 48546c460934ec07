"""That all files of a selection are of one selection: its id is in each of them, and the record is written last.

The manifest is written first, the record last. A call that is interrupted between them leaves files with another id
than the record's, and the same command, typed again, makes them one. nnU-Net's format of splits has no place for an id:
the manifest stands for the split.
"""

import csv
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import is_there, read_json, sha256_json, write_json
from nnunetv2_xssr.records.schema import OURS, FileName, read_as
from nnunetv2_xssr.records.split import Split
from nnunetv2_xssr.records.spreadsheets import table_rows
from nnunetv2_xssr.records.timesheet import Minutes
from nnunetv2_xssr.records.workspace import Workspace

KIND, FORMAT_VERSION = "manifest of a selection", 1


def selection_id(content: dict) -> str:
    """The id of the selection whose record holds this; a letter comes first, so that no spreadsheet sees a number."""
    return f"s{sha256_json(content)[:15]}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What belongs to a selection, besides its record.

    Attributes
    ----------
    selection : str
        The id: see `selection_id`.
    split : str or None
        SHA-256 of what the split holds; None where there is none.
    views : dict
        Pool to SHA-256 of its cached views.
    labels : dict
        Case to SHA-256 of its label file, as last collected.
    minutes : list of Minutes
        What the annotators of all rounds have filled into their worklists, as last collected.
    config : str or None
        SHA-256 of the file of options; None where it was not made by a command.
    """

    __pydantic_config__ = OURS

    selection: str
    split: str | None
    views: dict[FileName, str] = field(default_factory=dict)
    labels: dict[FileName, str] = field(default_factory=dict)
    minutes: list[Minutes] = field(default_factory=list)
    config: str | None = None

    def write(self, path: Path) -> None:
        """Write the manifest atomically."""
        write_json(path, {"kind": KIND, "format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "Manifest | None":
        """Read it back; None where an older version has written none, a `UserError` where it does not fit."""
        if not is_there(path):
            return None
        return read_as(path, cls, kind=KIND, version=FORMAT_VERSION, advice="delete it and run select again")


def check_own_split(workspace: Workspace, split: Split) -> None:
    """Raise `UserError` unless a split is that of the selection in the record; without a manifest nothing tells."""
    manifest = Manifest.load(workspace.manifest)
    if manifest is None:
        return
    own = selection_id(read_json(workspace.record)) if is_there(workspace.record) else None
    if (manifest.selection, manifest.split) != (own, sha256_json(split)):
        raise UserError(
            f"{workspace.split} is not the split of {workspace.record}: it was changed, or a select or collect was "
            f"interrupted; nnUNetv2_xssr_verify -d {workspace.dataset}{workspace.options} says which, to be typed again"
        )


def id_in_worklist(path: Path) -> str | None:
    """The selection that a worklist is of; None where it is gone or does not say."""
    if not path.is_file():
        return None
    try:
        _, rows = table_rows(path)
        return dict(zip(rows[0][1], rows[1][1], strict=False)).get("selection") if len(rows) > 1 else None
    except (OSError, ValueError, csv.Error):
        return None


def id_in_report(path: Path) -> str | None:
    """The selection that a report shows; None where it is gone or does not say."""
    if not path.is_file():
        return None
    try:
        with open(path, encoding="utf-8") as file:
            found = re.search(r'<meta name="selection" content="(\w+)">', file.read(4096))
    except (OSError, ValueError):
        return None
    return found and found[1]
