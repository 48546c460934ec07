"""The judge nnunet: stock nnU-Net trained through the plugin, and measured by its own evaluation."""

import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunetv2_xssr.benchmark.hold_out import data_hash, label_files
from nnunetv2_xssr.benchmark.jobs import DICE, Job, Measures
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.pools import ImagePool, dataset_pool
from nnunetv2_xssr.processes import run_program
from nnunetv2_xssr.records.files import sha256_files, sha256_json
from nnunetv2_xssr.records.locks import job_lock
from nnunetv2_xssr.records.preprocessed import preprocessed_cases, read_plans
from nnunetv2_xssr.records.split import write_split
from nnunetv2_xssr.records.validation_summary import read_label_dice
from nnunetv2_xssr.records.workspace import Workspace, dataset_number

SURFACE_DICE = "surface_dice"
TOLERANCE = 2.0  # of the normalised surface Dice, in units of the largest spacing of the image's plane


@dataclass(frozen=True, kw_only=True)
class NnunetJudge:
    """Trains one fold whose validation cases are the test cases, and reads nnU-Net's ``summary.json``.

    nnU-Net validates once, with the final checkpoint, and chooses nothing by it: these are test cases here.

    Attributes
    ----------
    dataset : str
    test : tuple of str
    configuration, trainer, plans_name : str
        What ``nnUNetv2_train`` takes; the trainer is an ``XSSRTrainer``.
    device : str
    folder : Path
        Of the benchmark: results and logs lie below it.
    """

    dataset: str
    test: tuple[str, ...]
    configuration: str
    trainer: str
    plans_name: str
    device: str
    folder: Path

    def __call__(self, job: Job) -> Measures:
        """The mean Dice over the labels of every test case, and the normalised surface Dice where it can be measured.

        The selection of a job is called ``bench_KEY``; its split is deleted in the end, and so are the checkpoints.

        Raises
        ------
        UserError
            If ``nnUNetv2_train`` fails.
        """
        workspace = Workspace(self.dataset, f"bench_{job.key}")
        trainer = f"{self.trainer}_{workspace.name}"
        results = self.folder / "nnUNet_results"
        fold = results / self.dataset / f"{trainer}__{self.plans_name}__{self.configuration}" / "fold_0"
        validation = fold / "validation"
        with job_lock(fold):  # where jobs run on a cluster, another command may be at this one
            if not (validation / "summary.json").is_file():
                write_split(workspace.split, [{"train": list(job.cases), "val": list(self.test)}])
                self._train(trainer, results, self.folder / "logs" / f"{job.key}.txt")
            measures = self._measures(validation)
            workspace.split.unlink(missing_ok=True)
            for checkpoint in fold.glob("checkpoint_*.pth"):
                checkpoint.unlink()
        return measures

    def _train(self, trainer: str, results: Path, log: Path) -> None:
        scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        program = shutil.which("nnUNetv2_train", path=scripts)
        command = [program or "nnUNetv2_train", self.dataset, self.configuration, "0", "-tr", trainer]
        command += ["-p", self.plans_name, "-device", self.device, "--c"]
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as file:
            environment = {**os.environ, "nnUNet_results": str(results)}
            code = run_program(command, environment=environment, output=file)
        if code:
            end = " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
            raise UserError(f"nnUNetv2_train ended with code {code}: {end[-300:]}; the whole log is {log}")

    def _measures(self, validation: Path) -> Measures:
        target = dataset_pool(self.dataset)
        ending, dice = target.file_ending, {}
        advice = f"delete {validation} to validate again"
        for name, of_labels in read_label_dice(validation / "summary.json", advice=advice).items():
            # nnU-Net has no number where neither truth nor prediction has the label; both agree then.
            dice[name[: -len(ending)]] = float(np.mean(np.nan_to_num(of_labels, nan=1)))
        if missing := sorted(set(self.test) - set(dice)):
            raise UserError(f"{validation / 'summary.json'} lacks {first_few(missing)}; {advice}")
        measures = {DICE: {case: dice[case] for case in self.test}}
        if monai_is_there():
            measures[SURFACE_DICE] = {
                case: surface_dice(target, case, validation / f"{case}{ending}") for case in self.test
            }
        return measures


def nnunet_identity(
    target: ImagePool, test: Sequence[str], *, configuration: str, trainer: str, plans_name: str
) -> str:
    """What the results of nnU-Net on these test cases are known by."""
    return sha256_json(
        {
            "judge": "nnunet",
            "configuration": configuration,
            "trainer": trainer,
            "plans": sha256_files([Workspace(target.name).plans(plans_name)]),
            "data": data_hash(target),
            "test": list(test),
        }
    )


def epochs_of(trainer: str) -> int:
    """How many epochs a trainer trains: nnU-Net's 1000 where it says nothing else."""
    from nnunetv2_xssr import trainers

    return getattr(trainers, trainer).epochs or 1000


def check_trainable(target: ImagePool, *, configuration: str, trainer: str, plans_name: str) -> None:
    """Raise `UserError` unless nnU-Net can train on every case of the target with these plans by this trainer."""
    from nnunetv2_xssr import trainers

    from_scratch = [
        name for name in trainers.__all__ if not issubclass(getattr(trainers, name), trainers.XSSRTrainer_pretrained)
    ]
    if trainer not in from_scratch:
        raise UserError(
            f"-tr must be one of {', '.join(from_scratch)}, which train on selections, from scratch; got {trainer}"
        )
    workspace = Workspace(target.name)
    preprocess = f"nnUNetv2_plan_and_preprocess -d {dataset_number(target.name)}"
    plans = [one for one in read_plans(workspace) if one.name == plans_name]
    if not plans:
        raise UserError(f"{target.name} has no plans {plans_name}; run: {preprocess}")
    if configuration not in plans[0].data:
        raise UserError(f"-c must be a configuration of {plans_name}, {', '.join(plans[0].data)}; got {configuration}")
    if configuration in plans[0].second_stages:
        raise UserError(
            f"-c {configuration} is the second stage of a cascade, which learns from predictions of the first one; "
            f"choose another configuration of {plans_name}"
        )
    wanted = [replace(plans[0], data={configuration: plans[0].data[configuration]})]
    there = preprocessed_cases(workspace, target.identifiers, plans=wanted, file_ending=target.file_ending)
    missing = sorted(set(target.identifiers) - there)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(target)} cases of {target.name} are not preprocessed ({first_few(missing)}); "
            f"run: {preprocess} -c {configuration}"
        )


def monai_is_there() -> bool:
    """Whether MONAI, which measures surfaces, is installed: the extra ``surface``."""
    return importlib.util.find_spec("monai") is not None


def surface_dice(target: ImagePool, case: str, prediction: Path) -> float:
    """Normalised surface Dice (Nikolov et al. 2018), the mean over the labels or regions; 1 where nobody has one.

    As in nnU-Net's own evaluation, nothing counts where the truth holds the ignore label.
    """
    import torch
    from monai.metrics import compute_surface_dice
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    reader, labels = target.reader(), target.dataset_json
    manager = LabelManager(labels["labels"], labels.get("regions_class_order"))
    truth, properties = reader.read_seg(str(label_files(target)[case]))
    predicted, _ = reader.read_seg(str(prediction))
    flat = truth.shape[1] == 1
    spacing = [float(length) for length in properties["spacing"]][flat:]
    counts = (truth != manager.ignore_label)[0]
    drawn = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    pairs = [[np.isin(one[0], values) & counts for one in (predicted, truth)] for values in drawn]
    pairs = [pair for pair in pairs if any(mask.any() for mask in pair)]
    if not pairs:
        return 1.0
    masks = [
        torch.from_numpy(np.stack([mask[0] if flat else mask for mask in of_all]))[None].float()
        for of_all in zip(*pairs, strict=True)
    ]
    tolerance = TOLERANCE * max(spacing[-2:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI about its own calls, and about empty masks, whose value it has
        found = compute_surface_dice(
            masks[0], masks[1], [tolerance] * len(pairs), include_background=True, spacing=spacing
        )
    return float(found.mean())
