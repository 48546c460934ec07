"""What all commands share: how they end, and the options with one meaning everywhere."""

import argparse
import errno
import os
import sys
from collections.abc import Callable

from nnunetv2_xssr.errors import Stopped, UserError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def run(prog: str, command: Callable[[], None], again: str = "run the same command again") -> int:
    """Run a command and return its exit code.

    0, 2 after one sentence about the user's mistake, 130 after Ctrl-C, 143 after SIGTERM and 138 after SIGUSR1 (on
    Linux; 128 + the signal's number, as shells count). ``again`` says how to go on after the last three.
    """
    try:
        command()
        sys.stdout.flush()
    except UserError as error:
        return _fail(prog, str(error))
    except BrokenPipeError:
        # Whoever read the output, such as head, has seen enough; Python would complain once more when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f" {error.filename}" if error.filename else ""
        return _fail(
            prog, f"cannot write{where}: {error.strerror}; make room or get permission and run the command again"
        )
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{prog}: interrupted; {again} to go on where it stopped\n")
        return 130
    except Stopped as stopped:
        sys.stderr.write(f"\n{prog}: {stopped}; {again} to go on where it stopped\n")
        return 128 + stopped.number
    return 0


def _fail(prog: str, sentence: str) -> int:
    sys.stderr.write(f"{prog}: error: {sentence}\n")
    return 2


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-device",
        choices=("cuda", "cpu", "mps"),
        help="where to compute; by default a GPU when there is one (which one: CUDA_VISIBLE_DEVICES, as in nnU-Net)",
    )


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
    if not there[device]:
        raise UserError(
            f"-device must be one of {', '.join(d for d, ok in there.items() if ok)} on this machine; got {device}"
        )
    return device
