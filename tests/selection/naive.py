"""The selection as its definition says it, case by case in double precision: what the fast engine is held against."""

from contextlib import contextmanager

import numpy as np
import pytest

from nnunetv2_xssr.selection import greedy as greedy_module
from nnunetv2_xssr.selection._engine import cells, coverage, lazy
from nnunetv2_xssr.selection.standardise import on_grid


def slow(*values):
    """Parameters that only `make test-all` takes."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


class Distances:
    """Distances of all cases to one, by products: on the grid, every way to sum in double precision is exact."""

    def __init__(self, pool):
        self.pool = pool.astype(np.float64)
        self.squares = (self.pool**2).sum(1)

    def __call__(self, row):
        return np.sqrt(self.squares + self.squares[row] - 2 * (self.pool @ self.pool[row]))


def greedy(pool, fixed, weight, budget, chosen):
    """Return picks, final nearest distances, and the diversity of every pick at its moment."""
    distances_to = Distances(pool)
    nearest, free = np.full(len(pool), np.inf), np.array(fixed, np.float64)
    for i in chosen:
        nearest = np.minimum(nearest, distances_to(i))
    free[chosen] = -np.inf
    picks, diversity = [], []
    for _ in range(budget):
        radius = nearest.max()
        some = 0 < radius < np.inf
        picks.append(int(np.argmax(radius * free + weight * nearest if some else free)))
        diversity.append(nearest[picks[-1]] / radius if some else 0.0)
        free[picks[-1]] = -np.inf
        nearest = np.minimum(nearest, distances_to(picks[-1]))
    return np.array(picks), nearest, np.array(diversity)


def unit(rows):
    """Rows of unit length on the grid; zero rows stay zero."""
    return on_grid(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def pool_of(kind, n, d, seed=0):
    """clustered: 24 smooth directions and little noise; blobs: clusters of their own; isotropic; duplicates."""
    rng = np.random.default_rng(seed)
    if kind == "isotropic":
        return unit(rng.standard_normal((n, d)))
    if kind == "blobs":
        centres = rng.standard_normal((20, d))
        return unit(centres[rng.integers(0, 20, n)] + 0.3 * rng.standard_normal((n, d)))
    latent = rng.standard_normal((n // 50 + 1, 24)).repeat(50, axis=0)[:n] + 0.2 * rng.standard_normal((n, 24))
    rows = latent @ rng.standard_normal((24, d)) + 0.05 * rng.standard_normal((n, d))
    if kind == "duplicates":
        rows = rows[rng.integers(0, n // 3, n)]
        rows[rng.random(n) < 0.05] = 0
    return unit(rows)


@contextmanager
def way_of_large_pools(candidates, block, sketch):
    """Let a small pool be worked on as a large one is, by few candidates and short blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy_module, "SMALL", 0)
        patch.setattr(lazy, "_CANDIDATES", candidates)
        for module in (coverage, greedy_module):
            patch.setattr(module, "BLOCK", block)
        patch.setattr(cells, "SMALL", 0 if sketch else 5000)
        yield
