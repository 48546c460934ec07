"""Whatever the limits, every strategy keeps to them, and the greedy under them is the naive one."""

from collections import Counter

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.selection import STRATEGIES, Constraints, select, standardise
from nnunetv2_xssr.selection._engine.cells import cells_of
from nnunetv2_xssr.selection.greedy import greedy, greedy_within_cost
from nnunetv2_xssr.selection.limits import unlimited
from nnunetv2_xssr.selection.strategies import Problem

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
NONE = np.empty(0, int)
N = 24


def features(n=N, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


def distances(pool):
    z = standardise(pool)[0].astype(float)
    return np.linalg.norm(z[:, None] - z, axis=2)


# ------------------------------------------------------------------------------------------- every strategy keeps to it
@every_strategy
def test_at_most_so_many_of_a_group(strategy):
    group = [f"patient {i // 3}" if i < 18 else None for i in range(N)]
    for most in (1, 2):
        chosen = select(
            features(),
            10,
            strategy=strategy,
            labelled=np.array([0, 4]),
            constraints=Constraints(group=group, max_per_group=most),
        )
        counts = Counter(group[i] for i in [0, 4, *chosen.picks] if group[i])
        assert max(counts.values()) == most
        assert len(chosen.picks) == 10


@every_strategy
def test_fewer_picks_where_nothing_is_left_open(strategy):
    constraints = Constraints(group=["a"] * 12 + ["b"] * 12, max_per_group=2)
    chosen = select(features(), 9, source=features(5, 1), strategy=strategy, constraints=constraints)
    assert sorted(i // 12 for i in chosen.picks) == [0, 0, 1, 1]
    for part in (chosen.density, chosen.novelty, chosen.diversity):
        assert len(part) == 4


@every_strategy
@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("proportional", {"a": 6, "b": 3, "": 1}),  # of 14, 7 and 3: 5.8, 2.9, 1.25
        ("equal", {"a": 4, "b": 3, "": 3}),
        ({"b": 7, "": 3}, {"b": 7, "": 3}),
    ],
)
def test_domain_quotas(strategy, quota, expected):
    domain = ["a"] * 14 + ["b"] * 7 + [None] * 3
    chosen = select(features(), 10, strategy=strategy, constraints=Constraints(domain=domain, domain_quota=quota))
    assert Counter(domain[i] or "" for i in chosen.picks) == expected


@every_strategy
def test_equal_quotas_give_the_rest_of_a_small_domain_to_the_others(strategy):
    domain = ["a"] * 11 + ["b"] * 11 + ["c"] * 2
    constraints = Constraints(domain=domain, domain_quota="equal")
    chosen = select(features(), 12, strategy=strategy, labelled=np.array([22]), constraints=constraints)
    counts = Counter(domain[i] for i in chosen.picks)
    assert counts["c"] == 1 and {counts["a"], counts["b"]} == {5, 6}


@pytest.mark.parametrize(
    ("quota", "labelled", "budget", "expected"),  # picks of a, b and c, which have 14, 7 and 3 cases
    [
        ("equal", {"a": 2}, 9, {"a": 2, "b": 4, "c": 3}),  # 4, 4 and all 3 in the end
        ("equal", {"a": 4, "c": 1}, 4, {"b": 3, "c": 1}),  # 4, 3 and 2
        ("equal", {"a": 9}, 3, {"b": 2, "c": 1}),  # a has more than its share
        ("equal", {"b": 7, "c": 3}, 6, {"a": 6}),  # the others have no other case
        ("proportional", {"a": 7}, 5, {"b": 4, "c": 1}),  # 12 in all: 7, 3.5 and 1.5
        ("proportional", {"b": 2, "c": 1}, 9, {"a": 7, "b": 2}),  # 12 in all: 7, 3.5 and 1.5
        ("proportional", {"c": 3}, 7, {"a": 5, "b": 2}),
        ({"b": 4, "c": 1}, {"a": 7, "b": 3}, 5, {"b": 4, "c": 1}),  # given numbers are new picks
    ],
)
@pytest.mark.parametrize("strategy", ["xssr", "random"])
def test_labelled_cases_count_as_part_of_their_domains_share(strategy, quota, labelled, budget, expected):
    domain = ["a"] * 14 + ["b"] * 7 + ["c"] * 3
    rows = np.concatenate([domain.index(name) + np.arange(count) for name, count in labelled.items()])
    constraints = Constraints(domain=domain, domain_quota=quota)
    chosen = select(features(), budget, strategy=strategy, labelled=rows, constraints=constraints)
    assert Counter(domain[i] for i in chosen.picks) == expected


def test_labelled_cases_count_with_their_costs():
    cost, domain = np.array([1.0, 2.0] * 12), ["a", "b"] * 12  # half of 24 is 12 of each, of which b has 8
    constraints = Constraints(cost=cost, domain=domain, domain_quota="equal")
    chosen = select(features(), 16, labelled=np.array([1, 3, 5, 7]), constraints=constraints)
    assert Counter(domain[i] for i in chosen.picks) == {"a": 12, "b": 2}


@given(st.data())
@settings(max_examples=60)
def test_no_pick_would_do_more_for_equal_parts_in_another_domain(data):
    domain = data.draw(st.lists(st.sampled_from("abcd"), min_size=2, max_size=N))
    labelled = data.draw(st.sets(st.integers(0, len(domain) - 1), max_size=len(domain) - 1))
    budget = data.draw(st.integers(1, len(domain) - len(labelled)))
    constraints = Constraints(domain=domain, domain_quota="equal")
    rows = np.array(sorted(labelled), int)
    picks = select(features(len(domain)), budget, strategy="random", labelled=rows, constraints=constraints).picks
    assert len(picks) == budget
    had, got, of_all = (Counter(domain[i] for i in rows) for rows in (labelled, picks, range(len(domain))))
    for giver in got:
        for taker in set(domain) - {giver}:
            if had[taker] + got[taker] < of_all[taker]:
                assert had[giver] + got[giver] <= had[taker] + got[taker] + 1


@every_strategy
def test_total_cost(strategy):
    cost = np.random.default_rng(3).uniform(1, 9, N)
    chosen = select(features(), 30.5, strategy=strategy, labelled=np.array([2]), constraints=Constraints(cost=cost))
    spent = cost[chosen.picks].sum()
    left = np.setdiff1d(np.arange(N), [2, *chosen.picks])
    assert spent <= 30.5 < spent + cost[left].min()


@every_strategy
def test_costs_that_add_up_to_the_budget_only_on_paper(strategy):
    chosen = select(features(), 0.3, strategy=strategy, constraints=Constraints(cost=np.full(N, 0.1)))
    assert len(chosen.picks) == 3  # 0.1 + 0.1 + 0.1 > 0.3 in binary


@every_strategy
def test_quotas_share_the_cost(strategy):
    cost, domain = np.array([1.0, 2.0] * 12), ["a", "b"] * 12
    constraints = Constraints(cost=cost, domain=domain, domain_quota="equal")
    chosen = select(features(), 12, strategy=strategy, constraints=constraints)
    assert Counter(domain[i] for i in chosen.picks) == {"a": 6, "b": 3}


@every_strategy
def test_least_distance(strategy):
    pool = np.repeat(features(8), 3, axis=0) + 0.01 * features(24, 5)
    between = distances(pool)
    chosen = select(pool, 20, strategy=strategy, labelled=np.array([0]), constraints=Constraints(min_distance=0.3))
    everyone = [0, *chosen.picks]
    assert (between[np.ix_(everyone, everyone)] + 3 * np.eye(len(everyone)) >= 0.3).all()
    assert len(everyone) == 8  # one of each kind, and no more can be added
    assert (between[:, everyone].min(1) < 0.3).all()


@every_strategy
def test_excluded_rows_are_as_if_not_there(strategy):
    pool, source, kept = features(), features(5, 1), np.setdiff1d(np.arange(N), [3, 11])
    group = [f"{i // 2}" for i in range(N)]
    constraints = Constraints(excluded=np.array([11, 3]), group=group, max_per_group=1)
    chosen = select(pool, 6, source=source, strategy=strategy, labelled=np.array([5]), constraints=constraints)
    constraints = Constraints(group=[group[i] for i in kept], max_per_group=1)
    without = select(
        pool[kept], 6, source=source, strategy=strategy, labelled=np.searchsorted(kept, [5]), constraints=constraints
    )
    assert chosen.picks.tolist() == kept[without.picks].tolist()
    assert chosen.mean_distance == without.mean_distance


@every_strategy
def test_limits_that_close_nothing_change_nothing(strategy):
    loose = Constraints(cost=np.ones(N), domain=["x"] * N, domain_quota="equal", group=["p"] * N, max_per_group=N)
    free = select(features(), 7, source=features(5, 1), strategy=strategy)
    assert (
        select(features(), 7, source=features(5, 1), strategy=strategy, constraints=loose).picks.tolist()
        == free.picks.tolist()
    )


@pytest.mark.parametrize("strategy", ["xssr", "random"])
def test_random_draws_keep_to_the_limits_too(strategy):
    """With one group of two kinds of cases, half of the budget has to come from each."""
    pool = np.concatenate([features(30), features(2, 4) + 50])
    constraints = Constraints(domain=["a"] * 30 + ["b"] * 2, domain_quota={"a": 2, "b": 2})
    bound = select(pool, 4, strategy=strategy, constraints=constraints)
    assert bound.random_mean_distance < select(pool, 4, strategy=strategy, constraints=None).random_mean_distance


# ---------------------------------------------------------------------------------------------------- exact, as ever
def naive_greedy(pool, fixed, weight, budget, chosen, limits):
    """As the definition says it: score every case, take the first of the best that are open."""
    distances_to = naive.Distances(pool)
    nearest, room = np.full(len(pool), np.inf), limits.room.copy()
    for i in chosen:
        nearest = np.minimum(nearest, distances_to(i))
    picks = []
    while len(picks) < budget:
        radius = nearest.max()
        score = radius * fixed + weight * nearest if 0 < radius < np.inf else fixed
        is_open = nearest >= limits.min_distance
        is_open[[*chosen, *picks]] = False
        for use, left, label in zip(limits.use, room, limits.label, strict=True):
            is_open &= use <= left[label]
        if not is_open.any():
            break
        i = int(np.argmax(np.where(is_open, score, -np.inf)))
        for p in range(len(room)):
            room[p, limits.label[p, i]] -= limits.use[p, i]
        nearest = np.minimum(nearest, distances_to(i))
        picks.append(i)
    return picks, nearest


@st.composite
def problems(draw):
    n, d = draw(st.integers(2, 30)), draw(st.integers(1, 3))
    pool = naive.unit(np.array(draw(st.lists(st.integers(-2, 2), min_size=n * d, max_size=n * d)), float).reshape(n, d))
    p = draw(st.integers(0, 3))

    def table(values):
        return np.array(draw(st.lists(st.sampled_from(values), min_size=p * n, max_size=p * n))).reshape(p, n)

    room = np.array(draw(st.lists(st.integers(0, 9), min_size=p * 4, max_size=p * 4)), float).reshape(p, 4)
    limits = unlimited(n)._replace(
        label=table([0, 1, 2, 3]).astype(np.int64),
        use=table([1.0, 1.0, 2.0, 2.5]).astype(float),
        room=room,
        min_distance=draw(st.sampled_from([0.0, 0.0, 0.1, 0.7, 1.5])),
    )
    fixed = np.array(draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n)))
    weight = np.array(draw(st.lists(st.sampled_from([0.3, 1.0, 2.0]), min_size=n, max_size=n)))
    chosen = np.array(draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1)), int)
    return pool, fixed, weight, draw(st.integers(1, n - len(chosen))), chosen, limits


def assert_same(pool, fixed, weight, budget, chosen, limits):
    before = limits.room.copy()
    picks, nearest = greedy(pool, fixed=fixed, diversity_weight=weight, budget=budget, chosen=chosen, limits=limits)
    expected, distances = naive_greedy(pool, fixed, weight, budget, chosen, limits)
    np.testing.assert_array_equal(picks, expected)
    np.testing.assert_array_equal(nearest, distances)
    np.testing.assert_array_equal(limits.room, before)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_the_greedy_under_limits_is_the_naive_one(problem):
    assert_same(*problem)


@given(problems(), st.sampled_from([1, 3, 512]), st.sampled_from([1, 4, 256]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_greedy_under_limits_is_the_naive_one_the_way_of_large_pools(problem, candidates, block, sketch):
    with naive.way_of_large_pools(candidates, block, sketch):
        assert_same(*problem)


@pytest.mark.parametrize("kind", ["clustered", "blobs", "duplicates"])
def test_20_000_cases_under_all_limits(kind):
    n, rng = 20_000, np.random.default_rng(2)
    pool, cost = naive.pool_of(kind, n, 32), rng.integers(1, 20, n) / 4
    constraints = Constraints(
        cost=cost,
        domain=[f"site {i % 3}" for i in range(n)],
        domain_quota="proportional",
        group=[f"patient {i // 50}" for i in range(n)],
        max_per_group=1,
        min_distance=0.2,
    )
    most, limits = constraints.limits(n, budget=200.0, labelled=np.array([7, 70]))
    fixed = rng.random(n).round(2)
    for weight in (np.full(n, 0.7), 0.7 / cost):
        assert_same(pool, fixed, weight, most, np.array([7, 70]), limits)


def test_under_costs_the_better_of_two_greedies_wins():
    """One costly case in the middle of nothing much, or many cheap ones: each greedy wins one of two pools."""
    pool = naive.unit(np.random.default_rng(1).standard_normal((40, 4)))
    won = set()
    for seed in range(20):
        cost = np.random.default_rng(seed).choice([1.0, 6.0], 40)
        most, limits = Constraints(cost=cost).limits(40, budget=12.0, labelled=NONE)
        fixed = np.zeros(40)
        runs = [naive_greedy(pool, fixed, weight, most, NONE, limits) for weight in (np.ones(40), 1 / cost)]
        losses = [nearest.mean() for _, nearest in runs]
        picks, nearest = greedy_within_cost(
            pool, fixed=fixed, diversity_weight=1.0, budget=most, chosen=NONE, limits=limits, loss=np.mean
        )
        assert picks.tolist() == runs[int(np.argmin(losses))][0] and nearest.mean() == min(losses)
        won.add(int(np.argmin(losses)))
    assert won == {0, 1}


# --------------------------------------------------------------------------------------------------- what does not fit
@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        ({"cost": np.ones(3)}, "cost must have one entry per case, 24; got 3"),
        ({"cost": np.append(np.ones(23), 0)}, "cost must be positive for every case; got 0.0 in row 23"),
        ({"cost": np.append(np.nan, np.ones(23))}, "in row 0"),
        ({"cost": np.full(24, 7.0)}, "budget must be 7 or more"),
        ({"domain_quota": "equal"}, "domain_quota needs the domain"),
        ({"domain": ["a"] * 24, "domain_quota": "fair"}, "domain_quota must be one of proportional, equal"),
        ({"domain": ["a"] * 24, "domain_quota": {"z": 6}}, "domain_quota must name domains of the pool, a; got z"),
        ({"domain": ["a"] * 24, "domain_quota": {"a": 5}}, "domain_quota must add up to the budget, 6; got 5"),
        (
            {"domain": ["a"] * 22 + ["b"] * 2, "domain_quota": {"a": 1, "b": 5}},
            "domain_quota of b must be between 0 and 2",
        ),
        ({"max_per_group": 1}, "max_per_group needs the group"),
        ({"group": ["a"] * 24, "max_per_group": 0}, "max_per_group must be 1 or more"),
        ({"min_distance": -0.1}, "min_distance must be between 0 and 2"),
        ({"min_distance": np.nan}, "min_distance must be between 0 and 2"),
        ({"excluded": np.array([24])}, "excluded must name rows of the pool, 0 to 23"),
    ],
)
def test_constraints_that_do_not_fit(constraints, words):
    with pytest.raises(UserError, match=words):
        select(features(), 6, constraints=Constraints(**constraints))


HALVES = ["a"] * 12 + ["b"] * 12


@pytest.mark.parametrize(
    ("labelled", "budget", "constraints", "sentence"),
    [
        (
            [0, 12],
            6,
            {"group": HALVES, "max_per_group": 1},
            "max_per_group leaves none of the 22 cases without a label open; loosen it",
        ),
        (
            [0, 1, 12],  # the share of b is 1, and its group is full
            1,
            {"domain": HALVES, "domain_quota": "equal", "group": HALVES, "max_per_group": 1},
            "max_per_group leaves none of the 21 cases without a label open; loosen it",
        ),
        (
            range(12),  # all of a; b gets the whole budget, and all of b is one full group
            2,
            {"domain": HALVES, "domain_quota": "equal", "group": [None] * 11 + ["b"] * 13, "max_per_group": 1},
            "max_per_group leaves none of the 12 cases without a label open; loosen it",
        ),
        (
            [0],  # a is open for its group, b for the quota
            1,
            {"domain": HALVES, "domain_quota": {"b": 1}, "group": [None] * 11 + ["b"] * 13, "max_per_group": 1},
            None,
        ),
        (
            [12],
            1,
            {"domain": HALVES, "domain_quota": {"b": 1}, "group": [None] * 12 + ["b"] * 12, "max_per_group": 1},
            "domain_quota and max_per_group leave none of the 23 cases without a label open; loosen one",
        ),
        (
            [12],
            2,
            {"cost": [3.0] * 12 + [1.0] * 12, "group": HALVES, "max_per_group": 1},
            "budget and max_per_group leave none of the 23 cases without a label open; loosen one",
        ),
        (
            [],
            3,
            {"cost": [2.0] * 24, "domain": HALVES, "domain_quota": "equal"},
            "domain_quota leaves none of the 24 cases without a label open; loosen it",
        ),
        (
            [0],
            3,
            {"min_distance": 2.0},
            "min_distance leaves none of the 23 cases without a label open; loosen it",
        ),
        (range(24), 1, {}, "every case is labelled; nothing is left to pick"),
        (range(24), 1, {"cost": [1.0] * 24}, "every case is labelled; nothing is left to pick"),
        ([], 1, {"excluded": np.arange(24)}, "excluded names all 24 cases of the pool; nothing is left to pick from"),
        ([3], 1, {"excluded": np.delete(np.arange(24), 3)}, "every case is labelled; nothing is left to pick"),
    ],
)
def test_limits_that_leave_no_case_are_one_sentence(labelled, budget, constraints, sentence):
    def run():
        return select(features(), budget, labelled=np.array(labelled, int), constraints=Constraints(**constraints))

    if sentence is None:
        assert len(run().picks) == budget
        return
    with pytest.raises(UserError) as caught:
        run()
    assert str(caught.value) == sentence


@every_strategy
def test_no_strategy_minds_that_nothing_is_open(strategy):
    cells = cells_of(standardise(features())[0])
    closed = unlimited(N)._replace(label=np.zeros((1, N), np.int64), use=np.ones((1, N)), room=np.zeros((1, 1)))
    for chosen in (NONE, np.array([3, 5])):
        for limits in (closed, unlimited(N)._replace(min_distance=2.0)):
            if len(chosen) or limits is closed:
                flat = {"density": np.zeros(N), "novelty": np.zeros(N), "kind": np.zeros(N, int)}
                problem = Problem(pool=cells, budget=4, chosen=chosen, limits=limits, **flat)
                assert STRATEGIES[strategy](problem).picks.tolist() == []


def test_a_case_cannot_be_labelled_and_excluded():
    with pytest.raises(UserError, match="labelled and excluded"):
        select(features(), 6, labelled=np.array([3]), constraints=Constraints(excluded=np.array([3])))
