"""What nnUNetv2_xssr_select --unit slice does otherwise: slices of volumes are chosen in the place of cases."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.slices import slice_names, slice_pool, view_of, view_slices, volume_of
from nnunetv2_xssr.pipeline.plan import Choice, SelectionPlan, make_plan


def make_slice_plan(
    target: ImagePool, choice: Choice, picked: Mapping[str, Collection[int]], left_out: Collection[str] = ()
) -> SelectionPlan:
    """`make_plan` for slices.

    A labelled volume is not handed out again: the slices that were drawn of it count as chosen, all of them if it was
    drawn as a whole, and no further one is chosen.

    Parameters
    ----------
    target : ImagePool
        Of volumes.
    choice : Choice
    picked : mapping
        The slices of labelled volumes that were picked in earlier rounds.
    left_out : collection of str
        Slices that cannot be chosen.

    Raises
    ------
    UserError
        If an option does not fit the pool.
    """
    if choice.budget.endswith("%"):
        raise UserError(f"-b must be a number of slices with --unit slice; got {choice.budget!r}")
    labelled = [c.identifier for c in target.cases if c.labelled] if choice.labelled is None else choice.labelled
    if len(labelled) == len(target):
        raise UserError(
            f"every case of {target.name} has a label, and --unit slice is for what is still to be annotated; name "
            f"those that count as labelled in a file for --labelled"
        )
    if any(case.cost is not None for case in target.cases):
        raise UserError("costs are those of whole cases; leave the column 'cost' out of --cases with --unit slice")
    cases = {case.identifier: case for case in target.cases}
    drawn, closed = [], set(left_out)
    reader = target.reader()
    for case in sorted(set(labelled) & set(cases) - set(choice.excluded)):
        names = slice_names(case)
        if case in picked:
            places = view_slices(cases[case], reader)
            chosen = sorted({places.index(place) for place in picked[case] if place in places})
            closed |= {name for view, name in enumerate(names) if view not in chosen}
            names = [names[view] for view in chosen]
        drawn += [name for name in names if name not in left_out]
    in_slices = replace(
        choice,
        labelled=drawn,
        excluded=tuple(name for case in choice.excluded for name in slice_names(case)),
        max_per_group=choice.max_per_volume or 1,
        unit="case",
        max_per_volume=None,
    )
    plan = make_plan(slice_pool(target), in_slices, closed)
    groups = {case.identifier: case.group for case in target.cases if case.group is not None}
    return SelectionPlan(plan.mode, plan.folds, groups, "slice")


def slice_finder(target: ImagePool) -> Callable[[str], tuple[int, int]]:
    """A function from the name of a slice to its place in the file of its volume and its view, counted from 0."""
    cases = {case.identifier: case for case in target.cases}
    reader = target.reader()
    places = cache(lambda volume: view_slices(cases[volume], reader))
    return lambda name: (places(volume_of(name))[view_of(name)], view_of(name))


def unlike_slices(names: list[str], rows: np.ndarray, n_views: int) -> np.ndarray:
    """Which rows are no copy of an earlier one of their volume, bool array: a thin volume shows some slices twice.

    Parameters
    ----------
    names : list of str
    rows : array of shape (volumes * n_views, d)
    n_views : int
    """
    first = np.ones(len(names), bool)
    for start in range(0, len(names), n_views):
        seen = set()
        for i in range(start, start + n_views):
            key = rows[i].tobytes()
            first[i] = key not in seen
            seen.add(key)
    return first
