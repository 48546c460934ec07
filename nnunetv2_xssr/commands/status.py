"""nnUNetv2_xssr_status: where an annotation project or a study stands, and what to type next."""

import argparse
import json
from dataclasses import asdict

from nnunetv2_xssr.commands.frame import run


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_xssr_status",
        description="Say where a target dataset stands: rounds, labels, coverage, split, trained folds, next step.",
    )
    parser.add_argument("-d", required=True, metavar="TARGET", help="nnU-Net raw dataset, by name or number")
    parser.add_argument("--json", action="store_true", help="the same facts for scripts")
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _status(args))


def _status(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.commands.next_steps import describe_next
    from nnunetv2_xssr.folders import check_environment, find_dataset
    from nnunetv2_xssr.pools import dataset_pool
    from nnunetv2_xssr.project import project_of

    check_environment()
    pool = dataset_pool(find_dataset(args.d))
    project = project_of(pool)
    if args.json:
        print(json.dumps(asdict(project), indent=2, ensure_ascii=False))
        return
    print("\n".join(_lines(project)))
    print(describe_next(pool))


def _lines(project) -> list[str]:
    domains = f" of {project.domains} domains" if project.domains > 1 else ""
    lines = [f"{project.dataset}: {project.cases} cases{domains}, {project.labelled} with a label"]
    if project.mode is None:
        return [*lines, "nothing chosen yet"]
    if project.mode == "study":
        lines.append("a study: every case has a label, cases are chosen within each fold")
    for one in project.rounds:
        text = f"round {one.number}: {one.picked} picked, {one.picked - len(one.missing)} labelled"
        if one.missing:
            some = ", ".join(one.missing[:3]) + (", ..." if len(one.missing) > 3 else "")
            text += f", {len(one.missing)} missing ({some}); {one.returned} files wait in {one.handover}/labels"
        lines.append(text)
    lines.append(
        f"coverage: a case lies {project.mean_distance:.3f} from the nearest chosen one on average, "
        f"{project.random_mean_distance:.3f} with random picks"
        + ("" if project.alpha is None else f"; alpha {project.alpha:g}")
    )
    learned = ", ".join(project.sources) or "the pool itself"
    lines.append(f"encoder: {project.encoder or f'pretrained on {learned}'}")
    state = f"{project.not_labelled} not labelled, " if project.not_labelled else ""
    lines.append(
        f"split: {project.folds} folds of {project.in_split} cases, {state}{project.not_preprocessed} not preprocessed"
    )
    for fold in project.trained:
        state = "finished" if fold.finished else "begun"
        lines.append(f"trained: {fold.name}, {state}" + ("" if fold.current else ", before this split was written"))
    return lines if project.trained else [*lines, "trained: nothing yet"]
