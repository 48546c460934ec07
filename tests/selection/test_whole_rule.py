"""The whole of `xssr`, written down again from docs/method.md, and what must not matter to it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_xssr.selection import Constraints, select, standardise
from nnunetv2_xssr.selection.kinds import tell_kinds

seeds = st.integers(0, 2**32 - 1)


def drawn(seed, *, n_kinds, n, d):
    """A pool of some kinds and a source, without ties."""
    rng = np.random.default_rng(seed)
    kind = np.sort(rng.integers(0, n_kinds, n))
    pool = 4 * rng.normal(size=(n_kinds, d))[kind] + rng.uniform(0.3, 1.5, n_kinds)[kind, None] * rng.normal(
        size=(n, d)
    )
    return pool, rng.normal(size=(int(rng.integers(1, 30)), d))


def novelty(z, x):
    nearest = np.sort(np.linalg.norm(z[:, None] - x[None], axis=2), axis=1)[:, :20].mean(axis=1)
    return (nearest - nearest.min()) / np.ptp(nearest)


def may_come(counts, parts):
    """The kinds after which every kind can still have its share, rounded down, at every later length.

    Where a kind has been passed over, there may be none: then those that lack something of their shares.
    """
    whole, length = parts.sum(), counts.sum()
    after = [counts + (np.arange(len(parts)) == kind) for kind in range(len(parts))]
    # Beyond the last of these lengths every kind is short of its share, and shares rounded down never exceed a length.
    later = np.arange(length + 1, length + 2 + int(((counts + 1) * whole / parts).max()))[:, None]
    may = np.array([(np.maximum(one, later * parts // whole).sum(axis=1) <= later[:, 0]).all() for one in after])
    return may if may.any() else counts < (length + 1) * parts // whole


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n_kinds=st.integers(1, 4), n=st.integers(24, 70), d=st.integers(3, 12), labels=st.integers(0, 3))
def test_every_pick_is_the_best_of_those_that_may_come(seed, n_kinds, n, d, labels):
    pool, source = drawn(seed, n_kinds=n_kinds, n=n, d=d)
    labelled = np.random.default_rng(seed).choice(n, labels, replace=False)
    z, x = (rows.astype(np.float64) for rows in standardise(pool, source))
    kind = tell_kinds(z.astype(np.float32))
    parts = np.rint(1024 * np.sqrt(np.bincount(kind))).astype(int)
    most = int((np.bincount(kind) / parts).min() * parts.sum())  # so that no kind is used up before it has its share
    found = select(pool, max(1, min(most, n // 3) - labels), source=source, labelled=labelled)

    distance = np.linalg.norm(z[:, None] - z[None], axis=2)
    weights = np.round(1024 * (1 - found.alpha + found.alpha * novelty(z, x))) / 1024
    close, chosen = 2 - distance, labelled.tolist()
    for pick in found.picks.tolist():
        covered = close[:, chosen].max(axis=1, initial=0)
        gains = (weights[:, None] * np.maximum(close - covered[:, None], 0)).sum(axis=0)
        gains[chosen] = -1
        may = may_come(np.bincount(kind[chosen], minlength=len(parts)), parts)[kind]
        fair = gains[may].max(initial=-1)
        assert gains[pick] == pytest.approx(fair if fair >= gains.max() / 4 else gains.max(), abs=1e-5)
        assert may[pick] or fair < gains.max() / 4
        chosen.append(pick)
    assert found.mean_distance == pytest.approx(distance[:, chosen].min(axis=1).mean(), abs=1e-7)
    assert found.mean_distance == min(found.curve.mean_distance)


@settings(max_examples=12, deadline=None)
@given(
    seed=seeds,
    n_kinds=st.integers(1, 4),
    n=st.integers(12, 60),
    d=st.integers(2, 50),
    strategy=st.sampled_from(["xssr", "facility_location", "kmeans", "typiclust", "maxherding", "probcover"]),
    components=st.sampled_from([None, 4, 32]),
    data=st.data(),
)
def test_order_of_cases_and_unit_of_features_do_not_matter(seed, n_kinds, n, d, strategy, components, data):
    (pool, source), rng = drawn(seed, n_kinds=n_kinds, n=n, d=d), np.random.default_rng(seed)
    labelled, patient = rng.choice(n, data.draw(st.integers(0, n // 3)), replace=False), rng.integers(0, n, n)
    doubt = rng.random(n) if strategy == "xssr" and data.draw(st.booleans()) else None
    widths = [1, d - 1] if data.draw(st.booleans()) else None

    def picked(order, factor, shift):
        found = select(
            (pool * factor + shift)[order],
            n // 4,
            source=(source * factor + shift)[rng.permutation(len(source))],
            strategy=strategy,
            labelled=np.argsort(order)[labelled],
            components=components,
            widths=widths,
            doubt=None if doubt is None else doubt[order],
            constraints=Constraints(group=[f"p{patient[i]}" for i in order], max_per_group=2),
        )
        return order[found.picks].tolist()

    as_it_is = picked(np.arange(n), 1, 0)
    assert picked(rng.permutation(n), 1, 0) == as_it_is
    assert picked(np.arange(n), rng.uniform(0.01, 100, d), rng.normal(size=d)) == as_it_is
