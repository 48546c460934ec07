"""A dictionary of patches, learned by k-means from the source: no network (Coates, Lee and Ng, AISTATS 2011)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from nnunetv2_xssr.encoders.encoder import Opened, Request
from nnunetv2_xssr.encoders.pooling import GRID, FeatureLayout, pool_places
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.records.files import sha256, sha256_json

WORDS = 256
PATCH, STRIDE = 8, 4  # pixels
SAMPLES = 20_000  # patches to learn from
_CONTRAST, _WHITENING = 0.01, 0.1  # added to variances of patches, and of their principal components


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Patches of views by how much nearer than on average they are to every word ("triangle" activation).

    All is computed in double precision, so that features in single precision do not depend on the number of threads.

    Attributes
    ----------
    mean : array of shape (pixels,)
        Of the patches, whose contrast is normalised.
    whitening : array of shape (pixels, pixels)
    words : array of shape (WORDS, pixels)
        Centres of whitened patches.
    """

    mean: np.ndarray
    whitening: np.ndarray
    words: np.ndarray
    name = "dictionary"
    transform = f"patches of {PATCH} x {PATCH} pixels every {STRIDE}, contrast normalised, whitened; all symmetries"

    @property
    def weights(self) -> str:
        """See `nnunetv2_xssr.encoders.encoder.Encoder`."""
        return sha256(part.tobytes() for part in (self.mean, self.whitening, self.words))

    @property
    def identity(self) -> str:
        """See `nnunetv2_xssr.encoders.encoder.Encoder`."""
        return sha256_json([self.name, PATCH, STRIDE, _CONTRAST, self.weights])

    @property
    def layout(self) -> FeatureLayout:
        """See `nnunetv2_xssr.encoders.encoder.Encoder`."""
        return FeatureLayout(0, len(self.words), GRID**2)

    def for_pool(self, views: Views) -> Callable[[np.ndarray], np.ndarray]:
        """The same for every pool: see `nnunetv2_xssr.encoders.encoder.Encoder`."""
        mean, whitening, words = (torch.from_numpy(part) for part in (self.mean, self.whitening, self.words))

        def activations(images: torch.Tensor) -> torch.Tensor:
            columns = F.unfold(images, PATCH, stride=STRIDE)
            patches = _contrast_normalised(columns.transpose(1, 2))
            distances = torch.cdist((patches - mean) @ whitening, words[None])
            found = (distances.mean(dim=2, keepdim=True) - distances).clamp(min=0)
            return found.transpose(1, 2).unflatten(2, [1 + (size - PATCH) // STRIDE for size in images.shape[2:]])

        return lambda case: pool_places(activations, torch.from_numpy(case.astype(np.float64)))


@dataclass(frozen=True)
class UnlearnedDictionary(Opened):
    """A dictionary that is to be learned."""

    def ready(self, sources: Sequence[Views], *, seed: int) -> Dictionary:
        """Learn the words from patches of the sources: see `Opened`."""
        patches = _contrast_normalised(torch.from_numpy(_sample(sources, seed=seed))).numpy()
        if not patches.any():
            raise UserError(f"all views of {sources[0].pool.name} are of one colour: there is no dictionary to learn")
        with threadpool_limits(1):  # sums in another order would give other words
            mean = patches.mean(axis=0)
            variances, axes = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
            whitening = (axes / np.sqrt(variances + _WHITENING)) @ axes.T
            words = MiniBatchKMeans(WORDS, batch_size=2048, n_init=1, random_state=seed)
            words.fit((patches - mean) @ whitening)
        return Dictionary(mean=mean, whitening=whitening, words=words.cluster_centers_)


def open_dictionary(request: Request) -> UnlearnedDictionary:
    """Open the encoder: see `nnunetv2_xssr.encoders.registry`."""
    request.check_slices("dictionary")
    return UnlearnedDictionary()


def _sample(sources: Sequence[Views], *, seed: int) -> np.ndarray:
    """Patches from random places of random views of all sources, shape (SAMPLES, pixels)."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum([views.rows.shape[0] * views.rows.shape[1] for views in sources])
    patches = []
    for number in np.sort(rng.integers(ends[-1], size=SAMPLES)):
        source = int(np.searchsorted(ends, number, side="right"))
        rows = sources[source].rows
        case, view = divmod(int(number - (ends[source - 1] if source else 0)), rows.shape[1])
        y, x = (int(rng.integers(size - PATCH + 1)) for size in rows.shape[3:])
        patches.append(rows[case, view, :, y : y + PATCH, x : x + PATCH].ravel())
    return np.stack(patches).astype(np.float64)


def _contrast_normalised(patches: torch.Tensor) -> torch.Tensor:
    """Patches (last axis) less their mean, divided by their deviation."""
    centred = patches - patches.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + _CONTRAST).sqrt()
