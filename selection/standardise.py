"""From encoder features to the space in which cases are compared."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_BLOCK_BYTES = 2**24  # of rows worked on at a time, in double precision


class Scale(NamedTuple):
    """Standardisation by a pool's mean and standard deviation.

    Attributes
    ----------
    mean : array of shape (d,)
    factor : array of shape (d,)
        1 / standard deviation; 0 for a feature without variance.
    """

    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, pool: np.ndarray) -> "Scale":
        """Measure a pool, shape (n, d), block by block, so that it may be a memory map larger than the memory.

        Means and sums of squares of blocks are combined as Chan, Golub & LeVeque (1983) do, which loses no digits.
        """
        count, mean, squares = 0, np.zeros(pool.shape[1]), np.zeros(pool.shape[1])
        for block in blocks(pool):
            block = block.astype(np.float64)
            centre = block.mean(axis=0)
            share = len(block) / (count + len(block))
            squares += ((block - centre) ** 2).sum(axis=0) + count * share * (centre - mean) ** 2
            mean += share * (centre - mean)
            count += len(block)
        std = np.sqrt(squares / count)
        # Rounding leaves a constant feature a spread of about 1e-8 of its size, which must not be blown up to noise.
        constant = std <= 1e-6 * np.maximum(np.abs(mean), 1e-12)
        return cls(mean, np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, std)))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Standardise rows, scale them to unit length and round them to the grid of `on_grid`; shape (n, d), float32.

        A row without length becomes zero.
        """
        result = np.empty(features.shape, np.float32)
        start = 0
        for block in blocks(features):
            rows = (block - self.mean) * self.factor
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            result[start : start + len(rows)] = on_grid(rows)
            start += len(rows)
        return result


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Views of some rows after the other, as many at a time as memory takes lightly."""
    size = max(1, _BLOCK_BYTES // (8 * rows.shape[1]))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def standardise(pool: np.ndarray, source: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Standardise features by the *pool's* mean and standard deviation, then scale every row to unit length.

    The pool's statistics serve the source too: with the source's own, the shift between the two sites, which is
    what novelty measures, would be the only thing left to see.

    Parameters
    ----------
    pool : array of shape (n, d)
    source : array of shape (m, d), optional

    Returns
    -------
    pool, source : float32 arrays of the same shapes
        Rows of unit length, on the grid of `on_grid`. A feature without variance in the pool, and a row without
        length, become zero.
    """
    scale = Scale.of(pool)
    return scale.apply(pool), None if source is None else scale.apply(source)


def on_grid(rows: np.ndarray) -> np.ndarray:
    """Round rows of unit length to multiples of 2^-24, the spacing of float32 below 1, shape (n, d), float32.

    Then every product of two numbers is a multiple of 2^-48, and a sum of them that stays below 16 is exact in double
    precision: distances, and with them ties and picks, do not depend on the order of summation, the number of threads
    or the machine.
    """
    return (np.rint(np.asarray(rows, np.float64) * 2**24) / 2**24).astype(np.float32)
