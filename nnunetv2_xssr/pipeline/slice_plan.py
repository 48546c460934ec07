"""What nnUNetv2_xssr_select --unit slice does otherwise: slices of volumes are chosen in the place of cases."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_table import check_names
from nnunetv2_xssr.images.extract import MOST_VIEWS
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.slices import slice_name, slice_pool
from nnunetv2_xssr.pipeline.plan import Choice, SelectionPlan, make_plan


def make_slice_plan(
    target: ImagePool,
    choice: Choice,
    picked: Mapping[str, Collection[int]],
    candidates: Mapping[str, Collection[int]] | None = None,
) -> SelectionPlan:
    """`make_plan` for slices.

    A labelled volume is not handed out again: the candidates nearest to the slices that were drawn of it count as
    chosen, all of them if it was drawn as a whole, and no further one is chosen.

    Parameters
    ----------
    target : ImagePool
        Of volumes.
    choice : Choice
    picked : mapping
        The slices of labelled volumes that were picked in earlier rounds.
    candidates : mapping, optional
        The slices of every volume that may be chosen; before the images are read, as many as there can be.

    Raises
    ------
    UserError
        If an option does not fit the pool.
    """
    if choice.budget.endswith("%") and any("=" in word for word in choice.domain_quota or ()):
        raise UserError(
            f"numbers of --domain_quota add up to -b, and how many slices -b {choice.budget[:50]} is shows only when "
            f"the images are read; give -b a number of slices"
        )
    check_names("--exclude", choice.excluded, target)
    check_names("--labelled", choice.labelled or (), target)
    labelled = [c.identifier for c in target.cases if c.labelled] if choice.labelled is None else choice.labelled
    if len(labelled) == len(target):
        raise UserError(
            f"every case of {target.name} has a label, and --unit slice is for what is still to be annotated; name "
            f"those that count as labelled in a file for --labelled"
        )
    if any(case.cost is not None for case in target.cases):
        raise UserError("costs are those of whole cases; leave the column 'cost' out of --cases with --unit slice")
    if candidates is None:
        candidates = {case: range(MOST_VIEWS) for case in target.identifiers}
    drawn, closed = [], []
    for case in sorted(set(labelled) & set(candidates) - set(choice.excluded)):
        places = list(candidates[case])
        chosen = _nearest(places, picked[case]) if case in picked else places
        drawn += [slice_name(case, place) for place in chosen]
        closed += [slice_name(case, place) for place in places if place not in chosen]
    in_slices = replace(
        choice,
        labelled=drawn,
        excluded=tuple(slice_name(case, place) for case in choice.excluded for place in candidates.get(case, ())),
    )
    plan = make_plan(slice_pool(target, candidates), in_slices, closed)
    return SelectionPlan(plan.mode, plan.folds, "slice")


def _nearest(places: list[int], drawn: Collection[int]) -> list[int]:
    """The places nearest to those that were drawn; they are the same ones unless other options limit the candidates."""
    found = {places[int(np.abs(np.subtract(places, one)).argmin())] for one in drawn} if places else set()
    return sorted(found)
