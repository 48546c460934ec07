"""nnUNetv2_xssr_collect: take labels back from the annotator and make the dataset ready for training."""

import argparse
from pathlib import Path

from nnunetv2_xssr.commands.running import add_name, run
from nnunetv2_xssr.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_xssr_collect",
        description="Check the labels of the cases that nnUNetv2_xssr_select chose, copy those that fit into labelsTr, "
        "and write dataset.json and the split so that nnU-Net trains on what is labelled. What does not fit is listed, "
        "with exit code 2, and can be fixed and collected later; so can what is still missing.",
    )
    add = parser.add_argument
    # fmt: off
    add("-d", required=True, metavar="TARGET", help="nnU-Net raw dataset, by name or number")
    add_name(parser)
    add("-l", type=Path, metavar="LABELS",
        help="folder of labels, named like the cases; by default labels/ of the last hand-over")
    add("--allow_empty", nargs="*", metavar="CASE",
        help="take labels too in which nothing is drawn: of these cases, or of all; a template of --unit slice that is "
        "as it was handed over is taken only by name")
    # fmt: on
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _collect(args))


def _collect(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.annotation.collecting import collect_labels
    from nnunetv2_xssr.commands.next_steps import describe_next
    from nnunetv2_xssr.trainer_link.linking import ensure_linked

    allow_empty = args.allow_empty is not None if not args.allow_empty else args.allow_empty
    result = collect_labels(args.d, name=args.name, labels=args.l, allow_empty=allow_empty)
    workspace, found = result.workspace, result.inspection
    counts = f"{len(found.fit)}; labelled now: {len(result.labelled)} of {result.cases}"
    print(f"{workspace.dataset}: labels collected from {result.folder}: {counts}")
    for sentence in found.unfit:
        print(f"does not fit: {sentence}")
    if result.missing:
        print(f"still missing: {', '.join(result.missing)}")
        if result.templates:
            print("  templates as they were handed over; those with nothing to draw: --allow_empty CASE...")
    if found.not_asked:
        print(f"not asked for and left alone: {len(found.not_asked)} files ({found.not_asked[0]} first)")
    if result.folds:
        folds = f"{result.folds} fold{'s' * (result.folds > 1)}"
        print(f"{workspace.split}: {folds} of the labelled cases, {len(result.train_on)} in all")
        if line := ensure_linked():
            print(line)
    print(describe_next(workspace))
    if found.unfit:
        raise UserError(
            f"{len(found.unfit)} files in {result.folder} do not fit, as listed above; fix them and run the command "
            f"again"
        )
