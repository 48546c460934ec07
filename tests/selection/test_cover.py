"""The objective of `xssr` against its definition: weighted facility location, novelty calibrated by coverage.

test_shares.py has what `xssr` adds to it.
"""

from functools import partial

import numpy as np
import pytest

from nnunetv2_xssr import selection
from nnunetv2_xssr.selection import Constraints, standardise
from nnunetv2_xssr.selection.scores import novelty

ALPHAS = [i / 10 for i in range(11)]
select = partial(selection.select, strategy="xssr_no_shares")


def problem(seed, n=60, m=20, d=5):
    rng = np.random.default_rng(seed)
    pool = rng.normal(size=(n, d)) + rng.integers(0, 3, (n, 1)) * 1.5
    return pool.astype(np.float32), (rng.normal(size=(m, d)) - 0.7).astype(np.float32)


def naive_picks(z, weights, budget, labelled):
    """All gains anew for every pick."""
    close = 2 - np.linalg.norm(z[:, None] - z[None], axis=2)
    covered = close[:, labelled].max(axis=1) if labelled else np.zeros(len(z))
    picks = []
    for _ in range(budget):
        gains = (weights[:, None] * np.maximum(close - covered[:, None], 0)).sum(axis=0)
        gains[[*labelled, *picks]] = -1
        picks.append(int(gains.argmax()))
        covered = np.maximum(covered, close[:, picks[-1]])
    return picks


def mean_distance(z, chosen):
    return np.linalg.norm(z[:, None] - z[None, chosen], axis=2).min(axis=1).mean()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("labelled", [[], [2, 5]])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_picks_are_those_of_the_definition(seed, labelled, alpha):
    pool, source = problem(seed)
    result = select(pool, 8, source=source, labelled=np.array(labelled, int), alpha=alpha)
    z, x = (rows.astype(np.float64) for rows in standardise(pool, source))
    weights = 1 - alpha + alpha * novelty(z.astype(np.float32), x.astype(np.float32))
    assert result.picks.tolist() == naive_picks(z, weights, 8, labelled)
    assert result.alpha == alpha and result.score is None


@pytest.mark.parametrize("seed", range(6))
def test_alpha_is_the_one_that_covers_best(seed):
    pool, source = problem(seed)
    result = select(pool, 6, source=source)
    z = standardise(pool, source)[0].astype(np.float64)
    covered = [mean_distance(z, select(pool, 6, source=source, alpha=alpha).picks) for alpha in ALPHAS]
    assert result.curve.mean_distance == pytest.approx(covered, abs=1e-9)
    assert result.alpha == ALPHAS[int(np.argmin(covered))]
    assert result.picks.tolist() == select(pool, 6, source=source, alpha=result.alpha).picks.tolist()


def test_without_a_source_it_is_facility_location():
    pool, _ = problem(0)
    result = select(pool, 7)
    assert result.alpha == 0.0
    assert result.picks.tolist() == select(pool, 7, strategy="facility_location").picks.tolist()


def test_novelty_draws_picks_to_what_the_source_does_not_have():
    rng = np.random.default_rng(0)
    known, new = rng.normal(size=(50, 4)) + [3, 0, 0, 0], rng.normal(size=(10, 4)) - [3, 0, 0, 0]
    pool = np.concatenate([known, new]).astype(np.float32)
    source = (rng.normal(size=(30, 4)) + [3, 0, 0, 0]).astype(np.float32)
    of_new = [int((select(pool, 6, source=source, alpha=alpha).picks >= 50).sum()) for alpha in (0.0, 1.0)]
    assert of_new[1] > of_new[0]


def test_under_costs_cheap_cases_that_cover_as_well_are_preferred():
    """The greedy by gain alone spends the budget on dear cases."""
    pool, _ = problem(1)
    twice, cost = np.concatenate([pool, pool + 1e-3]), np.repeat([8.0, 1.0], len(pool))
    result = select(twice, 8.0, constraints=Constraints(cost=cost))
    assert len(result.picks) == 8 and (result.picks >= len(pool)).all()


def kinds_seen(sizes, budget, **options):
    """How many groups of near-copies, of these sizes, are among the picks."""
    rng = np.random.default_rng(1)
    kind = np.repeat(np.arange(len(sizes)), sizes)
    pool = (4 * rng.normal(size=(len(sizes), 8)))[kind] + rng.normal(size=(len(kind), 8))
    return len(set(kind[select(pool.astype(np.float32), budget, **options).picks]))


both = pytest.mark.parametrize("strategy", ["xssr", "xssr_no_shares"])


@both
def test_every_kind_is_seen_with_twice_as_many_picks_as_kinds(strategy):
    """Of at least a twentieth of the pool each."""
    assert kinds_seen([60, 20, 10, 5, 5], 10, strategy=strategy) == 5


@both
def test_a_burst_of_copies_takes_no_more_than_one_pick(strategy):
    """Density as a scaled score would fall to nothing for all others."""
    rng = np.random.default_rng(2)
    burst, others = 0.001 * rng.normal(size=(40, 6)) + 2, rng.normal(size=(60, 6))
    picks = select(np.concatenate([burst, others]).astype(np.float32), 12, strategy=strategy).picks
    assert (picks < 40).sum() == 1


@both
def test_an_outlier_is_not_among_the_first_picks(strategy):
    """Unless it stands for several cases."""
    rng = np.random.default_rng(3)
    pool = np.concatenate([rng.normal(size=(80, 6)), 40 * rng.normal(size=(2, 6))]).astype(np.float32)
    assert not set(select(pool, 4, strategy=strategy).picks.tolist()) & {80, 81}
