"""Small pictures as data URIs: of the picks from their images, of all else from the views that the encoder saw."""

import base64
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import normalisation_schemes
from nnunetv2_xssr.images.extract import evenly_spaced
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.memory import memory_of
from nnunetv2_xssr.images.normalise import CT_WINDOWS, nonzero_box
from nnunetv2_xssr.images.pictures import constant_channels, draw_case, is_colour
from nnunetv2_xssr.images.pools import Case, ImagePool, dataset_pool
from nnunetv2_xssr.images.read_ahead import read_ahead
from nnunetv2_xssr.images.reading import BrokenImage, files_read, read_image
from nnunetv2_xssr.records.files import sha256_files
from nnunetv2_xssr.records.selection import Pick
from nnunetv2_xssr.report.selection_data import SelectionData, identifier_of

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

_DOT_SIDE = 96  # pixels


@dataclass(frozen=True)
class Thumbnail:
    """A WebP picture.

    Attributes
    ----------
    uri : str
        A data URI.
    width, height : int
        Pixels.
    shows : str
        Channel, slice or place.
    """

    uri: str
    width: int
    height: int
    shows: str


@dataclass(frozen=True)
class Shown:
    """What the page shows of a case or a slice.

    Attributes
    ----------
    thumbnails : list of Thumbnail
        The first is the main one.
    notes : list of str
        Sentences about them.
    beside : Thumbnail or None
        The one to show beside those of other cases, where the main one is made in another way.
    """

    thumbnails: list[Thumbnail]
    notes: list[str]
    beside: Thumbnail | None = None

    @property
    def all(self) -> list[Thumbnail]:
        """Every picture."""
        return [*self.thumbnails, *([self.beside] if self.beside else [])]


def thumbnail(pixels: np.ndarray, shows: str = "") -> Thumbnail:
    """A picture of shape (height, width) or (height, width, 3), uint8, as it is."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=80, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return Thumbnail(uri, pixels.shape[1], pixels.shape[0], shows)


def view_thumbnail(view: np.ndarray, channel_names: list[str], *, side: int = _DOT_SIDE) -> Thumbnail:
    """A view that the encoder saw, without its margins: in colour if its channels are colours, else its first channel.

    Parameters
    ----------
    view : array of shape (channels, height, width)
    channel_names : list of str
        As in dataset.json.
    side : int
        Of the picture: its longer one, in pixels.
    """
    _, rows, columns = nonzero_box(view[:, None])
    values = view[:, rows, columns].astype(np.float32)
    if not is_colour(channel_names):
        # Of the windows of CT the one for soft tissue, unless there is but one.
        windows = normalisation_schemes(channel_names[:1]) == ["CTNormalization"] and len(view) > len(channel_names)
        values = values[[list(CT_WINDOWS).index("soft tissue") if windows else 0]]
    pixels = np.stack([_window(channel) for channel in values], axis=-1)
    picture = Image.fromarray(pixels[..., 0] if len(values) == 1 else pixels)
    width, height = (max(1, round(side * size / max(picture.size))) for size in picture.size)
    return thumbnail(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)))


def _window(values: np.ndarray) -> np.ndarray:
    """From the 0.5th to the 99.5th percentile of what is not background, as uint8; background is 0, and black."""
    inside = values != 0
    low, high = np.percentile(values[inside] if inside.any() else values, (0.5, 99.5))
    low = min(low, 0.0) if low == high else low  # of black and white images
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return np.where(inside, np.round(255 * grey), 0).astype(np.uint8)


def pick_thumbnails(kept: SelectionData) -> dict[str, Shown]:
    """Pictures of all picks, made from their images; from the stored views, with a note, where these have gone.

    Returns
    -------
    dict
        From the identifier of a pick to what is shown of it.
    """
    picks: dict[str, dict[str, Pick]] = defaultdict(dict)
    for selection in kept.record.selections:
        for pick in selection.picks:
            picks[pick.case][identifier_of(pick)] = pick
    why = "is gone, or is another one since it was chosen"
    try:
        found = _from_images(dataset_pool(kept.record.dataset), picks, kept)
    except UserError as error:  # what is left of the images is no dataset
        found, why = {}, f"cannot be read ({error})"
    lost = f"The image {why}: this is the small view that the encoder saw."
    for identifier in (identifier for of_case in picks.values() for identifier in of_case):
        if identifier not in found:
            views = kept.target.views(identifier)
            small = [] if views is None else _from_views(views, kept.channel_names)
            found[identifier] = Shown(small, [lost if small else f"The image {why}."])
    return found


def _from_images(pool: ImagePool, picks: Mapping[str, Mapping[str, Pick]], kept: SelectionData) -> dict[str, Shown]:
    """Pictures of the picks whose images are still those that the selection saw."""
    draw = partial(
        _draw, reader=pool.reader(), channel_names=kept.channel_names, picks=picks, hashes=kept.target.hashes
    )
    found, cases = {}, pool.only(picks).cases
    with read_ahead(draw, cases, memory=partial(memory_of, reader=pool.reader())) as drawn:
        for future in tqdm(drawn, desc="drawing the picks", total=len(cases), unit="case", disable=None):
            found.update(future.result())
    return found


def _draw(
    case: Case,
    *,
    reader: "BaseReaderWriter",
    channel_names: list[str],
    picks: Mapping[str, Mapping[str, Pick]],
    hashes: Mapping[str, str],
) -> dict[str, Shown]:
    try:
        if hashes and sha256_files(files_read(case)) != hashes[case.identifier]:
            return {}
        image, properties = read_image(case, reader)
    except (OSError, BrokenImage):
        return {}
    notes = [
        f"The channel {channel_names[channel]} holds one value only: it may be missing."
        for channel in constant_channels(image, channel_names)
    ]
    geometry = Geometry.of(properties)
    return {
        identifier: Shown(
            [
                thumbnail(picture.pixels, picture.shows)
                for picture in draw_case(image, channel_names, geometry=geometry, slice_=pick.slice)
            ],
            notes,
        )
        for identifier, pick in picks[case.identifier].items()
    }


def _from_views(views: np.ndarray, channel_names: list[str]) -> list[Thumbnail]:
    """Of a volume the middle view, and one on each side."""
    before, middle, after = evenly_spaced(slice(0, len(views)), 3).tolist()
    places = dict.fromkeys([middle, before, after])  # a single view is shown once
    return [view_thumbnail(views[place], channel_names, side=views.shape[-1]) for place in places]
