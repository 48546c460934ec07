"""Cropping and normalisation as nnU-Net does them, without the labels that a pool does not have."""

from dataclasses import dataclass

import numpy as np

from nnunetv2_xssr.compiling import compiled
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import normalisation_schemes

# nnU-Net takes the statistics of CT from the labelled foreground, which a pool may not have. The windows in which
# radiologists look keep what its scheme is for: Hounsfield units stay comparable between cases. Centre and width.
CT_WINDOWS = {"lung": (-600.0, 1500.0), "soft tissue": (40.0, 400.0), "bone": (400.0, 1800.0)}
Window = tuple[float, float]
AIR = -1000.0  # HU
# nnU-Net normalises inside of what is not zero where cropping to that takes away much. How much depends on the margins
# of a file, which say nothing about a patient; how much of the box is zero does not.
_MASKED = 0.25
_ONE_VALUE = 1e-6  # of the mean: a deviation that is rounding
_BLOCK = 2**16  # voxels that are measured at a time: they stay in a processor's cache


def parse_window(text: str | None) -> Window | None:
    """Centre and width, in Hounsfield units, from a text such as ``40/400``; None for None."""
    if text is None:
        return None
    try:
        centre, width = (float(number) for number in text.split("/"))
    except ValueError:
        centre, width = 0.0, 0.0
    if not (np.isfinite(centre) and 0 < width < np.inf and centre + width / 2 > AIR):
        raise UserError(
            f"--window must be CENTRE/WIDTH in Hounsfield units and reach beyond air ({AIR:g}), such as 40/400; "
            f"got {text[:50]!r}"
        )
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


def _ends(window: Window) -> tuple[float, float]:
    """Where a window begins and ends, in HU: not below air, as what lies beyond the image is 0 and must be air."""
    centre, width = window
    return max(centre - width / 2, AIR), centre + width / 2


def view_channels(channel_names: tuple[str, ...], window: Window | None = None) -> list[str]:
    """The channels of a view: those of the image, of CT one per window: the usual ones, or the one that is given."""
    names = []
    for name, scheme in zip(channel_names, normalisation_schemes(channel_names), strict=True):
        names += [f"{name} {one}" for one in _windows(window)] if scheme == "CTNormalization" else [name]
    return names


def hounsfield(shown: np.ndarray, window: Window | None = None) -> np.ndarray:
    """Hounsfield units of CT that is shown in windows, the inverse of `normalise`, as far as the windows reach.

    Parameters
    ----------
    shown : array of shape (windows, ...)
        From 0 to 1 over every window.
    window : (float, float), optional
        As for `view_channels`.

    Returns
    -------
    float32 array of shape (...)
        Of every pixel by the narrowest window in which it is neither black nor white; where there is none, the end of
        all windows.
    """
    ends, values = [_ends(one) for one in _windows(window).values()], shown.astype(np.float32)
    lowest, highest = min(low for low, _ in ends), max(high for _, high in ends)
    units = np.where((values <= 0).all(axis=0), lowest, highest).astype(np.float32)
    for (low, high), seen in sorted(zip(ends, values, strict=True), key=lambda pair: pair[0][0] - pair[0][1]):
        inside = (seen > 0) & (seen < 1)
        units[inside] = low + seen[inside] * (high - low)
    return units


def nonzero_box(image: np.ndarray) -> tuple[slice, slice, slice]:
    """The box around everything that is not zero in some channel, of an array of shape (channels, z, y, x).

    As nnU-Net's ``crop_to_nonzero``. An image that is zero everywhere keeps its whole box.
    """
    ends = (np.moveaxis(image, axis, 0)[end] for axis in (1, 2, 3) for end in (0, -1))
    if all(end.any() for end in ends):  # as in most images, whose margins are not zero
        return slice(0, image.shape[1]), slice(0, image.shape[2]), slice(0, image.shape[3])
    turned, order = _as_in_memory(image)
    along, across = np.zeros(turned.shape[1], bool), np.zeros(turned.shape[2:], bool)
    for channel in turned:
        for i, part in enumerate(channel):
            hit = part != 0
            along[i] |= hit.any()
            across |= hit
    box = [slice(None)] * 3
    for axis, hits in zip(order, (along, across.any(axis=1), across.any(axis=0)), strict=True):
        inside = np.flatnonzero(hits)
        box[axis - 1] = slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(None)
    return box[0], box[1], box[2]


def _as_in_memory(image: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """A view of shape (channels, ...) whose axes are in the order of memory, and the axis that each of them was.

    Axes of one slice, as pictures have, come last.
    """
    order = sorted(range(1, image.ndim), key=lambda axis: (image.shape[axis] == 1, -abs(image.strides[axis])))
    return image.transpose(0, *order), order


@dataclass(frozen=True)
class Statistics:
    """What the normalisation of one case needs to know of its whole box.

    Attributes
    ----------
    masked : bool
        Whether what is zero in all channels is background, which z-scores leave out and leave at 0, unless the rest is
        of one value, as in black and white images: z-scores of the rest alone would show nothing. nnU-Net's mask takes
        holes inside of a body in as well; they are too few to count.
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
        """Measure an array of shape (channels, z, y, x), part by part, so that no copy of it is made.

        None where no channel's scheme needs it, as for CT.
        """
        schemes = normalisation_schemes(channel_names)
        if not {"ZScoreNormalization", "RescaleTo01Normalization"} & set(schemes):
            return None
        count, n_voxels = 0, image[0].size
        sums, squares = np.zeros(len(image)), np.zeros(len(image))
        low, high = np.full(len(image), np.inf), np.full(len(image), -np.inf)
        # Around a value inside the range, because squares of large numbers lose the digits of a small variance.
        centre = np.array([float(channel.flat[channel.size // 2]) for channel in image])
        turned, _ = _as_in_memory(image)
        step = max(1, _BLOCK // turned[0, 0].size)
        for start in range(0, turned.shape[1], step):
            part = np.ascontiguousarray(turned[:, start : start + step])  # of colours that lie pixel by pixel
            count += int(np.count_nonzero(part if len(part) == 1 else part.any(axis=0)))
            for c, values in enumerate(part):
                found = _sums(values.reshape(-1), centre[c])
                sums[c], squares[c] = sums[c] + found[0], squares[c] + found[1]
                low[c], high[c] = min(low[c], found[2]), max(high[c], found[3])
        n_zero = n_voxels - count
        mean, std = _moments(sums, squares, n_voxels)
        masked = False
        if 0 < count and n_zero > _MASKED * n_voxels:
            of_rest = _moments(sums + centre * n_zero, squares - centre**2 * n_zero, count)
            differs = of_rest[1] > _ONE_VALUE * np.abs(of_rest[0] + centre)
            masked = bool(differs[np.array(schemes) == "ZScoreNormalization"].any())
            mean, std = of_rest if masked else (mean, std)
        return cls(masked, (mean + centre).tolist(), std.tolist(), low.tolist(), high.tolist())


def _moments(sums: np.ndarray, squares: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every channel, of n voxels that add up to this."""
    mean = sums / n
    return mean, np.sqrt(np.maximum(squares / n - mean**2, 0))


@compiled(fastmath=True)
def _sums(values: np.ndarray, centre: float) -> tuple[float, float, float, float]:
    """The sum and the sum of squares around a centre, the lowest and the highest of finite numbers, in one pass."""
    total, squares, low, high = 0.0, 0.0, values[0], values[0]
    for value in values:
        shifted = float(value) - centre
        total += shifted
        squares += shifted * shifted
        low, high = min(low, value), max(high, value)
    return total, squares, float(low), float(high)


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
        CT from 0 (where the window begins, air at the lowest) to 1 in every window, z-scores, or what else nnU-Net's
        scheme for the name gives.
    """
    inside = slices.any(axis=0) if statistics is not None and statistics.masked else None
    done = np.empty((len(view_channels(channel_names, window)), *slices.shape[1:]), np.float32)
    into = iter(done)  # no further array of its size is made: most of the time would be spent on memory
    for c, scheme in enumerate(normalisation_schemes(channel_names)):
        if scheme == "CTNormalization":
            for low, high in map(_ends, _windows(window).values()):
                values = next(into)
                np.subtract(slices[c], low, out=values, dtype=np.float32)
                values /= high - low
                np.clip(values, 0, 1, out=values)
            continue
        values = next(into)
        values[...] = slices[c]
        if statistics and scheme == "ZScoreNormalization":
            values -= statistics.mean[c]
            values /= max(statistics.std[c], 1e-8)
            if inside is not None:
                values[~inside] = 0
        elif statistics and scheme == "RescaleTo01Normalization":
            values -= statistics.low[c]
            values /= max(statistics.high[c] - statistics.low[c], 1e-8)
        elif scheme != "NoNormalization":
            values[...] = _by_nnunet(values, channel_names[c])
    return done


def _by_nnunet(values: np.ndarray, channel_name: str) -> np.ndarray:
    """A scheme that looks at every value alone, such as that of RGB."""
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    return get_normalization_scheme(channel_name)(use_mask_for_norm=False, intensityproperties={}).run(values.copy())
