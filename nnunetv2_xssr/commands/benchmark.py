"""nnUNetv2_xssr_benchmark: does selecting beat random draws, on a fully labelled dataset."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_xssr.commands.options import add_encoder_name
from nnunetv2_xssr.commands.running import Parser, add_device, run
from nnunetv2_xssr.records.logs import duration

if TYPE_CHECKING:  # importing them takes seconds, which --help must not
    from nnunetv2_xssr.benchmark.plan import Plan, Settings
    from nnunetv2_xssr.benchmark.run import Cost

PROG = "nnUNetv2_xssr_benchmark"


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog=PROG,
        description="Hold out test cases of a fully labelled dataset, choose from the others by several strategies "
        "and at random, train on every choice, and say whether selecting beats random draws. Run it again to go on "
        "where it stopped.",
        examples=(
            "-d 2 -s 1 --dry_run",
            "-d 2 -s 1 --judge fast",
            "-d 2 -s 1 --jobs commands.txt",
        ),
    )
    # fmt: off
    data = parser.add_argument_group("on what")
    what = data.add_mutually_exclusive_group(required=True)
    what.add_argument("-d", dest="target", metavar="TARGET", help="fully labelled nnU-Net dataset, by name or number")
    what.add_argument("--job", metavar="KEY", help="only train one job of the benchmark in -o: see --jobs")
    add = data.add_argument
    add("-s", dest="sources", nargs="+", default=[], metavar="SOURCE",
        help="datasets or folders of unlabelled images, as in nnUNetv2_xssr_select")
    add("--test", type=Path, metavar="FILE",
        help="text file, one test case per line; by default a fifth of the groups, or of the cases, drawn at random")
    add("--cases", type=Path, metavar="CSV", help="table with a column case, and domain or group (patient)")
    compared = parser.add_argument_group("what is compared")
    add = compared.add_argument
    add("-b", dest="budgets", nargs="+", default=["2.5%", "5%", "10%"], metavar="BUDGET",
        help="cases, or percentages of the pool; 2.5%% 5%% 10%% by default")
    add("--strategies", nargs="+", default=["xssr", "facility_location", "kmeans"], metavar="STRATEGY",
        help="those of nnUNetv2_xssr_select; xssr facility_location kmeans by default")
    add("--draws", type=int, default=10, help="random draws per budget; 10 by default")
    add("--seeds", type=int, default=3, help="encoders, each pretrained with another seed; 3 by default")
    add("--training_seeds", type=int, default=1, help="trainings of every set of cases; 1 by default")
    add_encoder_name(compared)
    add = parser.add_argument_group("who judges").add_argument
    add("--judge", default="nnunet",
        help="nnunet (default), or fast: a small U-Net at 64 pixels in its place, seconds per training on one core")
    add("-c", dest="configuration", default="2d", help="of nnU-Net; 2d by default")
    add("-tr", dest="trainer", default="XSSRTrainer_50epochs", help="XSSRTrainer_50epochs by default")
    add("-p", dest="plans_name", default="nnUNetPlans", help="of nnU-Net; nnUNetPlans by default")
    runs = parser.add_argument_group("where it runs, and what it writes")
    runs.add_argument("-o", dest="folder", type=Path, default=Path("xssr_benchmark"), metavar="FOLDER",
        help="for everything that is written; xssr_benchmark by default")
    mode = runs.add_mutually_exclusive_group()
    mode.add_argument("--dry_run", action="store_true", help="only say how many trainings there are and what they take")
    mode.add_argument("--jobs", type=Path, metavar="FILE",
        help="choose the cases, write one command per training for a cluster, and train nothing")
    # fmt: on
    add_device(runs)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _benchmark(args))


def _benchmark(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.benchmark.jobs import unfinished, write_commands
    from nnunetv2_xssr.benchmark.plan import make_plan
    from nnunetv2_xssr.benchmark.run import BenchmarkFolder, choose_arms, cost_of, train, train_one, write_results
    from nnunetv2_xssr.device import resolve_device
    from nnunetv2_xssr.records.locks import output_lock
    from nnunetv2_xssr.records.logs import log_to

    device, folder = resolve_device(args.device), BenchmarkFolder(args.folder.resolve())
    if args.job:
        print(f"finished job {train_one(args.job, folder, device=device).key}")
        return
    plan = make_plan(_settings(args))
    print(_describe(plan, cost_of(plan, folder, device=device)))
    if args.dry_run:
        return
    with output_lock(folder.path), log_to(folder.log):
        benchmark = choose_arms(plan, folder, device=device)
        if args.jobs:
            missing = unfinished(benchmark.jobs, folder.jobs)
            on = ["-device", args.device] if args.device else []
            write_commands(args.jobs, missing, command=[PROG, "-o", str(folder.path), *on, "--job"])
            print(f"wrote {len(missing)} commands to {args.jobs}; when all have run, type this command without --jobs")
            return
        train(benchmark, folder, device=device)
        results = write_results(benchmark, folder)
    print("\n".join([results.conclusion(), *results.cautions]))
    for path in folder.results:
        print(f"wrote {path}")


def _settings(args: argparse.Namespace) -> "Settings":
    from nnunetv2_xssr.benchmark.plan import Settings
    from nnunetv2_xssr.images.case_table import read_names
    from nnunetv2_xssr.pipeline.repeat import from_anywhere, from_root
    from nnunetv2_xssr.records.workspace import find_dataset

    return Settings(
        target=find_dataset(args.target),
        sources=from_anywhere({"s": args.sources})["s"],
        budgets=args.budgets,
        strategies=args.strategies,
        draws=args.draws,
        seeds=args.seeds,
        training_seeds=args.training_seeds,
        judge=args.judge,
        configuration=args.configuration,
        trainer=args.trainer,
        plans_name=args.plans_name,
        test=read_names(args.test),
        cases=_absolute(args.cases),
        encoder=from_root("encoder", args.encoder),
        encoder_weights=_absolute(args.encoder_weights),
    )


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _describe(plan: "Plan", cost: "Cost") -> str:
    """What the benchmark takes, before anything is done."""
    told = duration(cost.trainings * cost.seconds / cost.workers)
    basis = (
        "as measured in this folder"
        if cost.measured
        else "expected on a core"
        if plan.settings.judge == "fast"
        else "expected on a recent GPU"
    )
    lines = [
        f"{plan.target.name}: pool {len(plan.pool)} cases, test set {len(plan.test)}, budgets of "
        f"{', '.join(map(str, plan.budgets))} cases",
        f"encoders to pretrain: {cost.encoders}",
        f"trainings: {'at most ' * cost.at_most}{cost.trainings}, judge {plan.settings.judge}, {cost.seconds:.0f} s "
        f"each ({basis}), {cost.workers} at a time: {'at most ' * cost.at_most}{told}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
