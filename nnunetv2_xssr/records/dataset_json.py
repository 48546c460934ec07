"""nnU-Net's dataset.json: one schema for all who read it."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import read_json


def read_dataset_json(path: Path) -> dict:
    """Read the description of a raw dataset; keys that are not known here may hold anything.

    Raises
    ------
    UserError
        If the file or a part that nnU-Net needs is missing, or a part is not as nnU-Net v2 has it; the sentence names
        the file and the key.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold an object with the keys of nnU-Net's dataset.json; got {_shown(content)}")
    for key in ("channel_names", "file_ending"):
        if content.get(key) in (None, "", {}, []):
            raise UserError(f"{path} has no {key!r}, which nnU-Net needs; add it")
    for key, problem_of in _PARTS.items():
        problem = problem_of(content[key]) if key in content else None
        if problem:
            raise UserError(f"{path}: {key!r} {problem}")
    return content


def name_problem(case: str) -> str | None:
    """Why no case can have this name, of which names of files and lines of lists are made; None if one can."""
    no_file = case in ("", ".", "..") or any(character in "/\\" for character in case)
    if no_file or any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in case):
        return f"names a case {case!r}; a name must be that of a file, without / and \\ and in one line"
    return None


def _channel_names(names) -> str | None:
    if not isinstance(names, dict):
        return f'must be an object such as {{"0": "MRI"}}; got {_shown(names)}'
    if set(names) != {str(number) for number in range(len(names))}:
        return f"must number the channels from 0 without a gap; got {', '.join(names)}"
    if wrong := [name for name in names.values() if not (isinstance(name, str) and name.strip())]:
        return f"must give every channel a name; got {_shown(wrong[0])}"
    return None


def _file_ending(ending) -> str | None:
    if not (isinstance(ending, str) and ending.startswith(".") and len(ending) > 1 and "/" not in ending):
        return f'must be text that begins with a point, such as ".nii.gz"; got {_shown(ending)}'
    return None


def _labels(labels) -> str | None:
    example = '{"background": 0, "tumour": 1}'
    if labels is None:
        return None  # a pool needs none
    if not isinstance(labels, dict):
        return f"must be an object such as {example}; got {_shown(labels)}"
    for name, value in labels.items():
        if isinstance(value, str) and name.isdigit():
            return f"are the other way round, as in nnU-Net v1; write them as {example}"
        if not (_is_whole(value) or _is_list_of(value, _is_whole)):
            return f"must give {name!r} a whole number, or a list of them for a region; got {_shown(value)}"
    if labels.get("background") != 0:
        return f'must give "background" the value 0, as in {example}; got {_shown(labels.get("background"))}'
    return None


def _class_order(order) -> str | None:
    if order is not None and not _is_list_of(order, _is_whole):
        return f"must be a list of whole numbers, one per region; got {_shown(order)}"
    return None


def _table(table) -> str | None:
    if not isinstance(table, dict):
        return f'must be an object such as {{"case_1": {{"images": [...], "label": ...}}}}; got {_shown(table)}'
    for case, entry in table.items():
        if problem := name_problem(case):
            return problem
        if not (isinstance(entry, dict) and _is_list_of(entry.get("images"), _is_file)):
            return f'must give case {case!r} "images", a list of files; got {_shown(entry)}'
        if "label" in entry and not _is_file(entry["label"]):
            return f'must give case {case!r} a file as "label", or leave it out; got {_shown(entry["label"])}'
    return None


def _domains(domains) -> str | None:
    if not isinstance(domains, dict):
        return f'must be an object such as {{"case_1": "Hannover"}}; got {_shown(domains)}'
    for case, domain in domains.items():
        if problem := name_problem(case):
            return problem
        if not (isinstance(domain, str) and domain):
            return f"must give case {case!r} a text; got {_shown(domain)}"
    return None


def _reader(name) -> str | None:
    return None if isinstance(name, str) else f"must be the name of one of nnU-Net's readers; got {_shown(name)}"


_PARTS: dict[str, Callable[[object], str | None]] = {
    "channel_names": _channel_names,
    "file_ending": _file_ending,
    "labels": _labels,
    "regions_class_order": _class_order,
    "dataset": _table,
    "domains": _domains,
    "groups": _domains,
    "overwrite_image_reader_writer": _reader,
}


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_file(value) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_list_of(values, fits: Callable[[object], bool]) -> bool:
    return isinstance(values, list) and len(values) > 0 and all(map(fits, values))


def _shown(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 50 else f"{text[:50]}..."
