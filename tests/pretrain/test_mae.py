"""The masked autoencoder: what is masked stays unseen."""

import pytest
import torch

from nnunetv2_xssr.pretrain.mae import (
    CELL,
    MaskedAutoencoder,
    cell_targets,
    crop_numbers,
    from_cells,
    random_crops,
    random_visible,
    to_cells,
)

SMALL = {"features_per_stage": [8, 8, 16, 16], "strides": [4, 2, 2, 1], "decoder_features": 16}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model(channels=1, seed=0, dim=2):
    torch.manual_seed(seed)
    return MaskedAutoencoder(input_channels=channels, **SMALL, dim=dim)


def pixels_of(visible):
    for axis in range(2, visible.ndim):
        visible = visible.repeat_interleave(CELL, axis)
    return visible


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(6, 4), (3, 2), (2, 3, 4)])
def test_nothing_of_masked_cells_reaches_the_output(channels, shape):
    seed = sum(shape)
    net = model(channels, seed, len(shape))
    image = torch.randn(2, channels, *(CELL * n for n in shape), generator=generator(seed))
    visible = random_visible(2, shape, mask_ratio=0.6, generator=generator(seed))
    other = torch.where(pixels_of(visible).bool(), image, 100 * torch.randn(image.shape, generator=generator(9)))
    assert not torch.equal(image, other)
    with torch.no_grad():
        assert torch.equal(net.encode(image, visible), net.encode(other, visible))
        assert torch.equal(net.reconstruct(image, visible), net.reconstruct(other, visible))
        features = net.encode(image, visible)
    assert not (features * (1 - visible)).any()  # masked cells hold nothing
    assert features.shape[2:] == visible.shape[2:]


def test_visible_cells_do_reach_the_output():
    net = model()
    image = torch.randn(1, 1, 64, 64, generator=generator())
    visible = random_visible(1, (4, 4), mask_ratio=0.5, generator=generator())
    other = image + pixels_of(visible)
    with torch.no_grad():
        assert not torch.equal(net.reconstruct(image, visible), net.reconstruct(other, visible))


def test_loss_counts_masked_cells_alone():
    """Against its definition, cell by cell."""
    net = model(3)
    image = torch.randn(2, 3, 64, 64, generator=generator())
    visible = random_visible(2, (4, 4), mask_ratio=0.6, generator=generator())
    with torch.no_grad():
        predicted, loss = net.reconstruct(image, visible), net(image, visible)
    errors = []
    for b in range(2):
        for row in range(4):
            for column in range(4):
                if visible[b, 0, row, column]:
                    continue
                cell = image[b, :, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
                wanted = (cell - cell.mean()) / (cell.var(unbiased=False) + 1e-6).sqrt()
                errors.append((predicted[b, :, row, column] - wanted.reshape(-1)).square().mean())
    assert loss == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_targets_give_the_image_back():
    image = torch.randn(2, 2, 32, 48, generator=generator())
    target, mean, std = cell_targets(image)
    again = torch.nn.functional.pixel_shuffle(target * std + mean, CELL)
    assert torch.allclose(again, image, atol=1e-5)
    assert target.mean(dim=1) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_cells_are_blocks_of_the_image_and_go_back(shape):
    image = torch.randn(2, 3, *(CELL * n for n in shape), generator=generator())
    cells = to_cells(image)
    assert cells.shape == (2, 3 * CELL ** len(shape), *shape)
    place = tuple(n - 1 for n in shape)
    block = image[(slice(None), slice(None), *(slice(CELL * i, CELL * (i + 1)) for i in place))]
    assert torch.equal(cells[(slice(None), slice(None), *place)], block.flatten(1))
    assert torch.equal(from_cells(cells), image)


def test_constant_cell_gives_a_finite_target():
    target, _, _ = cell_targets(torch.full((1, 1, 32, 32), 5.0))
    assert torch.isfinite(target).all() and not target.any()


@pytest.mark.parametrize(("ratio", "rows", "columns"), [(0.6, 8, 8), (0.5, 3, 5), (0.75, 4, 4)])
def test_equally_many_cells_are_visible_in_every_image(ratio, rows, columns):
    visible = random_visible(50, (rows, columns), mask_ratio=ratio, generator=generator())
    n = rows * columns
    assert visible.shape == (50, 1, rows, columns)
    assert set(visible.unique().tolist()) == {0.0, 1.0}
    assert (visible.sum(dim=(1, 2, 3)) == n - round(ratio * n)).all()
    assert len({tuple(v.flatten().tolist()) for v in visible}) > 25  # drawn anew for every image


def test_every_cell_is_masked_as_often():
    often = random_visible(4000, (4, 4), mask_ratio=0.5, generator=generator()).mean(dim=(0, 1))
    assert often.min() > 0.45 and often.max() < 0.55


@pytest.mark.parametrize("shape", [(4, 1, 32, 32), (2, 3, 64, 48), (2, 2, 32, 16, 48)])
def test_crops_keep_shape_and_range(shape):
    image = torch.rand(shape, generator=generator())
    numbers = torch.rand(len(image), crop_numbers(len(shape) - 2), generator=generator(1))
    crops = random_crops(image, numbers)
    assert crops.shape == image.shape and crops.dtype == image.dtype
    assert crops.min() >= image.min() - 1e-5 and crops.max() <= image.max() + 1e-5
    assert not torch.equal(crops, image)
    assert torch.equal(crops, random_crops(image, numbers))


def test_crops_show_at_least_sixty_percent_and_sometimes_flip():
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 64, 64)
    crops = random_crops(ramp, torch.rand(200, 5, generator=generator()))
    span = (crops[:, 0, 32, -1] - crops[:, 0, 32, 0]).abs()
    assert span.min() > 0.55 and span.max() <= 1.0
    flipped = (crops[:, 0, 32, -1] < crops[:, 0, 32, 0]).float().mean()
    assert 0.3 < flipped < 0.7


def test_crops_of_a_volume_flip_left_and_right_alone():
    ramp = torch.linspace(0, 1, 32)
    numbers = torch.rand(200, crop_numbers(3), generator=generator())
    for axis, varies in ((2, False), (3, False), (4, True)):
        image = ramp.reshape([-1 if i == axis else 1 for i in range(5)]).expand(200, 1, 32, 32, 32)
        crops = random_crops(image, numbers).movedim(axis, -1)[:, 0, 16, 16]
        flipped = (crops[:, -1] < crops[:, 0]).float().mean()
        assert 0.3 < flipped < 0.7 if varies else flipped == 0


def test_loss_falls_on_a_toy():
    net = model()
    wave = torch.sin(torch.arange(64) / 5.0)
    image = (wave[None, :] * wave[:, None] + wave[None, :]).expand(4, 1, 64, 64).contiguous()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    draws, losses = generator(), []
    for _ in range(60):
        loss = net(image, random_visible(4, (4, 4), mask_ratio=0.6, generator=draws))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.7
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_every_weight_learns():
    net = model()
    image = torch.randn(2, 1, 64, 64, generator=generator())
    net(image, random_visible(2, (4, 4), mask_ratio=0.6, generator=generator())).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
