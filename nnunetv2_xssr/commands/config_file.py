"""Options from a file: --config, whose keys are the options as they are typed, without the dashes."""

import argparse
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_xssr.errors import UserError, first_few, one_of
from nnunetv2_xssr.records.config import read_config

_in_short = reprlib.Repr()  # of lists in lists that aliases make, which nobody could print in full
_in_short.maxlevel, _in_short.maxlist, _in_short.maxstring = 2, 4, 50
_NOT_KEPT = ("help", "config", "overwrite", "no_wait", "dry_run")  # they say how and not what


def add_config(parser: Any) -> None:
    """Add the option ``--config``."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="take options from this YAML file, such as the select.yaml of an earlier run; those that are typed win",
    )


def with_config(parser: argparse.ArgumentParser, typed: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """What is typed, with the options of the file that it names ahead.

    Returns
    -------
    words : list of str
    values : dict
        Destination to value of every option in the file.

    Raises
    ------
    UserError
        If the file is no such file, names an option that the command does not have, or a value does not fit.
    """
    finder = argparse.ArgumentParser(prog=parser.prog, add_help=False)
    add_config(finder)
    file = finder.parse_known_args(list(typed))[0].config
    if file is None:
        return list(typed), {}
    actions = {key_of(action): action for action in parser._actions if action.dest not in ("help", "config")}
    words: list[str] = []
    values: dict[str, Any] = {}
    for key, value in read_config(file).items():
        action = actions.get(key) or actions.get(key.replace("-", "_"))
        if action is None:
            raise UserError(f"--config {file}: there is no option {key[:50]!r}; {_known(key, actions)}")
        values[action.dest] = _value(action, value, where=f"--config {file}: {key}")
        words += _words(action, value)
    return [*words, *typed], values


def key_of(action: argparse.Action) -> str:
    """What an option is called in a file: its longest spelling, without dashes."""
    return max(action.option_strings, key=len).lstrip("-")


def _known(key: str, actions: dict[str, argparse.Action]) -> str:
    for name, action in actions.items():
        if key.lstrip("-") in (action.dest, *(option.lstrip("-") for option in action.option_strings)):
            return f"it is called {name!r}"
    return f"correct it to one of {first_few(sorted(actions), 50)}"


def _value(action: argparse.Action, value: Any, *, where: str) -> Any:
    """What the parser will make of a value in a file; a `UserError` says what it should have been."""
    if action.nargs == 0 or (action.nargs == "?" and value in ("true", "false")):
        if value not in ("true", "false"):
            raise UserError(f"{where} must be true or false; got {_in_short.repr(value)}")
        return value == "true" and (action.const if action.const is not None else True)
    if action.nargs == "+":
        every = value if isinstance(value, list) else [value]
        if not every or not all(isinstance(one, str) and one for one in every):
            raise UserError(f"{where} must be a value or a list of values; got {_in_short.repr(value)}")
        return [_typed(action, one, where=where) for one in every]
    if not isinstance(value, str) or not value:
        raise UserError(f"{where} must be one value; got {_in_short.repr(value)}")
    return _typed(action, value, where=where)


def _typed(action: argparse.Action, text: str, *, where: str) -> Any:
    kind = action.type if callable(action.type) else str
    try:
        value = kind(text)
    except (ValueError, TypeError):
        raise UserError(f"{where} must be {_KINDS.get(kind, 'another value')}; got {_in_short.repr(text)}") from None
    if action.choices is not None and value not in action.choices:
        raise one_of(where, [str(choice) for choice in action.choices], text)
    return value


_KINDS: dict[Any, str] = {int: "a whole number", float: "a number"}


def _words(action: argparse.Action, value: Any) -> list[str]:
    option = max(action.option_strings, key=len)
    if action.nargs in (0, "?") and value in ("true", "false"):
        return [option] if value == "true" else []
    if isinstance(value, list):
        return [option, *value]
    return [f"{option}={value}"] if value.startswith("-") else [option, value]


def overridden(parser: argparse.ArgumentParser, args: argparse.Namespace, values: dict[str, Any]) -> list[str]:
    """A sentence for every option that was typed otherwise than it stands in the file."""
    options = {action.dest: max(action.option_strings, key=len) for action in parser._actions if action.option_strings}
    return [
        f"{options[dest]} {_text(getattr(args, dest))} was typed, and wins over {_text(value)} in {args.config}"
        for dest, value in values.items()
        if getattr(args, dest) != value
    ]


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def options_to_keep(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """What a file must hold to repeat a call: the options that are not the defaults; paths from the root."""
    kept = {}
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.dest in _NOT_KEPT or value is None or value is False or value in ([], action.default):
            continue
        kept[key_of(action)] = [_plain(one) for one in value] if isinstance(value, list) else _plain(value)
    return kept


def _plain(value: Any) -> Any:
    return str(value.absolute()) if isinstance(value, Path) else value
