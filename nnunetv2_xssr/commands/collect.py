"""nnUNetv2_xssr_collect: take labels back from the annotator and make the dataset ready for training."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_xssr.commands.running import Parser, add_name, add_no_wait, run
from nnunetv2_xssr.errors import UserError, first_few

if TYPE_CHECKING:
    from nnunetv2_xssr.annotation.collecting import Collected
    from nnunetv2_xssr.annotation.control import Compared

_SHOWN = 5  # warnings of one kind


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_xssr_collect",
        description="Check the labels of the cases that nnUNetv2_xssr_select chose, copy those that fit into labelsTr, "
        "and write dataset.json and the split so that nnU-Net trains on what is labelled. What does not fit is listed, "
        "with exit code 2, and can be fixed and collected later; so can what is still missing.",
        examples=(
            "-d 123",
            "-d 123 -l labels_of_the_expert --fix_names --values 255=1",
        ),
    )
    project = parser.add_argument_group("of which selection")
    project.add_argument("-d", required=True, metavar="TARGET", help="nnU-Net raw dataset, by name or number")
    add_name(project)
    add_no_wait(project)
    add = parser.add_argument_group("which labels to take, and how").add_argument
    # fmt: off
    add("-l", type=Path, metavar="LABELS",
        help="folder of labels, named like the cases; by default labels/ of the last hand-over")
    add("--allow_empty", nargs="*", metavar="CASE",
        help="also take labels in which nothing is drawn: of these cases, or of all; a template of --unit slice that "
        "nobody has changed is taken only by name")
    add("--values", nargs="+", metavar="OLD=NEW", default=[],
        help="read stored values of the labels as others: 255=1 for masks that hold 0 and 255")
    add("--fix_names", action="store_true",
        help="take files whose name has an ending such as _0000, _label, -mask or .seg too much, if one case fits")
    add("--fuse", default="first", metavar="HOW",
        help="of cases that several raters drew take the label of the first one named (first, default), what more than "
        "half of them drew (majority), or the most probable one (staple)")
    add("--replace", nargs="+", metavar="CASE", default=[],
        help="take the labels of these cases though they were collected before; the old ones are kept in replaced/ "
        "beside the hand-overs")
    add("--accept", nargs="+", metavar="CASE", default=[],
        help="take the pre-labels of these cases as they were handed over, as a yes in the column accepted of "
        "worklist.csv does")
    # fmt: on
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _collect(args), no_wait=args.no_wait)


def _collect(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.annotation.collecting import collect_labels
    from nnunetv2_xssr.commands.next_steps import describe_next
    from nnunetv2_xssr.commands.rater_text import rater_lines
    from nnunetv2_xssr.records.timesheet import mean_minutes
    from nnunetv2_xssr.trainer_link.linking import ensure_linked

    allow_empty = args.allow_empty is not None if not args.allow_empty else args.allow_empty
    result = collect_labels(
        args.d,
        name=args.name,
        labels=args.l,
        allow_empty=allow_empty,
        values=_values(args.values),
        fix_names=args.fix_names,
        fuse=args.fuse,
        replace=args.replace,
        accept=args.accept,
    )
    workspace, found = result.workspace, result.inspection
    counts = f"{len(found.fit)}; labelled now: {len(result.labelled)} of {result.cases}"
    print(f"{workspace.dataset}: labels collected from {result.folder}: {counts}")
    for sentence in found.warnings[:_SHOWN]:
        print(f"warning: {sentence}")
    if len(found.warnings) > _SHOWN:
        print(f"warning: the same of further labels, {len(found.warnings) - _SHOWN} in all")
    for sentence in [*found.unfit, *result.unfit_cells]:
        print(f"does not fit: {sentence}")
    for told in [*_label_lines(result), *rater_lines(result.of_raters), *_missing_lines(result)]:
        print(told)
    if found.not_asked:
        print(f"not asked for and left alone: {first_few(found.not_asked)}, {len(found.not_asked)} in all")
    for unit in ("case", "slice"):
        if mean := mean_minutes(result.minutes, unit=unit):
            print(f"minutes per {unit}: {round(mean[0], 2):g}, the mean of {mean[1]}; for a -b such as 60min")
    if result.folds:
        folds = f"{result.folds} fold{'s' * (result.folds > 1)}"
        print(f"{workspace.split}: {folds} of the labelled cases, {len(result.train_on)} in all")
        if line := ensure_linked():
            print(line)
    if result.control:
        print(_control_words(result.control))
    print(describe_next(workspace))
    if result.unfit_cells and not found.unfit:
        raise UserError("what is listed above does not fit the worklist; fix it there and run the command again")
    if found.unfit:
        raise UserError(
            f"{len(found.unfit)} label{'s do' if len(found.unfit) > 1 else ' does'} not fit, as listed above; fix what "
            f"is said there and run the command again"
        )


def _control_words(compared: "Compared") -> str:
    """How the model did on chosen and on random cases, where some of both have a label and a kept prediction."""
    if not (compared.chosen and compared.control):
        return f"round {compared.round}: no prediction to compare chosen cases with those drawn at random by"
    chosen, control = (f"{sum(dice) / len(dice):.2f} on {len(dice)}" for dice in (compared.chosen, compared.control))
    told = f"mean Dice {chosen} chosen cases, {control} drawn at random"
    return f"the model that was asked for round {compared.round}: {told}"


def _label_lines(result: "Collected") -> list[str]:
    """What became of labels that were there before, of pre-labels and of vetoed cases, and which labels are odd."""
    equal, agreements = result.inspection.equal, result.agreements.values()
    lines = [f"replaced: {case}; its old label is {old}" for case, old in result.replaced.items()]
    if equal:
        lines.append(f"equal to what was collected before, nothing done: {first_few(equal)}, {len(equal)} in all")
    if now := result.inspection.agreements:
        mean = f"{sum(agreements) / len(agreements):.3f} over {len(agreements)} case{'s' * (len(agreements) != 1)}"
        lines.append(f"pre-labels: {len(now)} collected; mean Dice of label and pre-label {mean}")
    if result.vetoed:
        vetoed = f"{first_few(result.vetoed)}, {len(result.vetoed)} in all"
        lines.append(f"labelled, but vetoed, and so not in the split: {vetoed}")
    return lines + [f"look again: {case}: {'; '.join(words)}" for case, words in result.odd.items()]


def _missing_lines(result: "Collected") -> list[str]:
    """Which labels of the last round are missing, whose they are, and what may have become of them."""
    if not result.missing:
        return []
    lines = [f"still missing: {', '.join(result.missing)}"]
    for rater, cases in result.of_raters.missing.items():
        if here := [case for case in cases if case in result.missing]:  # nobody waits for those of earlier rounds
            lines.append(f"  of {rater}: {', '.join(here)}")
    lines += [
        f"  {image} is not the image of {case} any more; if a label was saved over it, move it to the labels"
        for case, image in result.drawn_over.items()
    ]
    if result.prelabels:
        lines.append("  pre-labels as they were handed over; if right: --accept CASE..., or yes in worklist.csv")
    elif result.templates:
        lines.append("  templates as they were handed over; those with nothing to draw: --allow_empty CASE...")
    return lines


def _values(texts: list[str]) -> dict[int, int]:
    values = {}
    for text in texts:
        match = re.fullmatch(r"(\d{1,9})=(\d{1,9})", text)
        if not match or int(match[1]) in values:
            raise UserError(
                f"--values must be whole numbers such as 255=1, each number once on the left; got {text[:50]!r}"
            )
        values[int(match[1])] = int(match[2])
    return values
