"""The worklist to print: a page with a picture of every pick, and these pictures as files."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nnunetv2_xssr.annotation.second_look import LookAgain
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.memory import memory_of
from nnunetv2_xssr.images.pictures import draw_case
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import read_image
from nnunetv2_xssr.records.files import atomic
from nnunetv2_xssr.records.workspace import visible_files

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Worklist of {{ dataset }}</title>
<style>
@page { size: landscape; }
body { font: 11pt sans-serif; margin: 1cm; }
table { border-collapse: collapse; width: 100%; }
th, td { border: 1px solid #888; padding: 4pt; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th, .words { overflow-wrap: normal; }
/* What has to be found or typed is not torn, as far as the page has room. */
{% for name, width in widths.items() %}.{{ name }} { min-width: {{ width }}ch; }
{% endfor -%}
tr { break-inside: avoid; }
img { max-width: 7cm; max-height: 5cm; }
</style>
<main>
<h1>Worklist of {{ dataset }}</h1>
<p>Begin at the top: what is most useful comes first. README.txt says what to draw, and how.</p>
<table>
<thead><tr>{% if pictured %}<th>picture</th>{% endif %}
{%- for name in columns %}<th>{{ name.split("_") | join("_<wbr>" | safe) }}</th>{% endfor %}<th>done</th></tr></thead>
<tbody>
{%- for picture, row in rows %}
<tr>
{%- if pictured %}<td>{% if picture %}<img src="{{ picture }}" alt="{{ row.case }}">{% else %}none{% endif %}</td>
{%- endif %}
{%- for name in columns %}
<td{% if name == "reason" %} class="words"{% elif name in widths %} class="{{ name }}"{% endif %}>
{{- "" if row[name] is none else row[name] }}</td>
{%- endfor %}<td></td></tr>
{%- endfor %}
</tbody>
</table>
{%- if again %}
<h2>Look again</h2>
<p>These labels of earlier rounds are unlike the others, or unlike what the network predicts: see README.txt.</p>
<table>
<thead><tr>{% if pictured %}<th>picture</th>{% endif %}<th>case</th>
<th>slice</th><th>round</th><th>why</th><th>done</th></tr></thead>
<tbody>
{%- for picture, case, slice, round, why in again %}
<tr>
{%- if pictured %}<td>{% if picture %}<img src="{{ picture }}" alt="{{ case }}">{% else %}none{% endif %}</td>
{%- endif %}<td>{{ case }}</td>
<td>{{ slice }}</td><td>{{ round }}</td><td class="words">{{ why | join("; ") }}</td><td></td></tr>
{%- endfor %}
</tbody>
</table>
{%- endif %}
</main>
</html>
"""
_LEFT_OUT = ("files", "selection")  # of the worklist: the page is for people
_WHOLE = ("case", "label")  # columns whose words stay in one line, up to so many characters
_WIDEST, _WIDEST_BESIDE_SLICES = 22, 12  # more would push the last columns off the paper
_PICTURES = "pictures"
_MARK = ("Software", "nnunetv2_xssr")


def write_printable(
    folder: Path,
    pool: ImagePool,
    rows: Sequence[Mapping[str, Any]],
    *,
    again: Sequence[LookAgain] = (),
    pictured: bool = True,
) -> None:
    """Write ``worklist.html`` and ``pictures/``: one .png per row, in which a chosen slice is marked in its volume.

    Without pictures those of an earlier call go.

    Parameters
    ----------
    folder : Path
        Of the hand-over.
    pool : ImagePool
    rows : sequence of mappings
        Of the worklist, by column; all have ``case`` and ``slice``.
    again : sequence of LookAgain
        Labels of earlier rounds, in a table of their own.
    pictured : bool

    Raises
    ------
    UserError
        If a file of the annotator's bears the name of a picture.
    """
    slices: dict[str, list[int | None]] = {}
    for row in rows:
        slices.setdefault(row["case"], []).append(row["slice"])
    for one in again:  # a label that --labelled leaves out may be of a pick
        slices[one.case] = [*dict.fromkeys([*slices.get(one.case, []), *_places(one)])]
    drawn: set[str] = set()
    draw, cases = partial(_draw, pool=pool, slices=slices), pool.only(slices if pictured else ()).cases
    with read_ahead(draw, cases, memory=partial(memory_of, reader=pool.reader())) as pictures:
        for future in pictures:
            for name, pixels in future.result().items():
                _save(folder / _PICTURES / name, pixels)
                drawn.add(name)
    for old in visible_files(folder / _PICTURES):
        if old.name not in drawn and _is_ours(old):
            old.unlink()

    def source(case: str, slice_: int | None) -> str | None:
        name = _name(case, slice_)
        return f"{_PICTURES}/{quote(name)}" if name in drawn else None

    most = _WIDEST if all(row["slice"] is None for row in rows) else _WIDEST_BESIDE_SLICES
    widths = {name: min(max(len(row[name] or "") for row in rows) + 1, most) for name in _WHOLE if name in rows[0]}
    page = Environment(autoescape=True).from_string(_PAGE)
    text = page.render(
        dataset=pool.name,
        pictured=pictured,
        widths=widths,
        columns=[name for name in rows[0] if name not in _LEFT_OUT and any(row[name] is not None for row in rows)],
        rows=[(source(row["case"], row["slice"]), row) for row in rows],
        again=[
            (source(one.case, slice_), one.case, "" if slice_ is None else slice_, one.round or "", one.why)
            for one in again
            for slice_ in _places(one)
        ],
    )
    with atomic(folder / "worklist.html") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _places(one: LookAgain) -> list[int | None]:
    """The slices to show; None stands for the whole image."""
    return [*one.slices] if one.slices else [None]


def _save(path: Path, pixels: np.ndarray) -> None:
    if path.exists() and not _is_ours(path):
        raise UserError(f"{path} was not written by select, which has a picture of this name; move it away")
    mark = PngInfo()
    mark.add_text(*_MARK)
    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG", pnginfo=mark)


def _is_ours(path: Path) -> bool:
    """Whether select wrote a picture: what an annotator has put beside them stays."""
    if not path.is_file():  # Pillow would wait for a pipe
        return False
    try:
        with Image.open(path) as picture:
            return picture.info.get(_MARK[0]) == _MARK[1]
    except (OSError, SyntaxError):  # no picture
        return False


def _name(case: str, slice_: int | None) -> str:
    return f"{case}.png" if slice_ is None else f"{case}_slice_{slice_}.png"


def _draw(case: Case, *, pool: ImagePool, slices: Mapping[str, Sequence[int | None]]) -> dict[str, np.ndarray]:
    """Pictures of a case by their names; none if its image cannot be read, as after its features were computed."""
    try:
        image, properties = read_image(case, pool.reader())
    except (OSError, UserError):
        return {}
    names, geometry = pool.channel_names or (), Geometry.of(properties)
    return {
        _name(case.identifier, slice_): _beside(
            [picture.pixels for picture in draw_case(image, names, geometry=geometry, slice_=slice_)], slice_
        )
        for slice_ in slices[case.identifier]
    }


def _beside(pictures: list[np.ndarray], slice_: int | None) -> np.ndarray:
    """The first picture and, of a slice, the last one beside it, in which a line marks the slice."""
    first, *others = pictures
    shown = [
        Image.fromarray(pixels).convert("RGB") for pixels in ([first, others[-1]] if slice_ is not None else [first])
    ]
    sheet = Image.new("RGB", (sum(one.width for one in shown), max(one.height for one in shown)))
    left = 0
    for one in shown:
        sheet.paste(one, (left, 0))
        left += one.width
    return np.asarray(sheet)
