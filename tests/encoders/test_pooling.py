"""By what cases are compared: what lies where beside how bright it is, or the mean over all places."""

import numpy as np
import pytest
import torch

from nnunetv2_xssr.encoders.pooling import BOTH, EMBEDDINGS, FeatureLayout, compare, features, symmetries
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pipeline.read import Seeing

LAYOUT = FeatureLayout(3, 5, 16, 7)


def pooled(views, *, kinds=1):
    """Features of 60 cases, of which every second one is far brighter where there are two kinds."""
    rows = np.random.default_rng(0).normal(size=(60, views, LAYOUT.size)).astype(np.float32)
    rows[::kinds, :, -LAYOUT.intensities :] += 20 * (kinds - 1)
    return rows


def test_auto_looks_at_intensities_where_the_target_falls_into_kinds_by_them():
    def kind(*pools, layout=LAYOUT, **how):
        return compare(pools, layout, embedding="auto", **how).kind

    mixed, plain, placeless = pooled(2, kinds=2), pooled(2), FeatureLayout(0, 5, 0)
    assert kind(mixed) == kind(mixed, plain) == "grid+intensity"
    assert kind(plain) == kind(plain, mixed) == kind(mixed, unit="slice") == "grid"
    assert kind(plain[:, :, :5], layout=placeless) == "average"
    assert [compare([plain], LAYOUT, embedding=one).kind for one in EMBEDDINGS[1:]] == [*EMBEDDINGS[1:]]
    with pytest.raises(UserError, match=r"one of auto, grid\+intensity, grid, average, gap; got 'mean'"):
        Seeing(embedding="mean").check("case")


@pytest.mark.parametrize("views", [1, 4])
def test_what_cases_are_compared_by(views, tmp_path):
    rows = pooled(views)
    np.save(tmp_path / "pooled.npy", rows)
    mapped = np.load(tmp_path / "pooled.npy", mmap_mode="r")
    gap, average, grid, both = (features(mapped, LAYOUT, kind=kind) for kind in ("gap", "average", "grid", BOTH))
    assert np.allclose(gap, rows[:, :, :3].mean(axis=1))
    assert np.allclose(average, rows[:, :, 3:8].mean(axis=1))
    assert grid.shape == (60, views * 80) and np.array_equal(grid[7].reshape(views, 80), rows[7, :, 8:-7])
    assert np.array_equal(both[:, :-7], grid) and np.allclose(both[:, -7:], rows[:, :, -7:].mean(axis=1))
    compared = [compare([mapped], LAYOUT, embedding=kind) for kind in (BOTH, "grid")]
    assert [one.how for one in compared] == [
        {"components": 32, "widths": [views * 80, 7]},
        {"components": 32, "widths": None},
    ]
    if views == 1:  # a pool of pictures stays on disk
        assert all(np.shares_memory(found, mapped) for found in (gap, average, grid, both))


@pytest.mark.parametrize("kind", [BOTH, "grid", "average"])
def test_a_flat_pool_beside_volumes_shows_its_slice_in_every_view(kind):
    """As a flat case among volumes does, whichever of the pools is flat."""
    flat, volumes = pooled(1), pooled(4)
    expected = features(np.repeat(flat, 4, axis=1), LAYOUT, kind=kind)
    for pools in ([flat, volumes], [volumes, flat, volumes]):
        found = compare(pools, LAYOUT, embedding=kind).features
        assert np.allclose(found[0 if pools[0] is flat else 1], expected, atol=1e-6)
        assert len({rows.shape for rows in found}) == 1


@pytest.mark.parametrize("dim", [2, 3])
def test_symmetries(dim):
    """Eight different ones of every view, the view itself first; a view and its mirror image have the same ones."""
    views = torch.rand(2, 3, *[4] * dim)
    found = list(symmetries(views))
    assert torch.equal(found[0], views)
    as_sets = [{each.numpy().tobytes() for each in symmetries(view)} for view in (views, views.flip(2), views.flip(3))]
    assert len(found) == len(as_sets[0]) == 8 and as_sets[0] == as_sets[1] == as_sets[2]
    assert dim == 3 or as_sets[0] == {each.numpy().tobytes() for each in symmetries(torch.rot90(views, 1, (2, 3)))}
