"""An nnU-Net trainer whose training cases are the selected ones; everything else is stock nnU-Net."""

import sys
from pathlib import Path

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import atomic, sha256_files
from nnunetv2_xssr.records.split import cases_of_fold, read_split
from nnunetv2_xssr.records.workspace import Workspace, dataset_number
from nnunetv2_xssr.version import __version__


def check_trainable(plans: dict, configuration: str, fold: int | str, dataset_json: dict) -> None:
    """Raise `UserError` where stock nnU-Net would fail late, or silently train on something else.

    That is: no split file, a fold that it lacks, a fold without training or validation case, a case that has no
    label or is not preprocessed for this configuration.
    """
    manager = PlansManager(plans)
    workspace = Workspace(manager.dataset_name)
    path = workspace.split
    cases = sorted({case for part in cases_of_fold(read_split(path), fold, path) for case in part})

    labels, ending = workspace.preprocessed_labels, dataset_json["file_ending"]
    unlabelled = [case for case in cases if not (labels / f"{case}{ending}").is_file()]
    if unlabelled:
        raise UserError(
            f"{len(unlabelled)} of {len(cases)} selected cases have no label in {labels} ({_some(unlabelled)}); "
            f"train on those that have one after nnUNetv2_xssr_collect -d {manager.dataset_name}; then: "
            f"nnUNetv2_plan_and_preprocess -d {dataset_number(manager.dataset_name)}"
        )
    preprocessed = workspace.preprocessed / manager.get_configuration(configuration).data_identifier
    known = _preprocessed_cases(str(preprocessed))
    missing = [case for case in cases if case not in known]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(cases)} selected cases are not preprocessed in {preprocessed} ({_some(missing)}); "
            f"run: nnUNetv2_preprocess -d {dataset_number(manager.dataset_name)} -c {configuration} "
            f"-plans_name {manager.plans_name}"
        )


def _preprocessed_cases(folder: str) -> set[str]:
    # nnU-Net tells the kind of a folder by what it holds, and fails on one that is empty or not there.
    if not Path(folder).is_dir() or not any(Path(folder).iterdir()):
        return set()
    return set(infer_dataset_class(folder).get_identifiers(folder))


def _some(cases: list[str]) -> str:
    return ", ".join(cases[:5]) + (", ..." if len(cases) > 5 else "")


class XSSRTrainer(nnUNetTrainer):
    """Trains on the cases of ``splits_xssr.json``, which nnUNetv2_xssr_select writes.

    Its checkpoints name ``nnUNetTrainer``, whose network and inference they are: they predict on machines without this
    package. Where they come from stands under the key ``nnunetv2_xssr``.
    """

    epochs: int | None = None  # nnU-Net's own length
    iterations_per_epoch: int | None = None

    # The parameter names are nnU-Net's: its base class looks them up to save them.
    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ):
        try:
            # Before nnU-Net's own constructor, which makes folders and a log file.
            check_trainable(plans, configuration, fold, dataset_json)
        except UserError as error:
            sys.stderr.write(f"{type(self).__name__}: error: {error}\n")
            raise SystemExit(2) from None
        super().__init__(plans, configuration, fold, dataset_json, device)

    def initialize(self) -> None:
        if self.epochs is not None:
            self.num_epochs = self.epochs
        if self.iterations_per_epoch is not None:
            self.num_iterations_per_epoch = self.iterations_per_epoch
            self.num_val_iterations_per_epoch = max(1, self.iterations_per_epoch // 20)
        super().initialize()

    @property
    def _split_file(self) -> Path:
        return Workspace(self.plans_manager.dataset_name).split

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases of this fold, as the split file has them."""
        train, val = cases_of_fold(read_split(self._split_file), self.fold, self._split_file)
        self.print_to_log_file(
            f"Using the selected cases of {self._split_file}: {len(train)} for training, {len(val)} for validation."
        )
        if set(train) & set(val) and self.fold != "all":
            self.print_to_log_file("WARNING: a validation case is a training case too: its Dice says nothing.")
        return train, val

    def save_checkpoint(self, filename: str) -> None:
        """Save nnU-Net's checkpoint under the name of nnU-Net's trainer, atomically."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))
            checkpoint = torch.load(temporary, map_location="cpu", weights_only=False)
            checkpoint["trainer_name"] = nnUNetTrainer.__name__
            checkpoint["nnunetv2_xssr"] = {
                "trainer": type(self).__name__,
                "version": __version__,
                "split_sha256": sha256_files([self._split_file]),
            }
            torch.save(checkpoint, temporary)


class XSSRTrainer_5epochs(XSSRTrainer):
    epochs = 5


class XSSRTrainer_10epochs(XSSRTrainer):
    epochs = 10


class XSSRTrainer_20epochs(XSSRTrainer):
    epochs = 20


class XSSRTrainer_50epochs(XSSRTrainer):
    epochs = 50


class XSSRTrainer_100epochs(XSSRTrainer):
    epochs = 100


class XSSRTrainer_250epochs(XSSRTrainer):
    epochs = 250


class XSSRTrainer_demo(XSSRTrainer):
    """Seconds instead of hours, for the built-in demo."""

    epochs = 3
    iterations_per_epoch = 100
