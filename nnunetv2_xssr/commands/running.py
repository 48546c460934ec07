"""What all commands share: how they end, and the options with one meaning everywhere."""

import argparse
import errno
import os
import sys
from collections.abc import Callable

from nnunetv2_xssr.device import DEVICES
from nnunetv2_xssr.errors import Stopped, UserError
from nnunetv2_xssr.records.locks import no_waiting
from nnunetv2_xssr.records.logs import log_to_terminal
from nnunetv2_xssr.records.workspace import DEFAULT_NAME

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def run(
    prog: str, command: Callable[[], int | None], again: str = "run the same command again", *, no_wait: bool = False
) -> int:
    """Run a command and return its exit code.

    0 or what the command returns, 2 after one sentence about the user's mistake, 130 after Ctrl-C, 143 after SIGTERM
    and 138 after SIGUSR1 (on Linux; 128 + the signal's number, as shells count). ``again`` says how to go on after the
    last three. With ``no_wait`` a folder that another command is writing ends this one.
    """
    code = None
    try:
        with log_to_terminal(), no_waiting(no_wait):
            code = command()
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
    return code or 0


def _fail(prog: str, sentence: str) -> int:
    sys.stderr.write(f"{prog}: error: {sentence}\n")
    return 2


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option ``-device``."""
    parser.add_argument(
        "-device",
        choices=DEVICES,
        help="where to compute; by default a GPU when there is one (which one: CUDA_VISIBLE_DEVICES, as in nnU-Net)",
    )


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--name``."""
    parser.add_argument(
        "--name",
        default=DEFAULT_NAME,
        help=f"of the selection, for several of one dataset side by side; {DEFAULT_NAME} by default",
    )


def add_no_wait(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--no_wait``."""
    parser.add_argument(
        "--no_wait",
        action="store_true",
        help="end with exit code 2 where another command is writing into a folder, in place of waiting for it",
    )
