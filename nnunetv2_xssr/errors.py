"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in the input: what, where, what was got and what to do, in one sentence.

    Commands print it without a traceback and end with exit code 2.
    """


def one_of(name: str, allowed, got) -> UserError:
    """The sentence for a value outside a fixed set: name, allowed, got."""
    return UserError(f"{name} must be one of {', '.join(map(str, allowed))}; got {got!r}")
