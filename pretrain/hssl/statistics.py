"""What normalisation and resampling need to know of a whole pool: nnU-Net's fingerprint of it, or a measurement."""

from dataclasses import dataclass
from typing import Annotated, cast

import numpy as np
from annotated_types import Gt, Len
from pydantic import with_config
from typing_extensions import TypedDict

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import normalisation_schemes
from nnunetv2_xssr.images.normalise import nonzero_box
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.reading import BrokenImage, none_usable, read_image
from nnunetv2_xssr.records.files import is_there
from nnunetv2_xssr.records.schema import THEIRS, Number, read_as
from nnunetv2_xssr.records.workspace import Workspace, dataset_number

# Without labels the foreground of CT is what is no air. The threshold is that below which lungs count as air
# (emphysema index, Gevenois et al. 1995): noise of the air around a body lies below it, lungs above.
AIR_BELOW = -950.0  # HU
_MOST_CASES = 32  # that are measured, evenly spaced in the pool: what is asked for varies little between cases
_MOST_VOXELS = 100_000  # of each channel of a case, evenly spaced


@with_config(THEIRS)
class _Intensities(TypedDict):
    # nnU-Net writes NaN where there is no foreground.
    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


@with_config(THEIRS)
class _Fingerprint(TypedDict):
    """nnU-Net's, as far as it is read here."""

    spacings: Annotated[list[Annotated[list[Annotated[Number, Gt(0)]], Len(3, 3)]], Len(1)]
    median_relative_size_after_cropping: Number
    foreground_intensity_properties_per_channel: dict[str, _Intensities]


@dataclass(frozen=True, kw_only=True)
class PoolStatistics:
    """Facts about a pool that its cases do not tell alone.

    Attributes
    ----------
    spacing : tuple of float
        Median over the cases, in millimetres, in the order of the axes of a file (z, y, x).
    cropped : float
        Median share of an image that is left when margins of zero are cropped.
    intensities : tuple of dict
        nnU-Net's ``foreground_intensity_properties`` of every channel; empty where its scheme needs none.
    """

    spacing: tuple[float, ...]
    cropped: float
    intensities: tuple[dict[str, float], ...]


def statistics_of(pool: ImagePool, channel_names: tuple[str, ...]) -> PoolStatistics:
    """The statistics of a pool: of nnU-Net's fingerprint of the dataset, whose foreground is labelled, or measured.

    Raises
    ------
    UserError
        If no case can be read, a channel of CT has no value of a body, or the fingerprint is not as nnU-Net has it.
    """
    file = Workspace(pool.name).fingerprint
    if not is_there(file):
        return _measured(pool, [scheme == "CTNormalization" for scheme in normalisation_schemes(channel_names)])
    advice = f"delete it, or run nnUNetv2_extract_fingerprint -d {dataset_number(pool.name)} again"
    found = read_as(file, _Fingerprint, advice=advice)
    intensities = found["foreground_intensity_properties_per_channel"]
    numbers = [str(i) for i in range(len(channel_names))]
    if not intensities.keys() >= set(numbers):
        raise UserError(f"{file} does not describe {len(channel_names)} channels; {advice}")
    return PoolStatistics(
        spacing=_median(found["spacings"]),
        cropped=found["median_relative_size_after_cropping"],
        intensities=tuple(cast(dict, intensities[number]) for number in numbers),
    )


def _measured(pool: ImagePool, is_ct: list[bool]) -> PoolStatistics:
    spacings: list[list[float]] = []
    cropped: list[float] = []
    broken: list[str] = []
    bodies: list[list[np.ndarray]] = [[] for _ in is_ct]
    places = np.unique(np.linspace(0, len(pool) - 1, _MOST_CASES).round().astype(int)).tolist()
    others = sorted({*range(len(pool))} - {*places})
    for case in (pool.cases[place] for place in [*places, *others]):
        if spacings and len(spacings) + len(broken) >= len(places):
            break  # others only where none of these can be read
        try:
            image, properties = read_image(case, pool.reader())
            check_channels(image, case, len(is_ct))
        except BrokenImage as error:  # preprocessing names it, or sets it aside
            broken.append(str(error))
            continue
        spacings.append(properties["spacing"])
        inside = image[tuple([slice(None), *nonzero_box(image)])]
        cropped.append(inside[0].size / image[0].size)
        for channel, ct, values in zip(inside, is_ct, bodies, strict=True):
            if ct:
                drawn = channel.reshape(-1)[:: max(1, channel.size // _MOST_VOXELS)]
                values.append(drawn[drawn >= AIR_BELOW].astype(np.float32))
    if not spacings:
        raise none_usable(pool.name, broken)
    return PoolStatistics(
        spacing=_median(spacings),
        cropped=float(np.median(cropped)),
        intensities=tuple(_properties(values, pool) if ct else {} for ct, values in zip(is_ct, bodies, strict=True)),
    )


def check_channels(image: np.ndarray, case: Case, n_channels: int) -> None:
    """Raise `BrokenImage` unless an image has so many channels."""
    if len(image) != n_channels:
        raise BrokenImage(
            f"case {case.identifier}: {case.files[0]} has {len(image)} channels, but {n_channels} are named; fix the "
            f"image, or the names (channel_names in dataset.json, of a folder --channel_names)"
        )


def _median(spacings: list) -> tuple[float, ...]:
    return tuple(np.median(np.array(spacings, dtype=float), axis=0).tolist())


def _properties(values: list[np.ndarray], pool: ImagePool) -> dict[str, float]:
    body = np.concatenate(values)
    if not len(body) or body.min() == body.max():
        raise UserError(
            f"a channel of {pool.name} is called CT but varies nowhere above {AIR_BELOW:g}, as Hounsfield units of a "
            f"body do; fix its channel names"
        )
    low, high = np.percentile(body, [0.5, 99.5])
    return {
        "mean": float(body.mean(dtype=float)),
        "std": float(body.std(dtype=float)),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
    }
