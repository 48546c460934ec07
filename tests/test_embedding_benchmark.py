"""The benchmark of embeddings: what its judge calls good features, on drawn cases of two kinds."""

import sys

import numpy as np
import pytest
from making import CHECKOUT

from nnunetv2_xssr.benchmark.arms import Features
from nnunetv2_xssr.benchmark.small_cases import SmallCases

sys.path.append(str(CHECKOUT / "benchmarks"))
import embedding

N = 60


@pytest.fixture(scope="module")
def small():
    """Squares at random places, bright ones and dark ones."""
    rng = np.random.default_rng(0)
    images, labels = np.zeros((N, 1, 1, 64, 64), np.float32), np.zeros((N, 1, 64, 64), np.uint8)
    for i, (y, x) in enumerate(rng.integers(0, 40, (N, 2))):
        labels[i, 0, y : y + 24, x : x + 24] = 1
        images[i, 0, 0] = (labels[i, 0] if i % 2 else -1.0 * labels[i, 0]) + rng.normal(0, 0.1, (64, 64))
    return SmallCases(identifiers=[f"case_{i:02}" for i in range(N)], images=images, labels=labels, n_labels=1)


@pytest.fixture(scope="module")
def judge(small):
    return embedding.Judge(small, small.identifiers, ["bright" if i % 2 else "dark" for i in range(N)])


def test_masks_cover_masks_and_find_them(judge, small):
    masks = small.labels.reshape(N, -1).astype(np.float32)
    score = judge.score(Features(pool=masks, source=masks[:5], components=16))
    assert score.percentiles["masks", "xssr_no_shares"] > 90
    assert score.retrieval > 80
    assert 30 < score.same_kind < 70


def test_brightness_covers_appearances_and_finds_kinds(judge, small):
    told = embedding.appearances(small.images, small.labels > 0)
    score = judge.score(Features(pool=told, source=told[:5], components=None))
    assert score.percentiles["appearances", "xssr_no_shares"] > 90
    assert score.same_kind > 95


def test_noise_is_chance_for_masks(judge):
    noise = np.random.default_rng(0).normal(size=(8, N, 40))
    scores = [judge.score(Features(pool=each, source=each[:5], components=None)) for each in noise]
    assert abs(np.mean([score.retrieval for score in scores])) < 15
    assert 30 < embedding.covered("masks", scores)[0] < 70
    assert all(share < 40 for share in embedding.shared(scores))


def test_picks_are_compared_within_a_pool_and_budget(judge, small):
    masks = small.labels.reshape(N, -1).astype(np.float32)
    score = judge.score(Features(pool=masks, source=masks[:5], components=16))
    assert embedding.shared([score, score]) == [100, 100]
    assert all(len(picks) == 1 if budget == 0.025 else 2 for (_, _, budget), picks in score.picks.items())
