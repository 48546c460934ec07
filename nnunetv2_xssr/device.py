"""The device to compute on, by nnU-Net's names."""

from nnunetv2_xssr.errors import UserError

DEVICES = ("cuda", "cpu", "mps")


def resolve_device(device: str | None) -> str:
    """The device asked for, or the best there is.

    Raises
    ------
    UserError
        If the device asked for is not there.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is None:
        return next(name for name, available in there.items() if available)
    if not there.get(device):
        raise UserError(
            f"-device must be one of {', '.join(d for d, ok in there.items() if ok)} on this machine; got {device}"
        )
    return device


def device_words(device: str) -> list[str]:
    """What a command of nnU-Net must be given to compute on a device: it takes a CUDA GPU by itself."""
    return [] if device == "cuda" else ["-device", device]
