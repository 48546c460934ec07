"""What commands end with: a mistake that the user can fix, or the wish to stop."""

from collections.abc import Sequence

_LONGEST = 100  # characters of a name in a sentence


class UserError(ValueError):
    """A mistake in the input: what, where, what was got and what to do, in one sentence.

    Commands print it without a traceback and end with exit code 2.
    """


def one_of(name: str, allowed, got) -> UserError:
    """The sentence for a value outside a fixed set: name, allowed, got."""
    return UserError(f"{name} must be one of {', '.join(map(str, allowed))}; got {repr(got)[:_LONGEST]}")


def first_few(names: Sequence, most: int = 3) -> str:
    """The first names of a list, for a sentence: ``a, b, c, ...``."""
    shown = (str(name) if len(str(name)) <= _LONGEST else f"{str(name)[:_LONGEST]}..." for name in names[:most])
    return ", ".join(shown) + (", ..." if len(names) > most else "")


def reason_of(error: Exception) -> str:
    """Why a library failed, for a sentence: the end of its message, on one line, or else the type of its error."""
    return " ".join(str(error).split())[-200:] or type(error).__name__


class Stopped(Exception):
    """A signal asked to stop: everything is saved, and the same command can go on.

    Commands print the sentence and end with exit code 128 + ``number``, as shells count.
    """

    def __init__(self, number: int, sentence: str):
        super().__init__(sentence)
        self.number = number
