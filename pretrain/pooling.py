"""What of a case's feature maps is kept, and by what of it cases are compared: where things are, or only what is there.

Where anatomy is aligned between cases, as in chest X-rays, a coarse grid of features tells them apart better; where it
is not, as in fields of cells, the grid compares what only happens to lie at the same place, and features that know up
from down compare what only happens to point the same way. docs/embedding.md has the evidence.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch

from nnunetv2_xssr.errors import one_of
from nnunetv2_xssr.selection.standardise import Scale

GRID = 4  # cells along every axis of a view
EMBEDDINGS = ("auto", "grid", "average", "gap")
# Principal components that cases are compared by. A grid has thousands of features, most of them noise; the paper's
# embedding is left as it is.
COMPONENTS = {"grid": 32, "average": 32, "gap": None}
ALIGNED = 0.25  # place share from which on "auto" is the grid: lungs have 0.59, hippocampi 0.50, nuclei 0.09 and 0.13


class Layout(NamedTuple):
    """How the features that are kept of a view lie side by side.

    Attributes
    ----------
    last : int
        Features of the last stage, averaged over all positions; they come first.
    before : int
        Features of the stage before it, averaged over all positions and all `symmetries` of the view; then each of the
        view as it is, in a grid of cells.
    cells : int
        Of the grid: ``GRID`` squared, or cubed for whole volumes.
    """

    last: int
    before: int
    cells: int

    @property
    def grid(self) -> int:
        """Where the grid begins."""
        return self.last + self.before

    @property
    def size(self) -> int:
        return self.grid + self.before * self.cells


def symmetries(views: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views mirrored along every set of axes, none first; square ones also with rows and columns exchanged: 8 of each.

    Parameters
    ----------
    views : tensor of shape (n, channels, size, size) or (n, channels, size, size, size)
    """
    axes = range(2, views.ndim)
    for turned in [views, views.transpose(2, 3)] if views.ndim == 4 else [views]:
        for n in range(len(axes) + 1):
            for mirrored in combinations(axes, n):
                yield turned.flip(mirrored)


def place_share(kept: np.ndarray, layout: Layout) -> float:
    """Share of the variance of the grid that the place alone explains, in [0, 1]: large where anatomy is aligned.

    For every feature: the variance between the mean values of the places (views are places too), less what chance
    makes of n cases, over its whole variance. The mean over all features that vary.

    Parameters
    ----------
    kept : array of shape (n, views, layout.size)
    """
    n, views, _ = kept.shape
    scale = Scale.of(kept.reshape(n, -1))
    std = np.divide(1, scale.factor, out=np.zeros_like(scale.factor), where=scale.factor > 0)
    shape = views, layout.before, layout.cells
    mean, variance = (each.reshape(views, -1)[:, layout.grid :].reshape(shape) for each in (scale.mean, std**2))
    between, within = mean.var(axis=(0, 2)), variance.mean(axis=(0, 2))
    varies = between + within > 0
    share = np.maximum(between - within / n, 0)[varies] / (between + within)[varies]
    return float(share.mean()) if varies.any() else 0.0


def choose_embedding(kind: str, kept: np.ndarray, layout: Layout) -> str:
    """What the user chose, or for ``"auto"`` ``"grid"`` or ``"average"``, as the `place_share` of the pool tells.

    Raises
    ------
    UserError
        If there is no such embedding.
    """
    if kind not in EMBEDDINGS:
        raise one_of("--embedding", EMBEDDINGS, kind)
    if kind != "auto":
        return kind
    return "grid" if place_share(kept, layout) >= ALIGNED else "average"


def features(kept: np.ndarray, layout: Layout, kind: str) -> np.ndarray:
    """The features that cases are compared by, shape (n, d).

    Parameters
    ----------
    kept : array of shape (n, views, layout.size)
        May be a memory map; of 2D cases the result is a view of it.
    layout : Layout
    kind : {"grid", "average", "gap"}
        Of the stage before the last the grids of all views side by side, or the average over all cells, symmetries and
        views; or the average of the last stage, as the paper has it (global average pooling).
    """
    if kind == "grid":
        return kept[:, :, layout.grid :].reshape(len(kept), -1)
    columns = slice(layout.last) if kind == "gap" else slice(layout.last, layout.grid)
    return kept[:, 0, columns] if kept.shape[1] == 1 else kept[:, :, columns].mean(axis=1)
