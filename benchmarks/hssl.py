"""Does HSSL help? nnU-Net from scratch, from one domain's images and from several domains', at 5, 10 and 100 % labels.

    python benchmarks/hssl.py            some hours on 2 cores
    python benchmarks/hssl.py --gpu      planned network, 250 epochs, longer pretraining
    python benchmarks/hssl.py --shares 0.05 --arms scratch "several domains" "local contrast" "two phases" "warm-up"
                                         what was not taken: another loss of the decoder, other schedules

Targets are the children of CXRLung and the histology of NucleiDSB: 80 % of each is the pool (split by patient where
patients are known), 20 % the test set. Pretraining sees images only: those of the pool (one domain), or those and the
pack's other domains (several). Every seed draws the labelled cases anew, for all arms alike. Everything goes through
nnU-Net's own commands. What is finished is kept: run again to go on.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from packs import SMALL, split_by_patient, write_domain

from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.demo.study import Study
from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.records.files import read_json, write_json
from nnunetv2_xssr.records.split import write_split

PACKS = {
    "CXRLung": ("Dataset811_Guangzhou", "guangzhou", {"Dataset813_Hannover": "hannover"}),
    "NucleiDSB": (
        "Dataset821_Histology",
        "histology",
        {"Dataset823_Fluo256": "fluo256", "Dataset824_Fluo360": "fluo360", "Dataset825_Fluo696": "fluo696"},
    ),
}
UNLABELLED = {"Dataset813_Hannover": "imagesUnlabelled"}
SHARES = (0.05, 0.1, 1.0)
ARMS = ("scratch", "one domain", "several domains")
VARIANTS = {"local contrast": "local_contrast.py", "two phases": "two_phases.py"}  # of pretraining, several domains
OTHER_ARMS = (*VARIANTS, "warm-up")
HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/hssl"), help="holds everything")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the pool that is labelled")
    parser.add_argument("--packs", nargs="+", default=list(PACKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS + OTHER_ARMS, default=ARMS)
    parser.add_argument("--epochs", type=int, default=None, help="of pretraining")
    parser.add_argument("--gpu", action="store_true", help="the long schedule")
    args = parser.parse_args()
    for arm in ("two phases", "warm-up"):
        if args.gpu and arm in args.arms:
            parser.error(f"the arm {arm} is that of the short schedule; leave --gpu out")
    return run("hssl.py", lambda: benchmark(args))


def benchmark(args: argparse.Namespace) -> None:
    rows = []
    for pack in args.packs:
        study, pool, test = prepare(pack, args)
        weights = {arm: pretrain(study, pack, arm, args) for arm in args.arms if arm != "scratch"}
        for share in args.shares:
            dice = {arm: [] for arm in args.arms}
            k = max(1, int(share * len(pool)))
            for seed in range(args.seeds):
                labelled = sorted(np.random.default_rng([seed, k]).choice(pool, k, replace=False).tolist())
                write_split(study.preprocessed / "splits_xssr.json", [{"train": labelled, "val": test}])
                for arm in args.arms:
                    dice[arm].append(trained_dice(study, arm, f"{k} seed {seed}", weights.get(arm)))
                    print(f"{pack} {arm} {k} seed {seed}: {100 * dice[arm][-1]:.2f}", file=sys.stderr, flush=True)
            rows.append((pack, share, k, {arm: 100 * np.array(values) for arm, values in dice.items()}))
    print_table(rows)


def prepare(pack: str, args: argparse.Namespace) -> tuple[Study, list[str], list[str]]:
    """The target, planned and preprocessed, its pool and its test cases; all datasets as raw datasets."""
    target, domain, others = PACKS[pack]
    folder = args.folder.resolve() / ("gpu" if args.gpu else "cpu") / pack
    raw = folder / "nnUNet_raw"
    cases = write_domain(pack, [domain], raw / target, labelled=True)
    for name, other in others.items():
        write_domain(pack, [other], raw / name, False, UNLABELLED.get(name))
    pool, test = split_by_patient(pack, cases)
    # What the network learns from without labels must not hold the test cases.
    unlabelled = raw / f"Dataset{int(target[7:10]) + 1}_Pool"
    if not unlabelled.is_dir():
        (unlabelled / "imagesTr").mkdir(parents=True)
        description = read_json(raw / target / "dataset.json")
        for case in pool:
            for file in (raw / target / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9]{description['file_ending']}"):
                shutil.copyfile(file, unlabelled / "imagesTr" / file.name)
        write_json(unlabelled / "dataset.json", {**description, "numTraining": 0})
    configuration, trainer = ("2d", "XSSRTrainer_250epochs") if args.gpu else ("2d_small", "XSSRTrainer_demo")
    study = Study(folder, unlabelled.name, target, configuration, trainer, resolve_device(None if args.gpu else "cpu"))
    study.preprocess(pool, test, None if args.gpu else SMALL[pack])
    study.run("nnUNetv2_xssr_link")
    return study, pool, test


def pretrain(study: Study, pack: str, arm: str, args: argparse.Namespace) -> Path:
    """Weights of the whole network from the pool's images, alone or with those of the other domains."""
    arm = "several domains" if arm == "warm-up" else arm
    others = [] if arm == "one domain" else list(PACKS[pack][2])
    kept = study.folder / f"{arm}.pth"
    if not kept.is_file():
        epochs = ["--epochs", str(args.epochs or (300 if args.gpu else 6))]
        batch = [] if args.gpu else ["--batch_size", "16"]
        study.run(
            *((sys.executable, str(HERE / VARIANTS[arm])) if arm in VARIANTS else ["nnUNetv2_hssl_pretrain"]),
            *("-d", study.target, "-c", study.configuration, "-s", study.source, *others),
            *("-device", study.device, *epochs, *batch),
            arm=f"pretraining {arm}",
        )
        results = study.folder / "arms" / f"pretraining {arm}" / study.target
        shutil.copyfile(results / f"XSSR_HSSL__nnUNetPlans__{study.configuration}" / "hssl_weights.pth", kept)
    return kept


def trained_dice(study: Study, arm: str, run: str, weights: Path | None) -> float:
    """Mean test Dice of one training; a finished one is read and not run again."""
    name = f"{study.trainer}__nnUNetPlans__{study.configuration}"
    summary = study.folder / "arms" / f"{arm} {run}" / study.target / name / "fold_0" / "validation" / "summary.json"
    if not summary.is_file():
        start = ["-pretrained_weights", str(weights)] if weights else []
        warmed_up = (sys.executable, str(HERE / "warm_up.py"))
        study.run(
            *(warmed_up if arm == "warm-up" else ["nnUNetv2_train"]),
            *(study.target, study.configuration, "0", "-tr", study.trainer, "-device", study.device, *start),
            arm=f"{arm} {run}",
        )
    return read_json(summary)["foreground_mean"]["Dice"]


def print_table(rows) -> None:
    """Mean and standard deviation over seeds, and the paired differences from the first arm."""
    arms = list(rows[0][3])
    gains = [f"{arm} - {arms[0]}" for arm in arms[1:]]
    print(f"| target | labelled | {' | '.join(arms + gains)} |\n|{'---|' * (2 + len(arms + gains))}")
    for pack, share, k, dice in rows:
        cells = [f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" for values in dice.values()]
        for arm in arms[1:]:
            gain = dice[arm] - dice[arms[0]]
            cells.append(f"{gain.mean():+.2f} ({', '.join(f'{g:+.2f}' for g in gain)})")
        print(f"| {pack} | {100 * share:g} % ({k}) | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
