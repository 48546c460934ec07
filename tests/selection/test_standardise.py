"""Standardised rows lie on a grid on which double precision makes no rounding errors."""

from fractions import Fraction

import numpy as np

from nnunetv2_xssr.selection.cells import squared_distance
from nnunetv2_xssr.selection.standardise import standardise


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
