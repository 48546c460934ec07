#!/usr/bin/env python3
"""Does a model's doubt make better rounds? Three rounds to 5 % of the pool, by the fast judge; what pre-labels save.

    python benchmarks/rounds.py --workers 2            # trains what is missing, then prints the tables
    python benchmarks/rounds.py --tables               # only prints what there is
    python benchmarks/rounds.py --question embedding   # is the average over places better than the grid, on nuclei?
    python benchmarks/rounds.py --question shares      # do shares of kinds help, where kinds are mixed?
    python benchmarks/rounds.py --question intensity   # do intensities beside the grid help there, as today's default?

All labels are hidden at first. Every repetition has an encoder seed of its own and draws 80 % of the pool. After each
round the small U-Net learns from all labels so far; its doubt about a case is 1 - Dice between what it predicts of the
image and of its mirror image, as nnUNetv2_xssr_select does with one fold. A simulated annotator corrects what it
predicts of the cases of the next round: the share of voxels to correct is that of wrong voxels, in voxels of the
structures, so that drawing from nothing counts as 1.

Cases are compared by the grid, but where the question is another one. The first two questions are asked of
``xssr_no_shares``, the default of their time.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from encoders import ENCODERS, WITH_EMBEDDING
from evidence import header, pretrain_all, row
from scipy.stats import spearmanr
from studies import FRESH, STUDIES, TUNING, UNSEEN, Study, source_views, target_of, use_folder

from nnunetv2_xssr.benchmark.arms import Features
from nnunetv2_xssr.benchmark.fast_judge import dice_per_case, predictions
from nnunetv2_xssr.benchmark.statistics import describe, mean_over_studies
from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.records.files import read_json, write_json
from nnunetv2_xssr.selection import select

RANDOM, COLD, DOUBT, AVERAGE = "random", "xssr without a model", "xssr with doubt", "xssr by the average"
SHARES, DEFAULT = "xssr with shares", "xssr with shares and intensities"
ROUNDS, BUDGET, SHARE = 3, 0.05, 0.8
OF_DOUBT = [
    next(study for study in STUDIES if (study.half, study.pack, study.mixed) == (TUNING, pack, mixed))
    for pack, mixed in (("CXRLung", False), ("NucleiDSB", True), ("Hippocampus3D", False))
]
OF_NUCLEI = [one for one in STUDIES if one.pack == "NucleiDSB" and one.pool is None and one.half not in (FRESH, UNSEEN)]
NUCLEI = [study for study in OF_NUCLEI if study not in OF_DOUBT]
MIXED = [study for study in OF_NUCLEI if study.mixed]
# Studies and arms; every arm is compared with those before it.
QUESTIONS = {
    "doubt": (OF_DOUBT, (RANDOM, COLD, DOUBT)),
    "embedding": (NUCLEI, (RANDOM, COLD, AVERAGE)),
    "shares": (MIXED, (RANDOM, COLD, SHARES)),
    "intensity": (MIXED, (RANDOM, SHARES, DEFAULT)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--question", choices=list(QUESTIONS), default="doubt")
    add("--repetitions", type=int, default=5, help="5 by default")
    add("--workers", type=int, default=1, help="processes of one thread each; 1 by default")
    add("--work", type=Path, default=Path("results/evidence"), help="folder; results/evidence by default")
    add("--tables", action="store_true", help="only print what there is")
    args = parser.parse_args()
    return run("rounds.py", lambda: compare(args))


@dataclass(frozen=True)
class Task:
    """One arm of one repetition of a study."""

    study: Study
    arm: str
    repetition: int
    work: Path

    @property
    def result(self) -> Path:
        """Where its result lies."""
        name = f"{self.study.name}_{self.arm}_{self.repetition}".replace(" ", "_").replace(",", "")
        return self.work / "rounds" / f"{name}.json"


def compare(args: argparse.Namespace) -> None:
    work = args.work.resolve()
    use_folder(work)
    torch.set_num_threads(1)
    studies, arms = QUESTIONS[args.question]
    tasks = [Task(study, arm, r, work) for study in studies for r in range(args.repetitions) for arm in arms]
    if not args.tables:
        pretrain_all(studies, range(args.repetitions), work, args.workers)
        missing = [task for task in tasks if not task.result.is_file()]
        for study in studies:  # what all processes share is made before there are several
            target_of(study.pack, tuple(study.target.items()), work).small_cases()
        print(f"{len(missing)} of {len(tasks)} runs of {ROUNDS} rounds are missing", flush=True)
        with ProcessPoolExecutor(args.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            list(pool.map(annotate_in_rounds, missing))
    print_tables([task for task in tasks if task.result.is_file()], [study.name for study in studies], arms)


def annotate_in_rounds(task: Task) -> None:
    """Annotate, train and choose again; keep the Dice after every round, and what there was to correct."""
    use_folder(task.work)
    study = task.study
    target, source = (
        target_of(study.pack, tuple(study.target.items()), task.work),
        source_views(study.pack, study.source, task.work),
    )
    rng = np.random.default_rng(task.repetition)
    pool = sorted(rng.choice(target.pool, round(SHARE * len(target.pool)), replace=False).tolist())
    order = rng.permutation(len(pool))
    views = target.views(source)
    place = {case: i for i, case in enumerate(views.pool.identifiers)}
    encode = (ENCODERS | WITH_EMBEDDING)[{AVERAGE: "mae_average", DEFAULT: "mae"}.get(task.arm, "mae_grid")]
    features = encode(views, source, [place[case] for case in pool], task.repetition, task.work / "encoders")
    small = target.small_cases()
    (images, labels), (test_images, test_labels) = small.rows(pool), small.rows(target.test)
    compare_labels = partial(dice_per_case, n_labels=small.n_labels)
    picked, predicted, doubt, rounds = np.empty(0, int), None, None, []
    for number in range(1, ROUNDS + 1):
        labelled = round(number * BUDGET * len(pool) / ROUNDS)
        if task.arm == RANDOM:
            new = order[len(picked) : labelled]
        else:
            asked = doubt if task.arm == DOUBT else None
            strategy = "xssr" if task.arm in (SHARES, DEFAULT) else "xssr_no_shares"
            new = further(features, picked, labelled - len(picked), asked, strategy)
        wrong = None if predicted is None else share_to_correct(predicted[new], labels[new])
        picked = np.append(picked, new)
        tested, predicted, mirrored = predictions(
            images[picked],
            labels[picked],
            [test_images, images, images[..., ::-1].copy()],
            n_labels=small.n_labels,
            seed=task.repetition,
        )
        doubt, error = 1 - compare_labels(predicted, mirrored[..., ::-1]), 1 - compare_labels(predicted, labels)
        unlabelled = np.setdiff1d(np.arange(len(pool)), picked)
        dice = 100 * compare_labels(tested, test_labels)
        rounds.append(
            {
                "labelled": len(picked),
                "dice": float(dice.mean()),
                "worst": float(np.quantile(dice, 0.05)),
                "to_correct": wrong,
                "correlation": float(spearmanr(doubt[unlabelled], error[unlabelled]).statistic),
            }
        )
    write_json(task.result, rounds)


def further(features: Features, picked: np.ndarray, budget: int, doubt: np.ndarray | None, strategy: str) -> np.ndarray:
    """The picks of the next round."""
    return select(
        features.pool,
        budget=budget,
        source=features.source,
        labelled=picked,
        components=features.components,
        widths=features.widths,
        doubt=doubt,
        strategy=strategy,
    ).picks


def share_to_correct(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Wrong voxels, in voxels of the structures."""
    return float((predicted != labels).sum() / max((labels > 0).sum(), 1))


def print_tables(tasks: Sequence[Task], studies: Sequence[str], arms: Sequence[str]) -> None:
    found = {(task.study.name, task.arm, task.repetition): read_json(task.result) for task in tasks}
    couples = list(combinations(arms, 2))
    for name, what in (("dice", "Mean Dice"), ("worst", "5th percentile of case Dice")):
        values = partial(of_arm, found, name)
        print(f"\n{what} after each round, mean with 95 % interval over repetitions:\n")
        header("study, arm", [f"round {number}" for number in range(1, ROUNDS + 1)])
        for study, arm in product(studies, arms):
            row(f"{study}, {arm}", [level(numbers) for numbers in values(study, arm).T])
        print(f"\n{what} of an arm less that of another, in pairs of the same repetition:\n")
        header("study, arms", [*(f"round {number}" for number in range(2, ROUNDS + 1)), "both"])
        pairs = {
            (study, couple): values(study, couple[1])[:, 1:] - values(study, couple[0])[:, 1:]
            for couple, study in product(couples, studies)
        }
        for couple in couples:
            of_studies = [pairs[study, couple] for study in studies]
            pairs["all repetitions", couple] = np.concatenate(of_studies)
            pairs["all studies", couple] = np.stack([one.mean(axis=0) for one in of_studies])
        for (study, (less, arm)), differences in pairs.items():
            row(f"{study}, {arm} less {less}", [*map(difference, differences.T), difference(differences.mean(axis=1))])
    for name, what, first in (
        ("to_correct", "Voxels to correct in a pre-label, in voxels of the structures", 2),
        ("correlation", "Rank correlation of doubt and of 1 - Dice over the unlabelled cases", 1),
    ):
        print(f"\n{what}, mean over repetitions:\n")
        header("study, arm", [f"round {number}" for number in range(first, ROUNDS + 1)])
        for study, arm in product(studies, arms):
            means = of_arm(found, name, study, arm)[:, first - 1 :].mean(axis=0)
            row(f"{study}, {arm}", [f"{mean:.2f}" for mean in means])


def of_arm(found: dict[tuple[str, str, int], list[dict]], name: str, study: str, arm: str) -> np.ndarray:
    """Shape (repetitions, rounds)."""
    repetitions = sorted(r for *what, r in found if what == [study, arm])
    return np.array([[one[name] for one in found[study, arm, r]] for r in repetitions], float)


def level(values: np.ndarray) -> str:
    one = mean_over_studies(values)
    return f"{one.mean:.1f}, {one.low:.1f} to {one.high:.1f}"


def difference(values: np.ndarray) -> str:
    return describe(mean_over_studies(values))


if __name__ == "__main__":
    sys.exit(main())
