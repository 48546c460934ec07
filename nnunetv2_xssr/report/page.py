"""From facts to one self-contained HTML file that asks nothing of a network."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nnunetv2_xssr.records.files import atomic
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace
from nnunetv2_xssr.report.charts import HEIGHT, WIDTH, alpha_chart, budget_chart
from nnunetv2_xssr.report.facts import gather
from nnunetv2_xssr.report.selection_data import SelectionData, load_selection_data
from nnunetv2_xssr.report.thumbnails import data_uri

_HERE = Path(__file__).resolve().parent
_PICK_SIDE, _DOT_SIDE = 128, 96  # pixels; the views have 128
_MAP = 560  # width and height of the map's viewBox
_MARGIN = 20


def write_report(dataset: str, *, name: str = DEFAULT_NAME) -> Path:
    """Write ``report.html`` beside a selection of a dataset and return its path.

    Raises
    ------
    UserError
        If there is no selection, or what it was made from is not on disk any more.
    """
    workspace = Workspace(dataset, name)
    kept = load_selection_data(workspace)
    facts = gather(kept)
    path = workspace.report
    with atomic(path) as temporary:
        temporary.write_text(render(facts, pictures(kept, facts)), encoding="utf-8")
    return path


def pictures(kept: SelectionData, facts: dict) -> dict[str, dict[str, str]]:
    """A data URI for all that the page shows: name of its pool ("" for the target), then its identifier there."""
    found: dict[str, dict[str, str]] = {"": {}}
    names = kept.channel_names
    for selection in facts["selections"]:
        for pick in selection["picks"]:
            case = pick["identifier"]
            if case not in found[""]:
                found[""][case] = data_uri(kept.target.views(case), names, _PICK_SIDE, several=True)
    pools = {source.name: source for source in kept.sources} | {"": kept.target}
    for selection in facts["selections"]:
        alike = [near["identifier"] for pick in selection["picks"] for near in pick["most_alike"]]
        shown = [("", case) for case in alike]
        shown += [(dot["pool"] or "", dot["identifier"]) for dot in selection["map"]["dots"]]
        for pool, case in shown:
            known = found.setdefault(pool, {})
            if case not in known:
                known[case] = data_uri(pools[pool].views(case), names, _DOT_SIDE)
    return found


def render(facts: dict, images: dict[str, dict[str, str]]) -> str:
    """The page as text.

    Parameters
    ----------
    facts : dict
        See `nnunetv2_xssr.report.facts.gather`.
    images : dict
        See `pictures`.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = ((_HERE / f"page.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    # The page may run this script and this style and load nothing: a hostile name that slips through can do no harm.
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
    return environment.get_template("page.html").render(
        facts=facts,
        sections=[_drawn(selection) for selection in facts["selections"]],
        images=images,
        style=Markup(style),
        script=Markup(script),
        policy=policy + "base-uri 'none'; form-action 'none'",
        width=WIDTH,
        height=HEIGHT,
        map_size=_MAP,
        can_be_listed=can_be_listed,
    )


def can_be_listed(case: str) -> bool:
    """Whether a case's name survives a text file with one case a line."""
    return case.strip().splitlines() == [case]


def _drawn(selection: dict) -> dict:
    """A selection with its charts."""
    half = _MAP / 2 - _MARGIN
    dots = [
        dot | {"cx": round(_MAP / 2 + half * dot["x"], 1), "cy": round(_MAP / 2 - half * dot["y"], 1)}
        for dot in selection["map"]["dots"]
    ]
    # The map is cut to the height that its dots take.
    top = min((dot["cy"] for dot in dots), default=0) - _MARGIN
    bottom = max((dot["cy"] for dot in dots), default=_MAP) + _MARGIN
    return selection | {
        "map": selection["map"] | {"dots": dots, "top": round(top, 1), "height": round(bottom - top, 1)},
        "budget_chart": selection["budget"] and budget_chart(selection["budget"]),
        "alpha_chart": selection["alpha"] and len(selection["alpha"]["alpha"]) > 1 and alpha_chart(selection["alpha"]),
    }


def _digest(text: str) -> str:
    """What a content security policy calls an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
