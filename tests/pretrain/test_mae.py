"""The masked autoencoder: what is masked stays unseen."""

import pytest
import torch

from nnunetv2_xssr.pretrain.mae import (
    CELL,
    Ensemble,
    MaskedAutoencoder,
    cell_pixels,
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
                mean, std = cell.mean(), (cell.var(unbiased=False) + 1e-6).sqrt()
                *pixels, found_mean, found_std = predicted[b, :, row, column]
                wanted = ((cell - mean) / std).reshape(-1)
                moments = ((found_mean - mean) ** 2 + (found_std - std.log()) ** 2) / 2
                errors.append((torch.stack(pixels) - wanted).square().mean() + moments)
    assert loss.shape == (2,)
    assert loss.mean().item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


@pytest.mark.parametrize("change", [lambda image: 3 * image, lambda image: image + 2], ids=["contrast", "brightness"])
def test_brightness_and_contrast_are_learned(change):
    """A target of normalised pixels alone would have the same loss."""
    net, image = model(), torch.randn(1, 1, 64, 64, generator=generator())
    visible = random_visible(1, (4, 4), mask_ratio=0.6, generator=generator())
    other = torch.where(pixels_of(visible).bool(), image, change(image))
    with torch.no_grad():
        assert net(other, visible).item() > 1.3 * net(image, visible).item()


@pytest.mark.parametrize("shape", [(2, 3, 32, 48), (1, 1, 32, 32, 48)])
def test_targets_give_the_image_back(shape):
    image = 7 + 3 * torch.randn(shape, generator=generator())
    targets = cell_targets(image)
    assert torch.allclose(from_cells(cell_pixels(targets)), image, atol=1e-4)
    assert targets[:, :-2].mean(dim=1) == pytest.approx(0, abs=1e-5)


def test_constant_cell_gives_a_finite_target():
    targets = cell_targets(torch.full((1, 1, 32, 32), 5.0))
    assert torch.isfinite(targets).all() and not targets[:, :-2].any() and (targets[:, -2] == 5).all()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_cells_are_blocks_of_the_image_and_go_back(shape):
    image = torch.randn(2, 3, *(CELL * n for n in shape), generator=generator())
    cells = to_cells(image)
    assert cells.shape == (2, 3 * CELL ** len(shape), *shape)
    place = tuple(n - 1 for n in shape)
    block = image[(slice(None), slice(None), *(slice(CELL * i, CELL * (i + 1)) for i in place))]
    assert torch.equal(cells[(slice(None), slice(None), *place)], block.flatten(1))
    assert torch.equal(from_cells(cells), image)


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


@pytest.mark.parametrize(("shape", "size"), [((40, 1, 32, 32), 16), ((20, 3, 64, 48), 48), ((20, 2, 32, 16, 48), 16)])
def test_crops_are_parts_of_the_image_some_of_them_flipped(shape, size):
    image = torch.rand(shape, generator=generator())
    numbers = torch.rand(len(image), crop_numbers(len(shape) - 2), generator=generator(1))
    crops = random_crops(image, numbers, size=size)
    assert crops.shape == (*shape[:2], *[size] * (len(shape) - 2)) and crops.dtype == image.dtype
    flips = 0
    for whole, crop, drawn in zip(image, crops, numbers, strict=True):
        flips += drawn[-1] < 0.5
        upright = crop.flip(-1) if drawn[-1] < 0.5 else crop
        (found,) = (whole[0] == upright[0].flatten()[0]).nonzero()  # all values differ
        part = whole[(slice(None), *(slice(at, at + size) for at in found.tolist()))]
        assert torch.equal(part, upright)
    assert 0 < flips < len(image)


def test_crops_reach_every_part_of_the_image():
    image = torch.arange(20.0).reshape(1, 1, 4, 5).expand(400, 1, 4, 5)
    crops = random_crops(image, torch.rand(400, 3, generator=generator()), size=2)
    assert {value.item() for value in crops.unique()} == set(range(20))
    corners = {tuple(sorted(crop.flatten().tolist())) for crop in crops}
    assert len(corners) == 3 * 4


def test_each_sample_is_seen_by_the_member_of_its_number():
    torch.manual_seed(0)
    net = Ensemble(3, input_channels=1, **SMALL)
    image = torch.randn(5, 1, 32, 32, generator=generator())
    visible, number = random_visible(5, (2, 2), mask_ratio=0.5, generator=generator()), torch.arange(4, 9)
    one_by_one = [net.members[i % 3](image[j : j + 1], visible[j : j + 1]) for j, i in enumerate(number.tolist())]
    assert net(image, visible, number).item() == pytest.approx(torch.cat(one_by_one).mean().item(), rel=1e-5)
    assert not torch.equal(net.members[0].mask_token, net.members[1].mask_token)  # each starts with weights of its own


def test_a_member_without_a_sample_takes_part_with_gradients_of_zero():
    """Processes that exchange gradients wait for every weight."""
    torch.manual_seed(0)
    net = Ensemble(2, input_channels=1, **SMALL)
    image = torch.randn(1, 1, 32, 32, generator=generator())
    net(image, random_visible(1, (2, 2), mask_ratio=0.5, generator=generator()), torch.tensor([3])).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert not any(p.grad.any() for p in net.members[0].parameters())
    assert any(p.grad.any() for p in net.members[1].parameters())


def test_maps_of_all_members_lie_side_by_side():
    torch.manual_seed(0)
    net, image = Ensemble(2, input_channels=1, **SMALL), torch.randn(1, 1, 32, 32, generator=generator())
    with torch.no_grad():
        both = net.encode(image)
        for m, member in enumerate(net.members):
            assert torch.equal(both[:, 16 * m : 16 * (m + 1)], member.encoder(image))


def test_loss_falls_on_a_toy():
    net = model()
    wave = torch.sin(torch.arange(64) / 5.0)
    image = (wave[None, :] * wave[:, None] + wave[None, :]).expand(4, 1, 64, 64).contiguous()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    draws, losses = generator(), []
    for _ in range(60):
        loss = net(image, random_visible(4, (4, 4), mask_ratio=0.6, generator=draws)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.7
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def test_every_weight_learns():
    net = model()
    image = torch.randn(2, 1, 64, 64, generator=generator())
    net(image, random_visible(2, (4, 4), mask_ratio=0.6, generator=generator())).mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
