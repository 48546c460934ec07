"""From features to the record of a selection: the picks of every fold, and why."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Literal, cast

import numpy as np

from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.slices import place_of, volume_of
from nnunetv2_xssr.pipeline.budget import pick
from nnunetv2_xssr.pipeline.doubt import Doubt
from nnunetv2_xssr.pipeline.embed import Embedded
from nnunetv2_xssr.pipeline.plan import Choice, FoldPlan, SelectionPlan
from nnunetv2_xssr.records.selection import (
    AlphaLists,
    BudgetLists,
    ChosenSettings,
    FoldSelection,
    KindsSeen,
    Pick,
    Provenance,
    SelectionRecord,
)
from nnunetv2_xssr.selection import Selection
from nnunetv2_xssr.selection.kinds import kinds_seen

_PACKAGES = ("nnunetv2_xssr", "nnunetv2", "torch", "numpy", "scikit-learn")


def make_record(
    target: ImagePool,
    plan: SelectionPlan,
    embedded: Embedded,
    *,
    choice: Choice,
    settings: dict,
    select: Callable[..., Selection],
    round_number: int,
    name: str,
    doubt: Doubt | None = None,
) -> SelectionRecord:
    """Select the cases of every fold of a plan.

    Parameters
    ----------
    target : ImagePool
    plan : SelectionPlan
    embedded : Embedded
    choice : Choice
    settings : dict
        What the user chose, for the record.
    select : callable
        See `nnunetv2_xssr.pipeline.scheduler.selector`.
    round_number : int
    name : str
        Of the selection.
    doubt : Doubt, optional
        Without it no model was asked.
    """
    cases = target.by_identifier()
    in_memory = not settings["scheduler"]
    selections = [
        _select_fold(
            fold,
            embedded,
            choice=choice,
            cases=cases,
            select=select,
            in_memory=in_memory,
            doubt=doubt.of_cases if doubt else {},
        )
        for fold in plan.folds
    ]
    return SelectionRecord(
        dataset=target.name,
        name=name,
        mode=cast(Literal["annotation", "study"], plan.mode),
        settings=cast(ChosenSettings, settings),
        encoder=embedded.encoder,
        provenance=cast(Provenance, embedded.provenance),
        versions={package: version(package) for package in _PACKAGES},
        selections=selections,
        set_aside=embedded.set_aside,
        mixtures=embedded.mixtures,
        round=round_number,
        raters=choice.dealt(selections[0].picks),
        groups={case.identifier: case.group for case in target.cases if case.group is not None},
        doubt=doubt.facts if doubt else None,
    )


def _select_fold(
    fold: FoldPlan,
    embedded: Embedded,
    *,
    choice: Choice,
    cases: dict[str, Case],
    select: Callable[..., Selection],
    in_memory: bool,
    doubt: Mapping[str, float],
) -> FoldSelection:
    row = {identifier: i for i, identifier in enumerate(embedded.identifiers)}
    place = {identifier: i for i, identifier in enumerate(fold.pool)}
    rows = [row[identifier] for identifier in fold.pool]
    whole = rows == list(range(len(embedded.pool)))
    pool = embedded.pool if whole else embedded.pool[rows]  # a whole pool stays on disk
    labelled = np.array([place[identifier] for identifier in fold.labelled], int)
    compared = {name: embedded.provenance[name] for name in ("components", "widths")}
    chosen = pick(
        fold,
        pool,
        select=select,
        choice=choice,
        source=embedded.source,
        labelled=labelled,
        **compared,
        # Of slices the doubt is that of their volume; of labelled cases there is none, and none is asked for.
        doubt=np.array([doubt.get(volume_of(one), 0.0) for one in fold.pool]) if doubt else None,
    )
    kinds = kinds_seen(pool, chosen.picks, labelled=labelled, **compared) if in_memory else None
    curve, by_budget = (None if each is None else asdict(each) for each in (chosen.curve, chosen.by_budget))
    of_pool = [cases[volume_of(identifier)] for identifier in fold.pool]
    others = {*fold.pool, *(fold.validation or ()), *(choice.excluded if choice.unit == "case" else ())}
    return FoldSelection(
        pool_size=len(fold.pool),
        budget=fold.budget,
        labelled=sorted(set(map(volume_of, fold.labelled))),
        picks=_picks(chosen, fold.pool, of_pool),
        alpha=chosen.alpha,
        alpha_curve=cast(AlphaLists | None, curve),
        mean_distance=chosen.mean_distance,
        covering_radius=chosen.covering_radius,
        random_mean_distance=chosen.random_mean_distance,
        by_budget=cast(BudgetLists | None, by_budget),
        pool_domains=_counts(case.domain for case in of_pool),
        pool_groups=_counts(case.group for case in of_pool),
        kinds=None if kinds is None else cast(KindsSeen, {**asdict(kinds), "sizes": list(kinds.sizes)}),
        left_out=[identifier for identifier in row if identifier not in others],
    )


def _picks(chosen: Selection, names: list[str], of_pool: list[Case]) -> list[Pick]:
    picks = []
    for rank, i in enumerate(chosen.picks):
        case = of_pool[i]
        picks.append(
            Pick(
                rank=rank + 1,
                case=case.identifier,
                domain=case.domain,
                group=case.group,
                cost=case.cost,
                density=float(chosen.density[rank]),
                novelty=float(chosen.novelty[rank]),
                diversity=float(chosen.diversity[rank]),
                score=None if chosen.score is None else float(chosen.score[rank]),
                stands_for=int(chosen.stands_for[rank]),
                doubt=None if chosen.doubt is None else float(chosen.doubt[rank]),
                control=bool(chosen.control[rank]) if chosen.control is not None else None,
                other_volumes=None if chosen.other_wholes is None else int(chosen.other_wholes[rank]),
                slice=None if names[i] == case.identifier else place_of(names[i]),
            )
        )
    return picks


def _counts(names: Iterable[str | None]) -> dict[str, int] | None:
    """How often each name comes, the most frequent first; cases without one count as ""."""
    counts = Counter(name or "" for name in names)
    return dict(counts.most_common()) if set(counts) != {""} else None
