"""Standardised rows lie on a grid on which double precision makes no rounding errors."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection._engine.cells import squared_distance
from nnunetv2_xssr.selection.standardise import Scale, standardise

standardising = sys.modules["nnunetv2_xssr.selection.standardise"]  # the package has a function of this name


def test_squared_distances_are_exact_in_any_order():
    rng = np.random.default_rng(0)
    rows, source = standardise(rng.standard_normal((50, 384)), rng.standard_normal((5, 384)))
    assert rows.dtype == source.dtype == np.float32
    a, b = rows[0], source[0]
    exact = sum((Fraction(float(x)) - Fraction(float(y))) ** 2 for x, y in zip(a, b, strict=True))
    assert Fraction(squared_distance(a, b)) == exact
    a, b = a.astype(np.float64), b.astype(np.float64)
    assert Fraction(float(a @ a + b @ b - 2 * (b @ a))) == exact
    assert Fraction(float(((a - b)[::-1] ** 2).sum())) == exact


def test_rows_have_unit_length_to_the_precision_of_the_grid():
    rows, _ = standardise(np.random.default_rng(0).standard_normal((50, 384)))
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=384 * 2**-24)


def test_constant_features_and_rows_without_length_become_zero():
    features = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    rows, _ = standardise(features)
    np.testing.assert_array_equal(rows, [[-1, 0], [0, 0], [1, 0]])


def test_a_scale_measured_block_by_block_is_that_of_the_whole(monkeypatch):
    monkeypatch.setattr(standardising, "_BLOCK_BYTES", 8 * 3 * 7)
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((50, 3)) * [1, 100, 1e-3] + np.arange(50)[:, None] * [0, 50, 1e-2] + 1e4
    scale = Scale.of(pool)
    np.testing.assert_allclose(scale.mean, pool.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(scale.factor, 1 / pool.std(axis=0), rtol=1e-9)
    whole = standardise(pool)[0]
    np.testing.assert_array_equal(np.concatenate([scale.apply(part) for part in (pool[:9], pool[9:])]), whole)


def low_rank(n, d, rank, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, rank)) * np.arange(rank, 0, -1) @ rng.normal(size=(rank, d))


@pytest.mark.parametrize(("n", "d"), [(40, 300), (300, 40), (3000, 60)])
def test_components_keep_the_distances_of_what_they_span(n, d):
    """Rows of rank 5 lie in 5 components: nothing is lost, and nothing is whitened."""
    pool, source = low_rank(n + 20, d, 5)[:n], low_rank(n + 20, d, 5)[n:]
    for whole, projected in zip(standardise(pool, source), standardise(pool, source, components=8), strict=True):
        assert projected.shape == (len(whole), 8)
        assert np.allclose(whole @ whole[:30].T, projected @ projected[:30].T, atol=1e-5)


def test_components_leave_noise_out():
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(4), 50)
    pool = np.where(np.arange(400) % 5 == 0, np.eye(4)[kinds] @ rng.normal(size=(4, 400)) * 4, 0)
    pool = pool + rng.normal(size=pool.shape)

    def told_apart(rows):
        like = rows.astype(float) @ rows.T
        alike = kinds[:, None] == kinds
        return like[alike].mean() - like[~alike].mean()

    assert told_apart(standardise(pool, components=4)[0]) > 2 * told_apart(standardise(pool)[0])


@pytest.mark.parametrize(("n", "d"), [(5, 100), (100, 5), (16, 64), (1, 40)])
def test_no_more_cases_or_features_than_components_change_nothing(n, d):
    pool = np.random.default_rng(0).normal(size=(n, d))
    assert np.array_equal(standardise(pool)[0], standardise(pool, components=32)[0])


@pytest.mark.parametrize(("n", "kept"), [(200, 32), (64, 32), (50, 25), (20, 16)])
def test_few_cases_have_few_components(n, kept):
    pool = np.random.default_rng(0).normal(size=(n, 100))
    assert standardise(pool, components=32)[0].shape == (n, kept)


def test_the_source_is_standardised_by_the_pool_so_that_the_shift_between_sites_stays():
    rng = np.random.default_rng(0)
    pool, source = rng.normal(0, 1, (200, 4)), rng.normal(3, 5, (50, 4))
    z, x = standardise(pool, source)
    assert np.abs(z.mean(axis=0)).max() < 0.1  # the pool lies around the origin
    expected = (source - pool.mean(axis=0)) / pool.std(axis=0)
    np.testing.assert_allclose(x, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("components", [None, 8])
def test_sorts_of_features_count_equally_however_many_there_are(components):
    """Two sorts of one feature each, one of them written down a hundred times."""
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(2, 60, 3))
    wide = np.hstack([few, np.repeat(many, 100, axis=1)])
    apart = [
        pairwise_distances(standardise(pool, components=components, widths=widths)[0])
        for pool, widths in ((wide, [3, 300]), (np.hstack([few, many]), None), (wide, None))
    ]
    assert np.allclose(apart[0], apart[1], atol=1e-5) and abs(apart[0] - apart[2]).max() > 0.1


def test_what_does_not_vary_has_no_share():
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(20, 4))
    padded = np.hstack([pool, np.ones((20, 3))])
    assert np.allclose(standardise(padded, widths=[2, 5])[0][:, :4], standardise(pool, widths=[2, 2])[0], atol=1e-6)
    assert np.allclose(standardise(padded, widths=[4, 3])[0][:, :4], standardise(pool)[0], atol=1e-6)


@pytest.mark.parametrize("widths", [[3], [2, 3], [5, -1], [0, 4], []])
def test_widths_that_do_not_fit(widths):
    with pytest.raises(UserError, match="widths must be 1 or more each and add up to 4 features"):
        standardise(np.eye(4), widths=widths)


@pytest.mark.parametrize("n", [40, 3000])
@pytest.mark.parametrize("others", [0, 1])
def test_copies_have_no_components(n, others):
    """Of 3,000 rows not all are looked at for components: the other one is none of them."""
    pool = np.full((n, 50), 0.7, np.float32)
    pool[1 : 1 + others] = 0.2
    rows, _ = standardise(pool, components=20)
    assert len(np.unique(rows, axis=0)) == 1 + others
