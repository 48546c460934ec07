"""The options of a command as a YAML file: one beside every selection, by which it can be repeated, and users' own."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import is_there

_HEAD = "# selection {}: nnUNetv2_xssr_select --config THIS_FILE repeats it\n"


class _Strings(yaml.BaseLoader):
    """Every value as it is written: ``007``, ``5%`` and ``yes`` are what they would be on the command line."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.MarkedYAMLError(
                problem=f"{twice[0]} stands {keys.count(twice[0])} times", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def config_bytes(options: Mapping[str, Any], *, selection: str) -> bytes:
    """What a file holds of options, and of the id of the selection that was made by them."""
    text = yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True, width=10**6)
    return (_HEAD.format(selection) + text).encode()


def read_config(path: Path) -> dict[str, Any]:
    """Read options: strings, lists and what else YAML has, which the caller checks.

    Raises
    ------
    UserError
        If there is no file, or it is no YAML, or no mapping.
    """
    if not is_there(path):
        raise UserError(f"there is no file {path}; give another one to --config")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Strings)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(f"--config {path} is not YAML ({error.problem}, in line {line}); correct it") from None
    except RecursionError:
        raise UserError(f"--config {path} is nested too deeply; correct it") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path} cannot be read ({' '.join(str(error).split())[:100]}); correct it") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"--config {path} must have lines such as 'budget: 5%', one per option; correct it")
    return content


def id_in_config(path: Path) -> str | None:
    """The selection whose options a file has; None where it is gone or does not say."""
    if not path.is_file():
        return None
    try:
        found = re.match(_HEAD.format(r"(\w+)"), path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found and found[1]
