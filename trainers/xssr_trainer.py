"""An nnU-Net trainer whose training cases are the selected ones; everything else is stock nnU-Net."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import distributed

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import atomic
from nnunetv2_xssr.records.manifest import check_own_split
from nnunetv2_xssr.records.split import cases_of_fold, selected_split
from nnunetv2_xssr.records.trained_fold import TrainedFold
from nnunetv2_xssr.records.workspace import DEFAULT_NAME, Workspace
from nnunetv2_xssr.trainers.checks import check_trainable
from nnunetv2_xssr.version import __version__


class XSSRTrainer(nnUNetTrainer):
    """Trains on the cases of the split that nnUNetv2_xssr_select writes for a selection.

    What a fold is trained on is frozen beside its checkpoints when its training begins, and read from there for the
    rest of the run, for ``--c`` and for ``--val``: the split may be replaced at any time.

    Its checkpoints name ``nnUNetTrainer``, whose network and inference they are: they predict on machines without this
    package. Where they come from stands under the key ``nnunetv2_xssr``.
    """

    selection: str = DEFAULT_NAME
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
        self._trained_fold: TrainedFold | None = None  # until the training begins or is taken up again
        self._checked: TrainedFold | None = None
        manager = PlansManager(plans)
        with self._refusing():
            self._workspace = Workspace(manager.dataset_name, self.selection)
            self._frozen = self._workspace.trained_fold(
                trainer=type(self).__name__, plans_name=manager.plans_name, configuration=configuration, fold=fold
            )
            # Before nnU-Net's own constructor, which makes folders and a log file. Where a training began before,
            # nothing tells yet whether it is to go on or to begin anew.
            if not self._frozen.is_file():
                self._checked = self._fold_of_split(fold)
                check_trainable(self._checked, plans=manager, configuration=configuration, dataset_json=dataset_json)
        super().__init__(plans, configuration, fold, dataset_json, device)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Print a `UserError` as one sentence and end with exit code 2, as commands do."""
        try:
            yield
        except UserError as error:
            sys.stderr.write(f"{type(self).__name__}: error: {error}\n")
            raise SystemExit(2) from None

    def _fold_of_split(self, fold: int | str) -> TrainedFold:
        split = selected_split(self._workspace)
        check_own_split(self._workspace, split)
        train, val = cases_of_fold(split, fold=fold, path=self._workspace.split)
        return TrainedFold(selection=self.selection, train=train, val=val)

    def _cases(self) -> TrainedFold:
        return self._trained_fold or self._fold_of_split(self.fold)

    def _check(self, cases: TrainedFold) -> None:
        check_trainable(
            cases, plans=self.plans_manager, configuration=self.configuration_name, dataset_json=self.dataset_json
        )

    def initialize(self) -> None:
        """Set the length of the training, then what nnU-Net sets."""
        if self.epochs is not None:
            self.num_epochs = self.epochs
        if self.iterations_per_epoch is not None:
            self.num_iterations_per_epoch = self.iterations_per_epoch
            self.num_val_iterations_per_epoch = max(1, self.iterations_per_epoch // 20)
        super().initialize()

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases: as frozen when the training began, before that as the split has them."""
        cases = self._cases()
        return list(cases.train), list(cases.val)

    def on_train_start(self) -> None:
        """Begin: freeze what this fold is trained on, unless a checkpoint has told it."""
        if self._trained_fold is None:
            with self._refusing():
                self._freeze()
        super().on_train_start()

    def _freeze(self) -> None:
        if self.local_rank == 0:
            if self._checked is None:
                self._checked = self._fold_of_split(self.fold)
                self._check(self._checked)
            self._checked.write(self._frozen)
        if self.is_ddp:
            distributed.barrier()  # then all processes train on the same
        self._use(TrainedFold.load(self._frozen), self._workspace.split)

    def load_checkpoint(self, filename: str, /) -> None:
        """Go on from a checkpoint of this package, if it was trained on what the selection still is.

        Once this run has begun, what the selection is by now does not matter any more.
        """
        with self._refusing():
            trained = self._fold_of_checkpoint(Path(filename))
            if self._trained_fold is None:
                self._check_unchanged(trained)
                self._check(trained)
        self._use(trained, self._frozen)
        super().load_checkpoint(filename)

    def _use(self, cases: TrainedFold, source: Path) -> None:
        self._trained_fold = cases
        self.print_to_log_file(
            f"Using the selected cases of {source}: {len(cases.train)} for training, {len(cases.val)} for validation."
        )
        if set(cases.train) & set(cases.val) and self.fold != "all":
            self.print_to_log_file("WARNING: a validation case is a training case too: its Dice says nothing.")

    def _fold_of_checkpoint(self, checkpoint: Path) -> TrainedFold:
        if not self._frozen.is_file():
            raise UserError(
                f"nothing tells which cases {checkpoint} was trained on (no {self._frozen.name} beside it); "
                f"train anew without --c"
            )
        trained = TrainedFold.load(self._frozen)
        # Without reading the weights.
        origin = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=False).get("nnunetv2_xssr", {})
        if origin.get("fold_sha256") != trained.sha256:
            raise UserError(
                f"{checkpoint} was not trained on the cases in {self._frozen.name} beside it: a later training began; "
                f"delete that checkpoint to go on from a newer one, or train anew without --c"
            )
        return trained

    def _check_unchanged(self, trained: TrainedFold) -> None:
        split = self._workspace.split
        if not split.is_file():
            return  # what is frozen is all that is known, and enough
        train, val = cases_of_fold(selected_split(self._workspace), fold=self.fold, path=split)
        changes = trained.changes(train=train, val=val)
        if changes:
            raise UserError(
                f"fold {self.fold} of {split} has changed since this training began ({changes}); repeat that "
                f"selection, train anew without --c, or select under another --name"
            )

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
                "selection": self.selection,
                "fold_sha256": self._cases().sha256,
            }
            torch.save(checkpoint, temporary)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate, without what an earlier training of this fold predicted for other cases.

        nnU-Net measures all predictions in the folder.
        """
        if self.local_rank == 0:
            self._remove_other_predictions()
        super().perform_actual_validation(save_probabilities)

    def _remove_other_predictions(self) -> None:
        val, ending = self._cases().val, self.dataset_json["file_ending"]
        for file in Path(self.output_folder, "validation").glob(f"*{ending}"):
            case = file.name.removesuffix(ending)
            if case not in val:
                self.print_to_log_file(f"Removing {file}, which an earlier training of this fold predicted.")
                for of_case in (file, file.with_name(f"{case}.npz"), file.with_name(f"{case}.pkl")):
                    of_case.unlink(missing_ok=True)


class XSSRTrainer_5epochs(XSSRTrainer):
    """`XSSRTrainer` for 5 epochs."""

    epochs = 5


class XSSRTrainer_10epochs(XSSRTrainer):
    """`XSSRTrainer` for 10 epochs."""

    epochs = 10


class XSSRTrainer_20epochs(XSSRTrainer):
    """`XSSRTrainer` for 20 epochs."""

    epochs = 20


class XSSRTrainer_50epochs(XSSRTrainer):
    """`XSSRTrainer` for 50 epochs."""

    epochs = 50


class XSSRTrainer_100epochs(XSSRTrainer):
    """`XSSRTrainer` for 100 epochs."""

    epochs = 100


class XSSRTrainer_250epochs(XSSRTrainer):
    """`XSSRTrainer` for 250 epochs."""

    epochs = 250
