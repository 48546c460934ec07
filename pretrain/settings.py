"""The settings of a pretraining that a user chooses."""

from dataclasses import dataclass

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pretrain.schedule import AUTO

_MOST = 2**32  # generators of random numbers take no larger seed, and nobody trains so long


def check_seed(seed: int) -> None:
    """Raise `UserError` unless generators of random numbers take this seed."""
    _check("seed", seed, least=0)


def _check(name: str, value: int | str, *, least: int) -> None:
    if not (isinstance(value, int) and least <= value < _MOST or (name, value) == ("epochs", AUTO)):
        raise UserError(
            f"{name} must be {least} or more{' or auto' * (name == 'epochs')}, and less than 2^32; got {value}"
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user chooses; the engine and the objective fix the rest.

    Attributes
    ----------
    epochs : int or "auto"
        ``"auto"``: until the held-out loss stops falling.
    batch_size : int
        Samples per step, over all processes.
    seed : int
    accumulate : int
        Number of parts in which each process computes its share of the batch, to save memory.

    Raises
    ------
    UserError
        If a value is out of range.
    """

    epochs: int | str = 6
    batch_size: int = 128
    seed: int = 0
    accumulate: int = 1

    def __post_init__(self):
        check_seed(self.seed)
        for name in ("epochs", "batch_size", "accumulate"):
            _check(name, getattr(self, name), least=1)

    def check_parts(self, *, n_processes: int, compares_samples: bool) -> None:
        """Raise `UserError` if the batch does not divide into equal parts, or has nothing to compare.

        Parameters
        ----------
        n_processes : int
        compares_samples : bool
            As `objective.Objective` has it.
        """
        shares = n_processes * self.accumulate
        if self.batch_size % shares:
            raise UserError(
                f"batch_size must be a multiple of {shares}, the number of processes times accumulate; "
                f"got {self.batch_size}"
            )
        if compares_samples and self.batch_size < 2:
            raise UserError(f"batch_size must be 2 or more, because images are compared; got {self.batch_size}")
