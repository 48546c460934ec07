"""Cropping and normalisation as nnU-Net does them, without the labels that a pool does not have."""

from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import normalisation_schemes

# nnU-Net takes the statistics of CT from the labelled foreground, which a pool may not have. The windows in which
# radiologists look keep what its scheme is for: Hounsfield units stay comparable between cases. Centre and width.
CT_WINDOWS = {"lung": (-600.0, 1500.0), "soft tissue": (40.0, 400.0), "bone": (400.0, 1800.0)}
Window = tuple[float, float]
# For nnU-Net's own scheme, where a pool is preprocessed as nnU-Net would: all of a body, from air to bone.
CT_STATISTICS = {"mean": 0.0, "std": 500.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
# nnU-Net normalises inside of what is not zero where cropping to that takes away much. How much depends on the margins
# of a file, which say nothing about a patient; how much of the box is zero does not.
_MASKED = 0.25


def parse_window(text: str | None) -> Window | None:
    """Centre and width, in Hounsfield units, from a text such as ``40/400``; None for None."""
    if text is None:
        return None
    try:
        centre, width = (float(number) for number in text.split("/"))
    except ValueError:
        centre, width = 0.0, 0.0
    if not (np.isfinite(centre) and 0 < width < np.inf):
        raise UserError(f"--window must be CENTRE/WIDTH in Hounsfield units, such as 40/400; got {text!r}")
    return centre, width


def window_text(window: Window) -> str:
    """A window as `parse_window` reads it."""
    return f"{window[0]:g}/{window[1]:g}"


def check_window(window: Window | None, channel_names: tuple[str, ...] | None) -> None:
    """Raise `UserError` if there is a window, but no channel of CT."""
    if window is None or "CTNormalization" in normalisation_schemes(channel_names or ()):
        return
    has = f"the channels are {', '.join(channel_names)}" if channel_names else "no channel has a name (--channel_names)"
    raise UserError(f"--window is for CT, but {has}; leave it out, or name the channel CT")


def _windows(window: Window | None) -> dict[str, Window]:
    return CT_WINDOWS if window is None else {window_text(window): window}


def view_channels(channel_names: tuple[str, ...], window: Window | None = None) -> list[str]:
    """The channels of a view: those of the image, of CT one per window: the usual ones, or the one that is given."""
    names = []
    for name, scheme in zip(channel_names, normalisation_schemes(channel_names), strict=True):
        names += [f"{name} {one}" for one in _windows(window)] if scheme == "CTNormalization" else [name]
    return names


def nonzero_box(image: np.ndarray) -> tuple[slice, slice, slice]:
    """The box around everything that is not zero in some channel, of an array of shape (channels, z, y, x).

    As nnU-Net's ``crop_to_nonzero``. An image that is zero everywhere keeps its whole box.
    """
    box = []
    for axis in range(1, 4):
        others = tuple(other for other in range(image.ndim) if other != axis)
        inside = np.flatnonzero(image.any(axis=others))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(None))
    return box[0], box[1], box[2]


@dataclass(frozen=True)
class Statistics:
    """What the normalisation of one case needs to know of its whole box.

    Attributes
    ----------
    masked : bool
        Whether what is zero in all channels is background, which z-scores leave out and leave at 0. nnU-Net's mask
        takes holes inside of a body in as well; they are too few to count.
    mean, std : lists of float
        Of every channel, without the background.
    low, high : lists of float
        Of every channel, in the whole box.
    """

    masked: bool
    mean: list[float]
    std: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, image: np.ndarray, channel_names: tuple[str, ...]) -> "Statistics | None":
        """Measure an array of shape (channels, z, y, x), slice by slice, so that no copy of it is made.

        None where no channel's scheme needs it, as for CT.
        """
        if not {"ZScoreNormalization", "RescaleTo01Normalization"} & set(normalisation_schemes(channel_names)):
            return None
        count, n_voxels = 0, image[0].size
        sums, squares = np.zeros(len(image)), np.zeros(len(image))
        low, high = np.full(len(image), np.inf), np.full(len(image), -np.inf)
        # Around a value inside the range, because squares of large numbers lose the digits of a small variance.
        centre = np.array([float(channel.flat[channel.size // 2]) for channel in image])
        for slices in np.moveaxis(image, 1, 0):
            inside = slices.any(axis=0)
            count += int(inside.sum())
            for c, values in enumerate(slices):
                shifted = values.astype(np.float64) - centre[c]
                sums[c] += shifted.sum()
                squares[c] += np.square(shifted).sum()
                low[c], high[c] = min(low[c], values.min()), max(high[c], values.max())
        n_zero = n_voxels - count
        zero_sums, zero_squares = -centre * n_zero, centre**2 * n_zero
        masked = 0 < count and n_zero > _MASKED * n_voxels
        n = count if masked else n_voxels
        if masked:
            sums, squares = sums - zero_sums, squares - zero_squares
        mean = sums / n
        variance = np.maximum(squares / n - mean**2, 0)
        return cls(masked, (mean + centre).tolist(), np.sqrt(variance).tolist(), low.tolist(), high.tolist())


def normalise(
    slices: np.ndarray, channel_names: tuple[str, ...], statistics: Statistics | None, window: Window | None = None
) -> np.ndarray:
    """Some slices of a case as nnU-Net would normalise them with the whole case at hand; CT in windows.

    Parameters
    ----------
    slices : array of shape (channels, n, rows, columns)
    channel_names : tuple of str
    statistics : Statistics or None
        Of the case.
    window : (float, float), optional
        Centre and width of the only window of CT.

    Returns
    -------
    float32 array of shape (view channels, n, rows, columns)
        CT from 0 to 1 over every window, z-scores, or what else nnU-Net's scheme for the name gives.
    """
    inside = slices.any(axis=0) if statistics is not None and statistics.masked else None
    done = []
    chosen = normalisation_schemes(channel_names)
    for c, (values, scheme) in enumerate(zip(slices.astype(np.float32), chosen, strict=True)):
        if scheme == "CTNormalization":
            # From 0, so that what lies beyond the image, which is 0, is air.
            done += [np.clip((values - centre) / width + 0.5, 0, 1) for centre, width in _windows(window).values()]
            continue
        if statistics and scheme == "ZScoreNormalization":
            values = (values - statistics.mean[c]) / max(statistics.std[c], 1e-8)
            values = values if inside is None else np.where(inside, values, 0)
        elif statistics and scheme == "RescaleTo01Normalization":
            span = statistics.high[c] - statistics.low[c]
            values = (values - statistics.low[c]) / max(span, 1e-8)
        elif scheme != "NoNormalization":
            values = _by_nnunet(values, channel_names[c])
        done.append(values)
    return np.stack(done).astype(np.float32)


def _by_nnunet(values: np.ndarray, channel_name: str) -> np.ndarray:
    """A scheme that looks at every value alone, such as that of RGB."""
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    return get_normalization_scheme(channel_name)(use_mask_for_norm=False, intensityproperties=None).run(values.copy())
