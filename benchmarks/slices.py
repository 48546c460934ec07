"""Whole volumes against single slices, at equal numbers of annotated slices: hippocampus, T1 MRI.

    python benchmarks/slices.py            a few hours on 2 cores
    python benchmarks/slices.py --gpu      planned 2D network, 250 epochs, longer pretraining

The source are the unlabelled volumes of the subgroup range8bit, the pool is a part of the subgroup standard, the test
set another. Every arm is an unlabelled dataset of its own that goes through nnUNetv2_xssr_select, an annotator who
copies the asked labels, nnUNetv2_xssr_collect, nnU-Net's planning, training on all that is labelled, and
nnUNetv2_predict.
Finished arms are kept: run again to resume.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from packs import pack_folder, write_domain

from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.demo.study import Study, small_configuration
from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.records.files import read_json, write_json
from nnunetv2_xssr.records.selection import SelectionRecord

PACK, SOURCE, ENDING = "Hippocampus3D", "Dataset810_Range8bit", ".nii.gz"


@dataclass(frozen=True)
class Arm:
    """One way to choose: what, by which strategy, with which seed."""

    unit: str
    strategy: str
    seed: int
    number: int

    @property
    def name(self) -> str:
        return f"{self.unit}s, {self.strategy}" + (f" {self.seed}" if self.strategy == "random" else "")

    @property
    def target(self) -> str:
        return f"Dataset{self.number}_{self.unit}_{self.strategy}_{self.seed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results/slices"), help="holds everything")
    parser.add_argument("--volumes", type=int, default=4, help="whole volumes to annotate")
    parser.add_argument("--pool", type=int, default=160, help="volumes in the pool")
    parser.add_argument("--test", type=int, default=42, help="volumes in the test set")
    parser.add_argument("--draws", type=int, default=3, help="random draws of volumes and of slices")
    parser.add_argument("--trainer", help="XSSRTrainer_10epochs by default, XSSRTrainer_250epochs with --gpu")
    parser.add_argument("--epochs", type=int, help="of pretraining: 6 by default, 100 with --gpu")
    parser.add_argument("--gpu", action="store_true", help="the long schedule")
    args = parser.parse_args()
    return run("slices.py", lambda: benchmark(args))


def benchmark(args: argparse.Namespace) -> None:
    folder = args.folder.resolve() / ("gpu" if args.gpu else "cpu")
    domains = read_json(pack_folder(PACK) / "dataset.json")["domains"]
    cases = np.random.default_rng(0).permutation(sorted(c for c, domain in domains.items() if domain == "standard"))
    test, pool = cases[: args.test].tolist(), sorted(cases[args.test : args.test + args.pool].tolist())
    write_domain(PACK, ["range8bit"], folder / "nnUNet_raw" / SOURCE, labelled=False)
    draws = [("random", seed) for seed in range(args.draws)]
    arms = [
        Arm(unit, strategy, seed, 811 + i)
        for i, (unit, strategy, seed) in enumerate(
            (unit, *how) for unit in ("volume", "slice") for how in [("xssr", 0), *draws]
        )
    ]
    budget, rows = None, []
    for arm in arms:
        study = _study(folder, arm, args)
        study.pretrain("--epochs", str(args.epochs or (100 if args.gpu else 6)))
        _choose_and_annotate(study, arm, pool, args.volumes if arm.unit == "volume" else budget)
        annotated = _annotated_slices(study)
        budget = budget or annotated  # of the volumes that XSSR chose: as many single slices for the others
        _train(study, args.gpu)
        dice = _predict(study, test)
        rows.append((arm, len(study_picks(study)), annotated, dice))
        print(f"{arm.name}: {100 * np.mean(dice):.2f}", file=sys.stderr, flush=True)
    print(f"| annotated | volumes touched | slices | test Dice, % | worst tenth, % |\n|{'---|' * 5}")
    for arm, touched, annotated, dice in rows:
        worst = np.mean(sorted(dice)[: max(1, len(dice) // 10)])
        print(f"| {arm.name} | {touched} | {annotated} | {100 * np.mean(dice):.2f} | {100 * worst:.1f} |")


def _study(folder: Path, arm: Arm, args: argparse.Namespace) -> Study:
    trainer = args.trainer or ("XSSRTrainer_250epochs" if args.gpu else "XSSRTrainer_10epochs")
    device = resolve_device(None if args.gpu else "cpu")
    return Study(folder, SOURCE, arm.target, "2d" if args.gpu else "2d_small", trainer, device)


def _raw(study: Study) -> Path:
    return study.folder / "nnUNet_raw" / study.target


def study_picks(study: Study) -> list[str]:
    """The volumes that an arm annotates, whole or in part."""
    return SelectionRecord.load(study.preprocessed / "xssr" / "xssr" / "selection.json").picked


def _choose_and_annotate(study: Study, arm: Arm, pool: list[str], budget: int) -> None:
    """Select, copy the asked labels from the pack, collect."""
    description = _raw(study) / "dataset.json"
    if description.is_file() and read_json(description).get("dataset"):
        return  # collected
    write_domain(PACK, ["standard"], _raw(study), labelled=False, only=pool)
    options = ["--unit", "slice"] if arm.unit == "slice" else []
    options += ["--strategy", arm.strategy, "--seed", str(arm.seed), "--encoder", str(study.encoder)]
    select = ("nnUNetv2_xssr_select", "-d", study.target, "-s", SOURCE, "-b", str(budget), "-device", study.device)
    study.run(*select, *options)
    labels = _raw(study) / "annotate" / "round_01" / "labels"
    for case in study_picks(study):
        truth, answer = pack_folder(PACK) / "labelsTr" / f"{case}{ENDING}", labels / f"{case}{ENDING}"
        if arm.unit == "volume":
            shutil.copyfile(truth, answer)
            continue
        template = sitk.ReadImage(str(answer))
        asked = sitk.GetArrayFromImage(template)
        drawn = np.where(asked == 0, sitk.GetArrayFromImage(sitk.ReadImage(str(truth))), asked)
        label = sitk.GetImageFromArray(drawn.astype(np.uint8))
        label.CopyInformation(template)
        sitk.WriteImage(label, str(answer))
    # A slice through the end of a volume may show no hippocampus.
    study.run("nnUNetv2_xssr_collect", "-d", study.target, "--allow_empty", *study_picks(study))


def _annotated_slices(study: Study) -> int:
    """Slices on which something but the ignore label is drawn."""
    ignore = read_json(_raw(study) / "dataset.json")["labels"].get("ignore", -1)
    labels = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (_raw(study) / "labelsTr").iterdir()]
    return sum(int((label != ignore).any(axis=(1, 2)).sum()) for label in labels)


def _train(study: Study, gpu: bool) -> None:
    plans_file = study.preprocessed / "nnUNetPlans.json"
    if not (study.preprocessed / "nnUNetPlans_2d").is_dir():
        plan = ("nnUNetv2_plan_and_preprocess", "-d", study.target[7:10], "--verify_dataset_integrity", "-c", "2d")
        study.run(*plan, "-np", "1", "-npfp", "1")
    if not gpu:
        plans = read_json(plans_file)
        small = small_configuration(plans["configurations"]["2d"], 16)
        plans["configurations"][study.configuration] = {"inherits_from": "2d", **small}
        write_json(plans_file, plans)
    if not (_trained(study) / "fold_all" / "checkpoint_final.pth").is_file():
        train = ("nnUNetv2_train", study.target, study.configuration, "all", "-tr", study.trainer)
        study.run(*train, "-device", study.device, "--c")


def _trained(study: Study) -> Path:
    name = f"{study.trainer}__nnUNetPlans__{study.configuration}"
    return study.folder / "nnUNet_results" / study.target / name


def _predict(study: Study, test: list[str]) -> list[float]:
    """Mean Dice of the two parts of the hippocampus in every test case."""
    images, predictions = study.folder / "test", _trained(study) / "test"
    images.mkdir(exist_ok=True)
    for case in test:
        if not (images / f"{case}_0000{ENDING}").is_file():
            shutil.copyfile(pack_folder(PACK) / "imagesTr" / f"{case}_0000{ENDING}", images / f"{case}_0000{ENDING}")
    if len(list(predictions.glob(f"*{ENDING}"))) < len(test):
        predict = ("nnUNetv2_predict", "-i", str(images), "-o", str(predictions), "-d", study.target, "-f", "all")
        network = ("-c", study.configuration, "-tr", study.trainer, "-device", study.device)
        study.run(*predict, *network, "-npp", "1", "-nps", "1")
    return [_dice(predictions / f"{case}{ENDING}", pack_folder(PACK) / "labelsTr" / f"{case}{ENDING}") for case in test]


def _dice(prediction: Path, truth: Path) -> float:
    ours, theirs = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (prediction, truth))
    parts = [(ours == label, theirs == label) for label in (1, 2)]
    return float(np.mean([2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in parts]))


if __name__ == "__main__":
    sys.exit(main())
