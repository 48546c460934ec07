"""The groups of a pool: which of them the picks see and random draws would miss, and what to show of each."""

import numpy as np

from nnunetv2_xssr.images.slices import volume_of
from nnunetv2_xssr.records.selection import FoldSelection
from nnunetv2_xssr.report.selection_data import identifier_of
from nnunetv2_xssr.selection.kinds import expected_missed, tell_kinds
from nnunetv2_xssr.selection.standardise import Scale

ROW = 12  # pictures side by side on a wide screen


def groups_of(selection: FoldSelection, members: list[str], pool: np.ndarray, scale: Scale) -> list[dict] | None:
    """The groups of a pool, the largest first; None where nobody looked for them.

    Parameters
    ----------
    selection : FoldSelection
    members : list of str
        Of the pool.
    pool : array of shape (n, d)
        Their features.
    scale : Scale
        Of these.

    Returns
    -------
    list of dict
        ``size``; ``picks``, their ranks; ``labelled``, how many were before; ``missed_by_random``, the share of random
        draws of as many cases as are picked that see none of the group; ``shown``, identifiers: the first picks in
        their order, then others, evenly from the most typical of the group to the least.
    """
    if selection.kinds is None:
        return None
    rows = scale.apply(pool)
    kind = tell_kinds(rows) if len(selection.kinds["sizes"]) > 1 else np.zeros(len(rows), int)
    rank = {identifier_of(pick): pick.rank for pick in selection.picks}
    labelled = set(selection.labelled)
    known = np.array([volume_of(identifier) in labelled for identifier in members])
    groups = []
    for number in range(kind.max() + 1):
        places = np.flatnonzero(kind == number)
        central = places[np.argsort(((rows[places] - rows[places].mean(axis=0)) ** 2).sum(axis=1), kind="stable")]
        picks = sorted((members[i] for i in places if members[i] in rank), key=rank.__getitem__)
        others = [members[i] for i in central if members[i] not in rank]
        first = picks[:ROW]
        space = (ROW if len(first) <= ROW // 2 else 2 * ROW) - len(first)
        some = np.unique(np.linspace(0, len(others) - 1, min(len(others), space)).astype(int))
        missed = (
            0.0
            if known[places].any()
            else expected_missed(np.array([len(places)]), n=len(members) - int(known.sum()), drawn=len(rank))
        )
        groups.append(
            {
                "size": len(places),
                "picks": [rank[identifier] for identifier in picks],
                "labelled": int(known[places].sum()),
                "missed_by_random": missed,
                "shown": [*first, *(others[i] for i in some)],
            }
        )
    return sorted(groups, key=lambda group: -group["size"])
