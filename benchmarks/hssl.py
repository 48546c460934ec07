"""Does HSSL help, and from which images? nnU-Net from scratch against nnU-Net from pretrained weights.

    python benchmarks/hssl.py --packs NucleiDSB --unlabelled 8 20 all      which images to learn from
    python benchmarks/hssl.py --packs Hippocampus3D --epochs 1 --test 6    volumes
    python benchmarks/hssl.py --shares 0.05 0.1 1                          at more labels
    python benchmarks/hssl.py --gpu                                        planned network, 250 epochs, long pretraining

80 % of a target is its pool (split by patient where patients are known), 20 % its test set. Pretraining sees images
only: own ones, those of the pool, of which there may be few (--unlabelled); others, those of the pack's other domains;
or both. Every draw takes the labelled cases anew, for all arms alike. Everything goes through nnU-Net's own commands.
What is finished is kept: run again to go on.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from packs import SMALL, split_by_patient, write_domain
from scipy import stats

from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.demo.study import Study
from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.records.files import read_json, sha256_json, write_json
from nnunetv2_xssr.records.split import write_split

PACKS = {
    "CXRLung": ("Dataset811_Guangzhou", "guangzhou", {"Dataset813_Hannover": "hannover"}),
    "NucleiDSB": (
        "Dataset821_Histology",
        "histology",
        {"Dataset823_Fluo256": "fluo256", "Dataset824_Fluo360": "fluo360", "Dataset825_Fluo696": "fluo696"},
    ),
    "Hippocampus3D": ("Dataset831_Standard", "standard", {"Dataset833_Range8bit": "range8bit"}),
}
UNLABELLED = {"Dataset813_Hannover": "imagesUnlabelled"}
IMAGES = ("own", "others", "own and others")
TRAIN = ("nnUNetv2_train",)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--pretraining_seeds", type=int, default=1)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05], help="of the pool that is labelled")
    parser.add_argument("--unlabelled", nargs="+", default=["all"], help="of the pool's images, a number or all")
    parser.add_argument("--images", nargs="+", choices=IMAGES, default=IMAGES)
    args = parser.parse_args()
    return run("hssl.py", lambda: benchmark(args))


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What this benchmark shares with those of fine-tuning and of the pretraining's length."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/hssl"), help="holds everything")
    parser.add_argument("--packs", nargs="+", default=["NucleiDSB", "CXRLung"], choices=PACKS)
    parser.add_argument("--epochs", type=int, help="of pretraining, of 50 batches each")
    parser.add_argument("--batch_size", type=int, help="of pretraining")
    parser.add_argument("--test", type=int, help="test cases at most; volumes take long to predict on a CPU")
    parser.add_argument("--trainer", help="XSSRTrainer_demo by default, XSSRTrainer_250epochs with --gpu")
    parser.add_argument("--gpu", action="store_true", help="the planned network and the long schedule")
    return parser


@dataclass(frozen=True, kw_only=True)
class Target:
    """A prepared pack: its target's pool and test cases, its other domains, and how long a pretraining is."""

    study: Study
    pool: list[str]
    test: list[str]
    others: list[str]
    epochs: int
    batch_size: int | None = None

    @property
    def pretraining(self) -> list[str]:
        """How long a pretraining is, in the words of its command."""
        batch_size = ["--batch_size", str(self.batch_size)] if self.batch_size else []
        return ["--epochs", str(self.epochs), *batch_size]

    @property
    def raw(self) -> Path:
        return self.study.folder / "nnUNet_raw"

    def label(self, *, share: float, draw: int) -> int:
        """Draw the labelled cases; return their number."""
        k = max(1, int(share * len(self.pool)))
        labelled = sorted(np.random.default_rng([draw, k]).choice(self.pool, k, replace=False).tolist())
        write_split(self.study.preprocessed / "splits_xssr.json", [{"train": labelled, "val": self.test}])
        return k

    def arm(self, name: str) -> str:
        """The folder of a training: of its own for other test cases, by which it is measured once it has ended."""
        return f"{name} test {sha256_json(self.test)[:8]}"

    def own_images(self, unlabelled: str = "all", seed: int = 0) -> str:
        """A dataset of images of the pool: what is learned from without labels must not hold the test cases."""
        n = len(self.pool) if unlabelled == "all" else int(unlabelled)
        number = int(self.study.target[7:10]) + (1 if unlabelled == "all" else 50 + 100 * seed + n)
        dataset = self.raw / f"Dataset{number}_Pool"
        if not dataset.is_dir():
            (dataset / "imagesTr").mkdir(parents=True)
            description = read_json(self.raw / self.study.target / "dataset.json")
            for case in np.random.default_rng([seed, 1]).permutation(self.pool)[:n]:
                for file in (self.raw / self.study.target / "imagesTr").glob(
                    f"{case}_????{description['file_ending']}"
                ):
                    shutil.copyfile(file, dataset / "imagesTr" / file.name)
            write_json(dataset / "dataset.json", {**description, "numTraining": 0})
        return dataset.name


def benchmark(args: argparse.Namespace) -> None:
    rows = []
    for pack in args.packs:
        target = prepare(pack, args)
        for share in args.shares:
            for unlabelled in args.unlabelled:
                dice = {arm: np.zeros((args.draws, args.pretraining_seeds)) for arm in ("scratch", *args.images)}
                for draw in range(args.draws):
                    k = target.label(share=share, draw=draw)
                    for arm, values in dice.items():
                        for seed in range(args.pretraining_seeds):
                            weights = None if arm == "scratch" else pretrain(target, arm, unlabelled, seed)
                            name = target.arm(f"{weights.stem if weights else arm} {k} seed {draw}")
                            values[draw, seed] = trained_dice(target.study, name, weights)
                rows.append((f"{pack}, {100 * share:g} % ({k})", unlabelled, dice))
    print_table(rows)


def prepare(pack: str, args: argparse.Namespace) -> Target:
    """The target, planned and preprocessed, its pool and its test cases; all datasets as raw datasets."""
    name, domain, others = PACKS[pack]
    folder = args.folder.resolve() / ("gpu" if args.gpu else "cpu") / pack
    raw = folder / "nnUNet_raw"
    cases = write_domain(pack, [domain], raw / name, labelled=True)
    for other, of_pack in others.items():
        write_domain(pack, [of_pack], raw / other, False, UNLABELLED.get(other))
    pool, test = split_by_patient(pack, cases)
    planned = "3d_fullres" if pack.endswith("3D") else "2d"
    small, trainer = (planned, "XSSRTrainer_250epochs") if args.gpu else (f"{planned[:2]}_small", "XSSRTrainer_demo")
    study = Study(folder, name, name, small, args.trainer or trainer, resolve_device(None))
    test = test[: args.test]
    study.preprocess(pool, test, None if args.gpu else SMALL[pack])
    study.run("nnUNetv2_xssr_link")
    epochs = args.epochs or (300 if args.gpu else 6)
    return Target(study=study, pool=pool, test=test, others=list(others), epochs=epochs, batch_size=args.batch_size)


def pretrain(target: Target, images: str, unlabelled: str, seed: int = 0) -> Path:
    """Weights of the whole network from the pool's images, those of the other domains, or both."""
    study, named = target.study, images.replace("own", f"own {unlabelled}")
    kept = study.folder / f"{named} {' '.join(target.pretraining)} seed {seed}.pth"
    if not kept.is_file():
        sources = [target.own_images(unlabelled, seed)] if "own" in images else []
        sources += target.others if "others" in images else []
        study.run(
            *("nnUNetv2_hssl_pretrain", "-d", study.target, "-c", study.configuration, "-s", *sources),
            *("-device", study.device, "--seed", str(seed), *target.pretraining),
            arm=kept.stem,
        )
        results = study.folder / "arms" / kept.stem / study.target
        shutil.copyfile(results / f"XSSR_HSSL__nnUNetPlans__{study.configuration}" / "hssl_weights.pth", kept)
    return kept


def trained_dice(study: Study, arm: str, weights: Path | None = None, train: tuple[str, ...] = TRAIN) -> float:
    """Mean test Dice in % of one training; a finished one is read and not run again."""
    name = f"{study.trainer}__nnUNetPlans__{study.configuration}"
    summary = study.folder / "arms" / arm / study.target / name / "fold_0" / "validation" / "summary.json"
    if not summary.is_file():
        start = ["-pretrained_weights", str(weights)] if weights else []
        study.run(
            *(*train, study.target, study.configuration, "0", "-tr", study.trainer, "-device", study.device, *start),
            arm=arm,
        )
        print(f"{arm}: {100 * read_json(summary)['foreground_mean']['Dice']:.2f}", file=sys.stderr, flush=True)
    return 100 * read_json(summary)["foreground_mean"]["Dice"]


def print_table(rows) -> None:
    """Mean Dice, and paired differences with their intervals over draws."""
    arms = list(rows[0][2])
    pairs = [(arm, "scratch") for arm in arms[1:]]
    pairs += [("own and others", "own")] if {"own", "own and others"} <= set(arms) else []
    heads = [*arms, *(f"{arm} - {other}" for arm, other in pairs)]
    print(f"| target, labelled | own images | {' | '.join(heads)} |\n|{'---|' * (2 + len(heads))}")
    for target, unlabelled, dice in rows:
        cells = [f"{values.mean():.2f}" for values in dice.values()]
        cells += [difference(dice[arm].mean(axis=1) - dice[other].mean(axis=1)) for arm, other in pairs]
        print(f"| {target} | {unlabelled} | {' | '.join(cells)} |")
    for target in dict.fromkeys(target for target, _, _ in rows):
        of_target = [dice for name, _, dice in rows if name == target]
        if len(of_target) > 1 and ("own and others", "own") in pairs:
            pays = np.mean([(dice["own and others"] - dice["own"]).mean(axis=1) for dice in of_target], axis=0)
            print(f"\n{target}: own and others - own, the mean over the numbers of own images: {difference(pays)}")


def difference(pairs: np.ndarray) -> str:
    """Mean of paired differences, with its 95 % t-interval where there are several."""
    if len(pairs) < 2:
        return f"{pairs.mean():+.2f}"
    low, high = stats.t.interval(0.95, len(pairs) - 1, pairs.mean(), stats.sem(pairs))
    return f"{pairs.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    sys.exit(main())
