"""By what cases are compared: the grid where anatomy is aligned, else the mean over all places."""

import numpy as np
import pytest
import torch

from nnunetv2_xssr.encoders.pooling import FeatureLayout, choose_embedding, features, place_share, symmetries
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pipeline.read import Seeing

LAYOUT = FeatureLayout(3, 5, 16)


def pooled(place, case, n=60, views=2, seed=0):
    """Features of which the place and the case make so much (standard deviations)."""
    rng = np.random.default_rng(seed)
    grid = place * rng.normal(size=(1, views, 5, 16)) + case * rng.normal(size=(n, views, 5, 16))
    averages = rng.normal(size=(n, views, 3 + 5))
    return np.concatenate([averages, grid.reshape(n, views, -1)], axis=2).astype(np.float32)


@pytest.mark.parametrize(("place", "case"), [(1, 1), (2, 1), (1, 3), (0, 1), (1, 0)])
@pytest.mark.parametrize("views", [1, 4])
def test_share_of_the_place(place, case, views):
    share = place_share(pooled(place, case, views=views), LAYOUT)
    assert share == pytest.approx(place**2 / (place**2 + case**2), abs=0.12)
    assert 0 <= share <= 1


def test_share_is_that_of_few_cases_as_of_many():
    """Means of few cases differ by chance, which is taken off."""
    few = [place_share(pooled(0.5, 1, n=4, seed=seed), LAYOUT) for seed in range(40)]
    many = [place_share(pooled(0.5, 1, n=400, seed=seed), LAYOUT) for seed in range(5)]
    assert np.mean(few) == pytest.approx(np.mean(many), abs=0.06)


def test_share_depends_on_no_unit_and_not_on_averages():
    rows = pooled(1, 1)
    other = rows.copy()
    other[:, :, :8] *= 1000
    grid = other[:, :, 8:].reshape(60, 2, 5, 16)
    grid *= np.array([1e-3, 1, 50, 1e4, 7], np.float32)[:, None]
    grid += 5
    other[:, :, 8:] = grid.reshape(60, 2, -1)
    assert place_share(other, LAYOUT) == pytest.approx(place_share(rows, LAYOUT), rel=1e-2)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_border_of_views_tells_no_place(dim):
    """Convolutions see zeros beyond it, in any image."""
    layout = FeatureLayout(3, 5, 4**dim)
    rows = np.random.default_rng(0).normal(size=(60, 2, layout.size)).astype(np.float32)
    grid = rows[:, :, layout.grid :].reshape(60, 2, 5, *[4] * dim)
    for axis in range(3, 3 + dim):
        np.moveaxis(grid, axis, 0)[[0, -1]] += 5
    rows[:, :, layout.grid :] = grid.reshape(60, 2, -1)
    assert place_share(rows, layout) < 0.05
    grid[(..., *[1] * dim)] += 5
    rows[:, :, layout.grid :] = grid.reshape(60, 2, -1)
    assert place_share(rows, layout) > 0.5


def test_features_that_never_vary_have_no_share():
    assert place_share(np.ones((9, 1, LAYOUT.size), np.float32), LAYOUT) == 0


def test_auto_is_the_grid_where_anatomy_is_aligned():
    assert choose_embedding(pooled(2, 1), LAYOUT, kind="auto") == "grid"
    assert choose_embedding(pooled(0.05, 1), LAYOUT, kind="auto") == "average"
    assert choose_embedding(pooled(2, 1), LAYOUT, kind="gap") == "gap"
    assert choose_embedding(pooled(0.05, 1), LAYOUT, kind="grid") == "grid"
    with pytest.raises(UserError, match="--embedding must be one of auto, grid, average, gap; got 'mean'"):
        Seeing(embedding="mean").check("case")


@pytest.mark.parametrize("views", [1, 4])
def test_what_cases_are_compared_by(views, tmp_path):
    rows = pooled(1, 1, views=views)
    np.save(tmp_path / "pooled.npy", rows)
    mapped = np.load(tmp_path / "pooled.npy", mmap_mode="r")
    gap, average, grid = (features(mapped, LAYOUT, kind=kind) for kind in ("gap", "average", "grid"))
    assert np.allclose(gap, rows[:, :, :3].mean(axis=1))
    assert np.allclose(average, rows[:, :, 3:8].mean(axis=1))
    assert grid.shape == (60, views * 80) and np.array_equal(grid[7].reshape(views, 80), rows[7, :, 8:])
    if views == 1:  # a pool of pictures stays on disk
        assert all(np.shares_memory(found, mapped) for found in (gap, average, grid))


@pytest.mark.parametrize("dim", [2, 3])
def test_symmetries(dim):
    """Eight different ones of every view, the view itself first; a view and its mirror image have the same ones."""
    views = torch.rand(2, 3, *[4] * dim)
    found = list(symmetries(views))
    assert torch.equal(found[0], views)
    as_sets = [{each.numpy().tobytes() for each in symmetries(view)} for view in (views, views.flip(2), views.flip(3))]
    assert len(found) == len(as_sets[0]) == 8 and as_sets[0] == as_sets[1] == as_sets[2]
    assert dim == 3 or as_sets[0] == {each.numpy().tobytes() for each in symmetries(torch.rot90(views, 1, (2, 3)))}
