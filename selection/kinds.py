"""Of how many kinds a pool is, told from its embeddings alone, and how many of them a random draw would miss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist
from scipy.special import gammaln
from sklearn.metrics import silhouette_score

from nnunetv2_xssr.selection.standardise import standardise

MOST = 8
SAMPLE = 2000  # cases of a larger pool by which kinds are told
# All mixed pools of docs/evidence.md are more separated than this by today's default, and few pools of one kind.
SEPARATED = 0.2
DRAWS = 19  # pools of one kind: another one is more separated than all of them 1 time in 20
DRAWN = 200  # cases of each at most: fewer cases look more separated, so this errs towards one kind


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """The kinds of a pool.

    Attributes
    ----------
    sizes : tuple of int
        Cases of every kind, the largest first; a single one where no kinds stand out.
    missed : int
        Kinds of which no case is picked or labelled.
    missed_by_random : float
        How many that would be on average if as many cases were drawn at random.
    """

    sizes: tuple[int, ...]
    missed: int
    missed_by_random: float


def kinds_seen(
    pool: np.ndarray,
    picks: np.ndarray,
    *,
    labelled: np.ndarray | None = None,
    components: int | None = None,
    widths: Sequence[int] | None = None,
) -> Kinds:
    """Tell the kinds of a pool, and which of them some picks see.

    Parameters
    ----------
    pool : array of shape (n, d)
        Features, as `nnunetv2_xssr.selection.select` takes them.
    picks : int array of shape (k,)
    labelled : int array, optional
        Rows that have a label already.
    components : int, optional
    widths : sequence of int, optional
        See `nnunetv2_xssr.selection.select`.
    """
    labelled = np.empty(0, int) if labelled is None else labelled
    kind = tell_kinds(standardise(pool, None, components=components, widths=widths)[0])
    sizes = np.bincount(kind)
    known, seen = (np.isin(np.arange(len(sizes)), kind[rows]) for rows in (labelled, np.append(labelled, picks)))
    return Kinds(
        sizes=tuple(sorted(sizes.tolist(), reverse=True)),
        missed=int((~seen).sum()),
        missed_by_random=expected_missed(sizes[~known], n=len(kind) - len(labelled), drawn=len(picks)),
    )


def tell_kinds(rows: np.ndarray) -> np.ndarray:
    """The kind of every case, shape (n,): 2 to 8 clusters by Ward's method, the number with the best silhouette.

    All cases are of one kind, 0, where these do not `stand_out`. Else every case is of the kind whose mean is nearest.

    Parameters
    ----------
    rows : array of shape (n, d)
        As `nnunetv2_xssr.selection.standardise` gives them.
    """
    sample, found, clusters = _cut(rows)
    if not _exceeds(sample, found, SEPARATED):
        return np.zeros(len(rows), int)
    means = np.stack([sample[clusters == one].mean(axis=0) for one in range(clusters.max() + 1)])
    return cdist(rows, means).argmin(axis=1)


def stand_out(rows: np.ndarray, *, separated: float) -> bool:
    """Whether kinds stand out: by the best mean silhouette (Rousseeuw 1987) of 2 to 8 clusters.

    It must be ``separated`` at least, and larger than that of ``DRAWS`` pools of as many cases, drawn from one normal
    distribution with the mean and covariance of these (a Monte Carlo test, Besag & Diggle 1977): clusters can be cut
    out of anything, the better the fewer the cases and the fewer the directions in which they vary.
    """
    sample, found, _ = _cut(rows)
    return _exceeds(sample, found, separated)


def _exceeds(sample: np.ndarray, found: float, separated: float) -> bool:
    return found >= separated and all(found > one for one in _separations_of_one_kind(sample))


def _separations_of_one_kind(sample: np.ndarray) -> Iterator[float]:
    rng, mean = np.random.default_rng(0), sample.mean(axis=0, dtype=np.float64)
    _, lengths, axes = np.linalg.svd(sample - mean, full_matrices=False)
    spread = lengths[:, None] * axes / np.sqrt(len(sample))
    for _ in range(DRAWS):
        drawn = mean + rng.normal(size=(min(len(sample), DRAWN), len(spread))) @ spread
        yield _cut(drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-12))[1]


def _cut(rows: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """A sample of the rows, the best mean silhouette of its clusters, and the cluster of each of the sample."""
    sample = rows[np.lexsort(rows.T)]  # so that nothing depends on the order of the pool
    if len(rows) > SAMPLE:
        sample = sample[np.random.default_rng(0).choice(len(rows), SAMPLE, replace=False)]
    most = min(MOST, len(np.unique(sample, axis=0)), len(sample) - 1)
    if most < 2:
        return sample, 0.0, np.zeros(len(sample), int)
    tree = linkage(sample, "ward")
    cuts = [fcluster(tree, n_clusters, "maxclust") - 1 for n_clusters in range(2, most + 1)]
    # Where distances are equal, as of one-hot features, several clusters merge at once, and there may be no such cut.
    separated = [(silhouette_score(sample, cut), cut) for cut in cuts if cut.max() > 0]
    best, clusters = max(separated, key=lambda pair: pair[0], default=(0.0, cuts[0]))
    return sample, float(best), clusters


def expected_missed(sizes: np.ndarray, *, n: int, drawn: int) -> float:
    """Expected number of kinds that a draw without replacement misses: the sum of C(n - s, drawn) / C(n, drawn).

    Parameters
    ----------
    sizes : int array
        s, the cases of every kind.
    n, drawn : int
        Cases to draw from, and drawn.
    """
    others = n - np.asarray(sizes)
    others = others[others >= drawn]
    logs = gammaln(others + 1) - gammaln(others - drawn + 1) - gammaln(n + 1) + gammaln(n - drawn + 1)
    return float(np.exp(logs).sum())
