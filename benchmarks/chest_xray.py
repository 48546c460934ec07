"""The whole chain on real chest X-rays: Hannover (adults, unlabelled source) -> Guangzhou (children, target).

    python benchmarks/chest_xray.py            about an hour on 2 cores
    python benchmarks/chest_xray.py --gpu      planned network, 250 epochs, longer pretraining

80 % of Guangzhou's 566 cases, split by patient, are the pool, 20 % the test set; 5 % of the pool is annotated, as in
the paper. Every arm goes through nnUNetv2_xssr_select and nnUNetv2_train. Finished arms are kept: run again to resume.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from packs import pack_folder, write_domain
from sklearn.model_selection import GroupShuffleSplit

from nnunetv2_xssr.commands.frame import resolve_device, run
from nnunetv2_xssr.demo.study import Study

SOURCE, TARGET = "Dataset801_Hannover", "Dataset802_Guangzhou"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/chest_xray"), help="holds everything")
    parser.add_argument("--budget", default="5%")
    parser.add_argument("--gpu", action="store_true", help="the long schedule")
    args = parser.parse_args()
    return run("chest_xray.py", lambda: benchmark(args))


def benchmark(args: argparse.Namespace) -> None:
    folder = args.folder.resolve() / ("gpu" if args.gpu else "cpu")
    raw = folder / "nnUNet_raw"
    write_domain("CXRLung", "hannover", raw / SOURCE, labelled=False, extra="imagesUnlabelled")
    cases = write_domain("CXRLung", "guangzhou", raw / TARGET, labelled=True)
    pool, test = split_by_patient(cases)
    configuration, trainer = ("2d", "XSSRTrainer_250epochs") if args.gpu else ("2d_small", "XSSRTrainer_5epochs")
    study = Study(folder, SOURCE, TARGET, configuration, trainer, resolve_device(None if args.gpu else "cpu"))
    study.pretrain("--epochs", "400" if args.gpu else "24")
    study.preprocess(pool, test, None if args.gpu else 4)

    budget = ["-b", args.budget]
    arms = {"full pool": ["-b", "100%"], "xssr": budget, "k-center": [*budget, "--strategy", "coreset"]}
    arms |= {f"random {seed}": [*budget, "--strategy", "random", "--seed", str(seed)] for seed in range(5)}
    dice = {}
    for arm, options in arms.items():
        dice[arm] = study.run_arm(arm, *options)
        print(f"{arm}: {100 * np.mean(list(dice[arm].values())):.2f}", file=sys.stderr, flush=True)
    print_table(dice, len(pool), len(study.picks("xssr")))


def split_by_patient(cases: list[str]) -> tuple[list[str], list[str]]:
    """Pool and test cases; no patient is in both."""
    with open(pack_folder("CXRLung") / "cases.csv", newline="", encoding="utf-8") as file:
        patient = {row["case"]: row["patient"] for row in csv.DictReader(file)}
    splitter = GroupShuffleSplit(1, test_size=0.2, random_state=0)
    pool, test = next(splitter.split(cases, groups=[patient[case] for case in cases]))
    return [cases[i] for i in pool], [cases[i] for i in test]


def print_table(dice: dict[str, dict[str, float]], n_pool: int, n_picks: int) -> None:
    """Mean test Dice of every arm, its spread and its share of what the full pool gives."""
    full = np.mean(list(dice["full pool"].values()))
    random = [np.mean(list(dice[arm].values())) for arm in dice if arm.startswith("random")]
    print(f"| annotated | test Dice, % | worst tenth of the test cases, % | % of full-data Dice |\n|{'---|' * 4}")

    def row(name: str, mean: float, spread: str, worst: float) -> None:
        print(f"| {name} | {100 * mean:.2f}{spread} | {100 * worst:.1f} | {100 * mean / full:.1f} |")

    def worst_tenth(arm: str) -> float:
        values = sorted(dice[arm].values())
        return float(np.mean(values[: max(1, len(values) // 10)]))

    row(f"all {n_pool} cases", full, "", worst_tenth("full pool"))
    row(f"{n_picks}, XSSR", np.mean(list(dice["xssr"].values())), "", worst_tenth("xssr"))
    row(f"{n_picks}, k-center", np.mean(list(dice["k-center"].values())), "", worst_tenth("k-center"))
    arms = [arm for arm in dice if arm.startswith("random")]
    spread = f" ± {100 * np.std(random, ddof=1):.2f} (sd of {len(random)} draws)"
    row(f"{n_picks}, random", np.mean(random), spread, float(np.mean([worst_tenth(arm) for arm in arms])))


if __name__ == "__main__":
    sys.exit(main())
