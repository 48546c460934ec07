"""Options of the commands that pretrain: the length, the batch, the processes."""

import argparse

from nnunetv2_xssr.commands.running import add_device
from nnunetv2_xssr.device import resolve_device


def add_training(parser: argparse.ArgumentParser, epochs: int, batch: str) -> None:
    """Add the options; ``epochs`` and ``batch`` tell the defaults, which `start_training` is given."""
    add = parser.add_argument
    # fmt: off
    add("--epochs", type=lambda text: text if text == "auto" else int(text),
        help=f"of 50 batches each, or auto: until held-out images gain no more; {epochs} by default")
    add("--batch_size", type=int, help=f"images in a batch, those of all GPUs together; by default {batch}")
    add("--accumulate", type=int, help="parts to compute a batch in, to save memory; 1 by default")
    add("--precision", default="32-true", help="32-true (default), bf16-mixed, or 16-mixed, which needs a CUDA GPU")
    add("--seed", type=int, default=0, help="of every random number; 0 by default")
    add("--c", action="store_true", dest="resume", help="continue an interrupted pretraining")
    add("--skip-broken", action="store_true", help="set cases aside that cannot be read, and name them")
    add_device(parser)
    add("-num_gpus", type=int, default=1, help="GPUs of this machine; 1 by default. torchrun and srun work as well")
    # fmt: on


def add_dim(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dim",
        type=int,
        choices=(2, 3),
        default=2,
        help="what the encoder sees of volumes: 2, axial slices (default), or 3, the whole volume",
    )


def training_options(args: argparse.Namespace) -> dict:
    """The keyword arguments of `nnunetv2_xssr.pretrain_encoder` that the options ask for."""
    names = ("epochs", "batch_size", "seed", "accumulate", "resume", "skip_broken", "device", "num_gpus", "precision")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def start_training(args: argparse.Namespace, **defaults):
    """The `Settings` that the options ask for, and the connected processes.

    Raises
    ------
    UserError
        If one of them does not fit.
    """
    from nnunetv2_xssr.pretrain.processes import start
    from nnunetv2_xssr.pretrain.task import Settings

    names = ("epochs", "batch_size", "seed", "accumulate")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return Settings(**{**defaults, **given}), start(resolve_device(args.device), args.num_gpus, args.precision)
