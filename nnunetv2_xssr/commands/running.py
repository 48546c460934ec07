"""What all commands share: how they end, and the options with one meaning everywhere."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from nnunetv2_xssr.commands.config_file import overridden, with_config
from nnunetv2_xssr.device import DEVICES
from nnunetv2_xssr.errors import Stopped, UserError
from nnunetv2_xssr.interrupts import CODE, announce
from nnunetv2_xssr.records.locks import no_waiting
from nnunetv2_xssr.records.logs import log_to_terminal
from nnunetv2_xssr.records.workspace import DEFAULT_NAME

# A parser or a group of its options.
Options = argparse._ActionsContainer

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_REMEDIES = {
    errno.EMFILE: "allow more open files (ulimit -n 1024) and",
    errno.ENFILE: "close other programs and",
    errno.ENAMETOOLONG: "choose shorter names and",
    errno.EIO: "see whether the disk is well and",
    errno.ESTALE: "see whether the network drive is there and",
    errno.EISDIR: "move the folder away and",
    errno.ELOOP: "see where the link leads and",
}


class _Help(argparse.HelpFormatter):
    """Wraps the description, and leaves the lines of the examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """The options of a command, with examples below its help, completed by the shell where that is set up.

    With the option ``--config`` (`add_config`) they may stand in a file.
    """

    def __init__(self, *, prog: str, description: str, examples: Sequence[str]):
        epilog = "\n".join(["examples:", *(f"  {prog} {example}".rstrip() for example in examples)])
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=_Help)

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """Parse as always; when the shell asks what may be typed, answer and exit."""
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            from nnunetv2_xssr.commands.completion import propose_values

            propose_values(self)
            argcomplete.autocomplete(self)
        typed = [self._spelled(word) for word in (sys.argv[1:] if args is None else args)]
        if not any(action.dest == "config" for action in self._actions):
            return super().parse_args(typed, namespace)
        try:
            words, values = with_config(self, typed)
        except UserError as error:
            self.exit(_fail(self.prog, str(error)))
        except OSError as error:
            self.exit(_fail(self.prog, _sentence(error)))
        parsed = super().parse_args(words, namespace)
        for sentence in overridden(self, parsed, values):
            print(sentence)
        return parsed

    def _spelled(self, word: str) -> str:
        """An option as it is called, with underscores, where it was typed with dashes: ``--skip_broken``."""
        option, equals, value = word.partition("=")
        called = "--" + option[2:].replace("-", "_")
        known = any(name.startswith(called) for name in self._option_string_actions)
        return called + equals + value if option.startswith("--") and option != "--" and known else word


def run(
    prog: str, command: Callable[[], None], again: str = "run the same command again", *, no_wait: bool = False
) -> int:
    """Run a command and return its exit code.

    0, 2 after one sentence about the user's mistake, 130 after Ctrl-C, 143 after SIGTERM and 138 after SIGUSR1 (on
    Linux; 128 + the signal's number, as shells count). ``again`` says how to go on after the last three. With
    ``no_wait`` a folder that another command is writing ends this one.

    Ctrl-C ends the process of an installed command: see `nnunetv2_xssr.interrupts`. Where a Python program calls this,
    Ctrl-C raises KeyboardInterrupt, and the program goes on.
    """
    interrupted = f"{prog}: interrupted; {again} to go on where it stopped"
    announce(interrupted)
    _open_closed_streams()
    try:
        with _heard(), log_to_terminal(), no_waiting(no_wait):
            command()
        sys.stdout.flush()
    except UserError as error:
        return _fail(prog, str(error))
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        _leave_stdout()
    except OSError as error:
        if error.errno is None:
            raise
        _leave_stdout()
        return _fail(prog, _sentence(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        told = " ".join(str(error).split())[:150] or "it is not known by how much"
        return _fail(prog, f"the memory is too small ({told}); close other programs, or take more, and {again}")
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 50) : error.end + 50]  # of what may be a whole file
        return _fail(prog, f"{around!r} is not text in UTF-8; rename the file or folder that is called so")
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{interrupted}\n")
        return CODE
    except Stopped as stopped:
        sys.stderr.write(f"\n{prog}: {stopped}; {again} to go on where it stopped\n")
        return 128 + stopped.number
    return 0


def _open_closed_streams() -> None:
    """Let what a closed stream (``>&-``) would get go nowhere: the next file to be opened would get it otherwise."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot show


class _Output:
    """The output: where whoever read it, such as head, has seen enough, the command goes on, and the rest is lost."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or do as if."""
        with suppress(BrokenPipeError):
            return self._stream.write(text)
        self._leave()
        return len(text)

    def flush(self) -> None:
        """Flush, or do as if."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._leave()

    def _leave(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _heard() -> Iterator[None]:
    with redirect_stdout(_Output(sys.stdout)):
        yield


def _is_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is lacking, in numpy's words or in torch's, which is not imported for it."""
    torchs = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or torchs


def _leave_stdout() -> None:
    """Give up the output if it cannot be written: Python would complain once more when it closes it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: OSError) -> str:
    file = error.filename2 or error.filename  # what a temporary file was to become
    where = f" {file}" if file else ""
    if error.errno == errno.EACCES and file and os.path.exists(file) and not os.access(file, os.R_OK):
        return f"cannot read{where}: {error.strerror}; get permission and run the command again"
    if error.errno in _DISK:
        return f"cannot write{where}: {error.strerror}; make room or get permission and run the command again"
    remedy = _REMEDIES.get(error.errno or 0, "")
    return f"cannot read or write{where}: {error.strerror}; {remedy} run the command again".replace("  ", " ")


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


def add_no_wait(parser: Options) -> None:
    """Add the option ``--no_wait``."""
    parser.add_argument(
        "--no_wait",
        action="store_true",
        help="end with exit code 2 where another command is writing into a folder, in place of waiting for it",
    )
