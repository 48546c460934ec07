#!/usr/bin/env python3
"""Does selecting beat random draws? The studies of studies.py, many strategies and encoders, by the fast judge.

    python benchmarks/evidence.py --half confirming --workers 2  # trains what is missing, then prints the tables
    python benchmarks/evidence.py --half tuning --encoders mae:2 mae_grid:2 intensity thumbnails
    python benchmarks/evidence.py --half confirming --tables     # only prints what there is
    python benchmarks/evidence.py --half confirming --count      # only says how many trainings are missing
    python benchmarks/evidence.py --half confirming --figure docs/evidence.png

A run takes ``--workers`` processes of one thread each and keeps every training in ``--work``: stop it at any time and
run it again. Strategies are tuned on one half of the studies and confirmed once on the other.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from encoders import ENCODERS as REGISTERED
from encoders import SEEDLESS, WITH_EMBEDDING, is_there, learns, pretrained
from studies import CONFIRMING, FRESH, STUDIES, TUNING, UNSEEN, Study, source_views, target_of, use_folder

from nnunetv2_xssr.benchmark.arms import (
    RANDOM,
    WHOLE_POOL,
    Arm,
    check_strategies,
    random_arms,
    selected_arms,
    whole_pool,
)
from nnunetv2_xssr.benchmark.jobs import DICE, Job, load_result, run_jobs, unfinished
from nnunetv2_xssr.benchmark.small_judge import FastJudge
from nnunetv2_xssr.benchmark.statistics import (
    describe,
    gain,
    mean_dice,
    mean_over_studies,
    percentile_within,
    worst_cases,
)
from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.errors import UserError, one_of
from nnunetv2_xssr.selection import STRATEGIES, parse_budget
from nnunetv2_xssr.selection.kinds import kinds_seen

ENCODERS = REGISTERED | WITH_EMBEDDING
BUDGETS = ("2.5%", "5%")
OUTCOMES = {"mean Dice": mean_dice, "5th percentile of case Dice": worst_cases}
COMMON_KIND = 0.05  # of the pool: kinds that a selection should see
Kind = tuple[str, str]  # encoder and strategy
BASELINE: Kind = ("", RANDOM)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    # fmt: off
    add("--half", nargs="+", choices=(TUNING, CONFIRMING, FRESH, UNSEEN), default=[TUNING], help="tuning by default")
    add("--studies", default="", metavar="REGEX", help="only studies in whose name this is found")
    add("--encoders", nargs="+", default=["mae:5", "untrained:5"], metavar="NAME:SEEDS",
        help=f"of {', '.join(ENCODERS)}; mae:5 untrained:5 by default")
    add("--first_seed", type=int, default=0, help="of every encoder; 0 by default")
    add("--strategies", nargs="+", default=["xssr", "xssr_sum", "facility_location"],
        help=f"of {', '.join(name for name in STRATEGIES if name != RANDOM)}; "
             "xssr xssr_sum facility_location by default")
    add("--budgets", nargs="+", default=list(BUDGETS), help=f"{' '.join(BUDGETS)} by default".replace("%", "%%"))
    add("--draws", type=int, default=20, help="random draws per study; 20 by default")
    add("--workers", type=int, default=1, help="processes of one thread each; 1 by default")
    add("--work", type=Path, default=Path("results/evidence"), help="folder; results/evidence by default")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--tables", action="store_true", help="only print what there is")
    mode.add_argument("--figure", type=Path, metavar="FILE", help="only draw the gains of the first arm, by study")
    mode.add_argument("--count", action="store_true", help="only say how many trainings are missing")
    # fmt: on
    args = parser.parse_args()
    return run("evidence.py", lambda: evidence(args))


def evidence(args: argparse.Namespace) -> None:
    work = args.work.resolve()
    use_folder(work)
    torch.set_num_threads(1)
    encoders = dict(parse_encoder(text, first=args.first_seed) for text in args.encoders)
    check_strategies(args.strategies)
    studies = [study for study in STUDIES if study.half in args.half and re.search(args.studies, study.name)]
    training = not (args.tables or args.count or args.figure)
    if training:
        seeds = {seed for name in encoders if learns(name) for seed in encoders[name]}
        pretrain_all(studies, seeds, work, args.workers)
    designs = []
    for study in studies:
        design = Design(study, budgets=args.budgets, draws=args.draws, work=work)
        design.add(encoders, args.strategies)
        designs.append(design)
    missing = [len(unfinished(design.jobs, work / "jobs")) for design in designs]
    trainings = len({job for design in designs for job in design.jobs})
    print(f"{', '.join(args.half)}: {trainings} trainings, of which at most {sum(missing)} are missing", flush=True)
    if args.count:
        return
    for design, n_missing in zip(designs, missing, strict=True):
        if training and n_missing:
            print(f"{design.study.name}: {n_missing} trainings", flush=True)
            run_jobs(design.jobs, judge=design.judge(), folder=work / "jobs", workers=args.workers)
    if args.figure:
        draw_gains(designs, args.figure)
        return
    print_tables(designs)


def parse_encoder(text: str, *, first: int) -> tuple[str, range]:
    """``mae:5`` as the name and five seeds from the first one on, one seed where no number is given."""
    name, _, seeds = text.partition(":")
    if name not in ENCODERS:
        raise one_of("--encoders", ENCODERS, name)
    if not re.fullmatch(r"|[1-9]\d*", seeds) or (name in SEEDLESS and seeds):
        raise UserError(f"--encoders takes NAME:SEEDS, such as mae:5, and {', '.join(SEEDLESS)} alone; got {text!r}")
    return name, range(first, first + int(seeds or 1))


def pretrain_all(studies: Sequence[Study], seeds: Iterable[int], work: Path, workers: int) -> None:
    """Pretrain the encoders of all sources, several at a time, each with one thread."""
    sources = list(dict.fromkeys((study.pack, study.source) for study in studies))
    tasks = [
        (pack, source, seed, work)
        for seed in sorted(seeds)
        for pack, source in sources  # whose images are read here, before several processes ask for them
        if not is_there("mae", source_views(pack, source, work), seed, work / "encoders")
    ]
    if tasks:
        with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            list(pool.map(_pretrain, tasks))


def _pretrain(task: tuple[str, str, int, Path]) -> None:
    pack, source, seed, work = task
    use_folder(work)
    pretrained(source_views(pack, source, work), seed, work / "encoders")


class Design:
    """All arms of a study and their jobs."""

    def __init__(self, study: Study, *, budgets: Sequence[str], draws: int, work: Path):
        self.study, self.work = study, work
        self.target = target_of(study.pack, tuple(study.target.items()), work)
        order = np.random.default_rng(0).permutation(len(self.target.pool))
        self.pool = sorted(self.target.pool[i] for i in order[: study.pool])
        self.budget = {text: parse_budget(text, pool_size=len(self.pool)) for text in budgets}
        self.sizes = sorted(set(self.budget.values()))
        self.kinds_told: dict[str, list[int]] = {}
        self.arms: dict[Kind, list[Arm]] = {
            BASELINE: random_arms(self.pool, budgets=self.sizes, draws=draws),
            ("", WHOLE_POOL): [whole_pool(self.pool)],
        }

    def add(self, encoders: dict[str, range], strategies: Sequence[str]) -> None:
        """Select by every encoder that is there, and by every strategy."""
        source, folder = source_views(self.study.pack, self.study.source, self.work), self.work / "encoders"
        views = self.target.views(source)
        row = {case: i for i, case in enumerate(views.pool.identifiers)}
        rows = [row[case] for case in self.pool]
        for encoder, seeds in encoders.items():
            for seed in seeds:
                if not is_there(encoder, source, seed, folder):
                    continue
                found = ENCODERS[encoder](views, source, rows, seed, folder)
                told = kinds_seen(found.pool, np.empty(0, int), components=found.components, widths=found.widths)
                self.kinds_told.setdefault(encoder, []).append(len(told.sizes))
                for arm in selected_arms(self.pool, found, strategies=strategies, budgets=self.sizes, number=seed):
                    self.arms.setdefault((encoder, arm.strategy), []).append(arm)

    @property
    def kinds(self) -> list[Kind]:
        """Encoders and strategies that are compared with random draws."""
        return [kind for kind in self.arms if kind[0]]

    @property
    def jobs(self) -> list[Job]:
        return [self.job(arm) for arms in self.arms.values() for arm in arms]

    def job(self, arm: Arm) -> Job:
        return Job(judge=self.target.identity, cases=tuple(arm.cases), seed=0)

    def judge(self) -> FastJudge:
        return FastJudge(cases=self.target.small_cases(), test=self.target.test)

    def dice(self, kind: Kind, budgets: Iterable[str]) -> np.ndarray | None:
        """Dice points, shape (units, budgets, test cases), of the units that are finished at all of the budgets."""
        sizes, found = [self.budget[text] for text in budgets], {}
        for arm in self.arms.get(kind, []):
            if (result := load_result(self.work / "jobs", self.job(arm))) is not None:
                of_case = result.measures[DICE]
                found[arm.number, arm.budget] = [100 * of_case[case] for case in self.target.test]
        units = [n for n in sorted({n for n, _ in found}) if all((n, size) in found for size in sizes)]
        return np.array([[found[n, size] for size in sizes] for n in units]) if units else None

    def compared(self, kind: Kind, budgets: Iterable[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """The Dice of a kind and of random draws; None while one of them is not there."""
        ours, random = self.dice(kind, budgets), self.dice(BASELINE, budgets)
        return None if ours is None or random is None else (ours, random)

    def kinds_seen(self, kind: Kind, text: str) -> tuple[float, int]:
        """How many of the pool's common domains an arm sees, the mean over its units, and how many there are."""
        domains = self.target.images.dataset_json["domains"]
        pool = [domains[case] for case in self.pool]
        common = {name for name in pool if pool.count(name) >= COMMON_KIND * len(pool)}
        arms = [arm for arm in self.arms[kind] if arm.budget == self.budget[text]]
        return float(np.mean([len({domains[case] for case in arm.cases} & common) for arm in arms])), len(common)


def print_tables(designs: Sequence[Design]) -> None:
    kinds = list(dict.fromkeys(kind for design in designs for kind in design.kinds))
    budgets = list(designs[0].budget) if designs else []
    print_levels(designs)
    for name, outcome in OUTCOMES.items():
        print(f"\nGain over random draws in {name}, mean over the budgets, with its 95 % interval:\n")
        header("study", [" ".join(kind) for kind in kinds])
        for design in designs:
            found = [design.compared(kind, budgets) for kind in kinds]
            row(design.study.name, [pair and describe(gain(*pair, outcome=outcome)) for pair in found])
        print(f"\nThe same, mean over studies, with the 95 % interval over studies, in {name}:\n")
        header("encoder, strategy", [*budgets, "all budgets", "all budgets, mixed studies", "one-kind studies"])
        for kind in kinds:
            cells = [over_studies(designs, kind, [text], outcome) for text in budgets]
            cells.append(over_studies(designs, kind, budgets, outcome))
            for mixed in (True, False):
                part = [design for design in designs if design.study.mixed == mixed]
                cells.append(over_studies(part, kind, budgets, outcome))
            row(" ".join(kind), cells)
        print_differences(designs, kinds, budgets, name)
    print_steadiness(designs, kinds, budgets)
    print_kinds_seen(designs, kinds, budgets)
    print("\nHow many kinds select tells before anything is annotated, mean over encoder seeds:\n")
    encoders = list(dict.fromkeys(encoder for encoder, _ in kinds))
    header("study", [*encoders, "domains"])
    for design in designs:
        told = [design.kinds_told.get(encoder) for encoder in encoders]
        cells = [None if one is None else f"{np.mean(one):.1f}" for one in told]
        row(design.study.name, [*cells, str(len(design.study.target))])


def print_levels(designs: Sequence[Design]) -> None:
    print("\nMean Dice of random draws, and of the whole pool:\n")
    budgets = list(designs[0].budget) if designs else []
    header("study", [*budgets, "whole pool", "pool", "test"])
    for design in designs:
        cells = []
        for text in budgets:
            random = design.dice(BASELINE, [text])
            cells.append(None if random is None else f"{random.mean():.1f} ± {random.mean(axis=(1, 2)).std():.1f}")
        (whole,) = design.arms["", WHOLE_POOL]
        ceiling = load_result(design.work / "jobs", design.job(whole))
        cells.append(ceiling and f"{100 * np.mean(list(ceiling.measures[DICE].values())):.1f}")
        row(design.study.name, [*cells, str(len(design.pool)), str(len(design.target.test))])


def over_studies(designs: Sequence[Design], kind: Kind, budgets: Sequence[str], outcome) -> str | None:
    """The mean gain over the studies that are there, and how many these are."""
    pairs = [pair for design in designs if (pair := design.compared(kind, budgets))]
    if not pairs:
        return None
    gains = np.array([outcome(ours).mean() - outcome(random).mean() for ours, random in pairs])
    return f"{describe(mean_over_studies(gains)) if len(gains) > 1 else f'{gains[0]:+.1f}'} (n = {len(gains)})"


def print_differences(designs: Sequence[Design], kinds: Sequence[Kind], budgets: Sequence[str], name: str) -> None:
    """How far the first encoder and strategy is ahead of each other one, in pairs of the same study."""
    first, *others = kinds
    print(f"\n{' '.join(first)} less each of the others, mean over studies, in {name}:\n")
    header("less", ["mixed studies", "one-kind studies", "all studies"])
    for other in others:
        cells = []
        for wanted in ((True,), (False,), (True, False)):
            pairs = [
                (ours, theirs)
                for design in designs
                if design.study.mixed in wanted
                and (ours := design.dice(first, budgets)) is not None
                and (theirs := design.dice(other, budgets)) is not None
            ]
            differences = np.array([OUTCOMES[name](a).mean() - OUTCOMES[name](b).mean() for a, b in pairs])
            cells.append(f"{describe(mean_over_studies(differences))} (n = {len(pairs)})" if len(pairs) > 1 else None)
        row(" ".join(other), cells)


def draw_gains(designs: Sequence[Design], file: Path) -> None:
    """Gain over random draws by study, with 95 % intervals, of the first encoder and strategy."""
    designs = [design for design in designs if design.compared(design.kinds[0], list(design.budget))]
    labels = [f"{design.study.name.partition(' ')[2]} ({len(design.pool)})" for design in designs]
    figure, panels = plt.subplots(1, len(OUTCOMES), figsize=(11, 0.4 * len(designs) + 1.1), sharey=True)
    for panel, (name, outcome) in zip(panels, OUTCOMES.items(), strict=True):
        for y, design in enumerate(designs):
            ours, random = design.compared(design.kinds[0], list(design.budget)) or ()
            one = gain(ours, random, outcome=outcome)
            color = "tab:orange" if design.study.mixed else "tab:blue"
            panel.plot([one.low, one.high], [y, y], color=color)
            panel.plot(one.mean, y, "o", color=color)
        panel.axvline(0, color="grey", linewidth=1)
        panel.set(xlabel=f"gain over random draws, {name}", yticks=range(len(designs)), yticklabels=labels)
    panels[0].invert_yaxis()
    figure.savefig(file, dpi=100, bbox_inches="tight")
    print(f"{file} is written: orange where kinds are mixed, blue where all are of one")


def print_steadiness(designs: Sequence[Design], kinds: Sequence[Kind], budgets: Sequence[str]) -> None:
    print("\nMean Dice within the random draws (50 = chance), and its spread over seeds against that of the draws:\n")
    header("encoder, strategy", ["mean percentile", "lowest study", "spread of seeds / of draws"])
    for kind in kinds:
        ranks, spreads = {}, []
        for design in designs:
            for text in budgets:
                if pair := design.compared(kind, [text]):
                    ours, random = (dice.mean(axis=(1, 2)) for dice in pair)
                    ranks.setdefault(design.study.name, []).append(percentile_within(ours, random))
                    if len(ours) > 1 and len(random) > 1:
                        spreads.append((ours.std(ddof=1), random.std(ddof=1)))
        if ranks:
            of_study = {name: float(np.mean(found)) for name, found in ranks.items()}
            lowest = min(of_study, key=of_study.__getitem__)
            ratio = f"{np.divide(*np.mean(spreads, axis=0)):.2f}" if spreads else None
            cells = [f"{np.mean(list(of_study.values())):.0f}", f"{of_study[lowest]:.0f} ({lowest})", ratio]
            row(" ".join(kind), cells)


def print_kinds_seen(designs: Sequence[Design], kinds: Sequence[Kind], budgets: Sequence[str]) -> None:
    print("\nKinds of at least 5 % of the pool that are among the picks, of mixed studies:\n")
    header("study, budget", ["random", *(" ".join(kind) for kind in kinds), "there are"])
    for design in (design for design in designs if design.study.mixed):
        for text in budgets:
            seen = [design.kinds_seen(kind, text) if kind in design.arms else None for kind in [BASELINE, *kinds]]
            there_are = str(seen[0][1]) if seen[0] else None
            cells = [one and f"{one[0]:.1f}" for one in seen]
            row(f"{design.study.name}, {text} ({design.budget[text]})", [*cells, there_are])


def header(first: str, rest: Sequence[str]) -> None:
    print(f"| {first} | {' | '.join(rest)} |\n|{'---|' * (1 + len(rest))}")


def row(first: str, cells: Iterable[str | None]) -> None:
    print(f"| {first} | {' | '.join(cell or '' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
