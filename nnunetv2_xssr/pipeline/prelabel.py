"""Pre-labels: what a trained model draws in the picked cases, as stock nnU-Net predicts them."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nnunetv2_xssr.annotation.label_check import IGNORE
from nnunetv2_xssr.annotation.project import fold_folders
from nnunetv2_xssr.encoders.trained_model import CHECKPOINT, EXAMPLE, TrainedModel, open_trained_model
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import channel_order
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.grids import image_grid
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.reading import read_image
from nnunetv2_xssr.records.selection import Pick, picked_slices
from nnunetv2_xssr.records.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Prelabeller:
    """A trained nnU-Net with all of its finished folds.

    Attributes
    ----------
    predictor : nnUNetPredictor
    order : tuple of int
        The model's channels among those of the target.
    """

    predictor: Any
    order: tuple[int, ...]

    def draw(self, target: ImagePool, picks: Sequence[Pick], *, folder: Path) -> dict[str, Path]:
        """Predict every picked case into a folder of its own.

        Of a volume that was picked in slices only these are drawn; all others hold the ignore label.

        Returns
        -------
        dict
            Case to its folder, in which the label lies, and what the writer puts beside it.
        """
        cases, slices, reader = target.by_identifier(), picked_slices(picks), target.reader()
        drawn = {}
        names = list(dict.fromkeys(pick.case for pick in picks))
        for name in tqdm(names, desc="drawing pre-labels", unit="case", disable=None):
            image, properties = read_image(cases[name], reader)
            channels = image[list(self.order)].astype(np.float32)
            label = np.asarray(self.predictor.predict_single_npy_array(channels, dict(properties), None, None, False))
            if name in slices:
                whole, label = label, np.full_like(label, target.dataset_json["labels"][IGNORE])
                along = Geometry.of(properties).along_third
                along(label)[sorted(slices[name])] = along(whole)[sorted(slices[name])]
            drawn[name] = folder / name
            drawn[name].mkdir()
            reader.write_seg(label, str(drawn[name] / f"{name}{target.file_ending}"), image_grid(properties))
        return drawn


def open_prelabeller(
    model: Path | bool, target: ImagePool, workspace: Workspace, *, mode: str, device: str
) -> Prelabeller | None:
    """Open a model, and check that it can draw the target's labels; None where none is asked for.

    Parameters
    ----------
    model : Path or bool
        Folder that nnUNetv2_train wrote; True for the network of this selection that was trained last.
    target : ImagePool
    workspace : Workspace
    mode : {"study", "annotation"}
    device : str

    Raises
    ------
    UserError
        If there is no such model, or it sees other channels or draws other labels.
    """
    if model is False:
        return None
    if mode == "study":
        raise UserError("--prelabel is for a hand-over, and every case has a label; leave it out")
    folder = _last_trained(workspace) if model is True else model
    trained = open_trained_model(folder)
    order = channel_order(target.channel_names or (), like=trained.channel_names)
    if order is None:
        raise UserError(
            f"--prelabel: {folder} was trained on the channels {', '.join(trained.channel_names)}, but "
            f"{target.name} has {', '.join(target.channel_names or ())}; give another model"
        )
    draws, wanted = (_labels(one) for one in (trained.dataset_json, target.dataset_json))
    if draws != wanted:
        raise UserError(
            f"--prelabel: {folder} draws {_words(draws)}, but the labels of {target.name} are {_words(wanted)}; give "
            f"another model"
        )
    return Prelabeller(predictor=_predictor(trained, device), order=order)


def _last_trained(workspace: Workspace) -> Path:
    finished = [folder / CHECKPOINT for folder in fold_folders(workspace) if (folder / CHECKPOINT).is_file()]
    if not finished:
        raise UserError(
            f"--prelabel: no fold of {workspace.dataset} is trained yet; train one, or name a model: --prelabel "
            f"{EXAMPLE}"
        )
    return max(finished, key=lambda file: (file.stat().st_mtime, file)).parents[1]


def _labels(dataset_json: dict) -> dict[str, Any]:
    return {name: value for name, value in dataset_json.get("labels", {}).items() if name not in ("background", IGNORE)}


def _words(labels: dict[str, Any]) -> str:
    return ", ".join(f"{value} ({name})" for name, value in labels.items()) or "none"


def _predictor(trained: TrainedModel, device: str) -> Any:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    if trained.configuration.previous_stage_name is not None:
        raise UserError(
            f"--prelabel: {trained.folder} is a cascade's second stage, which cannot predict alone; give another"
        )
    try:
        with redirect_stdout(StringIO()):  # on the processor it says that it is not on a GPU
            predictor = nnUNetPredictor(device=torch.device(device), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(trained.folder), tuple(trained.checkpoints), CHECKPOINT)
    except Exception as error:  # nnU-Net raises whatever it meets
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise UserError(
            f"--prelabel: nnU-Net cannot load the model {trained.folder} ({reason}); give another"
        ) from None
    return predictor
