"""nnU-Net's dataset.json: one schema for all who read it."""

from pathlib import Path
from typing import Annotated, Any, cast

from annotated_types import Ge, Le, Len
from pydantic import AfterValidator, BeforeValidator, with_config
from typing_extensions import NotRequired, TypedDict

from nnunetv2_xssr.records.schema import THEIRS, AsItIs, FileName, Line, read_as

_ADVICE = "fix it: nnU-Net's documentation, dataset_format.md"
_LARGEST = 2**16 - 1  # a label: nnU-Net stores them in 16 bits


def read_dataset_json(path: Path) -> dict:
    """Read the description of a raw dataset; keys that are not known here may hold anything.

    Raises
    ------
    UserError
        If the file or a part that nnU-Net needs is missing, or a part is not as nnU-Net v2 has it; the sentence names
        the file and the key.
    """
    shape = cast(type[dict], Annotated[_Description, AsItIs])
    return read_as(path, shape, advice=_ADVICE)


def _numbered(names: dict[str, str]) -> dict[str, str]:
    if set(names) != {str(number) for number in range(len(names))}:
        raise ValueError("must number the channels from 0 without a gap")
    return names


def _name(name: str) -> str:
    if not name.strip():
        raise ValueError("must give the channel a name")
    return name


def _ending(ending: str) -> str:
    if not ending.startswith(".") or len(ending) < 2 or "/" in ending:
        raise ValueError('must be text that begins with a point, such as ".nii.gz"')
    return ending


def _value_or_region(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(one) is int and 0 <= one <= _LARGEST for one in values):
        raise ValueError(f"must be a whole number up to {_LARGEST}, or a list of them for a region")
    return value


def _from_background(labels: dict[str, Any] | None) -> dict[str, Any] | None:
    if labels is not None and labels.get("background") != 0:
        raise ValueError('must give "background" the value 0, as in {"background": 0, "tumour": 1}')
    return labels


def _names_first(labels: Any) -> Any:
    if isinstance(labels, dict) and any(isinstance(value, str) and key.isdigit() for key, value in labels.items()):
        raise ValueError('are the other way round, as in nnU-Net v1; write {"background": 0, "tumour": 1}')
    return labels


def _file(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError("must be the path of a file")
    return path


File = Annotated[str, AfterValidator(_file)]
Value = Annotated[int, Ge(0), Le(_LARGEST)]


@with_config(THEIRS)
class _Case(TypedDict):
    images: Annotated[list[File], Len(1)]
    label: NotRequired[File]


@with_config(THEIRS)
class _Description(TypedDict):
    channel_names: Annotated[dict[str, Annotated[str, AfterValidator(_name)]], Len(1), AfterValidator(_numbered)]
    file_ending: Annotated[str, AfterValidator(_ending)]
    # A pool needs no labels.
    labels: NotRequired[
        Annotated[
            dict[str, Annotated[Any, AfterValidator(_value_or_region)]] | None,
            BeforeValidator(_names_first),
            AfterValidator(_from_background),
        ]
    ]
    regions_class_order: NotRequired[Annotated[list[Value], Len(1)] | None]
    dataset: NotRequired[dict[FileName, _Case]]
    domains: NotRequired[dict[FileName, Line]]
    groups: NotRequired[dict[FileName, Line]]
    overwrite_image_reader_writer: NotRequired[str]
