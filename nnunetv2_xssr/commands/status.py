"""nnUNetv2_xssr_status: where an annotation project or a study stands, and what to type next."""

import argparse
import json
from collections import Counter
from dataclasses import asdict

from nnunetv2_xssr.commands.running import Parser, add_name, add_no_wait, run
from nnunetv2_xssr.errors import first_few


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_xssr_status",
        description="Say where a target dataset stands: rounds, labels, coverage, split, trained folds, next step.",
        examples=(
            "-d 123",
            "-d 123 --json",
        ),
    )
    parser.add_argument("-d", required=True, metavar="TARGET", help="nnU-Net raw dataset, by name or number")
    add_name(parser)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--json", action="store_true", help="the same facts for scripts")
    either.add_argument(
        "--clean",
        action="store_true",
        help="remove caches of the dataset and of plain folders: views, embeddings and predictions that no selection "
        "refers to, and what HSSL has preprocessed; not while select or HSSL is running",
    )
    add_no_wait(parser)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _status(args), no_wait=args.no_wait)


def _status(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.annotation.project import project_status
    from nnunetv2_xssr.commands.next_steps import describe_next
    from nnunetv2_xssr.records.workspace import Workspace

    status = project_status(args.d, name=args.name)
    if args.json:
        print(json.dumps(asdict(status), indent=2, ensure_ascii=False))
        return
    print("\n".join(_lines(status)))
    if (config := Workspace(status.dataset, status.name).config).is_file():
        print(f"options: {config}; nnUNetv2_xssr_select --config takes them")
    if args.clean:
        print(_cleaned(status.dataset))
    if status.interrupted:
        print(status.interrupted)
        return
    print(describe_next(Workspace(status.dataset, status.name)))


def _cleaned(dataset: str) -> str:
    from nnunetv2_xssr.images.caches import clean_caches

    removed = clean_caches(dataset)
    if not removed:
        return "caches: all are needed, none was removed"
    lines = [f"caches: removed {sum(removed.values()) / 1e6:.1f} MB that nothing needs any more"]
    return "\n".join([*lines, *(f"  {size / 1e6:.1f} MB  {file}" for file, size in removed.items())])


def _lines(project) -> list[str]:
    from nnunetv2_xssr.report.coverage_text import alpha_words, coverage_words

    domains = f" of {project.domains} domains" if project.domains > 1 else ""
    lines = [f"{project.dataset}: {project.cases} cases{domains}, {project.labelled} with a label"]
    if project.mode is None:
        return [*lines, "nothing chosen yet"]
    if project.mode == "study":
        lines.append("a study: every case has a label, cases are chosen within each fold")
    lines += _round_lines(project.rounds)
    if project.vetoes:
        reasons = Counter(reason or "no reason given" for reason in project.vetoes.values())
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        lines.append(f"vetoed, and left out until --forget_vetoes: {first_few(list(project.vetoes))} ({counts})")
    criterion, unit = project.alpha_criterion, project.unit
    alpha = alpha_words(project.alpha, curve=project.alpha_curve, criterion=criterion, unit=unit)
    coverage = coverage_words(project.mean_distance, random=project.random_mean_distance)
    lines.append("; ".join([coverage, alpha] if alpha else [coverage]))
    learned = ", ".join(project.sources) or "the pool itself"
    lines.append(f"encoder: {project.encoder or f'pretrained on {learned}'}")
    state = f"{project.not_labelled} not labelled, " if project.not_labelled else ""
    folds = f"{project.folds} fold{'s' * (project.folds != 1)}"
    cases = f"{project.in_split} case{'s' * (project.in_split != 1)}"
    of_cases = f"{folds} of {cases}, {state}{project.not_preprocessed} not preprocessed"
    lines.append(f"split: {of_cases if project.folds else 'none before labels are collected'}")
    if project.changed:
        lines.append(f"labels that changed after nnU-Net preprocessed them: {first_few(project.changed)}")
    lines += _trained_lines(project.trained) or ["trained: nothing yet"]
    if project.look_again:
        lines.append(f"look again at {len(project.look_again)} of the labels:")
        lines += [f"  {case}: {'; '.join(words)}" for case, words in project.look_again.items()]
    return lines


def _round_lines(rounds) -> list[str]:
    *earlier, last = rounds or [None]
    lines = []
    if earlier:
        picked = sum(one.picked for one in earlier)
        missing, vetoed = (sum(len(getattr(one, what)) for one in earlier) for what in ("missing", "vetoed"))
        first, latest = earlier[0].number, earlier[-1].number
        numbers = f"s {first} to {latest}" if len(earlier) > 1 else f" {first}"
        lines.append(f"round{numbers}: {_labelled_words(picked, missing, vetoed)}")
    if last:
        words = _labelled_words(last.picked, len(last.missing), len(last.vetoed))
        text = f"round {last.number}: {words}"
        if last.missing:
            text += f", {len(last.missing)} missing ({first_few(last.missing)})"
            wait = "1 file waits" if last.returned == 1 else f"{last.returned} files wait"
            text += f"; {wait} in {last.handover}/labels"
        lines.append(text)
    return lines


def _labelled_words(picked: int, missing: int, vetoed: int) -> str:
    return f"{picked} picked, {picked - missing - vetoed} labelled" + (f", {vetoed} vetoed" if vetoed else "")


def _trained_lines(trained) -> list[str]:
    """A line for each network, whose folds are told apart by how far they are."""
    networks: dict[str, dict[str, list[str]]] = {}
    for fold in trained:
        network, name = fold.name.split("/fold_")
        state = ("finished" if fold.finished else "begun") + ("" if fold.current else ", not on the present split")
        networks.setdefault(network, {}).setdefault(state, []).append(name)
    return [
        f"trained: {network}: " + "; ".join(f"fold {', '.join(names)} {state}" for state, names in states.items())
        for network, states in networks.items()
    ]
