"""One label from those of several raters."""

from collections.abc import Sequence

import numpy as np

FIRST, MAJORITY, STAPLE = "first", "majority", "staple"
FUSIONS = (FIRST, MAJORITY, STAPLE)


def fuse(labels: Sequence[np.ndarray], *, how: str) -> tuple[np.ndarray, int]:
    """Fuse the labels of one image.

    Parameters
    ----------
    labels : sequence of int arrays of one shape
        One per rater.
    how : {"majority", "staple"}

    Returns
    -------
    fused : int array of that shape
        Undecided voxels are background.
    undecided : int
        How many they are: those in which no value has more than half of the raters, or none is the most probable.
    """
    return _majority(labels) if how == MAJORITY else _staple(labels)


def _majority(labels: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    fused, decided = np.zeros_like(labels[0]), np.zeros(labels[0].shape, bool)
    for value in np.unique(np.concatenate([np.unique(label) for label in labels])):
        most = sum(label == value for label in labels) * 2 > len(labels)
        fused[most] = value
        decided |= most
    return fused, int((~decided).sum())


def _staple(labels: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """STAPLE for several labels (Rohlfing et al., "Performance-based classifier combination", IEEE TMI 2004)."""
    import SimpleITK as sitk

    undecided = int(max(label.max() for label in labels)) + 1
    # It looks at each voxel alone, so that their shape does not matter.
    kind = np.uint8 if undecided < 256 else np.uint16
    images = [sitk.GetImageFromArray(label.reshape(1, -1).astype(kind)) for label in labels]
    staple = sitk.MultiLabelSTAPLEImageFilter()
    staple.SetLabelForUndecidedPixels(undecided)
    fused = sitk.GetArrayFromImage(staple.Execute(images)).reshape(labels[0].shape).astype(labels[0].dtype)
    open_ = fused == undecided
    fused[open_] = 0
    return fused, int(open_.sum())
