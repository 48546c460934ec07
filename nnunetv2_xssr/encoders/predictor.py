"""Prediction of whole cases by a trained nnU-Net, as nnU-Net predicts, and how much its predictions disagree."""

from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nnunetv2_xssr.encoders.trained_model import TrainedModel
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import channel_order
from nnunetv2_xssr.images.overlap import disagreement
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.records.files import sha256_files, sha256_json

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

_VERSION = 1  # of the rules below: part of what addresses kept predictions


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Predicts cases by every fold of a model or, where there is one fold, mirrored along every set of axes.

    Preprocessing, sliding window and the way back to the image are nnU-Net's. Folds predict without mirroring, so that
    five folds take about as long as the four mirrorings of one 2D fold.

    Attributes
    ----------
    model : TrainedModel
    device : str
    """

    model: TrainedModel
    device: str

    @property
    def mirrored(self) -> bool:
        """Whether predictions are compared with mirrored ones, for want of a second fold."""
        return len(self.model.checkpoints) == 1

    @cached_property
    def identity(self) -> str:
        """Hash of all that decides the predictions of an image."""
        files = [*self.model.files, self.model.plans_file, self.model.dataset_file]
        return sha256_json(["predictions", _VERSION, sha256_files(files)])

    def check(self, pool: ImagePool) -> tuple[int, ...]:
        """The model's channels among those of a pool.

        Raises
        ------
        UserError
            If the pool has other channels, or the model needs the prediction of another one, or nothing to compare a
            prediction with.
        """
        model, channels = self.model, pool.channel_names or ()
        order = channel_order(channels, like=model.channel_names)
        if order is None:
            raise UserError(
                f"the model {model.folder} was trained on the channels {', '.join(model.channel_names)}, but "
                f"{pool.name} has {', '.join(channels) or 'none'}; give another --model, or none"
            )
        if model.configuration.previous_stage_name is not None:
            raise UserError(
                f"{model.folder} is the second stage of a cascade, which cannot predict alone; give the --model of "
                f"another configuration, or none"
            )
        if self.mirrored and not self.axes:
            raise UserError(
                f"{model.folder} has one fold, trained without mirroring, so that nothing tells where it is unsure; "
                f"finish a second fold, or leave --model out"
            )
        return order

    def predict(self, image: np.ndarray, properties: dict) -> tuple[np.ndarray, float]:
        """Predict a case.

        Parameters
        ----------
        image : array of shape (channels, z, y, x)
            In the order of the model's channels.
        properties : dict
            What nnU-Net's reader has read with it.

        Returns
        -------
        segmentation : array of shape (z, y, x)
            Of the mean over all predictions, in the voxels of the image.
        doubt : float
            Mean of 1 - Dice over all pairs of predictions, in the voxels that the network sees.
        """
        from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

        model = self.model
        preprocessor = model.configuration.preprocessor_class(verbose=False)
        given = (model.plans, model.configuration, model.dataset_json)
        data, _, properties = preprocessor.run_case_npy(image, None, dict(properties), *given)
        total: Any = 0
        segmentations = []
        for logits in self._predictions(torch.as_tensor(data, dtype=torch.float32)):
            segmentations.append(np.asarray(model.labels.convert_logits_to_segmentation(logits)).astype(np.uint16))
            total = total + logits
        whole = convert_predicted_logits_to_segmentation_with_correct_shape(
            total / len(segmentations), model.plans, model.configuration, model.labels, properties
        )
        return np.asarray(whole), disagreement(segmentations)

    def _predictions(self, data: torch.Tensor) -> Iterator[torch.Tensor]:
        """Logits of shape (heads, z, y, x) by every fold, or by one fold of every mirroring, mirrored back."""
        if not self.mirrored:
            for checkpoint in self.model.checkpoints.values():
                self._nnunet.network.load_state_dict(checkpoint["network_weights"])
                yield self._nnunet.predict_sliding_window_return_logits(data).float().cpu()
            return
        first = data.ndim - len(self.model.configuration.patch_size)
        sets = chain.from_iterable(combinations(self.axes, n) for n in range(len(self.axes) + 1))
        for axes in ([first + axis for axis in one] for one in sets):
            logits = self._nnunet.predict_sliding_window_return_logits(torch.flip(data, axes))
            yield torch.flip(logits.float().cpu(), axes)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the one fold was mirrored in its training."""
        (checkpoint,) = self.model.checkpoints.values()
        return tuple(checkpoint.get("inference_allowed_mirroring_axes") or ())

    @cached_property
    def _nnunet(self) -> "nnUNetPredictor":
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        model, device = self.model, torch.device(self.device)
        network: Any = model.networks()[0]
        with redirect_stdout(StringIO()):  # on the processor it says that it is not on a GPU
            predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
        weights = [checkpoint["network_weights"] for checkpoint in model.checkpoints.values()]
        predictor.manual_initialization(
            network, model.plans, model.configuration, weights, model.dataset_json, "nnUNetTrainer", None
        )
        return predictor
