"""How alike two segmentations of one image are."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np


def mean_dice(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Dice over the labels that are in either of two segmentations; 1 where both are all background (0).

    Parameters
    ----------
    one, other : arrays of whole numbers from 0, of the same shape
    """
    n = int(max(one.max(), other.max())) + 1
    sizes = np.bincount(one.ravel(), minlength=n) + np.bincount(other.ravel(), minlength=n)
    common = np.bincount(one[one == other], minlength=n)
    there = np.flatnonzero(sizes[1:]) + 1
    return float((2 * common[there] / sizes[there]).mean()) if len(there) else 1.0


def disagreement(predictions: Sequence[np.ndarray]) -> float:
    """Mean of 1 - `mean_dice` over all pairs of two predictions or more, in [0, 1]."""
    return float(np.mean([1 - mean_dice(one, other) for one, other in combinations(predictions, 2)]))
