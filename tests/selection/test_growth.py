"""The mean distance after every single pick against all distances in double precision."""

import naive
import numpy as np
import pytest

from nnunetv2_xssr.selection._engine import cells, growth
from nnunetv2_xssr.selection._engine.growth import mean_distances


def brute(pool, ranking, chosen):
    z = pool.astype(np.float64)
    nearest = np.full(len(z), np.inf)
    means = []
    for k, pick in enumerate([*chosen, *ranking]):
        nearest = np.minimum(nearest, np.sqrt(((z - z[pick]) ** 2).sum(axis=1)))
        if k >= len(chosen):
            means.append(nearest.mean())
    return means


@pytest.mark.parametrize("kind", ["clustered", "blobs", "isotropic", "duplicates"])
@pytest.mark.parametrize("sketch", [True, False])
@pytest.mark.parametrize("labelled", [0, 7])
def test_it_is_the_naive_mean_however_the_pool_is_worked(kind, sketch, labelled, monkeypatch):
    monkeypatch.setattr(cells, "SMALL", 0 if sketch else 5000)
    monkeypatch.setattr(growth, "BLOCK", 40)  # several blocks, and the way of them after a first one in vain
    pool = naive.pool_of(kind, 600, 48)
    order = np.random.default_rng(1).permutation(600)
    chosen, ranking = order[:labelled], order[labelled : labelled + 150]
    means = mean_distances(pool, ranking=ranking, chosen=chosen)
    np.testing.assert_allclose(means, brute(pool, ranking, chosen), rtol=1e-12)
    assert (np.diff(means) <= 0).all()


def test_copies_end_at_zero_exactly():
    pool = np.repeat(naive.unit(np.eye(3)), 4, axis=0)
    means = mean_distances(pool, ranking=np.array([0, 1, 4, 8, 9]), chosen=np.empty(0, int))
    assert means.tolist() == pytest.approx([np.sqrt(2) * 2 / 3, np.sqrt(2) * 2 / 3, np.sqrt(2) / 3, 0, 0])
    assert means[-2:].tolist() == [0, 0]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_cases(n):
    pool = naive.pool_of("isotropic", n, 4)
    assert mean_distances(pool, ranking=np.arange(n), chosen=np.empty(0, int)) == pytest.approx(
        brute(pool, np.arange(n), [])
    )
