"""The labels of a dataset as annotators' tools read them: a name, a value and a colour each."""

import colorsys
import json
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_xssr.annotation.label_check import IGNORE, label_names
from nnunetv2_xssr.records.files import atomic

SLICER, ITK_SNAP, NAPARI = "labels.ctbl", "labels.label", "labels.json"
# Okabe and Ito's colours, which colour-blind readers tell apart.
_FIRST = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"]
_GOLDEN = (5**0.5 - 1) / 2  # of a turn of hue: no two of many colours come near each other
_IGNORED = 0.15  # opacity: the image shows through
_SNAP_HEADER = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
"""


@dataclass(frozen=True, kw_only=True)
class ShownLabel:
    """A label and how it is shown.

    Attributes
    ----------
    value : int
    name : str
    rgb : tuple of int
        Up to 255.
    opacity : float
        From 0 to 1.
    """

    value: int
    name: str
    rgb: tuple[int, int, int]
    opacity: float


def shown_labels(dataset_json: dict) -> list[ShownLabel]:
    """The labels by value: distinct colours, the background invisible, and the ignore label nearly so."""
    ignore, labels, drawn = dataset_json["labels"].get(IGNORE), [], 0
    for value, name in label_names(dataset_json).items():
        rgb, opacity = (0, 0, 0), 0.0
        if value == ignore:
            rgb, opacity = (128, 128, 128), _IGNORED
        elif value:
            rgb, opacity = _colour(drawn), 1.0
            drawn += 1
        labels.append(ShownLabel(value=value, name=name, rgb=rgb, opacity=opacity))
    return labels


def write_colour_tables(folder: Path, dataset_json: dict) -> None:
    """Write the labels for 3D Slicer, ITK-SNAP, and napari or MITK."""
    labels = shown_labels(dataset_json)
    shown = [
        {"name": one.name, "value": one.value, "color": [*(round(part / 255, 4) for part in one.rgb), one.opacity]}
        for one in labels
    ]
    texts = {
        SLICER: _slicer(labels),
        ITK_SNAP: _SNAP_HEADER + "".join(_snap_line(one) for one in labels),
        NAPARI: json.dumps(shown, indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def _slicer(labels: list[ShownLabel]) -> str:
    """3D Slicer shows the underscores of a .ctbl as spaces."""
    lines = [f"# {len(labels)} labels: value, name, red, green, blue, opacity"]
    for one in labels:
        colour = (*one.rgb, round(255 * one.opacity))
        lines.append(f"{one.value} {one.name.replace(' ', '_')} {' '.join(map(str, colour))}")
    return "\n".join(lines) + "\n"


def _snap_line(one: ShownLabel) -> str:
    red, green, blue = one.rgb
    seen = int(one.opacity > 0)
    mesh = int(one.opacity == 1)  # no surface of what is ignored
    return f'{one.value:>5} {red:>5} {green:>4} {blue:>4} {one.opacity:>9g} {seen:>2} {mesh:>2}    "{one.name}"\n'


def _colour(number: int) -> tuple[int, int, int]:
    if number < len(_FIRST):
        code = int(_FIRST[number][1:], 16)
        return code >> 16, code >> 8 & 255, code & 255
    red, green, blue = colorsys.hsv_to_rgb(
        number * _GOLDEN % 1, (0.9, 0.55, 0.75)[number % 3], (1.0, 0.85, 0.65)[number // 3 % 3]
    )
    return round(255 * red), round(255 * green), round(255 * blue)
