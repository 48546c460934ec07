"""Compare ways to choose cases by what nnU-Net learns from them, through the commands that a user types."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len
from pydantic import with_config
from typing_extensions import TypedDict

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.processes import run_program
from nnunetv2_xssr.records.files import read_json, write_json
from nnunetv2_xssr.records.schema import OURS, Count, FileName
from nnunetv2_xssr.records.selection import SelectionRecord
from nnunetv2_xssr.records.validation_summary import read_dice
from nnunetv2_xssr.records.workspace import dataset_number

RECORD, REPORT = "selection.json", "report.html"
_STAGES, _FEATURES = 4, 8  # of the small network: stages at most, and features of the first
# Small images: starting a process costs more than the work that it would do.
_FEW_PROCESSES = {"nnUNet_def_n_proc": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@with_config(OURS)
class Drawn(TypedDict):
    """What was drawn: the cases to choose from, those to test with, and the variant of each."""

    seed: Count
    pool: Annotated[list[FileName], Len(1)]
    test: Annotated[list[FileName], Len(1)]
    variants: dict[FileName, str]


def small_configuration(planned: dict, batch_size: int) -> dict:
    """A configuration that shares the planned one's data and trains in minutes on a CPU.

    It has at most four stages of one convolution each, the first with eight features, every further one with twice as
    many.

    Parameters
    ----------
    planned : dict
        The planned 2D or 3D configuration, with its ``architecture``.
    batch_size : int

    Returns
    -------
    dict
        To be put beside the planned configuration, with ``inherits_from`` for the caller to name it.
    """
    architecture = json.loads(json.dumps(planned["architecture"]))
    kwargs = architecture["arch_kwargs"]
    n_stages = min(_STAGES, kwargs["n_stages"])
    kwargs.update(
        n_stages=n_stages,
        features_per_stage=[_FEATURES * 2**i for i in range(n_stages)],
        kernel_sizes=kwargs["kernel_sizes"][:n_stages],
        strides=kwargs["strides"][:n_stages],
        n_conv_per_stage=[1] * n_stages,
        n_conv_per_stage_decoder=[1] * (n_stages - 1),
    )
    return {"batch_size": batch_size, "architecture": architecture}


@dataclass(frozen=True)
class Study:
    """A target dataset whose test cases are the validation cases of its only fold, and the folders around it.

    nnU-Net evaluates a fold's validation cases once, with the final checkpoint, and chooses nothing by them: they are
    test cases here.

    Attributes
    ----------
    folder : Path
        Holds everything; it can be deleted.
    source, target : str
        Names of datasets in ``folder/nnUNet_raw``.
    configuration : str
    trainer : str
    device : str
    """

    folder: Path
    source: str
    target: str
    configuration: str
    trainer: str
    device: str

    def run(self, *command: str, arm: str | None = None) -> None:
        """Run one command; what it prints goes to ``log.txt``.

        Raises
        ------
        UserError
            If it fails; with the end of what it printed.
        """
        results = self.folder / "arms" / arm if arm else self.folder / "nnUNet_results"
        # Augmentation in the training process itself; planning takes this number for torch's threads. A GPU would wait.
        augmentation = {"nnUNet_n_proc_DA": "0" if "-tr" in command else "1"} if self.device == "cpu" else {}
        environment = {
            **os.environ,
            **_FEW_PROCESSES,
            **augmentation,
            "nnUNet_raw": str(self.folder / "nnUNet_raw"),
            "nnUNet_preprocessed": str(self.folder / "nnUNet_preprocessed"),
            "nnUNet_results": str(results),
        }
        results.mkdir(parents=True, exist_ok=True)
        scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        log = self.folder / "log.txt"
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"\n$ {' '.join(command)}\n")
            file.flush()
            start = file.tell()
            program = shutil.which(command[0], path=scripts)
            if program is None:
                raise UserError(f"the command {command[0]} is not installed beside {sys.executable}; install it there")
            code = run_program([program, *command[1:]], environment=environment, output=file)
        if code:
            with open(log, "rb") as file:
                file.seek(start)
                end = file.read().decode(errors="replace").replace("\r", "\n").strip().splitlines()[-5:]
            raise UserError(f"{' '.join(command)} ended with code {code}: {' | '.join(end)}; the whole log is {log}")

    @property
    def encoder(self) -> Path:
        """The checkpoint of the source's encoder."""
        return self.folder / "nnUNet_results" / self.source / "XSSR_MAE__2d" / "checkpoint_final.pth"

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's folder of the preprocessed target."""
        return self.folder / "nnUNet_preprocessed" / self.target

    def pretrain(self, *options: str) -> None:
        """Pretrain on the source; what an interrupted run did is kept."""
        if not self.encoder.is_file():
            self.run("nnUNetv2_xssr_pretrain", "-s", self.source, "-device", self.device, "--c", *options)

    def preprocess(self, pool: Iterable[str], test: Iterable[str], small: Mapping[str, Any] | None) -> None:
        """Plan and preprocess the target, with one fold of pool and test cases.

        Parameters
        ----------
        small : mapping or None
            What the added small configuration has otherwise than the planned one, ``batch_size`` at least; None adds
            none. With another ``spacing`` it must have a ``data_identifier`` of its own.
        """
        plans_file = self.preprocessed / "nnUNetPlans.json"
        planned = "3d_fullres" if self.configuration.startswith("3d") else "2d"
        write_json(self.preprocessed / "splits_final.json", [{"train": sorted(pool), "val": sorted(test)}])
        if not plans_file.is_file() or not (self.preprocessed / f"nnUNetPlans_{planned}").is_dir():
            number = str(dataset_number(self.target))
            self.run("nnUNetv2_plan_and_preprocess", "-d", number, "-c", planned, "-np", "1", "-npfp", "1")
        if small is not None:
            plans = read_json(plans_file)
            network = small_configuration(plans["configurations"][planned], small["batch_size"])
            plans["configurations"][self.configuration] = {"inherits_from": planned, **network, **small}
            write_json(plans_file, plans)
            if not (self.preprocessed / small.get("data_identifier", f"nnUNetPlans_{planned}")).is_dir():
                self.run(
                    "nnUNetv2_preprocess", "-d", str(dataset_number(self.target)), "-c", self.configuration, "-np", "1"
                )

    def run_arm(self, arm: str, *select_options: str) -> dict[str, float]:
        """Select, train and evaluate; return the Dice of every test case. A finished arm is read and not run again."""
        folder = self.folder / "arms" / arm
        trained = folder / self.target / f"{self.trainer}__nnUNetPlans__{self.configuration}" / "fold_0"
        summary = trained / "validation" / "summary.json"
        if not summary.is_file():
            select = ("nnUNetv2_xssr_select", "-d", self.target, "-s", self.source, "--encoder", str(self.encoder))
            self.run(*select, "-device", self.device, "--overwrite", *select_options, arm=arm)
            for name in (RECORD, REPORT):
                shutil.copyfile(self.preprocessed / "xssr" / "xssr" / name, folder / name)
            train = ("nnUNetv2_train", self.target, self.configuration, "0", "-tr", self.trainer)
            self.run(*train, "-device", self.device, "--c", arm=arm)
        return {Path(name).stem: dice for name, dice in read_dice(summary).items()}

    def picks(self, arm: str) -> list[str]:
        """The cases that an arm picked, in order."""
        record = SelectionRecord.load(self.folder / "arms" / arm / RECORD)
        return [pick.case for pick in record.selections[0].picks]

    def report(self, arm: str) -> Path:
        """The report of an arm's selection."""
        return self.folder / "arms" / arm / REPORT

    def prediction(self, arm: str, case: str, ending: str) -> Path:
        """The predicted segmentation of a test case."""
        name = f"{self.trainer}__nnUNetPlans__{self.configuration}"
        return self.folder / "arms" / arm / self.target / name / "fold_0" / "validation" / f"{case}{ending}"
