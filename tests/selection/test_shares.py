"""Shares of the kinds: kept at every length of a ranking, caught up with, and not for copies."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunetv2_xssr import selection
from nnunetv2_xssr.selection import Constraints, standardise
from nnunetv2_xssr.selection.kinds import tell_kinds
from nnunetv2_xssr.selection.shares import come_first

select = partial(selection.select, strategy="xssr")


@given(data=st.data())
def test_whatever_is_picked_of_what_may_come_every_kind_has_its_share(data):
    parts = np.array(data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=8)))
    counts = np.zeros(len(parts), int)
    for length in range(1, parts.sum() + 1):
        may = np.flatnonzero(come_first(counts, parts))
        counts[data.draw(st.sampled_from(may.tolist()))] += 1
        assert (counts >= length * parts // parts.sum()).all()


def test_any_kind_may_come_while_no_share_is_at_stake():
    assert come_first(np.array([0, 0]), np.array([50, 50])).all()
    assert come_first(np.array([1, 0]), np.array([50, 50])).tolist() == [False, True]


def test_a_kind_that_others_labels_left_behind_comes_first():
    assert come_first(np.array([9, 0, 1]), np.array([30, 40, 30])).tolist() == [False, True, True]


def tight_and_wide(n=90, seed=0):
    """Two kinds of as many cases. Cases of the wide one are far from each other, so a pick of it serves itself."""
    rng = np.random.default_rng(seed)
    tight = np.array([9.0] + [0] * 23) + np.concatenate([rng.normal(size=(n, 3)), np.zeros((n, 21))], axis=1)
    wide = np.array([-9.0] + [0] * 23) + 2 * rng.normal(size=(n, 24))
    return np.concatenate([tight, wide]).astype(np.float32), np.repeat([0, 1], n)


def test_a_kind_that_the_objective_starves_has_its_share_at_every_length():
    pool, kind = tight_and_wide()
    assert len(set(tell_kinds(standardise(pool)[0]))) == 2
    starved = kind[select(pool, 30, strategy="xssr_no_shares").picks]
    assert min(np.bincount(starved, minlength=2)) < 12
    picked = kind[select(pool, 30).picks]
    for length in range(1, 31):
        assert min(np.bincount(picked[:length], minlength=2)) >= length // 2


def test_labelled_cases_count():
    pool, kind = tight_and_wide()
    labelled = np.flatnonzero(kind == 0)[:6]
    assert (kind[select(pool, 6, labelled=labelled).picks] == 1).all()


def test_a_ranking_begins_with_the_picks_of_smaller_budgets():
    pool, _ = tight_and_wide()
    ranking = select(pool, 20, alpha=0.0).picks.tolist()
    assert all(select(pool, k, alpha=0.0).picks.tolist() == ranking[:k] for k in (1, 5, 12))


def test_near_copies_get_no_share():
    pool, kind = tight_and_wide()
    pool[kind == 0] = pool[0] + 0.01 * pool[kind == 0]
    assert (kind[select(pool, 20).picks] == 0).sum() <= 2


def test_a_kind_that_limits_close_leaves_its_share_to_the_others():
    pool, kind = tight_and_wide()
    limits = Constraints(domain=[str(one) for one in kind], domain_quota={"0": 9, "1": 1})
    assert np.bincount(kind[select(pool, 10, constraints=limits).picks]).tolist() == [9, 1]


@pytest.mark.parametrize("seed", range(3))
def test_in_a_pool_of_one_kind_nothing_changes(seed):
    pool = np.random.default_rng(seed).normal(size=(80, 12)).astype(np.float32)
    assert select(pool, 9).picks.tolist() == select(pool, 9, strategy="xssr_no_shares").picks.tolist()
