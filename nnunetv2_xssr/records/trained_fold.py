"""The cases that a fold was trained on, frozen beside its checkpoints when the training began."""

from dataclasses import asdict, dataclass
from pathlib import Path

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.records.files import check_format, read_json, sha256_json, write_json

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

    selection: str
    train: list[str]
    val: list[str]

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
        content = read_json(path)
        check_format(content, KIND, FORMAT_VERSION, path)
        try:
            return cls(selection=content["selection"], train=content["train"], val=content["val"])
        except KeyError as error:
            raise UserError(f"{path} is not a whole record of a {KIND} (no {error}); train anew without --c") from None

    def changes(self, *, train: list[str], val: list[str]) -> str:
        """What cases came into the parts of the fold since, and what left them; empty if none did."""
        parts = []
        for name, before, now in (("training", self.train, train), ("validation", self.val, val)):
            came, went = sorted(set(now) - set(before)), sorted(set(before) - set(now))
            parts += [f"{first_few(came)} came into {name}"] * bool(came)
            parts += [f"{first_few(went)} left {name}"] * bool(went)
        return ", ".join(parts)
