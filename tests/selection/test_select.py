"""The scores and the greedy against a re-computation from the words of the design, one number at a time."""

import math
import statistics
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnunetv2_xssr import selection
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection import standardise

select = partial(selection.select, strategy="xssr_sum")
GRID = [i / 10 for i in range(11)]


def naive_unit_rows(pool, source):
    """Standardised by the pool's mean and deviation, then of unit length."""
    d = len(pool[0])
    mean = [statistics.fmean(float(row[j]) for row in pool) for j in range(d)]
    std = [statistics.pstdev([float(row[j]) for row in pool]) for j in range(d)]

    def unit(row):
        scaled = [(float(row[j]) - mean[j]) / std[j] if std[j] > 0 else 0.0 for j in range(d)]
        length = math.sqrt(sum(v * v for v in scaled))
        return [v / length for v in scaled] if length > 0 else scaled

    return [unit(row) for row in pool], None if source is None else [unit(row) for row in source]


def naive_min_max(values):
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 0.0 for v in values]


def naive_density(z):
    k = min(20, len(z) - 1)
    if k == 0:
        return [0.0]
    raw = []
    for i, row in enumerate(z):
        near = sorted(math.dist(row, other) for j, other in enumerate(z) if j != i)[:k]
        raw.append(1 / (statistics.fmean(near) + 1e-5))
    height = [v - min(raw) for v in raw]
    sparse = sorted(height)[3 * (len(z) - 1) // 10]
    usual = [h for h in height if h <= 10 * sparse or sparse <= 1e-6 * min(raw)]
    return [min(h / max(usual), 1.0) if max(usual) > 0 else 0.0 for h in height]


def naive_novelty(z, x):
    if x is None:
        return [0.0] * len(z)
    k = min(20, len(x))
    return naive_min_max([statistics.fmean(sorted(math.dist(row, other) for other in x)[:k]) for row in z])


def naive_diversity(z, chosen):
    if not chosen:
        return [0.0] * len(z)
    nearest = [min(math.dist(row, z[c]) for c in chosen) for row in z]
    radius = max(nearest)
    return [v / radius if radius > 1e-12 else 0.0 for v in nearest]


def naive_greedy(z, dens, nov, weight, alpha, budget, labelled):
    """Picks with the score and its parts at the moment of each pick, and how clear each pick was."""
    chosen, rows, margins = list(labelled), [], []
    for _ in range(budget):
        div = naive_diversity(z, chosen)
        score = {i: weight * dens[i] + alpha * nov[i] + (1 - alpha) * div[i] for i in range(len(z)) if i not in chosen}
        ranked = sorted(score, key=lambda i: (-score[i], i))
        best = ranked[0]
        margins.append(score[best] - score[ranked[1]] if len(ranked) > 1 else math.inf)
        rows.append((best, dens[best], nov[best], div[best], score[best]))
        chosen.append(best)
    return rows, min(margins), chosen


def naive_mean_distance(z, chosen):
    return statistics.fmean(min(math.dist(row, z[c]) for c in chosen) for row in z)


def problem(seed, n=40, m=30, d=5, shift=0.7):
    rng = np.random.default_rng(seed)
    pool = rng.normal(size=(n, d)) + rng.integers(0, 3, (n, 1)) * 1.5
    return pool.astype(np.float32), (rng.normal(size=(m, d)) - shift).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "m"), [(40, 30), (12, 3), (22, 21)])
@pytest.mark.parametrize("labelled", [[], [2, 5]])
@pytest.mark.parametrize("weight", [0.5, 1.0, 0.0])
def test_picks_and_every_part_of_their_score(seed, n, m, labelled, weight):
    pool, source = problem(seed, n, m)
    alpha = GRID[3 + seed]
    result = select(
        pool,
        8,
        source=source,
        strategy="xssr_sum",
        labelled=np.array(labelled, int),
        alpha=alpha,
        density_weight=weight,
    )
    z, x = naive_unit_rows(pool, source)
    rows, margin, chosen = naive_greedy(z, naive_density(z), naive_novelty(z, x), weight, alpha, 8, labelled)
    assert margin > 1e-9, "the example has a tie; choose another seed"
    assert result.picks.tolist() == [row[0] for row in rows]
    for name, column in (("density", 1), ("novelty", 2), ("diversity", 3), ("score", 4)):
        assert getattr(result, name) == pytest.approx([row[column] for row in rows], abs=1e-6), name
    assert result.mean_distance == pytest.approx(naive_mean_distance(z, chosen), abs=1e-6)
    radius = max(min(math.dist(row, z[c]) for c in chosen) for row in z)
    assert result.covering_radius == pytest.approx(radius, abs=1e-6)
    assert result.alpha == alpha


@pytest.mark.parametrize("seed", range(5))
def test_calibrated_alpha_covers_the_pool_best(seed):
    pool, source = problem(seed)
    result = select(pool, 6, source=source)
    z, x = naive_unit_rows(pool, source)
    dens, nov = naive_density(z), naive_novelty(z, x)
    naive = [naive_mean_distance(z, naive_greedy(z, dens, nov, 0.5, a, 6, [])[2]) for a in GRID]
    assert list(result.curve.alpha) == GRID
    assert list(result.curve.mean_distance) == pytest.approx(naive, abs=1e-6)
    best = min(naive)
    assert result.alpha == next(a for a, v in zip(GRID, naive, strict=True) if v <= best + 1e-12)
    assert result.mean_distance == pytest.approx(best, abs=1e-6)
    assert result.picks.tolist() == select(pool, 6, source=source, alpha=result.alpha).picks.tolist()


def test_ties_between_alphas_go_to_the_smallest():
    pool, source = problem(0, n=10)
    result = select(pool, 10, source=source)  # everything is picked, whatever alpha is
    assert result.alpha == 0.0
    assert set(result.curve.mean_distance) == {0.0}


@pytest.mark.parametrize("strategy", ["xssr", "xssr_sum", "coreset", "random"])
@pytest.mark.parametrize("with_source", [False, True])
def test_prefix_is_the_selection_for_a_smaller_budget(strategy, with_source):
    pool, source = problem(1)
    source = source if with_source else None
    full = select(pool, 15, source=source, strategy=strategy, alpha=0.4 if with_source else None).picks.tolist()
    for budget in range(1, 15):
        smaller = select(pool, budget, source=source, strategy=strategy, alpha=0.4 if with_source else None)
        assert smaller.picks.tolist() == full[:budget]


def test_without_a_source_novelty_is_off():
    pool, _ = problem(2)
    result = select(pool, 5)
    assert result.alpha == 0.0
    assert not result.novelty.any()
    z, _ = naive_unit_rows(pool, None)
    rows, margin, _ = naive_greedy(z, naive_density(z), [0.0] * len(z), 0.5, 0.0, 5, [])
    assert margin > 1e-9 and result.picks.tolist() == [row[0] for row in rows]


def test_novel_cases_come_first_when_only_novelty_counts():
    pool, source = problem(3)
    result = select(pool, 10, source=source, alpha=1.0, density_weight=0.0)
    assert (np.diff(result.novelty) <= 1e-12).all()
    assert result.novelty[0] == 1.0


def test_random_coverage_is_the_median_of_twenty_draws():
    pool, source = problem(4)
    z, _ = standardise(pool, source)
    result = select(pool, 6, source=source, labelled=np.array([3]), seed=11)
    rng, values = np.random.default_rng(11), []
    free = np.array([i for i in range(40) if i != 3])
    for _ in range(20):
        values.append(naive_mean_distance(z.tolist(), [3, *rng.choice(free, 6, replace=False)]))
    assert result.random_mean_distance == pytest.approx(statistics.median(values), abs=1e-6)


def test_standardise_uses_the_statistics_of_the_pool_for_both():
    pool, source = problem(5)
    z, x = standardise(pool, source)
    naive_z, naive_x = naive_unit_rows(pool, source)
    assert z == pytest.approx(np.array(naive_z), abs=1e-6)
    assert x == pytest.approx(np.array(naive_x), abs=1e-6)


def test_feature_without_variance_counts_nothing():
    pool, source = problem(6)
    constant = np.full((40, 1), 3.3333333, np.float32)
    with_constant = np.concatenate([pool, constant], axis=1)
    far = np.concatenate([source, np.full((30, 1), 1e6, np.float32)], axis=1)
    a, b = select(with_constant, 8, source=far), select(pool, 8, source=source)
    assert a.picks.tolist() == b.picks.tolist()
    assert a.score == pytest.approx(b.score, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": 0}, "budget must be between 1 and 40"),
        ({"budget": 41}, "budget must be between 1 and 40"),
        ({"budget": 39, "labelled": np.array([0, 1])}, "between 1 and 38"),
        ({"strategy": "magic"}, "strategy must be one of"),
        ({"alpha": 1.1}, "alpha must be a number between 0 and 1"),
        ({"alpha": math.nan}, "alpha must be a number between 0 and 1"),
        ({"alpha_criterion": "best"}, "alpha_criterion must be one of"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"density_weight": -1.0}, "density_weight"),
        ({"density_weight": math.nan}, "density_weight"),
        ({"density_weight": math.inf}, "density_weight"),
        ({"labelled": np.array([40])}, "labelled must name rows"),
        ({"labelled": np.array([-1])}, "labelled must name rows"),
        ({"source": np.zeros((3, 4), np.float32)}, "as many features as the pool, 5; got 4"),
        ({"source": np.zeros((0, 5), np.float32)}, "source must have the shape"),
        ({"pool": np.zeros((0, 5), np.float32)}, "pool must have the shape"),
        ({"pool": np.zeros(5, np.float32)}, "pool must have the shape"),
        ({"pool": np.full((40, 5), np.nan, np.float32)}, "row 0"),
        ({"source": np.full((4, 5), np.inf, np.float32)}, "source must hold finite numbers"),
        ({"pool": np.full((40, 5), np.inf, np.float16)}, "got NaN or infinity in row 0"),
        ({"pool": np.eye(40, 5) * 1e200}, "finite numbers only; got a number beyond 3e38 in row 0"),
        ({"pool": np.eye(40, 5).astype(str)}, "pool must be a numpy array of numbers; got <U"),
        ({"pool": np.eye(40, 5).astype(object)}, "pool must be a numpy array of numbers; got object"),
        ({"source": np.eye(4, 5).tolist()}, "source must be a numpy array of numbers; got list"),
    ],
)
def test_arguments_that_do_not_fit(change, words):
    pool, source = problem(0)
    arguments = {"pool": pool, "budget": 3, "source": source, **change}
    with pytest.raises(UserError, match=words):
        select(**arguments)


@st.composite
def problems(draw):
    """A pool, perhaps with duplicates, perhaps a source, some labelled cases and a budget."""
    n, d = draw(st.integers(1, 25)), draw(st.integers(1, 4))
    values = st.floats(-4, 4, width=32) | st.integers(-1, 1).map(float)
    pool = draw(hnp.arrays(np.float32, (n, d), elements=values))
    source = draw(st.none() | hnp.arrays(np.float32, (draw(st.integers(1, 6)), d), elements=values))
    labelled = draw(st.lists(st.integers(0, n - 1), max_size=n - 1, unique=True))
    budget = draw(st.integers(1, n - len(labelled)))
    strategy = draw(st.sampled_from(["xssr", "xssr_sum", "coreset", "random"]))
    return pool, budget, source, strategy, np.array(labelled, int)


@settings(max_examples=150)
@given(problems())
def test_whatever_the_points_the_contract_holds(case):
    pool, budget, source, strategy, labelled = case
    result = select(pool, budget, source=source, strategy=strategy, labelled=labelled)
    picks = result.picks.tolist()
    assert len(set(picks)) == budget == len(picks)
    assert not set(picks) & set(labelled.tolist())
    numbers = [result.density, result.novelty, result.diversity]
    assert all(np.isfinite(part).all() and part.min() >= 0 and part.max() <= 1 for part in numbers)
    assert 0 <= result.mean_distance <= result.covering_radius + 1e-12 <= 2 + 1e-9
    assert select(pool, budget, source=source, strategy=strategy, labelled=labelled).picks.tolist() == picks


@settings(max_examples=60)
@given(problems())
def test_every_pick_has_the_best_score_of_its_moment(case):
    pool, budget, source, _, labelled = case
    result = select(pool, budget, source=source, strategy="xssr_sum", labelled=labelled)
    z, x = (rows if rows is None else rows.tolist() for rows in standardise(pool, source))
    dens, nov = naive_density(z), naive_novelty(z, x)
    assume(np.isfinite(dens).all())
    chosen = labelled.tolist()
    for t, pick in enumerate(result.picks.tolist()):
        # With duplicates the covering radius is 0 up to rounding, where the diversity is anything between 0 and 1.
        nearest = [min((math.dist(row, z[c]) for c in chosen), default=0.0) for row in z]
        if chosen and max(nearest) < 1e-6:
            break
        div = naive_diversity(z, chosen)
        score = [0.5 * dens[i] + result.alpha * nov[i] + (1 - result.alpha) * div[i] for i in range(len(z))]
        best = max(score[i] for i in range(len(z)) if i not in chosen)
        assert score[pick] >= best - 1e-4, t
        chosen.append(pick)
