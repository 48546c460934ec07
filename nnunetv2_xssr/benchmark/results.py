"""What the finished jobs of a benchmark tell: one row per job as CSV, tables and a sentence as Markdown."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from nnunetv2_xssr.benchmark.arms import RANDOM, WHOLE_POOL, Arm
from nnunetv2_xssr.benchmark.jobs import DICE, JobResult, load_result, result_file
from nnunetv2_xssr.benchmark.plan import FAST, Benchmark
from nnunetv2_xssr.benchmark.statistics import (
    Gain,
    annotation_saved,
    budgets_won,
    conclusion,
    describe,
    gain,
    gains_by_domain,
    mean_dice,
    percentile_within,
    worst_cases,
    worst_tenth,
)
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.records.files import atomic
from nnunetv2_xssr.records.logs import logger

FEW_GROUPS = 8  # of test cases; a 95 % interval over fewer of them holds the truth less than 9 times in 10
Table = tuple[list[str], list[list[str]]]  # header and rows
JUDGE_WORDS = {FAST: "the fast judge (a small U-Net at 64 pixels, not nnU-Net)"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A strategy against random draws at one budget, in Dice points.

    Attributes
    ----------
    strategy : str
    budget : int
        Cases.
    dice, spread : float
        Mean over units and test cases, and the standard deviation of the units' means; NaN for a single unit.
    worst_tenth : float
    gain, gain_worst : Gain or None
        In the mean and in the 5th percentile of case Dice; None for random draws themselves.
    percentile : float or None
        See `percentile_within`.
    saved : float or None
        See `annotation_saved`.
    """

    strategy: str
    budget: int
    dice: float
    spread: float
    worst_tenth: float
    gain: Gain | None = None
    gain_worst: Gain | None = None
    percentile: float | None = None
    saved: float | None = None


class Results:
    """The measures of all arms.

    Parameters
    ----------
    benchmark : Benchmark
    folder : Path
        Of the results of jobs; all jobs are finished.

    Attributes
    ----------
    measures : list of str
        What every job measured.

    Raises
    ------
    UserError
        If the result of a job lacks a test case.
    """

    def __init__(self, benchmark: Benchmark, folder: Path):
        self.benchmark = benchmark
        self.of_job: dict[str, JobResult] = {}
        for job in benchmark.jobs:
            result = load_result(folder, job)
            assert result is not None, "write results when all jobs are finished"
            for measure, values in result.measures.items():
                if missing := sorted(set(benchmark.test) - set(values)):
                    raise UserError(
                        f"{result_file(folder, job)} lacks the {measure} of {first_few(missing)}; delete it to train "
                        f"again"
                    )
            self.of_job[job.key] = result
        self.measures = self._common_measures()
        self.strategies = benchmark.settings.strategies
        self.budgets = sorted({arm.budget for arm in benchmark.arms if arm.strategy == RANDOM})
        self.ceiling = float(self.points([arm for arm in benchmark.arms if arm.strategy == WHOLE_POOL]).mean())

    @property
    def judge(self) -> str:
        """The judge in words."""
        settings = self.benchmark.settings
        return JUDGE_WORDS.get(settings.judge, f"nnU-Net ({settings.configuration}, {settings.trainer})")

    def _common_measures(self) -> list[str]:
        """What every job measured; the log names what only some did, such as those of machines with MONAI."""
        counts = Counter(measure for result in self.of_job.values() for measure in result.measures)
        for measure, count in sorted(counts.items()):
            if count < len(self.of_job):
                logger.warning(f"only {count} of {len(self.of_job)} trainings measured {measure}: it is left out")
        return sorted(measure for measure, count in counts.items() if count == len(self.of_job))

    def points(self, arms: Sequence[Arm], measure: str = DICE) -> np.ndarray:
        """A measure, times 100, the mean over training seeds, shape (arms, test cases)."""
        found = [
            [list(map(self.of_job[job.key].measures[measure].__getitem__, self.benchmark.test)) for job in jobs]
            for jobs in map(self.benchmark.jobs_of, arms)
        ]
        return 100 * np.array(found).mean(axis=1)

    def values(self, strategy: str, measure: str = DICE) -> np.ndarray:
        """A measure, times 100, of a strategy or of random draws, shape (units, budgets, test cases)."""
        of_budget = [
            sorted((arm for arm in self.benchmark.arms if (arm.strategy, arm.budget) == (strategy, k)), key=_number)
            for k in self.budgets
        ]
        return np.stack([self.points(arms, measure) for arms in of_budget], axis=1)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """At every budget the random draws, then all strategies."""
        random, found, groups = self.values(RANDOM), [], self.benchmark.groups
        sizes = np.append(self.budgets, self.benchmark.pool_size)
        curve = np.append(random.mean(axis=(0, 2)), self.ceiling)
        of_strategy = {strategy: self.values(strategy) for strategy in self.strategies}
        for i, budget in enumerate(self.budgets):
            found.append(_level(RANDOM, budget, random[:, i]))
            for strategy, dice in of_strategy.items():
                level, ours, theirs = _level(strategy, budget, dice[:, i]), dice[:, i], random[:, i]
                found.append(
                    replace(
                        level,
                        gain=gain(ours, theirs, groups=groups),
                        gain_worst=gain(ours, theirs, outcome=worst_cases, groups=groups),
                        percentile=percentile_within(mean_dice(ours), mean_dice(theirs)),
                        saved=annotation_saved(level.dice, n_cases=budget, budgets=sizes, random=curve),
                    )
                )
        return found

    @cached_property
    def overall(self) -> dict[str, Gain]:
        """The gain of every strategy in mean Dice, over all budgets."""
        return self.gains(DICE)

    def gains(self, measure: str) -> dict[str, Gain]:
        """The gain of every strategy in the mean of a measure, over all budgets."""
        random, groups = self.values(RANDOM, measure), self.benchmark.groups
        return {strategy: gain(self.values(strategy, measure), random, groups=groups) for strategy in self.strategies}

    def conclusion(self) -> str:
        """The sentence."""
        return conclusion(self.overall, judge=self.judge)

    @cached_property
    def cautions(self) -> list[str]:
        """Sentences about what the intervals do not cover."""
        benchmark, found = self.benchmark, []
        seeds, same = benchmark.settings.seeds, [name for name in self.strategies if self._same_by_all_seeds(name)]
        if seeds == 1:
            found.append("With one encoder seed the intervals do not cover other seeds.")
        elif same:
            found.append(
                f"All {seeds} encoder seeds chose the same cases by {', '.join(same)}: these intervals cover neither "
                f"other encoders nor other trainings."
            )
        groups = set(benchmark.groups or benchmark.test)
        if len(groups) < FEW_GROUPS:
            what = "cases" if len(groups) == len(benchmark.test) else "groups"
            found.append(f"The test set holds {len(groups)} {what} only: intervals over so few are too narrow.")
        return found

    def _same_by_all_seeds(self, strategy: str) -> bool:
        sets = {(arm.budget, *sorted(arm.cases)) for arm in self.benchmark.arms if arm.strategy == strategy}
        return len(sets) == len(self.budgets)


def _number(arm: Arm) -> int:
    return arm.number


def _level(strategy: str, budget: int, dice: np.ndarray) -> Comparison:
    means = mean_dice(dice)
    return Comparison(
        strategy=strategy,
        budget=budget,
        dice=float(means.mean()),
        spread=float(means.std(ddof=1)) if len(means) > 1 else float("nan"),
        worst_tenth=float(worst_tenth(dice).mean()),
    )


def write_csv(path: Path, results: Results) -> None:
    """One row per arm and training seed; arms with the same cases name the same job."""
    header = ["job", "judge", "strategy", "budget", "encoder_seed_or_draw", "training_seed", "seconds"]
    header += [
        f"{measure}_{name}" for measure in results.measures for name in ("mean", "5th_percentile", "worst_tenth")
    ]
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for arm in results.benchmark.arms:
            for job in results.benchmark.jobs_of(arm):
                one = results.of_job[job.key]
                facts = [job.key, results.benchmark.settings.judge, arm.strategy, arm.budget, arm.number, job.seed]
                of_cases = [
                    np.array([one.measures[measure][case] for case in results.benchmark.test])
                    for measure in results.measures
                ]
                told = [of(values) for values in of_cases for of in (mean_dice, worst_cases, worst_tenth)]
                writer.writerow([*facts, one.seconds, *(f"{value:.5f}" for value in told)])


def write_markdown(path: Path, results: Results) -> None:
    """The sentence, and the tables."""
    benchmark = results.benchmark
    settings = benchmark.settings
    numbers = [
        f"Pool: {benchmark.pool_size} cases; test set: {len(benchmark.test)}; mean Dice of the whole pool: "
        f"{results.ceiling:.1f}.",
        f"Random draws per budget: {settings.draws}; encoder seeds: {settings.seeds}; trainings per set of cases: "
        f"{settings.training_seeds}.",
        "Dice in points; gains with 95 % intervals (bootstrap over draws or encoder seeds, and test cases, those of a "
        "group together), which are not corrected for the number of strategies.",
    ]
    parts = [
        f"# {settings.target}: does selecting beat random draws?",
        results.conclusion(),
        " ".join([*numbers, *results.cautions]),
        *(_table(*table) for table in tables(results)),
    ]
    with atomic(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def tables(results: Results) -> list[Table]:
    """Header and rows of every table: all budgets, those that were won, and domains where there are several."""
    of_domains = [_by_domain(results)] if len(set(results.benchmark.domains)) > 1 else []
    return [_comparisons(results), _won(results), *of_domains]


def _comparisons(results: Results) -> Table:
    header = ["cases", "strategy", "mean Dice", "gain", "gain in the 5th percentile", "worst tenth"]
    header += ["percentile within random draws", "random cases for the same Dice"]
    rows = []
    for one in results.comparisons:
        spread = "" if np.isnan(one.spread) else f" ± {one.spread:.1f}"
        row = [str(one.budget), one.strategy, f"{one.dice:.1f}{spread}"]
        row += ["" if each is None else describe(each) for each in (one.gain, one.gain_worst)]
        row += [f"{one.worst_tenth:.1f}", "" if one.percentile is None else f"{one.percentile:.0f}"]
        rows.append([*row, "" if one.saved is None else f"{one.budget + one.saved:.0f} ({one.saved:+.0f})"])
    return header, rows


def _won(results: Results) -> Table:
    random, rows = mean_dice(results.values(RANDOM)), []
    others = {measure: results.gains(measure) for measure in results.measures if measure != DICE}
    for strategy, one in results.overall.items():
        won = budgets_won(mean_dice(results.values(strategy)), random)
        further = [describe(gains[strategy]) for gains in others.values()]
        rows.append([strategy, f"{won} of {len(results.budgets)}", describe(one), *further])
    header = ["strategy", "budgets above the mean of random draws", "gain over all budgets in mean Dice"]
    return [*header, *(f"in {measure.replace('_', ' ')}" for measure in others)], rows


def _by_domain(results: Results) -> Table:
    benchmark = results.benchmark
    domains, groups = benchmark.domains, benchmark.groups
    header = ["domain of the test cases", "test cases", *(f"gain of {name}" for name in results.strategies)]
    gains = [
        gains_by_domain(results.values(name), results.values(RANDOM), domains=domains, groups=groups)
        for name in results.strategies
    ]
    rows = []
    for domain in sorted(set(domains)):
        own = {group for group, one in zip(groups or benchmark.test, domains, strict=True) if one == domain}
        # One case, or one patient, tells nothing of how far others differ: an interval would not know of them.
        told = [describe(one[domain]) if len(own) > 1 else f"{one[domain].mean:+.1f} (no interval)" for one in gains]
        rows.append([domain or "none", str(domains.count(domain)), *told])
    return header, rows


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
