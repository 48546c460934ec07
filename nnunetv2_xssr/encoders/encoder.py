"""What every encoder is, before the images are read and after."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from nnunetv2_xssr.encoders.pooling import FeatureLayout
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.extract import Look
from nnunetv2_xssr.images.normalise import Window
from nnunetv2_xssr.images.pools import ImagePool
from nnunetv2_xssr.images.scale import common_look
from nnunetv2_xssr.images.views import Views


class Encoder(Protocol):
    """What turns the views of a case into features, whatever the other cases are."""

    @property
    def name(self) -> str:
        """As ``--encoder`` names it."""
        ...

    @property
    def identity(self) -> str:
        """SHA-256 of everything that decides the features of a view."""
        ...

    @property
    def weights(self) -> str | None:
        """SHA-256 of the weights; None where there are none."""
        ...

    @property
    def transform(self) -> str:
        """In words, what is done to a view first."""
        ...

    @property
    def layout(self) -> FeatureLayout:
        """The order of the features of a view."""
        ...

    def for_pool(self, views: Views) -> Callable[[np.ndarray], np.ndarray]:
        """What embeds the cases of a pool one by one.

        It takes the views of one case, (views, channels, height, width) or (1, channels, depth, height, width), and
        returns float32 of shape (views, layout.size).

        Raises
        ------
        UserError
            If the pool shows other channels or another kind of views than the encoder knows.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for.

    Attributes
    ----------
    argument : str
        What follows the colon of ``--encoder``, or the file.
    weights : Path or None
    learn_from : tuple of str
        Names of the pools that an encoder may learn from.
    dim : {2, 3}
    device : {"cpu", "cuda", "mps"}
    epochs : int or None
        Of the pretraining of an encoder that must be pretrained.
    """

    argument: str
    weights: Path | None
    learn_from: tuple[str, ...]
    dim: int
    device: str
    epochs: int | None = None

    def check_slices(self, name: str) -> None:
        """Raise `UserError` if whole volumes are asked for."""
        if self.dim != 2:
            raise UserError(f"--encoder {name} sees slices, not whole volumes; leave --dim {self.dim} out")


class Opened(ABC):
    """An encoder that was asked for, opened and checked before an image is read."""

    def look(self, pools: Sequence[ImagePool], *, dim: int, axis: str | None, window: Window | None) -> Look:
        """How the images are to be seen; by default as the pools that are learned from suggest.

        Raises
        ------
        UserError
            If the encoder has learned from another look than is asked for.
        """
        return common_look(pools, dim=dim, axis=axis, window=window)

    def check_channels(self, channel_names: Sequence[str], pool_name: str) -> None:  # noqa: B027 (most take any)
        """Raise `UserError` if the encoder has learned from other channels; by default any will do."""

    def describe(self) -> str:
        """In words, whether it must be pretrained."""
        return "there is nothing to pretrain"

    def writes(self) -> list[Path]:
        """The files that `ready` writes."""
        return []

    def rehearse(self, sources: Sequence[Views], *, seed: int) -> tuple[Encoder, float]:
        """An encoder that computes as the real one does, and the seconds that learning it would take; nothing is kept.

        Parameters
        ----------
        sources : sequence of Views
            Of a few cases.
        seed : int
        """
        began = time.perf_counter()
        return self.ready(sources, seed=seed), time.perf_counter() - began

    @abstractmethod
    def ready(self, sources: Sequence[Views], *, seed: int) -> Encoder:
        """The encoder, which learns from the views of the sources if it must.

        Parameters
        ----------
        sources : sequence of Views
            Of the target itself, where there is no source.
        seed : int
            Of whatever is random.
        """
