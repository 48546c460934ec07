"""The losses of HSSL against their formulas, number by number."""

import math

import pytest
import torch
from torch.nn import functional as F

from nnunetv2_xssr.pretrain.hssl.losses import hierarchical_contrast, image_contrast, restoration


def features(n, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_p(rows, i, j):
    unit = [[float(v) / math.hypot(*map(float, row)) for v in row] for row in rows]
    exp = {
        k: math.exp(sum(a * b for a, b in zip(unit[i], unit[k], strict=True)) / 0.1) for k in range(len(rows)) if k != i
    }
    return math.log(exp[j] / sum(exp.values()))


def test_image_contrast_is_nt_xent():
    rows = features(6)
    expected = -sum(log_p(rows, i, (i + 3) % 6) for i in range(6)) / 6
    assert image_contrast(rows).item() == pytest.approx(expected)


def test_hierarchical_contrast_weighs_the_own_task_twice():
    rows = features(6)
    task, group = [0, 1, 2, 0, 1, 3], [0, 0, 1, 0, 0, 2]
    terms = []
    for i in range(6):
        weight = {j: 1 if task[j] == task[i] else 0.5 for j in range(6) if j != i and group[j] == group[i]}
        if weight:
            terms.append(-sum(w * log_p(rows, i, j) for j, w in weight.items()) / sum(weight.values()))
    assert len(terms) == 4  # the third and the last image have nobody
    found = hierarchical_contrast(rows, torch.tensor(task), torch.tensor(group))
    assert found.item() == pytest.approx(sum(terms) / 4)


@pytest.mark.parametrize("n_images", [0, 1])
def test_images_with_nothing_to_contrast_are_refused(n_images):
    with pytest.raises(ValueError, match=f"two images or more.*got {2 * n_images} views"):
        image_contrast(features(2 * n_images))


@pytest.mark.parametrize(
    ("task", "group"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0]),  # all of one task
        ([2, 2], [1, 1]),  # the two views of one image
        ([0, 1, 2], [0, 1, 2]),  # nobody has a partner
    ],
)
def test_tasks_with_nothing_to_contrast_are_refused(task, group):
    with pytest.raises(ValueError, match="two tasks or more, and two images of one group"):
        hierarchical_contrast(features(len(task)), torch.tensor(task), torch.tensor(group))


def test_the_fewest_images_that_can_be_contrasted_have_gradients():
    rows = features(4).requires_grad_()
    assert torch.autograd.grad(image_contrast(rows), rows)[0].abs().max() > 0
    task = torch.tensor([0, 1, 0, 1])
    for group in (task, torch.zeros_like(task)):
        assert torch.autograd.grad(hierarchical_contrast(rows, task, group), rows)[0].abs().max() > 0


def test_both_contrasts_fall_as_positives_come_together_and_have_finite_gradients():
    rows = torch.eye(4).repeat(2, 1).requires_grad_()
    apart = torch.cat([torch.eye(4), torch.eye(4).roll(1, 0)])
    assert image_contrast(rows) < image_contrast(apart)
    task = torch.arange(4).repeat(2)
    assert hierarchical_contrast(rows, task, task) < hierarchical_contrast(apart, task, task)
    (image_contrast(rows) + hierarchical_contrast(rows, task, task)).backward()
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("dim", [2, 3])
def test_restoration_is_zero_for_the_image_itself_at_every_resolution(dim):
    image = torch.randn(2, 1, *[8] * dim)
    half = F.interpolate(image, [4] * dim, mode={2: "bilinear", 3: "trilinear"}[dim])
    assert restoration([image, half], image).item() == pytest.approx(0, abs=1e-12)
    assert restoration([image + 1, half], image).item() == pytest.approx(0.5)
