"""Pictures of a case for people: made from the image itself, at true aspect, as radiologists look at it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nnunetv2_xssr.images.channels import normalisation_schemes
from nnunetv2_xssr.images.extract import ACQUIRED, FILE, Look, evenly_spaced, foreground
from nnunetv2_xssr.images.geometry import Geometry, display, plane_spacing
from nnunetv2_xssr.images.normalise import CT_WINDOWS, nonzero_box
from nnunetv2_xssr.images.reading import is_constant

SIDE, SMALL_SIDE = 256, 160  # pixels of the longer side, of the first picture and of the others
CHANNELS = 4  # that are shown at most
_LETTER = 15  # pixels
LINE = (230, 159, 0)  # Okabe and Ito's orange
_COLOURS = (["r", "g", "b"], ["red", "green", "blue"], ["rgb_to_0_1"] * 3)
_VOXELS = 2**20  # about so many tell the window of a channel
_PLANES = ("axial", "coronal", "sagittal")
_ENDS = (("I", "S"), ("A", "P"), ("R", "L"))  # of the canonical axes
_WAYS = (("the feet", "the head"), ("the front", "the back"), ("the right", "the left"))


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes
    ----------
    pixels : uint8 array of shape (height, width) or (height, width, 3)
    shows : str
        Channel, slice or place, for its title; empty where the case has one channel and no slices.
    """

    pixels: np.ndarray
    shows: str


@dataclass(frozen=True)
class _Channel:
    """One grey channel, or three that are a colour picture: a float array of shape (1 or 3, z, y, x) and its window."""

    name: str
    values: np.ndarray
    low: float
    high: float


def is_colour(channel_names: Sequence[str]) -> bool:
    """Whether the channels of an image are red, green and blue."""
    return [name.lower() for name in channel_names] in _COLOURS


def constant_channels(image: np.ndarray, channel_names: Sequence[str]) -> list[int]:
    """The channels, from 0, that hold one value only, as those of a missing sequence do; of colours none.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
    channel_names : sequence of str
    """
    if is_colour(channel_names):
        return []
    return [channel for channel in range(len(image)) if is_constant(image[channel : channel + 1])]


def draw_case(
    image: np.ndarray, channel_names: Sequence[str], *, geometry: Geometry, slice_: int | None = None
) -> list[Picture]:
    """Pictures of a case, or of one slice of a volume: the first is the largest, the others go with it.

    First comes the first channel: the slice that is named, of a whole volume one in the middle. Then the other
    channels of the same slice, but no constant ones. Of a volume two more slices, the neighbours of a slice that is
    named, and a reformat across the slices in which a line marks each slice that is shown.

    CT is shown in the window for soft tissue, other channels from the 0.5th to the 99.5th percentile of what is not
    zero in the volume, colours from 0. Volumes are cut to what is not zero, but not along the slicing axis. If the file
    tells its directions, the patient's right is on the left, and letters stand at the edges of the first picture, which
    is as the others are, and of the reformat.

    Parameters
    ----------
    image : array of shape (channels, z, y, x)
        As nnU-Net's readers give it.
    channel_names : sequence of str
    geometry : Geometry
    slice_ : int, optional
        From 0 along the third axis of the file.
    """
    image, spacing = geometry.canonical(image), geometry.canonical_spacing
    axis = Look(axis=ACQUIRED if slice_ is None else FILE).axis_of(geometry, image.shape[1:])
    count = image.shape[1 + axis]
    if count > 1:
        box = [part if i != axis else slice(None) for i, part in enumerate(nonzero_box(image))]
        image = image[:, box[0], box[1], box[2]]
    channels = _channels(image, channel_names)[:CHANNELS]
    if slice_ is not None:
        place = int(geometry.in_file(np.array(slice_), count))
        further = [other for other in (place - 1, place + 1) if 0 <= other < count]
    else:
        before, place, after = map(int, evenly_spaced(foreground(channels[0].values[0], axis), 3))
        further = sorted({before, after} - {place})

    def small(channel: _Channel, at: int, shows: str) -> Picture:
        return Picture(np.asarray(_scaled(channel, axis, at, spacing, SMALL_SIDE)), shows)

    first, *others = channels
    title = [first.name] if len(channel_names) > 1 and not is_colour(channel_names) else []
    title += [_slice_words(geometry, axis, place, count)] if count > 1 else []
    large = _with_letters(_scaled(first, axis, place, spacing, SIDE), axis, geometry)
    pictures = [Picture(np.asarray(large), ", ".join(title))]
    pictures += [small(channel, place, channel.name) for channel in others]
    for at in further:
        way = f", towards {_WAYS[axis][at > place]}" if geometry.known else ""
        pictures.append(small(first, at, _slice_words(geometry, axis, at, count) + way))
    if count > 1:
        pictures.append(_across(first, axis, [place, *further] if slice_ is None else [place], geometry))
    return pictures


def _channels(image: np.ndarray, channel_names: Sequence[str]) -> list[_Channel]:
    """The channels of a canonical image that show something."""
    if is_colour(channel_names):
        low, high = _window(image)
        return [_Channel("colour", image, min(low, 0.0), high)]
    channels = []
    missing = constant_channels(image, channel_names)
    schemes = normalisation_schemes(channel_names)
    for i, (name, values, scheme) in enumerate(zip(channel_names, image, schemes, strict=True)):
        if i not in missing or len(missing) == len(channel_names):
            centre, width = CT_WINDOWS["soft tissue"]
            is_ct = scheme == "CTNormalization"
            low, high = (centre - width / 2, centre + width / 2) if is_ct else _window(values[None])
            channels.append(_Channel(name, values[None], low, high))
    return channels


def _window(values: np.ndarray) -> tuple[float, float]:
    """The 0.5th and the 99.5th percentile of what is not zero: a few extreme pixels do not darken the rest.

    Where these are one value, as in black and white images, the lowest and the highest value of all.
    """
    long = [size > 1 for size in values.shape[1:]]
    step = max(1, math.ceil((values[0].size / _VOXELS) ** (1 / max(sum(long), 1))))
    some = values[:, ::step, ::step, ::step]
    inside = some[some != 0]
    low, high = np.percentile(inside if inside.size else some, (0.5, 99.5))
    if low == high:
        low, high = values.min(), values.max()
    return float(low), float(high)


def _scaled(channel: _Channel, axis: int, place: int, spacing: Sequence[float], side: int) -> Image.Image:
    """A slice in its window, with square pixels and a longer side of so many."""
    plane = display(np.moveaxis(channel.values, 1 + axis, 1)[:, place], axis)
    extent = [size * mm for size, mm in zip(plane.shape[1:], plane_spacing(spacing, axis), strict=True)]
    height, width = (max(1, round(side * mm / max(extent))) for mm in extent)
    step = max(1, max(plane.shape[1:]) // (4 * side))  # four pixels per pixel are enough of large pictures
    plane = plane[:, ::step, ::step]
    grey = np.clip((plane - channel.low) / max(channel.high - channel.low, 1e-6), 0, 1)
    pixels = np.round(255 * grey).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _with_letters(picture: Image.Image, axis: int, geometry: Geometry) -> Image.Image:
    """The picture with the letters of the directions at its edges, where there is room and the file tells them."""
    if geometry.known:
        rows, (left, right) = (ends for other, ends in enumerate(_ENDS) if other != axis)
        top, bottom = rows if axis == 0 else rows[::-1]
        width, height = picture.size
        at_ends = [(top, (width / 2, 2.0), "mt"), (bottom, (width / 2, height - 3.0), "mb")]
        at_sides = [(left, (3.0, height / 2), "lm"), (right, (width - 4.0, height / 2), "rm")]
        places = at_ends * (height >= 3 * _LETTER) + at_sides * (height >= _LETTER)
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_LETTER)
        for letter, at, anchor in places:
            draw.text(at, letter, "white", font, anchor, stroke_width=1, stroke_fill="black")
    return picture


def _across(channel: _Channel, axis: int, places: list[int], geometry: Geometry) -> Picture:
    """A reformat through the middle of the volume across its slices, with a line at each of these places."""
    across = 1 if axis == 2 else 2
    shape = channel.values.shape[1:]
    picture = _scaled(channel, across, shape[across] // 2, geometry.canonical_spacing, SMALL_SIDE)
    picture = _with_letters(picture.convert("RGB"), across, geometry)
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    for place in places:
        at = (place + 0.5) / shape[axis]
        x, y = at * width, (1 - at) * height  # the head is above
        draw.line([(0, y), (width, y)] if axis == 0 else [(x, 0), (x, height)], LINE, 2)
    return Picture(np.asarray(picture), f"{_PLANES[across]} reformat" if geometry.known else "across the slices")


def _slice_words(geometry: Geometry, axis: int, place: int, count: int) -> str:
    """How a slice is called: by its plane, and by its number in the file where the file is cut along it."""
    number = f" {int(geometry.in_file(np.array(place), count))}" if axis == geometry.stored else ""
    return (f"{_PLANES[axis]} slice" if geometry.known else "slice") + number
