"""The cases that a fold was trained on, frozen beside its checkpoints when the training began."""

from dataclasses import asdict, dataclass
from pathlib import Path

from nnunetv2_xssr.errors import first_few
from nnunetv2_xssr.records.files import sha256_json, write_json
from nnunetv2_xssr.records.schema import OURS, FileName, read_as

KIND, FORMAT_VERSION = "trained fold", 1


@dataclass(frozen=True, kw_only=True)
class TrainedFold:
    """What one fold is trained on, from its first epoch to its last validation.

    Attributes
    ----------
    selection : str
        Its name.
    train, val : list of str
        Training and validation cases.
    """

    __pydantic_config__ = OURS

    selection: FileName
    train: list[FileName]
    val: list[FileName]

    @property
    def sha256(self) -> str:
        """By which a checkpoint knows the fold that it was trained on."""
        return sha256_json(asdict(self))

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(path, {"kind": KIND, "format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "TrainedFold":
        """Read the record back; a `UserError` says in one sentence what does not fit."""
        return read_as(path, cls, kind=KIND, version=FORMAT_VERSION, advice="train anew without --c")

    def changes(self, *, train: list[str], val: list[str]) -> str:
        """What cases came into the parts of the fold since, and what left them; empty if none did."""
        parts = []
        for name, before, now in (("training", self.train, train), ("validation", self.val, val)):
            came, went = sorted(set(now) - set(before)), sorted(set(before) - set(now))
            parts += [f"{first_few(came)} came into {name}"] * bool(came)
            parts += [f"{first_few(went)} left {name}"] * bool(went)
        return ", ".join(parts)
