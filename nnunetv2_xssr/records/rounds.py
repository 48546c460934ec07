"""Rounds of annotation: cases are chosen, labelled and collected, then the next ones are chosen.

``selection.json`` is the record of the last round; those before it are kept beside it as ``selection_round_01.json``.
"""

from collections.abc import Collection

from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.records.config import id_in_config
from nnunetv2_xssr.records.files import is_there, read_json, write_bytes
from nnunetv2_xssr.records.logs import last_command
from nnunetv2_xssr.records.manifest import Manifest, id_in_report, id_in_worklist, selection_id
from nnunetv2_xssr.records.selection import SelectionRecord, picked_slices
from nnunetv2_xssr.records.vetoes import Reason
from nnunetv2_xssr.records.workspace import Workspace


def load_rounds(workspace: Workspace) -> list[SelectionRecord]:
    """The records of all rounds of a selection, oldest first; none if nothing was chosen yet."""
    if not is_there(workspace.record):
        return []
    last = SelectionRecord.load(workspace.record)
    kept = [SelectionRecord.load(path) for path in sorted(workspace.selection.glob("selection_round_*.json"))]
    # One of the last round itself is what an interrupted call left.
    return [*(record for record in kept if record.round < last.round), last]


def last_round(workspace: Workspace, *, overwrite: bool) -> SelectionRecord | None:
    """The record of the last round; None if there is none, or it cannot be read and is to be overwritten anyway."""
    try:
        return next(reversed(load_rounds(workspace)), None)
    except UserError:
        if overwrite:
            return None
        raise


def interruption(workspace: Workspace) -> str | None:
    """A sentence on what is of another selection than the record, and what to type; None where all is of one."""
    manifest = Manifest.load(workspace.manifest)
    found = {
        workspace.manifest: manifest and manifest.selection,
        workspace.report: id_in_report(workspace.report),
        workspace.config: id_in_config(workspace.config),
    }
    own = None
    if workspace.record.is_file():
        last = SelectionRecord.load(workspace.record)
        own = selection_id(read_json(workspace.record))
        if last.mode == "annotation" and last.picked:
            worklist = workspace.worklist(last.round)
            found[worklist] = id_in_worklist(worklist)
    elif manifest is None:
        return None
    others = [path.name for path, selection in found.items() if selection not in (None, own)]
    if not others:
        return None
    typed = last_command(workspace.log) or f"nnUNetv2_xssr_select -d {workspace.dataset}{workspace.options} ..."
    return (
        f"{first_few(others)} and {workspace.record} are not of one selection: a select was interrupted, or a file was "
        f"changed; type again: {typed}"
    )


def keep_round(workspace: Workspace, last: SelectionRecord) -> None:
    """Keep the record of a round, and its options, under their own names, before the next ones take their place."""
    pairs = {workspace.record: workspace.round_record(last.round)}
    # A select that was interrupted has kept the options of the round already, and written its own.
    if id_in_config(workspace.config) in (None, selection_id(read_json(workspace.record))):
        pairs[workspace.config] = workspace.round_config(last.round)
    for path, kept in pairs.items():
        if is_there(path):
            write_bytes(kept, path.read_bytes())


def vetoes_of(record: SelectionRecord | None) -> dict[str, Reason | None]:
    """Case to reason of all vetoes that last: those of a round of annotation. Older records have names alone."""
    if record is None or record.mode != "annotation":
        return {}
    return {**dict.fromkeys(record.settings["excluded"]), **record.vetoes}


def begins_round(
    last: SelectionRecord | None,
    *,
    mode: str,
    labelled: Collection[str],
    vetoed: Collection[str] = (),
    overwrite: bool,
) -> bool:
    """Whether choosing now begins a new round, instead of repeating or replacing the last one.

    A round begins when labels of the last one are there. As long as none is, the last round may still be replaced.

    Parameters
    ----------
    last : SelectionRecord or None
    mode : {"study", "annotation"}
        Of the selection to be made.
    labelled : collection of str
    vetoed : collection of str
        Nobody waits for their labels.
    overwrite : bool

    Raises
    ------
    UserError
        If labels of the last round are still missing or no case is left, unless ``overwrite`` says to go on.
    """
    if last is None or last.mode != "annotation":
        return False
    if mode == "study" and not overwrite:
        raise UserError(
            f"every case of {last.dataset} has a label now, after round {last.round}: nothing is left to choose; to "
            f"choose within each fold, as in a study, give --overwrite"
        )
    missing = [case for case in last.picked if case not in labelled]
    if len(missing) == len(last.picked):
        return False
    missing = [case for case in missing if case not in vetoed]
    if missing and not overwrite:
        collect = f"nnUNetv2_xssr_collect -d {last.dataset}{last.workspace.options}"
        raise UserError(
            f"round {last.round} of {last.dataset} still waits for the labels of {len(missing)} of {len(last.picked)} "
            f"cases ({first_few(missing)}); collect them first ({collect}), or choose the next ones without them: "
            f"--overwrite"
        )
    return True


def chosen_cases(rounds: list[SelectionRecord]) -> list[str]:
    """All cases that were picked in any round or counted as labelled in one."""
    return sorted({case for record in rounds for case in [*record.selections[0].labelled, *record.picked]})


def groups_of_rounds(rounds: list[SelectionRecord]) -> dict[str, str]:
    """Case to group (patient) as the last round of annotation that knew it has it: no table need be given again."""
    of_annotation = (record.groups for record in rounds if record.mode == "annotation")
    return {case: group for groups in of_annotation for case, group in groups.items()}


def raters_of_rounds(rounds: list[SelectionRecord]) -> dict[str, list[str]]:
    """Who draws each case, as the last round that picked it deals them out; none that has no rater of its own."""
    raters: dict[str, list[str]] = {}
    for record in rounds:
        raters = {case: names for case, names in raters.items() if case not in record.picked} | record.raters
    return raters


def slices_of_rounds(rounds: list[SelectionRecord]) -> dict[str, list[int]]:
    """The slices to draw of every volume, as the last round that picked it has them; none of a whole volume."""
    return {case: asked[0] for case, asked in slices_by_round(rounds).items()}


def slices_by_round(rounds: list[SelectionRecord]) -> dict[str, list[list[int]]]:
    """The slices to draw of every volume, one list per round that asked for some, that of the last one first.

    A round that is gone on from without its labels leaves its hand-overs with the annotators, and a later one may ask
    for other slices of the same volume. None of a volume that was then picked as a whole.
    """
    found: dict[str, list[list[int]]] = {}
    for record in rounds:
        slices = picked_slices(record.selections[0].picks)
        for case in record.picked:
            found[case] = [slices[case], *found.get(case, [])] if case in slices else []
    return {case: asked for case, asked in found.items() if asked}
