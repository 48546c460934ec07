"""Pools of one anatomy whose files are stored in several ways: hippocampi of a real pack, or drawn CTs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from packs import pack_folder
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records.files import read_json, write_json

AIR = -1000


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How a file holds a volume.

    Attributes
    ----------
    name : str
    axes : str
        Where its axes x, y and z run in the patient, as SimpleITK's ``DICOMOrient`` names them.
    coarser : (float, float, float)
        By how much its voxels are larger than those of the volume, feet to head, front to back and right to left.
    margin : float
        Empty space on every side, as a share of the volume's size.
    """

    name: str
    axes: str = "LPS"
    coarser: tuple[float, float, float] = (1.0, 1.0, 1.0)
    margin: float = 0.0


PLAIN = Storage(name="plain")
STORAGES = (
    PLAIN,
    Storage(name="rows flipped", axes="LAS"),
    Storage(name="sagittal stack", axes="PIR"),
    Storage(name="coronal stack", axes="LIP"),
    Storage(name="margin", margin=0.4),
    Storage(name="thicker slices", coarser=(1.6, 0.8, 0.8)),
    Storage(name="thick sagittal slices", axes="PIR", coarser=(1.0, 1.0, 3.0)),
)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Where volumes come from.

    Attributes
    ----------
    channel : str
        The name of their only channel.
    empty : int
        The value of a margin.
    volumes : callable
        From a number of volumes, and how many to leave out before, to as many images.
    """

    channel: str
    empty: int
    volumes: Callable[[int, int], list[sitk.Image]]


def hippocampi(n: int, after: int) -> list[sitk.Image]:
    """MR of one of the pack's subgroups, always in the same random order."""
    folder = pack_folder("Hippocampus3D")
    domains = read_json(folder / "dataset.json")["domains"]
    cases = np.random.default_rng(0).permutation(sorted(case for case, name in domains.items() if name == "standard"))
    if after + n > len(cases):
        raise UserError(
            f"Hippocampus3D has {len(cases)} standard cases for pool and source; got {after + n}; ask fewer"
        )
    files = [folder / "imagesTr" / f"{case}_0000.nii.gz" for case in cases[after : after + n]]
    return [sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkInt16) for file in files]


# Centre (feet to head, front to back, right to left) and half axes in shares of the body's half axes, and HU.
ORGANS = {
    "muscles": ((0.0, 0.05, 0.0), (9.0, 0.85, 0.9), 55),
    "fat inside": ((0.0, -0.15, 0.0), (9.0, 0.6, 0.75), -90),
    "lung": ((1.2, -0.05, -0.4), (0.6, 0.6, 0.35), -820),
    "liver": ((0.3, -0.15, -0.4), (1.1, 0.55, 0.42), 105),
    "spleen": ((0.2, 0.25, 0.55), (0.7, 0.25, 0.16), 120),
    "stomach": ((0.3, -0.3, 0.3), (0.8, 0.25, 0.25), 20),
    "right kidney": ((-0.6, 0.3, -0.38), (0.8, 0.17, 0.13), 180),
    "left kidney": ((-0.5, 0.3, 0.38), (0.8, 0.17, 0.13), 180),
    "aorta": ((0.0, 0.3, 0.06), (9.0, 0.08, 0.06), 160),
    "spine": ((0.0, 0.55, 0.0), (9.0, 0.2, 0.13), 350),
    "spinal canal": ((0.0, 0.68, 0.0), (9.0, 0.06, 0.05), 30),
}


def drawn_cts(n: int, after: int) -> list[sitk.Image]:
    """Upper abdomens of 12 slices, drawn from organs that vary in place, size and density."""
    return [drawn_ct(np.random.default_rng([13, number])) for number in range(after, after + n)]


def drawn_ct(rng: np.random.Generator) -> sitk.Image:
    """One of `drawn_cts`."""
    shape, spacing = (12, 80, 104), (5.0, 4.0, 4.0)
    body = np.array([30.0, rng.normal(112, 10), rng.normal(160, 14)])
    at = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2 for size in shape], indexing="ij"), axis=-1) * spacing
    at = at / body
    across = np.hypot(at[..., 1], at[..., 2])
    image = np.where(across < 1, -100.0, AIR)
    for centre, half_axes, density in ORGANS.values():
        from_centre = at - rng.normal(centre, 0.03)
        inside = ((from_centre / (half_axes * rng.normal(1, 0.1, 3))) ** 2).sum(axis=-1) < 1
        image[inside & (across < 0.97)] = density + rng.normal(0, 12)
    image = gaussian_filter(image, (0, 0.6, 0.6)) + rng.normal(0, 12, shape)
    drawn = sitk.GetImageFromArray(np.rint(np.maximum(image, AIR)).astype(np.int16))
    drawn.SetSpacing(spacing[::-1])
    return drawn


ANATOMIES = {
    "hippocampus": Anatomy(channel="MRI_T1", empty=0, volumes=hippocampi),
    "ct": Anatomy(channel="CT", empty=AIR, volumes=drawn_cts),
}


def as_stored(image: sitk.Image, storage: Storage, *, empty: int) -> sitk.Image:
    """The file of a volume in a storage."""
    image = sitk.DICOMOrient(image, "LPS")
    array, spacing = sitk.GetArrayFromImage(image), np.array(image.GetSpacing()[::-1])
    coarse = np.maximum(1, np.rint(np.array(array.shape) / storage.coarser)).astype(int)
    if tuple(coarse) != array.shape:
        spacing = spacing * array.shape / coarse
        array = np.rint(resize(array, coarse, order=1, anti_aliasing=True, preserve_range=True)).astype(np.int16)
    around = [(round(storage.margin * size),) * 2 for size in array.shape]
    stored = sitk.GetImageFromArray(np.pad(array, around, constant_values=empty))
    stored.SetSpacing(spacing[::-1].tolist())
    return sitk.DICOMOrient(stored, storage.axes)


def write_pool(dataset: Path, anatomy: str, n: int, *, storages: tuple[Storage, ...], after: int = 0) -> np.ndarray:
    """Write an unlabelled nnU-Net raw dataset whose cases are stored at random; the number of every case's storage.

    Each storage holds as many cases as the others, give or take one, and nothing tells which case it is given.

    Parameters
    ----------
    dataset : Path
        ``.../nnUNet_raw/DatasetXXX_Name``.
    anatomy : str
        A name in ``ANATOMIES``.
    n : int
    storages : tuple of Storage
    after : int
        Volumes of the anatomy to leave out, because another pool has them.
    """
    of = ANATOMIES[anatomy]
    chosen = np.random.default_rng(1).permutation(np.arange(n) % len(storages))
    (dataset / "imagesTr").mkdir(parents=True, exist_ok=True)
    for number, (image, storage) in enumerate(zip(of.volumes(n, after), chosen, strict=True)):
        stored = as_stored(image, storages[storage], empty=of.empty)
        sitk.WriteImage(stored, str(dataset / "imagesTr" / f"case_{number:03d}_0000.nii.gz"))
    channels = {"channel_names": {"0": of.channel}, "labels": {"background": 0, "organ": 1}}
    write_json(dataset / "dataset.json", {**channels, "numTraining": 0, "dataset": {}, "file_ending": ".nii.gz"})
    return chosen
