"""What may stand for the Dice of a trained segmenter: distances between cases, from their masks or from their images.

A selection covers a pool well if the mean distance of the pool's cases to the nearest pick is small.
"""

import numpy as np
import torch
from skimage.segmentation import find_boundaries
from torch.nn import functional as F


def mean_nearest(distance, picks, worst=False):
    """Mean, or mean over the farthest tenth, of the distance to the nearest pick; ``distance`` is (n, n)."""
    nearest = np.sort(distance[:, picks].min(axis=1))
    return nearest[-max(1, len(nearest) // 10) :].mean() if worst else nearest.mean()


def shrink(arrays, size):
    """Mean over cells: float arrays of shape (n, ..., height, width) to (n, channels, size, size)."""
    tensor = torch.from_numpy(np.asarray(arrays, np.float32))
    tensor = tensor.reshape(len(tensor), -1, *tensor.shape[-2:])
    return F.interpolate(tensor, (size, size), mode="area").numpy()


def mask_vectors(masks):
    """Masks of shape (n, ..., height, width) as vectors of 32 x 32 cells."""
    return shrink(masks, 32).reshape(len(masks), -1)


def soft_dice_distance(vectors):
    """1 - Dice of soft masks, all pairs: shape (n, n)."""
    shared, total = vectors @ vectors.T, (vectors**2).sum(axis=1)
    return 1 - 2 * shared / (total[:, None] + total[None] + 1e-6)


def euclidean(features):
    """Distances after standardising every column, all pairs."""
    z = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    return np.sqrt(np.maximum(2 - 2 * z @ z.T, 0))


def thumbnails(images):
    return shrink(images, 16).reshape(len(images), -1)


def textures(images):
    """Per channel: quantiles of the intensities, and energies of differences over 1, 2, 4 and 8 pixels."""
    flat = images.reshape(*images.shape[:2], -1)
    found = [np.quantile(flat, q, axis=2) for q in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)]
    for step in (1, 2, 4, 8):
        found.append(np.log(np.abs(images[..., step:] - images[..., :-step]).mean(axis=(2, 3)) + 1e-6))
        found.append(np.log(np.abs(images[..., step:, :] - images[..., :-step, :]).mean(axis=(2, 3)) + 1e-6))
    return np.concatenate(found, axis=1)


def features_of(images):
    """The feature spaces that need no network."""
    return {"thumbnails": thumbnails(images), "textures": textures(images)}


def boundaries(masks):
    return np.stack([find_boundaries(mask > 0.5) for mask in masks]).astype(np.float32)


def appearance(image, mask):
    """What the object looks like: mean and deviation of the intensities inside and outside of its mask, channel by
    channel, its size and the length of its boundary.

    Parameters
    ----------
    image : array of shape (channels, ...)
    mask : array of shape (...)
    """
    where = mask > 0.5
    parts = [channel[inside] if inside.any() else np.zeros(1) for channel in image for inside in (where, ~where)]
    told = [value for part in parts for value in (part.mean(), part.std())]
    return np.array([*told, np.sqrt(where.mean()), np.sqrt(find_boundaries(where).mean())])


def appearances(images, masks):
    return np.stack([appearance(image, mask) for image, mask in zip(images, masks, strict=True)])


PROXIES = {
    "masks": lambda images, masks: soft_dice_distance(mask_vectors(masks)),
    "masks, hardest tenth": lambda images, masks: soft_dice_distance(mask_vectors(masks)),
    "boundaries": lambda images, masks: soft_dice_distance(mask_vectors(boundaries(masks))),
    "appearance of the object": lambda images, masks: euclidean(appearances(images, masks)),
    "thumbnails (no label)": lambda images, masks: euclidean(thumbnails(images)),
    "textures (no label)": lambda images, masks: euclidean(textures(images)),
    "textures, hardest tenth": lambda images, masks: euclidean(textures(images)),
}
