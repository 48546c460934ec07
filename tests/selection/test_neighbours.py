"""Nearest neighbours are the true ones, to the last bit of their distances."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_xssr.selection._engine import cells as cells_module
from nnunetv2_xssr.selection._engine import neighbours as neighbours_module
from nnunetv2_xssr.selection._engine.cells import cells_of
from nnunetv2_xssr.selection._engine.neighbours import nearest_distances, nearest_neighbours


def assert_nearest(pool, k, others=None, check=slice(None)):
    distances, rows = nearest_neighbours(pool, k=k, others=others)
    targets = pool if others is None else others
    for i in np.arange(len(pool))[check]:
        true = naive.Distances(np.vstack([targets, pool[i]]))(-1)[:-1]
        np.testing.assert_array_equal(distances[i], true[rows[i]])
        if others is None:
            assert i not in rows[i]
            true[i] = np.inf
        assert len(set(rows[i])) == k
        np.testing.assert_array_equal(distances[i], np.sort(true)[:k])


@st.composite
def rows_of(draw, d, least):
    n = draw(st.integers(least, 40))
    values = st.lists(st.integers(-2, 2), min_size=n * d, max_size=n * d)
    return naive.unit(np.array(draw(values), float).reshape(n, d))


@given(st.data(), st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from([2, 256]))
@settings(max_examples=300, deadline=None)
def test_small_pools_with_ties(data, d, sketch, within, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "SMALL", 0 if sketch else 5000)
        patch.setattr(cells_module, "_BLOCK", 8)
        patch.setattr(neighbours_module, "_CHUNK", chunk)
        pool = data.draw(rows_of(d, 2))
        others = None if within else data.draw(rows_of(d, 1))
        k = data.draw(st.integers(1, len(pool) - 1 if within else len(others)))
        assert_nearest(pool, k, others)


@given(st.data(), st.integers(1, 4), st.sampled_from([0, 0.01]))
@settings(max_examples=100, deadline=None)
def test_others_in_parts_give_the_distances_of_all(data, d, false_hits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "SMALL", 0)
        patch.setattr(neighbours_module, "_FALSE_HITS", false_hits)  # at 0 the search starts over
        pool, others = data.draw(rows_of(d, 2)), data.draw(rows_of(d, 1))
        k, cut = data.draw(st.integers(1, len(others))), data.draw(st.integers(1, len(others)))
        parts = [None, others[:cut], *([others[cut:]] if cut < len(others) else [])]
        distances = nearest_distances(pool, k=k, parts=parts)
        for i in range(len(pool)):
            true = naive.Distances(np.vstack([others, np.delete(pool, i, 0), pool[i]]))(-1)[:-1]
            np.testing.assert_array_equal(distances[i], np.sort(true)[:k])


@pytest.mark.parametrize("kind", ["clustered", *naive.slow("blobs", "isotropic", "duplicates")])
def test_20_000_cases(kind):
    cases = naive.pool_of(kind, 30_000, 64)
    pool, others = cases[:20_000], cases[20_000:]
    assert_nearest(pool, 20, check=slice(0, None, 500))
    assert_nearest(pool, 20, others, check=slice(0, None, 500))


def test_a_memory_map_is_read_in_place(tmp_path):
    pool = naive.pool_of("clustered", 6000, 64)
    np.save(tmp_path / "pool.npy", pool)
    mapped = np.load(tmp_path / "pool.npy", mmap_mode="r")
    assert np.shares_memory(cells_of(mapped).pool, mapped)
    np.testing.assert_array_equal(nearest_neighbours(mapped, k=20)[0], nearest_neighbours(pool, k=20)[0])
