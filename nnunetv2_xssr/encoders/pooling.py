"""Pooled features of a case, and the part of them by which cases are compared: with places, or without.

Where anatomy is aligned between cases, as in chest X-rays, a coarse grid of features tells them apart better. Where it
is not, as in fields of cells, a grid compares things that lie at the same place by chance, and features that depend on
the orientation compare things that point in the same direction by chance: an average over places and orientations does
not. How bright a view is and how steep its edges are tells appearances apart, wherever things lie, and knows no chance.
docs/embedding.md and docs/evidence.md tell what each gave.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection.kinds import stand_out
from nnunetv2_xssr.selection.standardise import standardise

GRID = 4  # cells along every axis of a view
BOTH = "grid+intensity"
EMBEDDINGS = ("auto", BOTH, "grid", "average", "gap")
# The mean silhouette by grid and intensities from which on a pool falls into kinds: docs/evidence.md, the ninth rule.
MIXED = 0.25
# Principal components by which cases are compared. A grid has thousands of features, most of them noise; the paper's
# embedding stays as it is.
COMPONENTS = {BOTH: 32, "grid": 32, "average": 32, "gap": None}


class FeatureLayout(NamedTuple):
    """The order of the pooled features of a view.

    Attributes
    ----------
    last : int
        Number of features of the last stage of an autoencoder; 0 for other encoders. Their averages over all positions
        come first.
    before : int
        Number of features of the stage before it. Their averages over all positions and all `symmetries` of the view
        follow; then each of them in a grid of cells, of the view as it is.
    cells : int
        Number of cells of the grid: ``GRID`` squared, or cubed for whole volumes; 0 where features have no places.
    intensities : int
        Number of `nnunetv2_xssr.encoders.intensity.quantiles`, which come last; 0 where they are not kept.
    """

    last: int
    before: int
    cells: int
    intensities: int = 0

    @property
    def grid(self) -> int:
        """Index of the first feature of the grid."""
        return self.last + self.before

    @property
    def size(self) -> int:
        """Features per view."""
        return self.grid + self.before * self.cells + self.intensities


def symmetries(views: torch.Tensor) -> Iterator[torch.Tensor]:
    """The 8 symmetries of every view: mirrored along every set of axes, 2D views also with rows and columns exchanged.

    The first one is the view as it is.

    Parameters
    ----------
    views : tensor of shape (n, channels, size, size) or (n, channels, size, size, size)
    """
    axes = range(2, views.ndim)
    for turned in [views, views.transpose(2, 3)] if views.ndim == 4 else [views]:
        for n in range(len(axes) + 1):
            for mirrored in combinations(axes, n):
                yield turned.flip(mirrored)


def pool_places(maps_of: Callable[[torch.Tensor], torch.Tensor], views: torch.Tensor) -> np.ndarray:
    """Averages over all positions and symmetries, then the grid: a `FeatureLayout` without a last stage.

    Parameters
    ----------
    maps_of : callable
        From images (n, channels, height, width) to features (n, d, rows, columns).
    views : tensor of shape (n, channels, height, width)

    Returns
    -------
    float32 array of shape (n, d + d * GRID**2)
    """
    as_it_is, *turned = symmetries(views)
    with torch.inference_mode():
        maps = maps_of(as_it_is)
        averages = [maps.flatten(2).mean(dim=2), *(maps_of(one).flatten(2).mean(dim=2) for one in turned)]
        grid = F.adaptive_avg_pool2d(maps, GRID).flatten(1)
        return torch.cat([torch.stack(averages).mean(dim=0), grid], dim=1).float().cpu().numpy()


def check_embedding(kind: str, layout: FeatureLayout, *, encoder: str) -> None:
    """Raise `UserError` if this encoder does not give what such an embedding is made of."""
    if (kind in ("grid", BOTH) and not layout.cells) or (kind == "gap" and not layout.last):
        what = "the last stage of an autoencoder" if kind == "gap" else "features with places"
        raise UserError(f"--embedding {kind} needs {what}, which --encoder {encoder} does not give; leave it out")


def features(pooled: np.ndarray, layout: FeatureLayout, *, kind: str, views: int | None = None) -> np.ndarray:
    """The features by which cases are compared, shape (n, d).

    Parameters
    ----------
    pooled : array of shape (n, views, layout.size)
        May be a memory map; for 2D cases the result is a view of it.
    layout : FeatureLayout
    kind : {"grid+intensity", "grid", "average", "gap"}
        ``"grid"``: the grids of all views side by side, of the stage before the last. ``"grid+intensity"``: these, and
        the quantiles of intensities and gradients, the mean over views. ``"average"``: the average of that stage over
        all cells, symmetries and views. ``"gap"``: the average of the last stage, as in the paper (global average
        pooling).
    views : int, optional
        Of the pool with most, to which the grids of a flat pool are repeated: beside volumes, a flat case shows its
        slice in every view.
    """
    times = (views or pooled.shape[1]) // pooled.shape[1]
    if kind == BOTH and pooled.shape[1] == times == 1:
        return pooled[:, 0, layout.grid :]
    if kind in ("grid", BOTH):
        grid = pooled[:, :, layout.grid : layout.size - layout.intensities].reshape(len(pooled), -1)
        grid = grid if times == 1 else np.tile(grid, times)
        return grid if kind == "grid" else np.hstack([grid, pooled[:, :, -layout.intensities :].mean(axis=1)])
    columns = slice(layout.last) if kind == "gap" else slice(layout.last, layout.grid)
    return pooled[:, 0, columns] if pooled.shape[1] == 1 else pooled[:, :, columns].mean(axis=1)


class Compared(NamedTuple):
    """By what the cases of some pools are compared, and how.

    Attributes
    ----------
    kind : str
        Of `EMBEDDINGS`, but not ``"auto"``.
    features : list of arrays of shape (n, d)
        One per pool.
    how : dict
        ``components`` and ``widths`` of `nnunetv2_xssr.selection.select`. Of two sorts of features each counts as much
        as the other, however many there are.
    """

    kind: str
    features: list[np.ndarray]
    how: dict


def compare(kept: Sequence[np.ndarray], layout: FeatureLayout, *, embedding: str, unit: str = "case") -> Compared:
    """What is taken of the pooled features of pools by an ``--embedding``.

    ``"auto"`` is the grid and the intensities where the target falls into kinds by them, the grid where it does not and
    among slices, and the average where features have no places.

    Parameters
    ----------
    kept : sequence of arrays of shape (n, views, layout.size)
        The target first, then its sources.
    layout : FeatureLayout
    embedding : str
        Of `EMBEDDINGS`.
    unit : {"case", "slice"}
    """
    if embedding != "auto":
        return _taken(kept, layout, kind=embedding)
    if layout.intensities and unit == "case":
        both = _taken(kept, layout, kind=BOTH)
        if stand_out(standardise(both.features[0], **both.how)[0], separated=MIXED):
            return both
    return _taken(kept, layout, kind="grid" if layout.cells else "average")


def _taken(kept: Sequence[np.ndarray], layout: FeatureLayout, *, kind: str) -> Compared:
    views = max(pooled.shape[1] for pooled in kept)
    found = [features(pooled, layout, kind=kind, views=views) for pooled in kept]
    widths = [found[0].shape[1] - layout.intensities, layout.intensities] if kind == BOTH else None
    return Compared(kind, found, {"components": COMPONENTS[kind], "widths": widths})
