"""Images and labels of a labelled pool as the fast judge sees them: slices of 64 x 64 pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from nnunetv2_xssr.annotation.label_check import IGNORE, check_label, label_names, label_values
from nnunetv2_xssr.benchmark.fast_judge import SIZE
from nnunetv2_xssr.benchmark.hold_out import label_files
from nnunetv2_xssr.errors import UserError, first_few
from nnunetv2_xssr.images.extract import LEAST_VIEWS, choose_slices
from nnunetv2_xssr.images.normalise import Statistics, normalise
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import read_case
from nnunetv2_xssr.records.workspace import channel_names_of


@dataclass(frozen=True, kw_only=True)
class SmallCases:
    """Labelled cases at the size of the fast judge.

    Attributes
    ----------
    identifiers : list of str
    images : float32 array of shape (cases, slices, channels, SIZE, SIZE)
        Normalised by nnU-Net's scheme; a 2D case has one slice.
    labels : uint8 array of shape (cases, slices, SIZE, SIZE)
    n_labels : int
        Labels of the task without background.
    """

    identifiers: list[str]
    images: np.ndarray
    labels: np.ndarray
    n_labels: int

    def rows(self, cases: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of these cases, in this order."""
        row = {case: i for i, case in enumerate(self.identifiers)}
        wanted = [row[case] for case in cases]
        return self.images[wanted], self.labels[wanted]


def count_labels(dataset_json: dict) -> int:
    """Labels of a task without background.

    Raises
    ------
    UserError
        If the task has an ignore label, which the fast judge does not know, or leaves out a number, which would count
        as a label that is always right.
    """
    values = label_values(dataset_json)
    if IGNORE in values.values():
        raise UserError("dataset.json has an ignore label, which --judge fast does not know; choose --judge nnunet")
    if sorted(values) != list(range(len(values))):
        listed = ", ".join(map(str, sorted(values)))
        raise UserError(f"labels in dataset.json must be numbered from 0 without a gap, as in nnU-Net; got {listed}")
    return max(values)


def read_small_cases(pool: ImagePool) -> SmallCases:
    """Read all cases and labels of a labelled pool.

    Raises
    ------
    UserError
        If an image or a label cannot be used.
    """
    n_labels, channels = count_labels(pool.dataset_json), channel_names_of(pool.dataset_json)
    files, reader = label_files(pool), pool.reader()

    def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
        label = check_label(files[case.identifier], case, pool, allow_empty=True).values
        return small_slices(read_case(case, reader), label, channel_names=channels, n_labels=n_labels)

    with read_ahead(read, pool.cases) as ahead:
        progress = tqdm(ahead, total=len(pool), desc=f"reading {pool.name}", unit="case", disable=None)
        images, labels = zip(*(case.result() for case in progress), strict=True)
    # A volume of a single slice, among others of several, shows that slice as often as they show theirs.
    most = max(map(len, images))
    shown, drawn = (np.stack([np.repeat(one, most // len(one), axis=0) for one in each]) for each in (images, labels))
    return SmallCases(identifiers=pool.identifiers, images=shown, labels=drawn, n_labels=n_labels)


def absent_labels(cases: SmallCases, test: Sequence[str], dataset_json: dict) -> str | None:
    """A sentence about the labels that no test case holds as the judge sees it; None where there is none."""
    there = set(np.unique(cases.rows(test)[1]).tolist())
    absent = [f"{value} ({name})" for value, name in label_names(dataset_json).items() if value and value not in there]
    if not absent:
        return None
    return (
        f"no test case holds label {first_few(absent)} at {SIZE} x {SIZE} pixels: its Dice is 1 where nothing is "
        f"predicted, else 0, and takes part in every mean; choose other cases for --test"
    )


def small_slices(
    image: np.ndarray, label: np.ndarray, *, channel_names: tuple[str, ...], n_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """The slices of one case: of a volume those that the encoder sees.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
    label : integer array of shape (z, y, x)
    channel_names : tuple of str
    n_labels : int

    Returns
    -------
    images : float32 array of shape (slices, channels, SIZE, SIZE)
    labels : uint8 array of shape (slices, SIZE, SIZE)
        The label that covers most of a pixel.
    """
    slices = choose_slices(image, LEAST_VIEWS if image.shape[1] > 1 else 1).places
    statistics = Statistics.of(image, channel_names)
    pixels = torch.from_numpy(normalise(image[:, slices], channel_names, statistics)).transpose(0, 1)
    masks = F.one_hot(torch.from_numpy(label[slices]).long(), n_labels + 1).movedim(3, 1).float()
    size = [max(1, round(length * SIZE / max(pixels.shape[-2:]))) for length in pixels.shape[-2:]]
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    shares = F.interpolate(masks, size, mode="area")
    return _padded(pixels).numpy(), _padded(shares.argmax(dim=1)).numpy().astype(np.uint8)


def _padded(slices: torch.Tensor) -> torch.Tensor:
    """Zeros around slices that are smaller than SIZE, as nnU-Net pads after normalisation."""
    height, width = slices.shape[-2:]
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    return F.pad(slices, (left, SIZE - width - left, top, SIZE - height - top))
