"""Preprocessed images of unlabelled pools on disk, and pairs of views of patches of them."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import blosc2
import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from isal import isal_zlib
from tqdm import tqdm

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import check_unchanged, file_hashes
from nnunetv2_xssr.images.memory import memory_of
from nnunetv2_xssr.images.pools import Case
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import BrokenImage, none_usable, read_image
from nnunetv2_xssr.pretrain.hssl.sources import Source
from nnunetv2_xssr.pretrain.hssl.statistics import check_channels
from nnunetv2_xssr.records.files import write_bytes
from nnunetv2_xssr.records.locks import only_reads
from nnunetv2_xssr.records.logs import logger
from nnunetv2_xssr.records.workspace import Workspace, visible_files

_CELLS = 8  # cells per axis of a patch; a cell is masked as a whole
_MASKED = 0.3  # share of the cells
_SHIFT = 0.25  # of the patch size: how far a view is shifted at most along each axis


@dataclass(frozen=True, kw_only=True)
class PreprocessedPool:
    """The cases of a pool as they are preprocessed for one configuration of the target.

    Attributes
    ----------
    name : str
    files : tuple of Path
        One per case: see `compressed`.
    hashes : dict
        SHA-256 of every case's image files.
    groups : tuple of str
        Of every case: its patient, or itself.
    key : str
        SHA-256 of the settings of the preprocessing.
    broken : tuple of str
        A sentence for every case that was set aside.
    """

    name: str
    files: tuple[Path, ...]
    hashes: dict[str, str]
    groups: tuple[str, ...]
    key: str
    broken: tuple[str, ...] = ()

    def only(self, kept: np.ndarray) -> "PreprocessedPool":
        """The cases that a bool array of shape (cases,) marks."""
        marked = np.flatnonzero(kept)
        names = list(self.hashes)
        return replace(
            self,
            files=tuple(self.files[i] for i in marked),
            hashes={names[i]: self.hashes[names[i]] for i in marked},
            groups=tuple(self.groups[i] for i in marked),
        )


def preprocess_pool(source: Source, *, skip_broken: bool = False) -> PreprocessedPool:
    """Preprocess every case once, as nnU-Net does and without a label; an interrupted run goes on.

    What an earlier run has left is taken if it is as it was written.

    Raises
    ------
    BrokenImage
        At the first case that cannot be used, unless ``skip_broken``.
    UserError
        If no case can be used.
    """
    pool, plans, hashes = source.pool, source.plans, file_hashes(source.pool)
    folder = Workspace(pool.name).preprocessed_patches(source.key)
    stems = {case.identifier: f"{case.identifier}_{hashes[case.identifier][:12]}" for case in pool.cases}
    kept = _whole_images(folder, stems.values(), name=pool.name)
    reader, missing, broken = pool.reader(), [case for case in pool.cases if stems[case.identifier] not in kept], []

    def preprocess(case: Case) -> np.ndarray:
        image, properties = read_image(case, reader)
        check_channels(image, case, len(plans.channel_names))
        if len(plans.patch_size) == 3 and image.shape[1] == 1:
            raise BrokenImage(
                f"case {case.identifier}: {case.files[0]} is a 2D image, from which a 3D configuration cannot learn; "
                f"choose -c 2d"
            )
        try:
            data = plans.preprocess(image.astype(np.float32), properties)
        except AssertionError as error:  # nnU-Net's RGB scheme checks its range this way
            raise BrokenImage(
                f"case {case.identifier}: {case.files[0]} does not fit its normalisation: {error}"
            ) from None
        with np.errstate(over="ignore"):  # what is beyond half precision becomes infinite
            data = data.astype(np.float16)
        if not np.isfinite(data).all():
            raise BrokenImage(
                f"case {case.identifier}: {case.files[0]} is not finite after preprocessing, or beyond 65,504; check "
                f"its values, its channel names and the statistics in dataset_fingerprint.json"
            )
        return data[list(source.order)]

    check = check_unchanged(pool.only(case.identifier for case in missing))
    progress = tqdm(missing, desc=f"preprocessing {pool.name}", unit="case", disable=None)
    # nnU-Net has several copies in float32 at a time, and may resample to something larger.
    with read_ahead(preprocess, missing, memory=lambda case: 10 * memory_of(case, reader)) as read:
        for case, data in zip(progress, read, strict=True):
            try:
                array = data.result()
            except BrokenImage as error:
                if not skip_broken:
                    raise
                broken.append(str(error))
                continue
            check(case)
            stem, content = stems[case.identifier], compressed(array)
            kept[stem] = folder / f"{stem}_{_sum(content)}.b2nd"
            write_bytes(kept[stem], content)
    files = {case: kept[stem] for case, stem in stems.items() if stem in kept}
    if not files:
        raise none_usable(pool.name, broken)
    return PreprocessedPool(
        name=pool.name,
        files=tuple(files.values()),
        hashes={name: hashes[name] for name in files},
        groups=tuple(case.group_name for case in pool.cases if case.identifier in files),
        key=source.key,
        broken=tuple(broken),
    )


def compressed(image: np.ndarray) -> bytes:
    """A preprocessed image of shape (channels, z, y, x) as a file holds it, of which parts can be read alone."""
    # nnU-Net's own settings for its preprocessed images.
    compression = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1}
    return blosc2.asarray(np.ascontiguousarray(image), cparams=compression).to_cframe()


def _sum(content: bytes) -> str:
    """By which a file's name tells what it must hold: blosc2 has no checksums, and of damaged files it may hang."""
    return f"{isal_zlib.crc32(content):08x}"


def _whole_images(folder: Path, stems: Collection[str], *, name: str) -> dict[str, Path]:
    """The images that earlier runs have written, by the beginnings of their names; a damaged one goes."""
    wanted, found = set(stems), {}
    for file in tqdm(visible_files(folder), desc=f"checking what is preprocessed of {name}", unit="case", disable=None):
        match = re.fullmatch(r"(.+)_([0-9a-f]{8})\.b2nd", file.name, re.DOTALL)
        if match is None or match[1] not in wanted:
            continue
        if only_reads() or _sum(file.read_bytes()) == match[2]:
            found[match[1]] = file
            continue
        logger.warning(f"{file} does not fit its checksum, and is made anew")
        file.unlink()
    return found


class PatchPairs:
    """Pairs of views: datasets in turn, the images of each dataset in an order that is shuffled for every pass.

    Sample i depends on the seed and i alone, not on the process that draws it or on the samples before it.

    Parameters
    ----------
    pools : list of PreprocessedPool
    patch_size : tuple of int
        (height, width) or (depth, height, width).
    seed : int
    """

    def __init__(self, pools: list[PreprocessedPool], *, patch_size: tuple[int, ...], seed: int):
        self.pools, self.patch_size, self.seed = pools, patch_size, seed
        self._spatial, self._intensity = _transforms(patch_size)

    def task(self, i: int) -> int:
        """The dataset that sample i is from."""
        return i % len(self.pools)

    def pair(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy views and clean ones of sample i, each of shape (2, channels, *patch_size), float32."""
        image, middle, rng = self._place(i)
        noisy, clean = [], []
        for _ in range(2):
            shift = np.rint(rng.uniform(-_SHIFT, _SHIFT, len(self.patch_size)) * self.patch_size)
            patch = torch.from_numpy(_cut(image, middle, shift.astype(int), self.patch_size))
            clean.append(_seeded(self._spatial, patch, rng))
            noisy.append(_mask_cells(_seeded(self._intensity, clean[-1], rng), rng))
        return torch.stack(noisy), torch.stack(clean)

    def plain(self, i: int) -> torch.Tensor:
        """The patch of sample i as it lies in the image, shape (channels, *patch_size), float32."""
        image, middle, _ = self._place(i)
        return torch.from_numpy(_cut(image, middle, np.zeros(len(self.patch_size), int), self.patch_size))

    def title(self, i: int) -> str:
        """Dataset and case of sample i, by name."""
        pool = self.pools[self.task(i)]
        return f"{pool.name}: {list(pool.hashes)[self._case(i)]}"

    def _place(self, i: int) -> tuple[blosc2.NDArray, np.ndarray, np.random.Generator]:
        """The image of sample i, the middle of its patch, and what the rest of the sample is drawn from."""
        rng = np.random.default_rng([self.seed, i])
        image = self._open(self.pools[self.task(i)].files[self._case(i)])
        return image, _middle(image.shape[1:], self.patch_size, rng), rng

    def _case(self, i: int) -> int:
        n_cases = len(self.pools[self.task(i)].files)
        one_pass, place = divmod(i // len(self.pools), n_cases)
        return int(np.random.default_rng([self.seed, self.task(i), one_pass]).permutation(n_cases)[place])

    @staticmethod
    def _open(file: Path) -> blosc2.NDArray:
        try:
            return blosc2.open(str(file), mode="r", dparams={"nthreads": 1})
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the preprocessed image {file} cannot be read ({error}); delete it and run the command with --c"
            ) from None


def _middle(shape: tuple[int, ...], patch_size: tuple[int, ...], rng) -> np.ndarray:
    """A random point around which the patch lies inside the image; the middle along axes shorter than the patch.

    A 2D patch lies in a random slice.
    """
    size = np.array([1] * (3 - len(patch_size)) + list(patch_size))
    low, high = np.minimum(size // 2, np.array(shape) // 2), np.maximum(np.array(shape) - size + size // 2, 0)
    return np.where(high > low, rng.integers(low, np.maximum(high, low) + 1), np.array(shape) // 2)


def _cut(
    image: np.ndarray | blosc2.NDArray, middle: np.ndarray, shift: np.ndarray, patch_size: tuple[int, ...]
) -> np.ndarray:
    """The patch around a point, zero beyond the image as in nnU-Net; float32 of shape (channels, *patch_size)."""
    size = np.array([1] * (3 - len(patch_size)) + list(patch_size))
    start = middle - size // 2 + np.concatenate([np.zeros(3 - len(patch_size), int), shift])
    patch = crop_and_pad_nd(image, np.stack([start, start + size], axis=1).tolist(), 0)
    return patch.astype(np.float32).reshape(image.shape[0], *patch_size)


def _transforms(patch_size: tuple[int, ...]):
    """nnU-Net's own augmentation in two parts; intensities change three times as often, as a contrast needs it."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    angle = np.pi / 12
    spatial = ComposeTransforms(
        [
            SpatialTransform(
                patch_size,
                patch_center_dist_from_border=0,
                random_crop=False,
                p_rotation=0.5,
                rotation=(-angle, angle),
                p_scaling=0.5,
                scaling=(0.7, 1.4),
                p_synchronize_scaling_across_axes=1,
            ),
            MirrorTransform(allowed_axes=tuple(range(len(patch_size)))),
        ]
    )
    everywhere = {"synchronize_channels": False, "p_per_channel": 1}
    intensity = ComposeTransforms(
        [
            RandomTransform(GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True), 0.3),
            # benchmark=True would measure which of two ways of blurring is faster, and the result would vary.
            RandomTransform(
                GaussianBlurTransform((0.5, 1.0), synchronize_axes=False, **everywhere, benchmark=False), 0.6
            ),
            RandomTransform(MultiplicativeBrightnessTransform((0.75, 1.25), **everywhere), 0.45),
            RandomTransform(ContrastTransform((0.75, 1.25), preserve_range=True, **everywhere), 0.45),
            RandomTransform(GammaTransform((0.7, 1.5), p_invert_image=0.25, p_retain_stats=1, **everywhere), 0.9),
        ]
    )
    return spatial, intensity


def _seeded(transform, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Apply a transform with a seed of its own; the global generators of torch and numpy stay as they were."""
    seed, state = int(rng.integers(2**31)), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also formats a stack, for GPUs
            np.random.seed(seed)
            return transform(image=image.clone())["image"]
    finally:
        np.random.set_state(state)


def _mask_cells(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Set random cells of a patch to zero, so that restoring it needs more than removing noise."""
    cells = torch.from_numpy(rng.random((1, 1, *[_CELLS] * (image.ndim - 1))) >= _MASKED).float()
    return image * torch.nn.functional.interpolate(cells, image.shape[1:], mode="nearest")[0]
