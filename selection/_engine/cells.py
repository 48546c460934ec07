"""A sketch of each case whose distances never exceed the true ones, in cells of cases that lie close together.

Distances between sketches are cheap and bound the true ones from below, so most pairs of cases need no true distance.
The greedy and the search for nearest neighbours both rely on this.
"""

from typing import NamedTuple

import numpy as np
from sklearn.utils.extmath import randomized_svd

from nnunetv2_xssr.compiling import compiled

WIDTH = 32  # numbers in a sketch: two cache lines
SMALL = 5000  # with fewer cases, plain passes over all of them are fastest
_CAPTURED = 0.5  # share of the variance that a useful sketch must hold
_SAMPLE = 1024  # rows to which the principal directions are fitted
_BLOCK = 1024  # rows per block


@compiled(fastmath=True)
def squared_distance(a, b):
    """|a - b|^2 in double precision: exact for rows on the grid of `standardise`, in any order of summation."""
    total = 0.0
    for i in range(a.size):
        difference = np.float64(a[i]) - np.float64(b[i])
        total += difference * difference
    return total


@compiled(fastmath=True)
def rough_squared_distance(a, b):
    """|a - b|^2 in single precision."""
    total = np.float32(0)
    for i in range(a.size):
        total += (a[i] - b[i]) * (a[i] - b[i])
    return total


class Cells(NamedTuple):
    """Features of n cases, cell by cell, that bound true distances from both sides.

    With s_ij = |features_i - features_j|^2:  s_ij - slack <= |z_i - z_j|^2 <= s_ij + 4 residual_i residual_j + slack.

    It is a named tuple because compiled code can read one.

    Attributes
    ----------
    pool : float32 array of shape (n, d)
    rows : int array of shape (n,)
        The row in the pool of each entry of the arrays below.
    position : int array of shape (n,)
        The inverse: the entry of each row of the pool.
    starts : int array of shape (cells + 1,)
        Cell c holds the entries from starts[c] to starts[c + 1].
    features : float32 array of shape (n, q)
    residual : float32 array of shape (n,)
        Length of the part of a row that the principal directions do not hold.
    squares : float32 array of shape (n,)
        |features_i|^2.
    centres : float32 array of shape (cells, q)
    from_centre : float32 array of shape (n,)
        Distance of the features from the centre of their cell.
    mean : array of shape (d,)
    directions : array of shape (d, q - 1)
        Principal directions of the features; (d, 0) if the rows of the pool are their own features.
    slack : float
        Most that rounding to single precision can add to a squared distance of features.
    """

    pool: np.ndarray
    rows: np.ndarray
    position: np.ndarray
    starts: np.ndarray
    features: np.ndarray
    residual: np.ndarray
    squares: np.ndarray
    centres: np.ndarray
    from_centre: np.ndarray
    mean: np.ndarray
    directions: np.ndarray
    slack: float

    @property
    def sketched(self) -> bool:
        """Whether the features are a sketch, and not the rows themselves."""
        return self.directions.shape[1] > 0


def cells_of(pool: "np.ndarray | Cells") -> Cells:
    """Return the cells of a pool. Cells are returned as they are, so that callers can share them.

    Parameters
    ----------
    pool : array of shape (n, d), or Cells
        Rows as `standardise` gives them.
    """
    if isinstance(pool, Cells):
        return pool
    pool = np.ascontiguousarray(pool, np.float32)
    if len(pool) < SMALL:
        return whole(pool)
    mean, directions = _principal_directions(pool)
    return _in_cells(pool, mean, directions) if directions.shape[1] else whole(pool)


def cells_like(cells: Cells, others: np.ndarray) -> Cells:
    """Return the cells of other rows, shape (m, d), with features that can be compared with those of ``cells``."""
    others = np.ascontiguousarray(others, np.float32)
    return _in_cells(others, cells.mean, cells.directions) if cells.sketched else whole(others)


def whole(pool: np.ndarray) -> Cells:
    """Take the rows as their own features, in tiles that are never pruned: best for few cases, or many directions."""
    n, d = pool.shape
    everything = np.arange(n)
    starts = np.append(np.arange(0, n, _BLOCK), n)
    squares = np.einsum("ij,ij->i", pool, pool)
    centres = np.zeros((len(starts) - 1, d), np.float32)
    residual, from_centre = np.zeros(n, np.float32), np.full(n, np.inf, np.float32)
    mean, directions = np.zeros(d), np.zeros((d, 0))
    return _frozen(
        pool=pool,
        rows=everything,
        position=everything,
        starts=starts,
        features=pool,
        residual=residual,
        squares=squares,
        centres=centres,
        from_centre=from_centre,
        mean=mean,
        directions=directions,
    )


def _frozen(**arrays: np.ndarray) -> Cells:
    """Cells of these arrays, all read-only like a memory map, so that the loops are compiled once for all pools.

    The slack: a sum of q products in single precision is off by at most q 2^-24 |a| |b| (Higham 2002, section 3.1). It
    enters a squared distance twice, the two norms are such sums too, and the features themselves were rounded.
    """
    views = {name: np.ascontiguousarray(array).view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    cells = Cells(**views, slack=0.0)
    return cells._replace(slack=float((4 * cells.features.shape[1] + 32) * 2.0**-24 * cells.squares.max()))


def _principal_directions(pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, shape (d,), and up to 31 orthonormal principal directions, shape (d, 31), of a sample of the pool.

    No directions, shape (d, 0), if they hold too little of the variance, as in an isotropic pool.
    """
    sample = pool[np.random.default_rng(0).permutation(len(pool))[:_SAMPLE]].astype(np.float64)
    mean = sample.mean(axis=0)
    sample -= mean
    _, size, directions = randomized_svd(sample, min(WIDTH - 1, *sample.shape), n_iter=2, random_state=0)
    if (size**2).sum() < _CAPTURED * (sample**2).sum():
        return mean, np.zeros((len(mean), 0))
    return mean, np.linalg.qr(directions.T)[0]


def _sketch(pool: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return the principal coordinates of each row and the length of its residual, shape (n, 32).

    For z = mean + V p + r with orthonormal V and r orthogonal to it, |z - z'|^2 = |p - p'|^2 + |r - r'|^2, and the
    last term lies between (|r| - |r'|)^2 and (|r| + |r'|)^2 (Cauchy-Schwarz). So z -> (p, |r|) never lengthens a
    distance, and shortens its square by at most 4 |r| |r'|.
    """
    features = np.zeros((len(pool), WIDTH), np.float32)
    against = np.column_stack([directions, mean])  # the mean as one more direction is quicker than subtracting it
    for start in range(0, len(pool), _BLOCK):
        block = pool[start : start + _BLOCK].astype(np.float64)
        products = block @ against
        coordinates = products[:, :-1] - mean @ directions
        squares = np.einsum("ij,ij->i", block, block) - 2 * products[:, -1] + mean @ mean
        residual = squares - np.einsum("ij,ij->i", coordinates, coordinates)
        features[start : start + _BLOCK, : coordinates.shape[1]] = coordinates
        features[start : start + _BLOCK, -1] = np.sqrt(np.maximum(residual, 0))
    return features


def _in_cells(pool: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> Cells:
    """Sort the features by the nearest of sqrt(n) centres: random cases after one step of Lloyd's algorithm.

    More steps or more centres cost as much as they saved when we tried them.
    """
    n, count = len(pool), int(np.sqrt(len(pool)))
    features = _sketch(pool, mean, directions)
    sample = features[np.random.default_rng(0).permutation(n)[: 32 * count]]
    centres = sample[:count]
    cell = _nearest_centre(sample, centres)
    sums = np.stack([np.bincount(cell, column, count) for column in sample.T], axis=1)
    sizes = np.bincount(cell, minlength=count)[:, None]
    centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres).astype(np.float32)
    cell = _nearest_centre(features, centres)
    rows = np.argsort(cell, kind="stable")
    position = np.empty(n, int)
    position[rows] = np.arange(n)
    features, cell = features[rows], cell[rows]
    starts = np.searchsorted(cell, np.arange(count + 1))
    squares = np.einsum("ij,ij->i", features, features)
    from_centre = np.linalg.norm(features - centres[cell], axis=1) * np.float32(1 + 1e-5)  # never rounded down
    return _frozen(
        pool=pool,
        rows=rows,
        position=position,
        starts=starts,
        features=features,
        residual=features[:, -1],
        squares=squares,
        centres=centres,
        from_centre=from_centre,
        mean=mean,
        directions=directions,
    )


def _nearest_centre(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    half = np.einsum("ij,ij->i", centres, centres) / 2
    blocks = (features[start : start + _BLOCK] for start in range(0, len(features), _BLOCK))
    return np.concatenate([np.argmax(block @ centres.T - half, axis=1) for block in blocks])


@compiled()
def picks_near_cell(cells, c, squares, products, radius, near):
    """Write to ``near`` which of k picks lie within ``radius`` of the centre of cell c; return how many do.

    Parameters
    ----------
    squares, products : arrays of shape (k,)
        Squared norms of the picks' features, and their products with the centre.
    near : int array with at least k entries
        Entries beyond the returned number have no meaning.
    """
    square = np.dot(cells.centres[c], cells.centres[c]) - cells.slack
    count = 0
    for j in range(len(squares)):
        near[count] = j
        count += square + squares[j] - 2 * products[j] <= radius * radius
    return count
