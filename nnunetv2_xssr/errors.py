"""What commands end with: a mistake that the user can mend, or the wish to stop."""


class UserError(ValueError):
    """A mistake in the input: what, where, what was got and what to do, in one sentence.

    Commands print it without a traceback and end with exit code 2.
    """


def one_of(name: str, allowed, got) -> UserError:
    """The sentence for a value outside a fixed set: name, allowed, got."""
    return UserError(f"{name} must be one of {', '.join(map(str, allowed))}; got {got!r}")


class Stopped(Exception):
    """A signal asked to stop: everything is saved, and the same command can go on.

    Commands print the sentence and end with exit code 128 + ``number``, as shells count.
    """

    def __init__(self, number: int, sentence: str):
        super().__init__(sentence)
        self.number = number
