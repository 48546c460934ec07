"""What the report tells, as plain values: the page draws them, and scripts read them as JSON."""

from collections import Counter

import numpy as np

from nnunetv2_xssr.annotation.project import second_look
from nnunetv2_xssr.annotation.reasons import reason
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.images.slices import place_of, volume_of
from nnunetv2_xssr.records.selection import FoldSelection, SelectionRecord
from nnunetv2_xssr.report.budget_text import gains, knee_words, next_words, sure_words
from nnunetv2_xssr.report.groups import groups_of
from nnunetv2_xssr.report.kinds_text import kinds_words
from nnunetv2_xssr.report.layout import lay_out, most_alike
from nnunetv2_xssr.report.selection_data import PoolData, SelectionData, identifier_of
from nnunetv2_xssr.selection.standardise import Scale

KIND, FORMAT_VERSION = "report facts", 1
POOL_DOTS, SOURCE_DOTS = 1000, 300  # of the map at most, besides the picks


def gather(kept: SelectionData) -> dict:
    """All facts about a selection.

    Returns
    -------
    dict
        ``dataset``, ``channel_names``, ``mode``, ``unit`` (case or slice: what is chosen and counted),
        ``views_per_case`` (1 in 2D and of slices), ``sources`` (name to number of cases or slices), ``settings``,
        ``versions``, ``provenance``, ``vetoes`` (case to reason or None, of what was excluded), ``look_again`` (case to
        what is odd about its label now: see `nnunetv2_xssr.annotation.second_look`), ``set_aside``, ``mixtures`` (what
        differs in how files are stored), and ``selections``: for every fold or the whole pool, ``picks`` with reason
        and nearest cases, ``map`` with one dot per case, ``coverage``, ``kinds`` (None where nobody looked),
        ``groups_of_pool`` (none where nobody looked: see `nnunetv2_xssr.report.groups.groups_of`), ``budget`` (None
        without a curve), ``alpha`` (None for strategies without it), ``domains`` and ``groups`` (None where no case has
        one). Distances are between standardised embeddings: 0 for copies, 2 for opposites. A pick, a nearest case and
        a dot have an ``identifier``, their ``case`` (of a slice the volume) and a ``name`` to show; these are the same
        unless slices are chosen.
    """
    record = kept.record
    selections = [
        _selection(kept, number, one, members)
        for number, (one, members) in enumerate(zip(record.selections, kept.members, strict=True))
    ]
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "dataset": record.dataset,
        "channel_names": kept.channel_names,
        "mode": record.mode,
        "unit": record.settings["unit"],
        "views_per_case": kept.target.views_per_case,
        "sources": {source.name: len(source.identifiers) for source in kept.sources},
        "settings": record.settings,
        "versions": record.versions,
        "provenance": record.provenance,
        "vetoes": {case: record.vetoes.get(case) for case in record.settings["excluded"]},
        "look_again": _look_again(record),
        "set_aside": record.set_aside,
        "mixtures": record.mixtures,
        "selections": selections,
    }


def _look_again(record: SelectionRecord) -> dict[str, list[str]]:
    try:
        pool = dataset_pool(record.dataset)
    except UserError:  # what is left of the images is no dataset: there is nothing to look at again
        return {}
    return second_look(record.workspace, pool)


def _selection(kept: SelectionData, number: int, selection: FoldSelection, members: list[str]) -> dict:
    place = {identifier: i for i, identifier in enumerate(kept.target.identifiers)}
    rows = [place[identifier] for identifier in members]
    whole = len(rows) == len(kept.target.identifiers)
    pool = kept.target.embeddings if whole else kept.target.embeddings[rows]
    made_from = kept.record.provenance
    scale = Scale.of(pool, components=made_from["components"], widths=made_from.get("widths"))
    labelled = set(selection.labelled)
    rank = {identifier_of(pick): pick.rank for pick in selection.picks}
    return {
        "fold": number if kept.record.mode == "study" else None,
        "pool_size": selection.pool_size,
        "labelled": [identifier for identifier in members if volume_of(identifier) in labelled],
        "picks": _picks(selection, members, pool, scale),
        "coverage": {
            "mean_distance": selection.mean_distance,
            "random_mean_distance": selection.random_mean_distance,
            "covering_radius": selection.covering_radius,
        },
        "groups_of_pool": [
            {**group, "shown": [{**_named(one), "rank": rank.get(one)} for one in group["shown"]]}
            for group in groups_of(selection, members, pool, scale) or ()
        ],
        "kinds": selection.kinds
        and {
            **selection.kinds,
            "in_words": kinds_words(selection.kinds, picked=len(selection.picks), unit=kept.record.settings["unit"]),
        },
        "budget": _budget(selection, kept.record.settings["unit"]),
        "alpha": _alpha(selection, kept.record.settings["alpha_criterion"]),
        "domains": _domains(selection),
        "groups": _groups(selection),
        "map": _map(selection, members, pool, scale, kept.sources),
    }


def _picks(selection: FoldSelection, members: list[str], pool: np.ndarray, scale: Scale) -> list[dict]:
    place = {identifier: i for i, identifier in enumerate(members)}
    picked = {identifier_of(pick): pick for pick in selection.picks}
    rows = np.array([place[identifier] for identifier in picked], int)
    near = zip(*(part.tolist() for part in most_alike(pool, scale, rows)), strict=True)
    return [
        {
            **_named(identifier),
            # Reports are passed on, and who annotates shall not know which cases were drawn at random.
            **{name: value for name, value in vars(pick).items() if name != "control"},
            "reason": reason(pick, alpha=selection.alpha),
            "most_alike": [{**_named(members[row]), "distance": distance} for distance, row in zip(*pair, strict=True)],
        }
        for (identifier, pick), pair in zip(picked.items(), near, strict=True)
    ]


def _named(identifier: str) -> dict:
    """How a case or a slice is called."""
    case = volume_of(identifier)
    name = case if case == identifier else f"{case}, slice {place_of(identifier)}"
    return {"identifier": identifier, "case": case, "name": name}


def _budget(selection: FoldSelection, unit: str) -> dict | None:
    curve, picked = selection.by_budget, len(selection.picks)
    if curve is None:
        return None
    return {
        **curve,
        "picked": picked,
        "next": [vars(gain) for gain in gains(curve, picked)],
        "knee_in_words": knee_words(curve, picked, unit),
        "next_in_words": next_words(curve, picked, unit),
        "sure_in_words": sure_words(curve, picked, unit),
    }


def _alpha(selection: FoldSelection, criterion: str) -> dict | None:
    if selection.alpha is None or selection.alpha_curve is None:
        return None
    return {"taken": selection.alpha, "criterion": criterion, **selection.alpha_curve}


def _domains(selection: FoldSelection) -> list[dict] | None:
    if selection.pool_domains is None:
        return None
    picked = Counter(pick.domain or "" for pick in selection.picks)
    return [{"domain": name, "pool": count, "picked": picked[name]} for name, count in selection.pool_domains.items()]


def _groups(selection: FoldSelection) -> dict | None:
    if selection.pool_groups is None:
        return None
    picked = Counter(pick.group for pick in selection.picks if pick.group)
    named = {name: count for name, count in selection.pool_groups.items() if name}
    return {
        "pool": len(named),
        "picked": len(picked),
        "largest_in_pool": max(named.values(), default=0),
        "largest_picked": max(picked.values(), default=0),
    }


def _map(selection: FoldSelection, members: list[str], pool: np.ndarray, scale: Scale, sources: list[PoolData]) -> dict:
    """A dot for every pick, and for a sample of the rest of the pool and of the sources where they are many."""
    picked = {identifier_of(pick): pick for pick in selection.picks}
    labelled = set(selection.labelled)
    place = {identifier: i for i, identifier in enumerate(members)}
    others = _sample([identifier for identifier in members if identifier not in picked], POOL_DOTS)
    everywhere = [(source, i) for source in sources for i in range(len(source.identifiers))]
    before = _sample(everywhere, SOURCE_DOTS)
    dots = [_dot(_named(source.identifiers[i]), "source", pool=source.name) for source, i in before]
    dots += [_dot(_named(one), "labelled" if volume_of(one) in labelled else "pool") for one in others]
    dots += [_dot(_named(one), "pick", rank=pick.rank) for one, pick in picked.items()]
    features = [source.embeddings[i] for source, i in before] + [pool[place[one]] for one in [*others, *picked]]
    layout = lay_out(scale.apply(np.array(features)))
    for dot, (x, y) in zip(dots, layout.positions.tolist(), strict=True):
        dot.update(x=round(x, 4), y=round(y, 4))
    return {
        "method": layout.method,
        "shown": layout.shown,
        "pool_left_out": len(members) - len(picked) - len(others),
        "source_left_out": len(everywhere) - len(before),
        "dots": dots,
    }


def _dot(named: dict, kind: str, pool: str | None = None, rank: int | None = None) -> dict:
    return {**named, "kind": kind, "pool": pool, "rank": rank}


def _sample(items: list, most: int) -> list:
    """At most so many of the items, drawn evenly with a fixed seed, in their order."""
    if len(items) <= most:
        return items
    drawn = np.random.default_rng(0).choice(len(items), most, replace=False)
    return [items[i] for i in np.sort(drawn)]
