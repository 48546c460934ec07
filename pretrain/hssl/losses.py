"""The losses of HSSL: what makes two views, two images of a task and two tasks of a group alike."""

import torch
from torch.nn import functional as F

TEMPERATURE = 0.1  # of every contrast, as in Khosla et al. 2020
OTHER_TASK = 0.5  # weight of a positive from another task of the group, against 1 for one of the image's own task


def image_contrast(features: torch.Tensor) -> torch.Tensor:
    """NT-Xent: each view against all others, its image's other view being right (SimCLR, Chen et al. 2020, eq. 1).

    Parameters
    ----------
    features : tensor of shape (2 * images, d)
        The first views of all images, then the second ones.
    """
    n = len(features)
    other_view = torch.arange(n, device=features.device).roll(n // 2)
    return F.cross_entropy(_similarities(features), other_view)


def hierarchical_contrast(features: torch.Tensor, task: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Supervised contrast of groups, in which an image's own task pulls harder (after Khosla et al. 2020, eq. 2).

    mean_i  - sum_j w_ij log p_ij / sum_j w_ij,  p_ij = softmax over j != i of similarity / temperature, with w_ij = 1
    for j of the same task, 1/2 for another task of the same group, 0 otherwise. Rows without a positive do not count.
    Images of one task only have nothing to be told apart from: 0.

    Parameters
    ----------
    features : tensor of shape (n, d)
    task, group : int tensors of shape (n,)
    """
    if (task == task[0]).all():
        return features.sum() * 0
    similarities = _similarities(features)
    same_task, same_group = task[:, None] == task, group[:, None] == group
    weight = torch.where(same_task, 1.0, torch.where(same_group, OTHER_TASK, 0.0)).fill_diagonal_(0)
    # The diagonal is minus infinity there and 0 here, which would multiply to NaN.
    log_p = F.log_softmax(similarities, dim=1).masked_fill(weight == 0, 0)
    total = weight.sum(dim=1)
    return -((weight * log_p).sum(dim=1) / total.clamp(min=1e-12))[total > 0].mean()


def restoration(restored: list[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """Mean over stages of the squared error against the clean image, resized to each stage's resolution.

    Parameters
    ----------
    restored : list of tensors of shape (n, channels, ...)
        From several stages of the decoder, as nnU-Net's deep supervision has them.
    image : tensor of shape (n, channels, ...)
        Before noise was added and cells were masked.
    """
    mode = "bilinear" if image.ndim == 4 else "trilinear"
    return torch.stack(
        [F.mse_loss(one, F.interpolate(image, one.shape[2:], mode=mode, antialias=False)) for one in restored]
    ).mean()


def _similarities(features: torch.Tensor) -> torch.Tensor:
    """Cosines over the temperature, shape (n, n), minus infinity of each row with itself."""
    unit = F.normalize(features, dim=1)
    return (unit @ unit.T / TEMPERATURE).fill_diagonal_(-torch.inf)
