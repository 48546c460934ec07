"""Labels that deserve a second look: unlike the other labels of the study, or unlike what a network predicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_xssr.annotation.label_check import label_names, label_regions
from nnunetv2_xssr.annotation.label_facts import LabelFacts, load_label_facts
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.records.files import is_there
from nnunetv2_xssr.records.rounds import slices_of_rounds
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.validation_summary import read_dice
from nnunetv2_xssr.records.workspace import Workspace

FEWEST = 8  # labels, below which nothing is called odd
# A value is odd from so many standard deviations on, told by the median absolute deviation (Iglewicz and Hoaglin 1993).
ODD = 3.5
_NORMAL = 1.4826  # standard deviations per median absolute deviation of a normal distribution
# The least standard deviation of each: labels that agree by chance, or by their nature, make no small difference odd.
_LEAST = {"volume": 0.15, "pieces": 0.75, "centre": 0.03, "dice": 0.05}
_USUAL = 0.9  # share of labels that hold a value, from which on one without it is odd
# Towards which end a label lies too far: smaller and larger coordinates along z, y and x.
_KNOWN = (("feet", "head"), ("front", "back"), ("patient's right", "patient's left"))
_UNKNOWN = (("first slice", "last slice"), ("top", "bottom"), ("left", "right"))


def names_of_values(dataset_json: dict) -> dict[int, str]:
    """What values of labels are called; those of regions with the value, since it is but a part of each."""
    names = label_names(dataset_json)
    return {value: f"{names[value]} (value {value})" for value in names} if label_regions(dataset_json) else names


def odd_labels(facts: Mapping[str, LabelFacts], names: Mapping[int, str]) -> dict[str, list[str]]:
    """What is odd about labels, in words: volume, number of pieces, or position, per value.

    Each is compared with the median over all whole labels that hold the value, at least `FEWEST`, in units of their
    median absolute deviation.

    Parameters
    ----------
    facts : mapping
        Case to the facts of its label.
    names : mapping
        What values of labels are called.

    Returns
    -------
    dict
        Cases with something odd only.
    """
    whole = {case: one for case, one in facts.items() if one.whole}
    found: dict[str, list[str]] = {}
    for value in sorted({value for one in whole.values() for value in one.drawn}, key=int):
        name = names.get(int(value), value)
        holding = {case: one.drawn[value] for case, one in whole.items() if value in one.drawn}
        if len(holding) >= max(FEWEST, _USUAL * len(whole)):
            for case in sorted(set(whole) - set(holding)):
                found.setdefault(case, []).append(f"holds no {name}, which {len(holding)} of {len(whole)} labels hold")
        if len(holding) < FEWEST:
            continue
        volumes = {case: math.log(drawn.volume) for case, drawn in holding.items()}
        for case, (now, usual) in _outliers(volumes, "volume").items():
            times = math.exp(abs(now - usual))
            what = f"{times:.1f} times as large as usual" if now > usual else f"1/{times:.1f} as large as usual"
            found.setdefault(case, []).append(f"{name} is {what}")
        for case, (now, usual) in _outliers({c: drawn.pieces for c, drawn in holding.items()}, "pieces").items():
            found.setdefault(case, []).append(f"{name} is in {now:.0f} pieces, usually in {usual:.0f}")
        for axis in range(3):
            for case, (now, usual) in _outliers({c: d.centre[axis] for c, d in holding.items()}, "centre").items():
                ends = (_KNOWN if facts[case].known else _UNKNOWN)[axis]
                share = f"{abs(now - usual):.0%} of the image nearer to the {ends[now > usual]} than usual"
                found.setdefault(case, []).append(f"{name} lies {share}")
    return found


def _outliers(values: Mapping[str, float], kind: str) -> dict[str, tuple[float, float]]:
    """The values that are odd, each with the median."""
    array = np.array(list(values.values()), float)
    usual = float(np.median(array))
    deviation = max(_NORMAL * float(np.median(np.abs(array - usual))), _LEAST[kind])
    return {case: (value, usual) for case, value in values.items() if abs(value - usual) > ODD * deviation}


def validated_dice(network: Path, labels: Mapping[str, Path]) -> dict[str, float]:
    """The Dice of cases with the prediction of the fold that did not learn from them, as nnU-Net has measured it.

    Parameters
    ----------
    network : Path
        nnU-Net's folder of a trained network.
    labels : mapping
        Case to its label. One that was written after its validation is left out: it may have been corrected.

    Returns
    -------
    dict
        Case to the mean over its labels: see `nnunetv2_xssr.records.validation_summary.read_dice`.
    """
    found, by_name = {}, {label.name: case for case, label in labels.items()}
    for path in sorted(network.glob("fold_[0-9]*/validation/summary.json")):
        when = path.stat().st_mtime
        for name, dice in read_dice(path).items():
            case = by_name.get(name)
            if case and is_there(labels[case]) and labels[case].stat().st_mtime <= when:
                found[case] = dice
    return found


def disagreements(dice: Mapping[str, float]) -> dict[str, str]:
    """The cases whose label the network disagrees with far more than with the others, the worst first, in words."""
    if len(dice) < FEWEST:
        return {}
    odd = sorted((now, case, usual) for case, (now, usual) in _outliers(dice, "dice").items() if now < usual)
    return {
        case: f"its Dice with the cross-validated prediction is {now:.2f}, usually {usual:.2f}"
        for now, case, usual in odd
    }


def look_again(workspace: Workspace, pool: ImagePool, networks: Sequence[Path]) -> dict[str, list[str]]:
    """What speaks for a second look at labels, in words; no label is opened.

    Parameters
    ----------
    workspace : Workspace
    pool : ImagePool
    networks : sequence of Path
        nnU-Net's folders of trained networks; the one validated last is asked.

    Returns
    -------
    dict
        Case to its reasons: first those that the network disagrees with, the worst first.
    """
    found: dict[str, list[str]] = {}
    validated = [path for network in networks for path in network.glob("fold_[0-9]*/validation/summary.json")]
    if validated:
        last = max(validated, key=lambda path: (path.stat().st_mtime, path))
        labels = {case.identifier: workspace.labels / f"{case.identifier}{pool.file_ending}" for case in pool.cases}
        for case, words in disagreements(validated_dice(last.parents[2], labels)).items():
            found.setdefault(case, []).append(words)
    labelled = {case.identifier for case in pool.cases if case.labelled}
    facts = {case: one for case, one in load_label_facts(workspace).items() if case in labelled}
    for case, odd in odd_labels(facts, names_of_values(pool.dataset_json) if facts else {}).items():
        found.setdefault(case, []).extend(odd)
    return found


@dataclass(frozen=True, kw_only=True)
class LookAgain:
    """A label that deserves a second look, for whoever drew it.

    Attributes
    ----------
    case : str
    round : int or None
        In which it was handed out last; None for a label that was there before.
    slices : list of int
        That alone are drawn; empty for a whole label.
    why : list of str
    """

    case: str
    round: int | None
    slices: list[int]
    why: list[str]


def handed_out(found: Mapping[str, list[str]], rounds: Sequence[SelectionRecord]) -> list[LookAgain]:
    """What `look_again` has found, with where its annotator finds it."""
    round_of = {case: record.round for record in rounds for case in record.picked}
    slices = slices_of_rounds(list(rounds))
    return [
        LookAgain(case=case, round=round_of.get(case), slices=slices.get(case, []), why=why)
        for case, why in found.items()
    ]


def look_again_note(again: Sequence[LookAgain], home: str) -> str:
    """What README.txt says of them; ``home`` is the folder of labels."""
    lines = "\n".join(
        f"- {one.case}{'' if one.round is None else f' (round_{one.round:02d})'}: {'; '.join(one.why)}" for one in again
    )
    return f"""Look again
----------
These labels of earlier rounds are unlike the others, or unlike what the trained network predicts. They may be right: a
rare anatomy is as odd as a slip of the pen. Where one is wrong, save a corrected one in {home} under its name, and
tell the person who sent you this folder, who takes it with nnUNetv2_xssr_collect --replace.

{lines}

"""
