"""Density and novelty against all distances in double precision, and density where cases come in bursts."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_xssr.selection import standardise
from nnunetv2_xssr.selection.scores import density, density_span, novelty, raw_density, scaled


def min_max(values):
    return (values - values.min()) / np.ptp(values)


def test_density_is_the_inverse_mean_distance_scaled():
    pool = naive.pool_of("clustered", 300, 16)
    true = np.array([np.sort(naive.Distances(pool)(i))[1:21].mean() for i in range(300)])
    np.testing.assert_allclose(density(pool), min_max(1 / (true + 1e-5)), rtol=1e-12)


def test_novelty_is_the_mean_distance_to_the_source_scaled():
    pool, source = naive.pool_of("clustered", 300, 16), naive.pool_of("blobs", 7, 16)
    true = np.array([naive.Distances(np.vstack([source, row]))(-1)[:-1].mean() for row in pool])
    np.testing.assert_allclose(novelty(pool, source), min_max(true), rtol=1e-12)
    assert not novelty(pool, None).any()


def test_equal_cases_have_equal_density():
    pool = naive.pool_of("duplicates", 6000, 32)
    _, first, group = np.unique(pool, axis=0, return_index=True, return_inverse=True)
    values = density(pool)
    np.testing.assert_array_equal(values, values[first][group])


def with_bursts(n, d, share, bursts, noise, seed=0):
    """n cases, and after them near-copies of the first so many, which are this share of the whole pool."""
    rng = np.random.default_rng(seed)
    alone = rng.normal(size=(n, d))
    copies = alone[np.arange(round(n * share / (1 - share))) % bursts]
    return alone, np.vstack([alone, copies + noise * rng.normal(size=copies.shape)])


@settings(max_examples=60)
@given(
    d=st.sampled_from([2, 8, 32, 300]),
    share=st.floats(0.01, 0.4),
    bursts=st.integers(1, 12),
    noise=st.sampled_from([0.0, 1e-6, 0.01, 0.1, 0.3, 0.5]),
    seed=st.integers(0, 99),
)
def test_bursts_leave_the_others_their_density(d, share, bursts, noise, seed):
    n = 250
    _, pool = with_bursts(n, d, share, bursts, noise, seed)
    values = density(standardise(pool)[0])
    assert np.median(values[:n]) >= 0.1
    assert values.min() == 0 and values.max() == 1


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_burst_of_near_copies_leaves_the_scale_of_the_others(share):
    alone, pool = with_bursts(300, 32, share, 1, 0.01)
    before, after = np.median(density(standardise(alone)[0])), np.median(density(standardise(pool)[0])[:300])
    assert after == pytest.approx(before, rel=0.5)


def test_a_burst_is_as_dense_as_can_be():
    _, pool = with_bursts(200, 32, 0.11, 1, 0.01)
    assert (density(standardise(pool)[0])[200:] == 1).all()


def test_a_third_of_the_pool_without_any_neighbour_keeps_the_min_max_scaling():
    """Cases that tie for the least density say nothing about what is usual."""
    pool = naive.unit(np.vstack([np.eye(40)[:30], np.repeat(np.eye(40)[30:], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], axis=0)]))
    true = np.array([np.sort(naive.Distances(pool)(i))[1:21].mean() for i in range(len(pool))])
    np.testing.assert_allclose(density(pool), min_max(1 / (true + 1e-5)), atol=1e-9)


@pytest.mark.parametrize("sizes", [[1] * 40, [8] * 6, [30, 1, 5, 12], [25, 3], [10]])
def test_parts_of_one_whole_do_not_count_as_density(sizes):
    pool, wholes = naive.pool_of("blobs", sum(sizes), 16), np.repeat(np.arange(len(sizes)), sizes)
    apart, k = naive.Distances(pool), min(20, sum(sizes) - max(sizes))
    if k == 0:
        assert not density(pool, wholes=wholes).any()
        return
    means = np.array([np.sort(apart(i)[wholes != wholes[i]])[:k].mean() for i in range(len(pool))])
    raw = raw_density(means)
    expected = scaled(raw, least=raw.min(), span=density_span(raw))
    np.testing.assert_allclose(density(pool, wholes=wholes), expected, rtol=1e-9, atol=1e-12)
