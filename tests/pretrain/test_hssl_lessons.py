"""What HSSL learns from and by which numbers, against definitions: with a fault here it would still train."""

import numpy as np
import pytest
import torch
from making import TARGET, picture
from plans import KINDS, drawn_pools, pool_of, write_plans
from torch.nn import functional as F

from nnunetv2_xssr.pretrain.hssl import patches
from nnunetv2_xssr.pretrain.hssl.losses import hierarchical_contrast, image_contrast
from nnunetv2_xssr.pretrain.hssl.network import HSSLNetwork
from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
from nnunetv2_xssr.pretrain.hssl.patches import PatchPairs
from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
from nnunetv2_xssr.pretrain.processes import Whole, start

WHOLE = Whole(start("cpu"))


def loaded_plans(workspace, configuration="2d", network="PlainConvUNet"):
    write_plans(workspace.preprocessed / TARGET, configuration, network)
    return TargetPlans.load(TARGET, configuration_name=configuration)


# ------------------------------------------------------------------------------------------------------- the patches
def places(shape):
    """An image whose three channels are the place of every voxel along z, y and x, counted from 1."""
    return np.stack([axis + 1 for axis in np.indices(shape)])


def same(image):
    return {"image": image}


@pytest.mark.parametrize(
    ("shape", "patch_size"),
    [((7, 20, 12), (8, 8)), ((1, 8, 9), (8, 8)), ((9, 12, 10), (4, 8, 8)), ((9, 8, 5), (4, 8, 8)), ((2, 5, 6), (8, 8))],
)
def test_patches_reach_every_part_of_an_image_and_nothing_beyond(tmp_path, shape, patch_size):
    """Of 2D patches every slice; along an axis shorter than the patch the whole image is in it."""
    pairs = PatchPairs([pool_of(tmp_path, [places(shape)])], patch_size=patch_size, seed=0)
    size = (*[1] * (3 - len(patch_size)), *patch_size)
    firsts = []
    for i in range(300):
        patch = pairs.plain(i).reshape(3, *size).numpy()
        first = [int(patch[axis][patch[axis] > 0].min()) for axis in range(3)]
        last = [int(patch[axis].max()) for axis in range(3)]
        assert [b - a + 1 for a, b in zip(first, last, strict=True)] == [*map(min, size, shape)]
        firsts.append(first)
    for axis, (n, part) in enumerate(zip(shape, size, strict=True)):
        assert {first[axis] for first in firsts} == set(range(1, max(1, n - part + 1) + 1)), axis


def test_both_views_are_shifted_by_up_to_a_quarter_and_clean_ones_keep_their_values(tmp_path):
    pairs = PatchPairs([pool_of(tmp_path, [places((1, 64, 64))])], patch_size=(16, 16), seed=0)
    pairs._spatial = same
    shifts = []
    for i in range(300):
        plain, (_, clean) = pairs.plain(i), pairs.pair(i)
        middle, centres = plain[1:, 8, 8], clean[:, 1:, 8, 8]  # whole numbers, as the image has them
        shifts.append((centres - middle)[(centres > 0).all(dim=1)].int())
    found = torch.cat(shifts)
    for axis in range(2):
        assert set(found[:, axis].tolist()) == set(range(-4, 5))
    both = torch.stack([one for one in shifts if len(one) == 2])
    assert (both[:, 0] != both[:, 1]).any(dim=1).float().mean() > 0.9  # each by its own


@pytest.mark.parametrize("patch_size", [(16, 16), (16, 16, 16)])
def test_cells_of_the_noisy_view_alone_are_masked(tmp_path, monkeypatch, patch_size):
    """About three tenths of the cells, each as a whole, and others in each view; what is left is the clean view."""
    monkeypatch.setattr(patches, "_SHIFT", 0)
    image = 2 + np.random.default_rng(0).random((2, *(1, *patch_size)[-3:]))
    pairs = PatchPairs([pool_of(tmp_path, [image])], patch_size=patch_size, seed=0)
    pairs._spatial = pairs._intensity = same
    masked = []
    for i in range(30):
        noisy, clean = pairs.pair(i)
        assert (clean > 0).all()
        hidden = noisy == 0
        assert torch.equal(noisy, torch.where(hidden, 0, clean))
        cells = hidden.float()
        pooled = (F.max_pool2d if len(patch_size) == 2 else F.max_pool3d)(cells, 2)
        assert torch.equal(F.interpolate(pooled, patch_size), cells)  # 8 cells along 16 voxels
        assert torch.equal(cells[:, 0], cells[:, 1]) and not torch.equal(cells[0], cells[1])
        masked.append(cells.mean().item())
    assert np.mean(masked) == pytest.approx(0.3, abs=0.03)


def test_a_noisy_view_shows_what_its_clean_view_does(tmp_path):
    """In the same places: else restoring it would be learning by heart."""
    smooth = picture(0, (64, 64)).astype(float)
    pairs = PatchPairs([pool_of(tmp_path, [(smooth / 50)[None, None]])], patch_size=(32, 32), seed=0)
    alike = []
    for i in range(20):
        for noisy, clean in zip(*pairs.pair(i), strict=True):
            kept = noisy != 0
            alike.append(np.corrcoef(noisy[kept], clean[kept])[0, 1])
            assert not torch.equal(noisy[kept], clean[kept])
    assert np.median(alike) > 0.9 and min(alike) > 0.3


# ------------------------------------------------------------------------------------------------------- the network
@pytest.mark.parametrize(("configuration", "network"), KINDS)
def test_the_network_computes_what_nnunets_does(workspace, configuration, network):
    """With nnU-Net's segmentation layers as heads, restored images are its segmentations."""
    plans = loaded_plans(workspace, configuration, network)
    unet = plans.build_network(2)  # as many channels as labels
    model = HSSLNetwork(unet, n_tasks=2, n_groups=1)
    for ours, theirs in zip(model.restore, unet.decoder.seg_layers[::-1], strict=True):
        ours.load_state_dict(theirs.state_dict())
    image = torch.randn(3, 2, *plans.patch_size)
    with torch.no_grad():
        skips, pooled = model.encode(image)
        for found, expected in zip(model.decode(skips), unet(image), strict=True):
            torch.testing.assert_close(found, expected)
        bottleneck = unet.encoder(image)[-1].flatten(2)
        torch.testing.assert_close(pooled, bottleneck.mean(dim=2) + bottleneck.std(dim=2, unbiased=False))


# ----------------------------------------------------------------------------------------------------- the objective
def test_the_loss_is_the_documented_sum(workspace, tmp_path):
    """L = L_image + 1/2 L_task + 1/2 L_group + L_decoder, of a network whose outputs are drawn."""
    plans, groups = loaded_plans(workspace), torch.tensor([0, 0, 1])
    pairs = PatchPairs(drawn_pools(tmp_path, 2, (2, 2, 2)), patch_size=plans.patch_size, seed=0)
    objective = HSSLObjective(plans, channels=1, pairs=pairs, held_out=pairs, groups=groups.tolist(), health_note="")
    noisy, clean, task = objective.batch(range(6))
    assert task.tolist() == [0, 1, 2, 0, 1, 2]
    torch.manual_seed(0)
    drawn = {"of_image": torch.randn(12, 5), "of_task": torch.randn(12, 5), "task": torch.randn(12, 3)}
    drawn |= {"group": torch.randn(12, 2), "restored": [clean.flatten(0, 1) + 2]}

    def network(views):
        assert torch.equal(views, noisy.flatten(0, 1))  # both views of the first image, then those of the second
        return drawn

    found = objective.loss(network, (noisy, clean, task), WHOLE)
    first, second = slice(0, None, 2), slice(1, None, 2)
    of_image, of_task = (torch.cat([drawn[name][first], drawn[name][second]]) for name in ("of_image", "of_task"))
    twice, every = torch.stack([task, task], dim=1).flatten(), torch.cat([task, task])
    contrast = hierarchical_contrast(of_task, every, groups[every])
    expected = {
        "image_loss": image_contrast(of_image),
        "task_loss": F.cross_entropy(drawn["task"], twice),
        "group_loss": F.cross_entropy(drawn["group"], groups[twice]) + contrast,
        "decoder_loss": torch.tensor(4.0),  # of the clean views
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name
    image, of_tasks, of_groups, decoder = (value.item() for value in expected.values())
    assert found["loss"].item() == pytest.approx(image + of_tasks / 2 + of_groups / 2 + decoder, rel=1e-5)


def test_tasks_of_one_group_are_contrasted_too(workspace, tmp_path):
    plans = loaded_plans(workspace)
    pairs = PatchPairs(drawn_pools(tmp_path, 2, (2, 2)), patch_size=plans.patch_size, seed=0)
    objective = HSSLObjective(plans, channels=1, pairs=pairs, held_out=pairs, groups=[0, 0], health_note="")
    losses = objective.loss(objective.build_model(), objective.batch(range(4)), WHOLE)
    assert losses["group_loss"] > 0.1  # one group: there is nothing to classify


def test_health_restores_the_clean_views_of_noisy_ones(workspace, tmp_path):
    """Its loss is that of a network which gives back what it is shown."""
    plans = loaded_plans(workspace)
    pairs = PatchPairs(drawn_pools(tmp_path, 2, (4,)), patch_size=plans.patch_size, seed=0)
    objective = HSSLObjective(plans, channels=1, pairs=pairs, held_out=pairs, groups=[0], health_note="")
    model = objective.build_model()
    model.encode = lambda views: ([views], views.flatten(1))
    model.decode = lambda skips: skips
    noisy, clean, _ = objective._health_batch
    found = objective.health(model)
    assert found["held_out_loss"] == pytest.approx((noisy - clean).square().mean().item(), rel=1e-4)
    assert found["held_out_loss"] > 0.05
