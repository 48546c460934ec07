"""From encoder features to the space in which cases are compared."""

import numpy as np


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
    mean, std = pool.mean(axis=0, dtype=np.float64), pool.std(axis=0, dtype=np.float64)
    # Rounding leaves a constant feature a spread of about 1e-8 of its size, which must not be blown up to noise.
    constant = std <= 1e-6 * np.maximum(np.abs(mean), 1e-12)
    scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, std))

    def apply(features):
        rows = (features - mean) * scale
        return on_grid(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))

    return apply(pool), None if source is None else apply(source)


def on_grid(rows: np.ndarray) -> np.ndarray:
    """Round rows of unit length to multiples of 2^-24, the spacing of float32 below 1, shape (n, d), float32.

    Then every product of two numbers is a multiple of 2^-48, and a sum of them that stays below 16 is exact in double
    precision: distances, and with them ties and picks, do not depend on the order of summation, the number of threads
    or the machine.
    """
    return (np.rint(np.asarray(rows, np.float64) * 2**24) / 2**24).astype(np.float32)
