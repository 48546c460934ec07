"""What a trained model is unsure of: its predictions of the pool, and whether its doubt tells where it is wrong."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import spearmanr
from tqdm import tqdm

from nnunetv2_xssr.annotation.project import trained_folds
from nnunetv2_xssr.encoders.predictor import Predictor
from nnunetv2_xssr.encoders.trained_model import EXAMPLE, TrainedModel, open_trained_model
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import file_hashes
from nnunetv2_xssr.images.pools import ImagePool, dataset_pool
from nnunetv2_xssr.images.reading import read_image
from nnunetv2_xssr.pipeline.plan import Choice
from nnunetv2_xssr.records.files import atomic, is_there
from nnunetv2_xssr.records.locks import caches_lock
from nnunetv2_xssr.records.selection import LEAST_CORRELATION, DoubtFacts
from nnunetv2_xssr.records.validation_summary import read_dice
from nnunetv2_xssr.records.workspace import Workspace, names_dataset
from nnunetv2_xssr.selection.strategies import WEIGH_DOUBT

LEAST_CASES = 5  # of which a rank correlation says anything


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Which model is asked.

    Attributes
    ----------
    model : Path or bool
        Folder of a trained model; True for the folds of the target that were trained on the present split, False for
        none. docs/rounds.md tells why none is the default.
    """

    model: Path | bool = False

    def settings(self) -> dict:
        """What was given, for the record, and nothing else: without a model a record is as it always was."""
        return {"model": self.model if self.model is True else str(self.model)} if self.model else {}

    def check(self, choice: Choice, *, scheduler: bool) -> None:
        """Raise `UserError` where a model is to be asked and its doubt would not be weighed, as on a Dask cluster."""
        if self.model is not False and (scheduler or choice.strategy not in WEIGH_DOUBT):
            what = "--scheduler" if scheduler else f"--strategy {choice.strategy}"
            raise UserError(f"{what} does not weigh the doubt of --model; leave one of them out")

    def open(self, target: ImagePool, *, name: str, mode: str, device: str) -> Predictor | None:
        """Open the model to ask; None where there is none.

        Parameters
        ----------
        target : ImagePool
        name : str
            Of the selection.
        mode : {"study", "annotation"}
            In a study a model must be named.
        device : str

        Raises
        ------
        UserError
            If there is no such model, or it cannot predict this pool.
        """
        if self.model is False:
            return None
        predictor = Predictor(model=self._opened(self.model, target, name=name, mode=mode), device=device)
        predictor.check(target)
        return predictor

    def _opened(self, model: Path | Literal[True], target: ImagePool, *, name: str, mode: str) -> TrainedModel:
        if model is not True:
            return open_trained_model(model)
        folder, folds = trained_folds(Workspace(target.name, name)) if mode == "annotation" else (None, [])
        if folder is None:
            raise UserError(
                f"--model: no fold of {target.name} is trained on the labels of the last round; train one, or name a "
                f"model: --model {EXAMPLE}"
            )
        return open_trained_model(folder, folds=folds)


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """What a model is unsure of.

    Attributes
    ----------
    of_cases : dict
        Case to mean 1 - Dice between predictions; empty where the doubt was taken out.
    facts : dict
        For the record.
    """

    of_cases: dict[str, float]
    facts: DoubtFacts


def measure_doubt(target: ImagePool, cases: Collection[str], predictor: Predictor) -> Doubt:
    """Predict cases, unless the doubt on the model's validation cases says nothing of what it does wrong there.

    Parameters
    ----------
    target : ImagePool
    cases : collection of str
        Those to choose from.
    predictor : Predictor
    """
    correlation, checked = _correlation(predictor)
    weighted = correlation is None or correlation >= LEAST_CORRELATION
    return Doubt(
        of_cases=predicted_doubt(target, cases, predictor) if weighted else {},
        facts={
            "model": str(predictor.model.folder),
            "folds": list(predictor.model.checkpoints),
            "compared": "mirrored" if predictor.mirrored else "folds",
            "correlation": correlation,
            "validation_cases": checked,
            "weighted": weighted,
        },
    )


def predicted_doubt(pool: ImagePool, cases: Collection[str], predictor: Predictor) -> dict[str, float]:
    """The doubt of every case; its prediction is kept beside it, so that an interrupted run goes on where it stopped.

    Parameters
    ----------
    pool : ImagePool
    cases : collection of str
    predictor : Predictor

    Raises
    ------
    UserError
        If an image cannot be read, or the pool has other channels than the model.
    """
    channels, hashes = list(predictor.check(pool)), file_hashes(pool)
    folder = Workspace(pool.name).predictions(predictor.identity)
    found = {}
    with caches_lock(pool.name):
        for case in tqdm(pool.only(cases).cases, desc=f"predicting {pool.name}", unit="case", disable=None):
            file, digest = folder / f"{case.identifier}.npz", hashes[case.identifier]
            doubt = _kept_doubt(file, digest)
            if doubt is None:
                image, properties = read_image(case, pool.reader())
                segmentation, doubt = predictor.predict(image[channels], properties)
                with atomic(file) as temporary:
                    np.savez_compressed(temporary, segmentation=segmentation, doubt=doubt, image=digest)
            found[case.identifier] = doubt
    return found


def _kept_doubt(file: Path, digest: str) -> float | None:
    """The doubt that a file keeps; None where there is none of this image, and it is to be predicted anew."""
    if not is_there(file):
        return None
    try:
        with np.load(file) as kept:
            return float(kept["doubt"]) if str(kept["image"]) == digest else None
    except Exception:  # of a damaged file zipfile, zlib and numpy raise whatever they meet
        return None


def _correlation(predictor: Predictor) -> tuple[float | None, int]:
    """Rank correlation of doubt and of 1 - Dice over the validation cases of all folds, and how many these are.

    The doubt of a case is that of the fold that validates with it, mirrored: the other folds have learned from its
    label, so that what they agree on is the label, and what differs from them is the error itself.

    Returns
    -------
    correlation : float or None
        None where the images are not there, or there are fewer than ``LEAST_CASES`` cases, or all are alike.
    cases : int
    """
    model = predictor.model
    name = model.plans.plans.get("dataset_name", "")
    if not names_dataset(name) or not is_there(Workspace(name).dataset_json):
        return None, 0
    pool = dataset_pool(name)
    doubts: list[float] = []
    errors: list[float] = []
    for fold in model.checkpoints:
        own = Predictor(model=model.only(fold), device=predictor.device)
        dice = (
            _validation_dice(model.folder / f"fold_{fold}" / "validation", pool) if own.axes and fold != "all" else {}
        )
        if dice:
            doubt = predicted_doubt(pool, list(dice), own)
            doubts += [doubt[case] for case in dice]
            errors += [1 - value for value in dice.values()]
    if len(doubts) < LEAST_CASES or np.ptp(doubts) == 0 or np.ptp(errors) == 0:
        return None, len(doubts)
    return float(spearmanr(doubts, errors).statistic), len(doubts)


def _validation_dice(folder: Path, pool: ImagePool) -> dict[str, float]:
    """Case of the pool to its Dice, by nnU-Net's validation of a fold; empty before that."""
    summary = folder / "summary.json"
    if not is_there(summary):
        return {}
    found = {name.removesuffix(pool.file_ending): dice for name, dice in read_dice(summary).items()}
    return {case: found[case] for case in pool.identifiers if case in found}
