#!/usr/bin/env python3
"""What nnU-Net learns from the picked cases, beside random draws: the whole chain on real images.

    python benchmarks/dice.py lungs            about three quarters of an hour on 2 cores
    python benchmarks/dice.py nuclei           about three quarters of an hour
    python benchmarks/dice.py lungs --gpu      planned network, 250 epochs, longer pretraining

``lungs``: chest X-rays of adults in Hannover, unlabelled, are the source; those of children in Guangzhou, all of one
kind, the target. ``nuclei``: one kind of fluorescence microscopy is the source; the target mixes two others and stained
histology. 80 % of the target, split by patient where patients are known, are the pool, 20 % the test set. Every arm
goes through nnUNetv2_xssr_select and nnUNetv2_train, and every strategy picks by several encoders, of other seeds each.
Finished arms are kept: run again to resume.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from packs import SMALL, split_by_patient, write_domain

from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.demo.study import Study
from nnunetv2_xssr.device import resolve_device


@dataclass(frozen=True)
class Setting:
    """A study: the domains of a pack, and how many cases are annotated."""

    pack: str
    source: str
    extra: str | None  # folder of further unlabelled source images
    targets: tuple[str, ...]
    budgets: tuple[str, ...]
    encoders: int
    draws: int  # at random
    trainer: str


SETTINGS = {
    "lungs": Setting("CXRLung", "hannover", "imagesUnlabelled", ("guangzhou",), ("5%",), 3, 5, "XSSRTrainer_demo"),
    "nuclei": Setting(
        "NucleiDSB", "fluo256", None, ("fluo360", "fluo696", "histology"), ("3",), 3, 8, "XSSRTrainer_demo"
    ),
}
SOURCE, TARGET = "Dataset801_Source", "Dataset802_Target"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=SETTINGS)
    parser.add_argument("--folder", type=Path, default=Path("results/dice"), help="holds everything")
    parser.add_argument("--gpu", action="store_true", help="the long schedule")
    args = parser.parse_args()
    return run("dice.py", lambda: benchmark(args.study, args.folder.resolve(), args.gpu))


def benchmark(name: str, folder: Path, gpu: bool) -> None:
    setting = SETTINGS[name]
    folder = folder / name / ("gpu" if gpu else "cpu")
    raw = folder / "nnUNet_raw"
    write_domain(setting.pack, [setting.source], raw / SOURCE, labelled=False, extra=setting.extra)
    cases = write_domain(setting.pack, setting.targets, raw / TARGET, labelled=True)
    pool, test = split_by_patient(setting.pack, cases)
    configuration, trainer = ("2d", "XSSRTrainer_250epochs") if gpu else ("2d_small", setting.trainer)
    study = Study(folder, SOURCE, TARGET, configuration, trainer, resolve_device(None if gpu else "cpu"))
    encoders = [pretrained(study, "400" if gpu else "24", seed) for seed in range(setting.encoders)]
    study.preprocess(pool, test, None if gpu else SMALL[setting.pack])

    def mean_dice(arm: str, *options: str, encoder: Path = encoders[0]) -> np.ndarray:
        dice = np.array(list(study.run_arm(arm, "--encoder", str(encoder), *options).values()))
        print(f"{arm}: {100 * dice.mean():.2f}", file=sys.stderr, flush=True)
        return dice

    rows = [(f"all {len(pool)} cases", [mean_dice("full pool", "-b", "100%")])]
    for budget in setting.budgets:
        for label, strategy in (("XSSR", "xssr"), ("facility location", "facility_location"), ("k-center", "coreset")):
            options = ("-b", budget, "--strategy", strategy)
            dice = [mean_dice(f"{strategy} {budget} {i}", *options, encoder=path) for i, path in enumerate(encoders)]
            rows.append((f"{budget}, {label}", dice))
        draws = [("-b", budget, "--strategy", "random", "--seed", str(seed)) for seed in range(setting.draws)]
        dice = [mean_dice(f"random {budget} {seed}", *options) for seed, options in enumerate(draws)]
        rows.append((f"{budget}, random", dice))
    print_table(rows)


def pretrained(study: Study, epochs: str, seed: int) -> Path:
    """The encoder of one seed."""
    kept = study.folder / f"encoder_{seed}.pth"
    if not kept.is_file():
        study.pretrain("--epochs", epochs, "--seed", str(seed))
        study.encoder.rename(kept)
    return kept


def print_table(rows: list[tuple[str, list[np.ndarray]]]) -> None:
    """Mean test Dice of every row over its trainings, their range, and the worst tenth of the test cases."""
    print(f"| annotated | trainings | test Dice, % | range | worst tenth of the test cases, % |\n|{'---|' * 5}")
    for label, dice in rows:
        means = [100 * one.mean() for one in dice]
        worst = np.mean([100 * np.sort(one)[: max(1, len(one) // 10)].mean() for one in dice])
        spread = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
        span = f"{min(means):.2f} to {max(means):.2f}" if len(means) > 1 else ""
        print(f"| {label} | {len(dice)} | {np.mean(means):.2f}{spread} | {span} | {worst:.1f} |")


if __name__ == "__main__":
    sys.exit(main())
