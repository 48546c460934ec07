"""From encoder features to the space in which cases are compared."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

_BLOCK_BYTES = 2**24  # of rows worked on at a time, in double precision
_MOST_ROWS = 2048  # that principal components are taken from: they change little with more
_FEW_COMPONENTS = 16  # that any pool is granted: see Scale.of


class Scale(NamedTuple):
    """Standardisation by a pool's mean and standard deviation, and its leading principal components.

    Attributes
    ----------
    mean : array of shape (d,)
    factor : array of shape (d,)
        1 / standard deviation; 0 for a feature without variance.
    axes : array of shape (d, components) or None
        Orthonormal directions that standardised rows are projected on.
    """

    mean: np.ndarray
    factor: np.ndarray
    axes: np.ndarray | None = None

    @classmethod
    def of(cls, pool: np.ndarray, components: int | None = None) -> "Scale":
        """Measure a pool, shape (n, d), block by block, so that it may be a memory map larger than the memory.

        With ``components`` rows are projected on so many principal components of the standardised pool (of 2,048 of
        its rows, evenly spaced, where it has more), but on no more than half as many as there are cases, or 16, because
        few cases tell only few of them from noise. They keep their variances, so that what varies little still counts
        little. Where there are no more than so many cases or features, the projection would change no distance, and
        is left out.
        """
        moments = StandardScaler()
        for block in blocks(pool):
            moments.partial_fit(block.astype(np.float64))
        mean, std = moments.mean_, np.sqrt(moments.var_)
        # Rounding leaves a constant feature a spread of about 1e-8 of its size, which must not be blown up to noise.
        constant = std <= 1e-6 * np.maximum(np.abs(mean), 1e-12)
        scale = cls(mean, np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, std)))
        if components is None:
            return scale
        components = min(components, max(len(pool) // 2, _FEW_COMPONENTS))
        if components >= min(pool.shape):
            return scale
        some = np.unique(np.linspace(0, len(pool) - 1, min(len(pool), _MOST_ROWS)).astype(int))
        # ARPACK finds the few leading ones to machine precision.
        pca = PCA(components, svd_solver="arpack", random_state=0).fit((pool[some] - mean) * scale.factor)
        return scale._replace(axes=pca.components_.T)

    @property
    def width(self) -> int:
        """Of standardised rows."""
        return len(self.mean) if self.axes is None else self.axes.shape[1]

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Standardise rows, project them, scale them to unit length and round them to the grid of `on_grid`.

        Float32 of shape (n, d), or (n, components). A row without length becomes zero.
        """
        result = np.empty((len(features), self.width), np.float32)
        start = 0
        for block in blocks(features):
            rows = (block - self.mean) * self.factor
            if self.axes is not None:
                rows = rows @ self.axes
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            result[start : start + len(rows)] = on_grid(rows)
            start += len(rows)
        return result


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Views of some rows after the other, as many at a time as memory takes lightly."""
    size = max(1, _BLOCK_BYTES // (8 * rows.shape[1]))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def standardise(
    pool: np.ndarray, source: np.ndarray | None = None, components: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Standardise features by the *pool's* mean and standard deviation, then scale every row to unit length.

    The pool's statistics serve the source too: with the source's own, the shift between the two sites, which is
    what novelty measures, would be the only thing left to see.

    Parameters
    ----------
    pool : array of shape (n, d)
    source : array of shape (m, d), optional
    components : int, optional
        Principal components of the pool to keep: see `Scale.of`.

    Returns
    -------
    pool, source : float32 arrays of the same shapes, or as wide as there are components
        Rows of unit length, on the grid of `on_grid`. A feature without variance in the pool, and a row without
        length, become zero.
    """
    scale = Scale.of(pool, components)
    return scale.apply(pool), None if source is None else scale.apply(source)


def on_grid(rows: np.ndarray) -> np.ndarray:
    """Round rows of unit length to multiples of 2^-24, the spacing of float32 below 1, shape (n, d), float32.

    Then every product of two numbers is a multiple of 2^-48, and a sum of them that stays below 16 is exact in double
    precision: distances, and with them ties and picks, do not depend on the order of summation, the number of threads
    or the machine.
    """
    return (np.rint(np.asarray(rows, np.float64) * 2**24) / 2**24).astype(np.float32)
