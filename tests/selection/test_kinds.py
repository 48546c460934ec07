"""Kinds of a pool: told from embeddings, and what a random draw would miss, against simulation."""

import numpy as np
import pytest

from nnunetv2_xssr.selection import standardise
from nnunetv2_xssr.selection.kinds import MOST, SAMPLE, expected_missed, kinds_seen, tell_kinds


def grouped(sizes, seed=0, d=12):
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(sizes)), sizes)
    centres = 12 * np.linalg.qr(rng.normal(size=(d, d)))[0]  # equally far from each other
    return (centres[kind] + rng.normal(size=(len(kind), d))).astype(np.float32), kind


@pytest.mark.parametrize("sizes", [(30, 30), (60, 20, 10), (40, 30, 20, 10), (SAMPLE, 600, 300)])
@pytest.mark.parametrize("seed", range(2))
def test_groups_that_lie_apart_are_told(sizes, seed):
    pool, kind = grouped(sizes, seed)
    found = tell_kinds(standardise(pool, None)[0])
    assert sorted(np.bincount(found)) == sorted(sizes)
    assert all(len(set(found[kind == one])) == 1 for one in range(len(sizes)))


@pytest.mark.parametrize("n", [1, 2, 3, 25, 300])
@pytest.mark.parametrize("seed", range(3))
def test_a_cloud_is_of_one_kind(n, seed):
    pool = np.random.default_rng(seed).normal(size=(n, 12)).astype(np.float32)
    assert kinds_seen(pool, np.arange(1)).sizes == (n,)


@pytest.mark.parametrize("n", [6, 14, 40])
def test_a_cloud_that_varies_in_few_directions_is_of_one_kind(n):
    told = 0
    for seed in range(10):  # of which the silhouette alone calls most several kinds
        rng = np.random.default_rng(seed)
        directions = np.linalg.qr(rng.normal(size=(64, 64)))[0] / np.arange(1, 65)[:, None]
        told += len(kinds_seen(rng.normal(size=(n, 64)) @ directions, np.arange(1)).sizes) > 1
    assert told <= 2


def test_copies_are_of_one_kind():
    assert kinds_seen(np.ones((30, 4), np.float32), np.arange(2)).sizes == (30,)


@pytest.mark.parametrize("n", [3, 5, 12])
def test_equally_far_cases_are_of_one_kind(n):
    assert kinds_seen(np.eye(n, dtype=np.float32), np.arange(1)).sizes == (n,)


@pytest.mark.parametrize("distinct", [2, 3, 5])
def test_each_image_with_many_copies_is_a_kind(distinct):
    pool = np.repeat(np.eye(distinct, 6, dtype=np.float32), 10, axis=0)
    assert kinds_seen(pool, np.arange(1)).sizes == (10,) * distinct


def test_order_of_the_pool_does_not_count():
    pool, _ = grouped((50, 20, 8))
    order = np.random.default_rng(1).permutation(len(pool))
    ours, theirs = tell_kinds(standardise(pool, None)[0])[order], tell_kinds(standardise(pool[order], None)[0])
    assert ((ours[:, None] == ours) == (theirs[:, None] == theirs)).all()


def test_what_picks_and_random_draws_miss():
    pool, kind = grouped((60, 20, 10, 10))
    first = [int(np.flatnonzero(kind == one)[0]) for one in range(4)]
    assert kinds_seen(pool, np.array(first)).missed == 0
    assert kinds_seen(pool, np.array(first[:2])).missed == 2
    seen = kinds_seen(pool, np.array(first[:1]), labelled=np.array(first[2:]))
    assert seen.missed == 1 and seen.sizes == (60, 20, 10, 10)
    assert seen.missed_by_random == pytest.approx(expected_missed(np.array([60, 20]), n=98, drawn=1))


@pytest.mark.parametrize("drawn", [1, 4, 30, 95, 100])
def test_expected_misses_are_those_of_simulated_draws(drawn):
    sizes = np.array([60, 25, 10, 5])
    kind, rng = np.repeat(np.arange(4), sizes), np.random.default_rng(0)
    simulated = [4 - len(set(rng.choice(kind, drawn, replace=False))) for _ in range(4000)]
    assert expected_missed(sizes, n=100, drawn=drawn) == pytest.approx(np.mean(simulated), abs=0.05)


def test_there_are_at_most_so_many_kinds():
    pool, _ = grouped((20,) * (MOST + 4))
    assert len(kinds_seen(pool, np.arange(3)).sizes) <= MOST
