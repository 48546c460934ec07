"""What files must hold: a type declares it, and one sentence says which place in the file does not fit.

Dataclasses and typed dictionaries are the types; pydantic checks them, without changing a value.
"""

import json
import math
import re
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from annotated_types import Ge, Le
from pydantic import AfterValidator, ConfigDict, PlainValidator, TypeAdapter, ValidationError, WrapValidator
from pydantic_core import ErrorDetails, PydanticSerializationError, SchemaError, to_json

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import check_format, read_json
from nnunetv2_xssr.records.names import check_file_name, check_line

T = TypeVar("T")


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise ValueError("must be a number")
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _as_it_is(value: Any, fit: Callable[[Any], Any]) -> Any:
    fit(value)
    return value


AsItIs = WrapValidator(_as_it_is)  # a typed dictionary otherwise comes back with its declared keys first
Count = Annotated[int, Ge(0), Le(2**53)]  # beyond, programs that read numbers as doubles see another one
Number = Annotated[float, PlainValidator(_number)]  # whole or not
Line = Annotated[str, AfterValidator(check_line)]
FileName = Annotated[str, AfterValidator(check_file_name)]

OURS: ConfigDict = {"extra": "forbid"}  # a key that we do not know may change what the others mean
THEIRS: ConfigDict = {"extra": "allow"}  # nnU-Net and users add keys

_ADVICE = "restore it or delete it"
_WORDS = {
    "string_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "dataclass_type": "must be an object",
    "none_required": "must be null",
    "missing": "is missing",
    "missing_keyword_only_argument": "is missing",
    "extra_forbidden": "is not known",
    "unexpected_keyword_argument": "is not known",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be a hexadecimal number",
}
_NO_VALUE = {"missing", "missing_keyword_only_argument", "extra_forbidden", "unexpected_keyword_argument"}


def read_as(path: Path, shape: type[T], *, kind: str | None = None, version: int = 0, advice: str = _ADVICE) -> T:
    """Read a JSON file that must hold a ``shape``.

    Parameters
    ----------
    path : Path
    shape : type
        A dataclass, a typed dictionary, or a list or dict of such.
    kind, version : str, int
        Of a record of this package: see `check_format`. They are no fields of the shape.
    advice : str
        What to do if the file does not fit.

    Raises
    ------
    UserError
        If the file is missing, not whole, or of another shape; the sentence names the place in the file.
    """
    content = read_json(path)
    if kind is not None:
        check_format(content, kind, version, path)
        try:
            json.dumps(content, allow_nan=False)
        except ValueError:  # no record of ours was written so
            raise UserError(f"{path} holds NaN or infinity, which is no JSON; {advice}") from None
        content = {key: value for key, value in content.items() if key not in ("kind", "format_version")}
    try:
        plain = to_json(content, inf_nan_mode="constants")
    except PydanticSerializationError as error:
        what = "is nested too deeply" if "depth" in str(error) else "holds text that is not UTF-8"
        raise UserError(f"{path} {what}; {advice}") from None
    try:
        # As JSON, in which a list may stand for a tuple and an object for a dataclass, and nothing else for another.
        return _adapter(cast(Hashable, shape)).validate_json(plain, strict=True)
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error)}; {advice}") from None


def check_shape(content: Any, shape: type[T], *, where: str, advice: str) -> T:
    """Check plain values that come from another kind of file, such as a checkpoint.

    Parameters
    ----------
    content : object
    shape : type
        See `read_as`; without dataclasses.
    where : str
        The file, for the sentence.
    advice : str

    Raises
    ------
    UserError
        If they are of another shape.
    """
    try:
        return _adapter(cast(Hashable, shape)).validate_python(content, strict=True)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(error)}; {advice}") from None


@cache
def _adapter(shape: Any) -> TypeAdapter:
    try:
        return TypeAdapter(shape)
    except SchemaError as error:
        if KeyboardInterrupt.__name__ in str(error):  # pydantic takes Ctrl-C for a mistake in what it builds
            raise KeyboardInterrupt from None
        raise


def shown(value: Any) -> str:
    """A value for a sentence, as JSON has it, cut off where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)
    return text if len(text) <= 50 else f"{text[:50]}..."


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    got = "" if first["type"] in _NO_VALUE else f"; got {shown(first['input'])}"
    return f"{_place(first)} {_problem(first)}{got}".lstrip()


def _place(error: ErrorDetails) -> str:
    """Such as ``picks[3].case``; a key that itself does not fit stands alone."""
    steps = error["loc"]
    if steps[-1:] == ("[key]",):
        return f"a name in {_path(steps[:-2])}"
    return _path(steps)


def _path(steps: tuple[int | str, ...]) -> str:
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"\w+", step):
            text += f".{step}"
        else:
            text += f"[{shown(step)}]"
    return text.removeprefix(".") or "the file"


def _problem(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "value_error":
        return str(context["error"])
    if error["type"] == "literal_error":
        return f"must be {context['expected']}"
    if error["type"] == "greater_than_equal":
        return f"must be {context['ge']} or more"
    if error["type"] == "less_than_equal":
        return f"must be {context['le']} or less"
    return _WORDS.get(error["type"]) or f"does not fit ({error['msg']})"
