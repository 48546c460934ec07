"""How bright a view is and how steep its edges are: quantiles, without any network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.encoders.encoder import Opened, Request
from nnunetv2_xssr.encoders.pooling import FeatureLayout
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.records.files import sha256_json

LEVELS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Intensity(Opened):
    """The quantiles of the intensities of every channel, and of the lengths of their gradients.

    Attributes
    ----------
    channels : int
        Of the views.
    """

    channels: int = 0
    name = "intensity"
    weights = None
    transform = "none"

    @property
    def identity(self) -> str:
        """See `nnunetv2_xssr.encoders.encoder.Encoder`."""
        return sha256_json([self.name, LEVELS, self.channels])

    @property
    def layout(self) -> FeatureLayout:
        """See `nnunetv2_xssr.encoders.encoder.Encoder`."""
        return FeatureLayout(0, n_quantiles(self.channels), 0)

    def ready(self, sources: Sequence[Views], *, seed: int) -> "Intensity":
        """Nothing is learned: see `Opened`."""
        return Intensity(sources[0].rows.shape[2])

    def for_pool(self, views: Views) -> Callable[[np.ndarray], np.ndarray]:
        """The same for every pool: see `nnunetv2_xssr.encoders.encoder.Encoder`."""
        return quantiles


def open_intensity(request: Request) -> Intensity:
    """Open the encoder: see `nnunetv2_xssr.encoders.registry`."""
    return Intensity()


def n_quantiles(channels: int) -> int:
    """How many `quantiles` a view has."""
    return 2 * channels * len(LEVELS)


def quantiles(case: np.ndarray) -> np.ndarray:
    """The quantiles ``LEVELS`` of every channel and of the length of its gradient, per view, float32."""
    pixels = case.astype(np.float32)
    gradients = np.gradient(pixels, axis=tuple(range(2, pixels.ndim)))
    both = np.concatenate([pixels, np.sqrt(np.square(gradients).sum(axis=0))], axis=1)
    found = np.quantile(both.reshape(*both.shape[:2], -1), LEVELS, axis=2)
    return np.moveaxis(found, 0, 2).reshape(len(case), -1).astype(np.float32)
