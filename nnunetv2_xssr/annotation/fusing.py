"""One label from those of several raters."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

FIRST, MAJORITY, STAPLE = "first", "majority", "staple"
FUSIONS = (FIRST, MAJORITY, STAPLE)


def fuse(
    labels: Sequence[np.ndarray], *, how: str, regions: Mapping[int, Collection[int]] | None = None
) -> tuple[np.ndarray, int]:
    """Fuse the labels of one image.

    Parameters
    ----------
    labels : sequence of int arrays of one shape
        One per rater.
    how : {"majority", "staple"}
    regions : mapping from int to collection of int, optional
        The value that stands for a region to all of its values, in the order in which nnU-Net draws them. Where no
        value has a majority, what lies in a region by most raters is drawn so.

    Returns
    -------
    fused : int array of that shape
        Undecided voxels are background.
    undecided : int
        How many they are: those in which no value, and no region, has more than half of the raters, or none is the
        most probable.
    """
    return _majority(labels, regions or {}) if how == MAJORITY else _staple(labels)


def _majority(labels: Sequence[np.ndarray], regions: Mapping[int, Collection[int]]) -> tuple[np.ndarray, int]:
    fused, decided = np.zeros_like(labels[0]), np.zeros(labels[0].shape, bool)
    for value in np.unique(np.concatenate([np.unique(label) for label in labels])):
        most = sum(label == value for label in labels) * 2 > len(labels)
        fused[most] = value
        decided |= most
    in_regions = np.zeros_like(decided)
    for value, values in regions.items():
        most = ~decided & (sum(np.isin(label, [*values]) for label in labels) * 2 > len(labels))
        fused[most] = value
        in_regions |= most
    return fused, int((~decided & ~in_regions).sum())


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
