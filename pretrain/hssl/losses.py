"""The losses of HSSL: contrasts of images and of tasks, and restoration of images."""

import torch
from torch.nn import functional as F

TEMPERATURE = 0.1  # of both contrasts, as in Khosla et al. 2020
OTHER_TASK = 0.5  # weight of a positive from another task of the group; one from the image's own task has 1


def image_contrast(features: torch.Tensor) -> torch.Tensor:
    """NT-Xent: every view must find the other view of its image among all others (SimCLR, Chen et al. 2020, eq. 1).

    Parameters
    ----------
    features : tensor of shape (2 * images, d)
        The first views of all images, then the second ones.

    Raises
    ------
    ValueError
        If there are fewer than two images: the loss and its gradients would be zero.
    """
    n = len(features)
    if n < 4:
        raise ValueError(f"a contrast of images needs two images or more, with two views each; got {n} views")
    other_view = torch.arange(n, device=features.device).roll(n // 2)
    return F.cross_entropy(_similarities(features), other_view)


def hierarchical_contrast(features: torch.Tensor, task: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Supervised contrast of groups, with a larger weight for an image's own task (after Khosla et al. 2020, eq. 2).

    mean_i  - sum_j w_ij log p_ij / sum_j w_ij,  p_ij = softmax over j != i of similarity / temperature, with w_ij = 1
    for j of the same task, 1/2 for another task of the same group, 0 otherwise. Rows without a positive do not count.

    Parameters
    ----------
    features : tensor of shape (n, d)
    task, group : int tensors of shape (n,)

    Raises
    ------
    ValueError
        If all images are of one task, or no two are of one group: there is nothing to contrast.
    """
    same_task, same_group = task[:, None] == task, group[:, None] == group
    weight = torch.where(same_task, 1.0, torch.where(same_group, OTHER_TASK, 0.0)).fill_diagonal_(0)
    if same_task.all() or not weight.any():
        raise ValueError(
            f"a contrast of tasks needs two tasks or more, and two images of one group; "
            f"got {len(task)} images of {len(task.unique())} tasks and {len(group.unique())} groups"
        )
    similarities = _similarities(features)
    # The diagonal is minus infinity there and 0 here, which would multiply to NaN.
    log_p = F.log_softmax(similarities, dim=1).masked_fill(weight == 0, 0)
    total = weight.sum(dim=1)
    return -((weight * log_p).sum(dim=1) / total.clamp(min=1e-12))[total > 0].mean()


def restoration(restored: list[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """Mean over stages of the mean squared error against the clean image, resized to the resolution of the stage.

    Parameters
    ----------
    restored : list of tensors of shape (n, channels, ...)
        The outputs of several stages of the decoder, as in nnU-Net's deep supervision.
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
