"""nnUNetv2_xssr_collect: take labels back from the annotator and make the dataset ready for training."""

import argparse
from dataclasses import replace
from pathlib import Path

from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_xssr_collect",
        description="Check the labels of the cases that nnUNetv2_xssr_select chose, copy those that fit into labelsTr, "
        "and write dataset.json and the split so that nnU-Net trains on what is labelled. What does not fit is listed, "
        "with exit code 2, and can be mended and collected later; so can what is still missing.",
    )
    add = parser.add_argument
    # fmt: off
    add("-d", required=True, metavar="TARGET", help="nnU-Net raw dataset, by name or number")
    add("-l", type=Path, metavar="LABELS",
        help="folder of labels, named like the cases; by default labels/ of the last hand-over")
    add("--allow_empty", nargs="*", metavar="CASE",
        help="take labels too in which nothing is drawn: of these cases, or of all; a template of --unit slice that is "
        "as it was handed over is taken only by name")
    # fmt: on
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _collect(args))


def _collect(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.annotation.collecting import inspect_labels, take_in
    from nnunetv2_xssr.annotation.handover import handover_folder, template_hashes
    from nnunetv2_xssr.annotation.sparse_labels import with_ignore
    from nnunetv2_xssr.commands.next_steps import describe_next
    from nnunetv2_xssr.images.pools import dataset_pool
    from nnunetv2_xssr.images.views import pool_folder
    from nnunetv2_xssr.records.folds import cross_validation
    from nnunetv2_xssr.records.rounds import chosen_cases, load_rounds, slices_of_rounds
    from nnunetv2_xssr.records.split import FILE_NAME as SPLIT_FILE
    from nnunetv2_xssr.records.split import read_split, write_split
    from nnunetv2_xssr.records.workspace import check_environment, find_dataset
    from nnunetv2_xssr.trainer_link.linking import ensure_linked

    check_environment()
    pool = dataset_pool(find_dataset(args.d))
    rounds = load_rounds(pool_folder(pool))
    if not rounds or rounds[-1].mode != "annotation":
        why = "nothing was chosen for annotation" if not rounds else "every case has a label already"
        raise UserError(f"there is nothing to collect for {pool.name}: {why}; choose with nnUNetv2_xssr_select first")
    last = rounds[-1]
    folder = args.l or handover_folder(pool.name, last.round) / "labels"
    chosen = chosen_cases(rounds)
    slices = slices_of_rounds(pool_folder(pool))
    if slices:
        pool = replace(pool, dataset_json=with_ignore(pool.dataset_json))
    templates = template_hashes(handover_folder(pool.name, last.round))
    unknown = sorted(set(args.allow_empty or ()) - set(pool.identifiers))
    if unknown:
        raise UserError(f"--allow_empty names {', '.join(unknown[:3])}, which {pool.name} does not have; mend the name")
    allow_empty = args.allow_empty is not None if not args.allow_empty else args.allow_empty
    found = inspect_labels(pool, folder, chosen, allow_empty, slices, templates)
    labelled = take_in(pool, found.fit)

    print(
        f"{pool.name}: labels collected from {folder}: {len(found.fit)}; labelled now: {len(labelled)} of {len(pool)}"
    )
    for sentence in found.unfit:
        print(f"does not fit: {sentence}")
    missing = [case for case in last.picked if case in found.missing]
    if missing:
        print(f"still missing: {', '.join(missing)}")
        if templates:
            print("  templates as they were handed over; those with nothing to draw: --allow_empty CASE...")
    if found.not_asked:
        print(f"not asked for and left alone: {len(found.not_asked)} files ({found.not_asked[0]} first)")

    train_on = sorted(set(labelled) & set(chosen))
    if train_on:
        path = pool_folder(pool).parent / SPLIT_FILE
        groups = {case: group for record in rounds for case, group in record.groups.items()}
        split = cross_validation(train_on, groups)
        # An unchanged split keeps its date, by which status tells whether a fold was trained on it.
        if not path.is_file() or read_split(path) != split:
            write_split(path, split)
        print(f"{path}: {len(split)} fold{'s' * (len(split) > 1)} of the labelled cases, {len(train_on)} in all")
        if line := ensure_linked():
            print(line)
    print(describe_next(dataset_pool(pool.name)))
    if found.unfit:
        raise UserError(
            f"{len(found.unfit)} files in {folder} do not fit, as listed above; mend them and run the command again"
        )
