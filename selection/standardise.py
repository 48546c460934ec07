"""From the features of an encoder to the space in which cases are compared."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from nnunetv2_xssr.errors import UserError

_BLOCK_BYTES = 2**24  # size of a block of rows in double precision
_MOST_ROWS = 2048  # for the principal components, which change little with more
_FEW_COMPONENTS = 16  # that every pool may have: see Scale.of


class Scale(NamedTuple):
    """Standardisation by a pool's mean and standard deviation, and its leading principal components.

    Attributes
    ----------
    mean : array of shape (d,)
    factor : array of shape (d,)
        1 / standard deviation, of several sorts of features divided by the root of the number of the sort; 0 for a
        feature without variance.
    axes : array of shape (d, components) or None
        Orthonormal directions on which standardised rows are projected.
    """

    mean: np.ndarray
    factor: np.ndarray
    axes: np.ndarray | None = None

    @classmethod
    def of(cls, pool: np.ndarray, *, components: int | None = None, widths: Sequence[int] | None = None) -> "Scale":
        """Measure a pool, shape (n, d), block by block: it may be a memory map larger than the memory.

        With ``components`` rows are projected on so many principal components of the standardised pool (of 2,048 of
        its rows, evenly spaced, if it has more), but on at most n / 2 or 16, whichever is larger: few cases tell only
        few components from noise. Components keep their variances, so what varies little still counts little. If there
        are no more cases or features than components, the projection would change no distance and is left out.

        With ``widths`` features of several sorts lie side by side, so many of each, and every sort has the same share
        of the variance.

        Raises
        ------
        UserError
            If the widths do not add up to the number of features.
        """
        moments = StandardScaler()
        for block in blocks(pool):
            moments.partial_fit(block.astype(np.float64))
        mean, std = moments.mean_, np.sqrt(moments.var_)
        # Rounding gives a constant feature a deviation of about 1e-8 of its size, which must not be scaled up to noise.
        nothing = 1e-12 * min(1.0, std.max() / 1e-6)  # unless all features are as small
        constant = std <= 1e-6 * np.maximum(np.abs(mean), nothing)
        factor = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, std))
        if widths is not None:
            factor = _evened(factor, widths)
        scale = cls(mean, factor)
        if components is None:
            return scale
        components = min(components, max(len(pool) // 2, _FEW_COMPONENTS))
        if components >= min(pool.shape):
            return scale
        some = np.unique(np.linspace(0, len(pool) - 1, min(len(pool), _MOST_ROWS)).astype(int))
        rows = (pool[some] - mean) * scale.factor
        if (rows == rows[0]).all():  # copies have no components
            return scale
        # ARPACK finds the few leading components to machine precision; IncrementalPCA only approximates them.
        pca = PCA(components, svd_solver="arpack", random_state=0).fit(rows)
        return scale._replace(axes=pca.components_.T)

    @property
    def width(self) -> int:
        """Features of a standardised row."""
        return len(self.mean) if self.axes is None else self.axes.shape[1]

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Standardise rows, project them, scale them to unit length and round them to the grid of `on_grid`.

        The result is float32 of shape (n, d) or (n, components). A row of length zero stays zero.
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


def _evened(factor: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Give every sort of features the same variance, if it has any."""
    if sum(widths) != len(factor) or min(widths, default=0) < 1:
        raise UserError(f"widths must be 1 or more each and add up to {len(factor)} features; got {list(widths)}")
    sorts = np.split(factor, np.cumsum(widths)[:-1])
    return np.concatenate([one / np.sqrt(max(1, int(np.count_nonzero(one)))) for one in sorts])


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Successive views of some rows each, small enough for any memory."""
    size = max(1, _BLOCK_BYTES // (8 * rows.shape[1]))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def check_features(pool: np.ndarray, source: np.ndarray | None = None) -> None:
    """Check the features of a pool and its source, block by block.

    Raises
    ------
    UserError
        If an array is empty or not two-dimensional, holds what is no number, NaN, infinity or what single precision
        does not reach, or the widths differ.
    """
    for name, features in (("pool", pool), ("source", source)):
        if features is None:
            continue
        if not isinstance(features, np.ndarray) or features.dtype.kind not in "biuf":
            got = getattr(features, "dtype", type(features).__name__)
            raise UserError(f"{name} must be a numpy array of numbers; got {got}")
        if features.ndim != 2 or len(features) == 0:
            raise UserError(f"{name} must have the shape (cases, features), not empty; got {features.shape}")
        if features.shape[1] != pool.shape[1]:
            raise UserError(f"{name} must have as many features as the pool, {pool.shape[1]}; got {features.shape[1]}")
        start = 0
        for block in blocks(features):
            with np.errstate(over="ignore"):  # squares of what single precision does not hold would be infinite
                finite = np.isfinite(block.astype(np.float32, copy=False)).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                what = "a number beyond 3e38" if np.isfinite(block).all() else "NaN or infinity"
                raise UserError(f"{name} must hold finite numbers only; got {what} in row {row}")
            start += len(block)


def standardise(
    pool: np.ndarray,
    source: np.ndarray | None = None,
    *,
    components: int | None = None,
    widths: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Standardise features by the *pool's* mean and standard deviation, then scale each row to unit length.

    The source is standardised by the pool's statistics too. Its own would remove the shift between the two sites, which
    is what novelty measures.

    Parameters
    ----------
    pool : array of shape (n, d)
    source : array of shape (m, d), optional
    components : int, optional
        Principal components of the pool to keep: see `Scale.of`.
    widths : sequence of int, optional
        Numbers of features of several sorts: see `Scale.of`.

    Returns
    -------
    pool, source : float32 arrays of the same shapes, or as wide as there are components
        Rows of unit length, on the grid of `on_grid`. Features without variance in the pool and rows of length zero
        are zero.
    """
    scale = Scale.of(pool, components=components, widths=widths)
    return scale.apply(pool), None if source is None else scale.apply(source)


def on_grid(rows: np.ndarray) -> np.ndarray:
    """Round rows of unit length to multiples of 2^-24, the spacing of float32 below 1, shape (n, d), float32.

    Then each product of two numbers is a multiple of 2^-48, and sums of them below 16 are exact in double precision:
    distances, and with them ties and picks, do not depend on the order of summation, the number of threads or the
    machine.
    """
    return (np.rint(np.asarray(rows, np.float64) * 2**24) / 2**24).astype(np.float32)
