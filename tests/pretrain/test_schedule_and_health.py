"""When to stop, and whether the embeddings are healthy: against cases with known answers."""

import math

import pytest
import torch

from nnunetv2_xssr.pretrain import schedule
from nnunetv2_xssr.pretrain.health import collapse, effective_rank, embedding_health, recall_at_1, spread
from nnunetv2_xssr.pretrain.schedule import AUTO, COOL_DOWN_EPOCHS, PATIENCE, WARM_UP_EPOCHS

FALLING = [1.0 * 0.97**i for i in range(1000)]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- schedule


def rates(epochs, losses, steps=10):
    """The factor of every step of a training whose held-out losses are these."""
    out, n_epochs = [], schedule.total_epochs(epochs, [])
    while n_epochs is None or len(out) < n_epochs * steps:
        out.append(schedule.learning_rate_factor(len(out), epochs=epochs, n_epochs=n_epochs, steps_per_epoch=steps))
        n_epochs = schedule.total_epochs(epochs, losses[: len(out) // steps])
    return out


def test_given_length_warms_up_and_falls_to_zero():
    factors = rates(10, [])
    assert len(factors) == 100
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(factors) == 1
    assert all(a > b for a, b in zip(factors[10:], factors[11:], strict=False))
    assert 0 <= factors[-1] < 0.01


def test_auto_stops_after_the_plateau_and_cools_down():
    learning = 20
    losses = [*FALLING[:learning], *[FALLING[learning - 1]] * 1000]
    factors = rates(AUTO, losses)
    assert len(factors) == 10 * (learning + PATIENCE + COOL_DOWN_EPOCHS)
    warm, cool = 10 * WARM_UP_EPOCHS, len(factors) - 10 * COOL_DOWN_EPOCHS
    assert factors[:warm] == pytest.approx([(i + 1) / warm for i in range(warm)])
    assert set(factors[warm:cool]) == {1.0}
    assert all(a > b for a, b in zip(factors[cool:], factors[cool + 1 :], strict=False))
    assert 0 < factors[-1] < 0.02


def test_auto_never_stops_before_the_warm_up_has_been_tried_out():
    flat = [1.0] * 1000
    for done in range(WARM_UP_EPOCHS + 1 + PATIENCE):
        assert schedule.total_epochs(AUTO, flat[:done]) is None
    stopped = WARM_UP_EPOCHS + 1 + PATIENCE
    assert schedule.total_epochs(AUTO, flat) == stopped + COOL_DOWN_EPOCHS
    rising = [0.1] * WARM_UP_EPOCHS + FALLING  # the warm-up's losses do not count
    assert schedule.plateau(rising[:100]) is None


@pytest.mark.parametrize(("gain", "stops"), [(0.5, True), (1.5, False)])
def test_plateau_is_less_than_one_percent_within_the_patience(gain, stops):
    losses = [(1 - gain / 100) ** (i / PATIENCE) for i in range(100)]
    assert (schedule.plateau(losses) is not None) == stops


def test_auto_ends_some_day():
    assert schedule.total_epochs(AUTO, FALLING[: schedule.MOST_EPOCHS - COOL_DOWN_EPOCHS - 1]) is None
    for done in (schedule.MOST_EPOCHS - COOL_DOWN_EPOCHS, schedule.MOST_EPOCHS):
        assert schedule.total_epochs(AUTO, FALLING[:done]) == schedule.MOST_EPOCHS


def test_a_decision_stands_whatever_comes_later():
    losses = [*FALLING[:20], *[FALLING[19]] * PATIENCE, *[loss / 10 for loss in FALLING[:50]]]
    wanted = 20 + PATIENCE + COOL_DOWN_EPOCHS
    assert [schedule.total_epochs(AUTO, losses[:done]) for done in range(28, 70)] == [wanted] * 42


# --- health


@pytest.mark.parametrize("k", [1, 2, 7])
def test_effective_rank_of_equal_directions_is_their_number(k):
    """Points on both sides of the origin in k orthogonal directions: k equal singular values."""
    directions = torch.linalg.qr(randn(16, k))[0].T
    assert effective_rank(torch.cat([directions, -directions])) == pytest.approx(k, rel=1e-6)


def test_effective_rank_of_unequal_directions():
    """By Roy & Vetterli's definition: the exponential of the entropy of the singular values 3 : 1."""
    corner = torch.tensor([[3.0, 1.0, 50.0], [3.0, -1.0, 50.0], [-3.0, 1.0, 50.0], [-3.0, -1.0, 50.0]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(corner) == pytest.approx(math.exp(entropy), rel=1e-5)


def test_spread_of_known_points():
    assert spread(torch.ones(5, 3)) == pytest.approx(0, abs=1e-7)
    opposite = torch.tensor([[2.0, 0.0], [-3.0, 0.0]])
    assert spread(opposite) == pytest.approx(1)
    right_angle = torch.tensor([[2.0, 0.0], [0.0, 7.0]])
    assert spread(right_angle) == pytest.approx(math.sqrt(0.5))


def test_recall_of_known_embeddings():
    first, cases = randn(40, 8), torch.arange(40)
    assert recall_at_1(first, first + 1e-3 * randn(40, 8, seed=1), cases) == 1
    assert recall_at_1(first, first.roll(1, 0), cases) == 0
    half = torch.cat([first[:20], first[20:].roll(1, 0)])
    assert recall_at_1(first, half, cases) == 0.5
    assert recall_at_1(first, first.roll(1, 0), cases // 40) == 1  # another view of the same case counts


def test_recall_and_rank_ignore_what_all_views_share():
    first, second, cases = randn(40, 8), randn(40, 8, seed=1) * 0.3, torch.arange(40)
    second += first
    assert recall_at_1(first + 100, second + 100, cases) == pytest.approx(recall_at_1(first, second, cases))


def test_collapse_to_a_point_and_to_a_line_is_told():
    cases = torch.arange(64)
    healthy = embedding_health(randn(64, 32), randn(64, 32, seed=1), cases)
    assert collapse(healthy) is None
    point = torch.ones(64, 32) + 1e-6 * randn(64, 32)
    assert "spread" in collapse(embedding_health(point, point, cases))
    line = torch.ones(1, 32) + 0.2 * randn(64, 1) * randn(1, 32, seed=2)
    assert "effective rank" in collapse(embedding_health(line, line, cases))


def test_rank_of_few_views_is_left_out():
    few = randn(3, 32)
    health = embedding_health(few, few, torch.arange(3))
    assert "effective_rank" not in health and collapse(health) is None
    assert collapse(embedding_health(few[:1], few[1:2], torch.arange(1))) is None  # an archive of one image
