"""What all commands share: how they end, and the options with one meaning everywhere."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence

from nnunetv2_xssr.device import DEVICES
from nnunetv2_xssr.errors import Stopped, UserError
from nnunetv2_xssr.records.logs import log_to_terminal
from nnunetv2_xssr.records.workspace import DEFAULT_NAME

# A parser or a group of its options.
Options = argparse._ActionsContainer

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class _Help(argparse.HelpFormatter):
    """Wraps the description, and leaves the lines of the examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """The options of a command, with examples below its help, and completed by the shell where that is set up."""

    def __init__(self, *, prog: str, description: str, examples: Sequence[str]):
        epilog = "\n".join(["examples:", *(f"  {prog} {example}".rstrip() for example in examples)])
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=_Help)

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """Parse as always; when the shell asks what may be typed, answer and exit."""
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)
        return super().parse_args(args, namespace)


def run(prog: str, command: Callable[[], None], again: str = "run the same command again") -> int:
    """Run a command and return its exit code.

    0, 2 after one sentence about the user's mistake, 130 after Ctrl-C, 143 after SIGTERM and 138 after SIGUSR1 (on
    Linux; 128 + the signal's number, as shells count). ``again`` says how to go on after the last three.
    """
    try:
        with log_to_terminal():
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


def add_device(parser: Options) -> None:
    """Add the option ``-device``."""
    parser.add_argument(
        "-device",
        choices=DEVICES,
        help="where to compute; by default a GPU when there is one (which one: CUDA_VISIBLE_DEVICES, as in nnU-Net)",
    )


def add_name(parser: Options) -> None:
    """Add the option ``--name``."""
    parser.add_argument(
        "--name",
        default=DEFAULT_NAME,
        help=f"of the selection, for several of one dataset side by side; {DEFAULT_NAME} by default",
    )
