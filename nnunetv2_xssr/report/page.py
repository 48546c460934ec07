"""From facts to one self-contained HTML file that asks nothing of a network."""

import base64
import hashlib
import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nnunetv2_xssr.images.channels import normalisation_schemes
from nnunetv2_xssr.records.files import atomic, read_json
from nnunetv2_xssr.records.locks import selection_lock
from nnunetv2_xssr.records.manifest import selection_id
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.vetoes import REASONS
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace, find_dataset
from nnunetv2_xssr.report.charts import HEIGHT, WIDTH, alpha_chart, budget_chart
from nnunetv2_xssr.report.facts import gather
from nnunetv2_xssr.report.kinds_text import ONE_KIND, missed_words
from nnunetv2_xssr.report.selection_data import PoolData, SelectionData, load_record, load_selection_data
from nnunetv2_xssr.report.thumbnails import Shown, Thumbnail, pick_thumbnails, view_thumbnail

_HERE = Path(__file__).resolve().parent
_MAP = 560  # width and height of the map's viewBox
_MARGIN = 20
_ROOM = 20  # between picks whose numbers do not overlap: twice the radius that page.html gives them


def write_report(dataset: str | int, *, name: str = DEFAULT_NAME, thumbnails: bool = True) -> Path:
    """Write ``report.html`` beside a selection of a dataset, given by name or number, and return its path.

    Without ``thumbnails`` it shows no case, and can be mailed.

    Raises
    ------
    UserError
        If there is no selection, or what it was made from is not on disk any more.
    """
    workspace = Workspace(find_dataset(dataset), name)
    load_record(workspace)  # before a folder is made for its lock
    with selection_lock(workspace):
        selection = selection_id(read_json(workspace.record))
        return write_page(load_record(workspace), selection=selection, thumbnails=thumbnails)


def write_page(record: SelectionRecord, *, selection: str, thumbnails: bool = True) -> Path:
    """Write the report of a record, which may not be written yet, and its id: see `write_report`."""
    kept = load_selection_data(record)
    facts = gather(kept)
    path = record.workspace.report
    with atomic(path) as temporary:
        page = render(facts, pictures(kept, facts) if thumbnails else {}, selection=selection)
        temporary.write_text(page, encoding="utf-8")
    return path


def pictures(kept: SelectionData, facts: dict) -> dict[str, dict[str, Shown]]:
    """All that the page shows: name of its pool ("" for the target), then its identifier there."""
    found = {"": pick_thumbnails(kept)}
    pools = {source.name: source for source in kept.sources} | {"": kept.target}
    for selection in facts["selections"]:
        shown = [("", near["identifier"]) for pick in selection["picks"] for near in pick["most_alike"]]
        shown += [(dot["pool"] or "", dot["identifier"]) for dot in selection["map"]["dots"]]
        shown += [("", one["identifier"]) for group in selection["groups_of_pool"] for one in group["shown"]]
        for pool, case in shown:
            known = found.setdefault(pool, {})
            if case not in known and (small := _small(pools[pool], case, kept)):
                known[case] = Shown([small], [])
        for group in selection["groups_of_pool"]:
            for one in group["shown"]:
                pick = found[""].get(one["identifier"])
                if one["rank"] and pick and not pick.beside:
                    found[""][one["identifier"]] = replace(pick, beside=_small(kept.target, one["identifier"], kept))
    return found


def _small(pool: PoolData, case: str, kept: SelectionData) -> Thumbnail | None:
    views = pool.views(case)
    return None if views is None else view_thumbnail(views[len(views) // 2], kept.channel_names)


def render(facts: dict, shown: dict[str, dict[str, Shown]], *, selection: str) -> str:
    """The page as text.

    Parameters
    ----------
    facts : dict
        See `nnunetv2_xssr.report.facts.gather`.
    shown : dict
        See `pictures`; empty for a page without any.
    selection : str
        Its id.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = ((_HERE / f"page.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    # The page may run this script and this style and load nothing: a hostile name that slips through can do no harm.
    seen = {identifier for identifier, one in shown.get("", {}).items() if one.thumbnails}
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
    return environment.get_template("page.html").render(
        facts=facts,
        selection=selection,
        sections=[_drawn(selection, unit=facts["unit"], pictured=seen) for selection in facts["selections"]],
        pictured=bool(shown),
        shows_ct="CTNormalization" in normalisation_schemes(facts["channel_names"]),
        shown=shown.get("", {}),
        # Every picture is in the file once, however often it is shown.
        images={
            pool: {case: [one.uri for one in shown_of.all] for case, shown_of in cases.items()}
            for pool, cases in shown.items()
        },
        style=Markup(style),
        script=Markup(script),
        policy=policy + "base-uri 'none'; form-action 'none'",
        width=WIDTH,
        height=HEIGHT,
        map_size=_MAP,
        can_be_listed=can_be_listed,
        reasons=REASONS,
        one_kind=ONE_KIND,
        missed_words=missed_words,
    )


def can_be_listed(case: str) -> bool:
    """Whether a case's name survives a text file with one case per line, and a tab behind it."""
    return case.strip().splitlines() == [case] and "\t" not in case


def _stops(selection: dict, chart: dict | None, unit: str) -> list[dict]:
    """What the slider says at every number of picks: ``k``, ``told`` in words, and ``at``, its place in the chart."""
    curve, groups, count = selection["budget"], selection["groups_of_pool"], len(selection["picks"])
    budgets = [k for k in curve["budget"] if k <= count] if curve else list(range(1, count + 1))
    stops = []
    for i, k in enumerate(budgets):
        told, at = [], None
        if curve and chart:
            ours, random = curve["mean_distance"][i], curve["random_median"][i]
            told.append(
                f"An average {unit} lies {ours:.3f} from the chosen one that is most like it (random: {random:.3f})"
            )
            at = [chart["x"].at(k), chart["y"].at(ours)]
        if len(groups) > 1:
            seen = sum(group["labelled"] > 0 or any(rank <= k for rank in group["picks"]) for group in groups)
            told.append(f"{seen} of {len(groups)} groups are seen")
        stops.append({"k": k, "told": "; ".join(told), "at": at})
    return stops


def _drawn(selection: dict, *, unit: str, pictured: Collection[str]) -> dict:
    """A selection with its charts, and of the groups what has a picture."""
    half = _MAP / 2 - _MARGIN
    dots = _numbered(
        [
            dot | {"cx": round(_MAP / 2 + half * dot["x"], 1), "cy": round(_MAP / 2 - half * dot["y"], 1)}
            for dot in selection["map"]["dots"]
        ]
    )
    # The map is cut to the height that its dots take.
    top = min((dot["cy"] for dot in dots), default=0) - _MARGIN
    bottom = max((dot["cy"] for dot in dots), default=_MAP) + _MARGIN
    budget = selection["budget"] and budget_chart(selection["budget"])
    return selection | {
        "stops": _stops(selection, budget, unit),
        "groups_of_pool": [
            group | {"shown": [one for one in group["shown"] if one["identifier"] in pictured]}
            for group in selection["groups_of_pool"]
        ],
        "map": selection["map"] | {"dots": dots, "top": round(top, 1), "height": round(bottom - top, 1)},
        "budget_chart": budget,
        "alpha_chart": selection["alpha"] and len(selection["alpha"]["alpha"]) > 1 and alpha_chart(selection["alpha"]),
    }


def _numbered(dots: list[dict]) -> list[dict]:
    """The dots, of the picks those without a number and then those with one, which so lie above all others.

    A pick has its number where none of an earlier pick is in the way.
    """
    bare: list[dict] = []
    numbered: list[dict] = []
    for dot in sorted((dot for dot in dots if dot["rank"]), key=lambda dot: dot["rank"]):
        room = all(math.dist((dot["cx"], dot["cy"]), (one["cx"], one["cy"])) >= _ROOM for one in numbered)
        (numbered if room else bare).append(dot | {"numbered": room})
    return [dot for dot in dots if not dot["rank"]] + bare + numbered


def _digest(text: str) -> str:
    """What a content security policy calls an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
