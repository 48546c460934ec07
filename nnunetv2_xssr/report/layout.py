"""Where the cases lie on a map of the embedding, and which cases are most alike."""

from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.selection._engine.neighbours import nearest_neighbours
from nnunetv2_xssr.selection.standardise import Scale, blocks

NEIGHBOURS = 4


@dataclass(frozen=True)
class Layout:
    """Positions on the map.

    Attributes
    ----------
    method : str
        PCA or UMAP.
    shown : float or None
        Share of the variance that the two axes of a PCA show, in [0, 1].
    positions : array of shape (n, 2), in [-1, 1]
        With one scale for both axes.
    """

    method: str
    shown: float | None
    positions: np.ndarray


def lay_out(rows: np.ndarray) -> Layout:
    """Place cases in the plane so that similar ones lie together: by UMAP if it is installed, else by PCA.

    Parameters
    ----------
    rows : float32 array of shape (n, d)
        As `nnunetv2_xssr.selection.standardise` gives them.
    """
    if len(rows) > 15 and (positions := _umap(rows)) is not None:
        return Layout("UMAP", None, _fit_square(positions))
    positions, shown = _pca(rows)
    return Layout("PCA", shown, _fit_square(positions))


def _umap(rows: np.ndarray) -> np.ndarray | None:
    try:
        from umap import UMAP
    except ImportError:
        return None
    return UMAP(n_neighbors=15, random_state=0, n_jobs=1).fit_transform(rows)


def _pca(rows: np.ndarray) -> tuple[np.ndarray, float]:
    from sklearn.decomposition import PCA

    axes = min(2, *rows.shape)
    positions = np.zeros((len(rows), 2))
    if not np.ptp(rows, axis=0).any():
        return positions, 1.0  # one case, or copies of it: all of nothing is shown
    pca = PCA(axes, svd_solver="full")
    positions[:, :axes] = pca.fit_transform(rows.astype(np.float64))
    return positions, float(pca.explained_variance_ratio_.sum())


def _fit_square(positions: np.ndarray) -> np.ndarray:
    low, high = positions.min(axis=0), positions.max(axis=0)
    half = max((high - low).max() / 2, 1e-12)
    return (positions - (low + high) / 2) / half


def most_alike(pool: np.ndarray, scale: Scale, picks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other cases of every pick, part by part of a pool that may lie on disk.

    Parameters
    ----------
    pool : array of shape (n, d)
        Features as the encoder gives them.
    scale : Scale
        Of that pool.
    picks : int array of shape (k,)

    Returns
    -------
    distances : array of shape (k, at most NEIGHBOURS), ascending
    rows : int array of the same shape
    """
    own = scale.apply(pool[picks])
    distances, rows = np.zeros((len(picks), 0)), np.zeros((len(picks), 0), int)
    start = 0
    for block in blocks(pool):
        found, places = nearest_neighbours(own, k=min(NEIGHBOURS + 1, len(block)), others=scale.apply(block))
        places = places + start
        found[places == picks[:, None]] = np.inf  # a case is not its own neighbour
        distances, rows = np.hstack([distances, found]), np.hstack([rows, places])
        order = np.argsort(distances, axis=1, kind="stable")[:, : NEIGHBOURS + 1]
        distances, rows = np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)
        start += len(block)
    count = min(NEIGHBOURS, len(pool) - 1)
    return distances[:, :count], rows[:, :count]
