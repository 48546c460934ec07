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
from nnunetv2_xssr.records.files import check_format, read_json, sha256_json, write_json

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
    """

    selection: str
    split: str | None
    views: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the manifest atomically."""
        write_json(path, {"kind": KIND, "format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "Manifest | None":
        """Read it back; None where an older version has written none, a `UserError` where it does not fit."""
        if not path.is_file():
            return None
        content = read_json(path)
        check_format(content, KIND, FORMAT_VERSION, path)
        try:
            return cls(**{key: content[key] for key in ("selection", "split", "views", "labels")})
        except KeyError as error:
            raise UserError(f"{path} is not a whole manifest (no {error}); delete it") from None


def id_in_worklist(path: Path) -> str | None:
    """The selection that a worklist is of; None where it is gone or does not say."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return next(csv.DictReader(file), {}).get("selection")
    except (OSError, ValueError, csv.Error):
        return None


def id_in_report(path: Path) -> str | None:
    """The selection that a report shows; None where it is gone or does not say."""
    try:
        with open(path, encoding="utf-8") as file:
            found = re.search(r'<meta name="selection" content="(\w+)">', file.read(4096))
    except (OSError, ValueError):
        return None
    return found and found[1]
