"""Sheets of thumbnails and predictions: right size, right content, never half written."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from skimage.io import imread

from nnunetv2_xssr.images.sheets import PREDICTION, TRUTH, contact_sheet, dice, prediction_sheet

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
DARK = np.zeros((64, 64), np.uint8)
MASK = np.zeros((64, 64), np.uint8)
MASK[16:48, 16:48] = 1


def picture(path):
    return imread(path)[..., :3] / 255.0


def shows(path, colour):
    """Whether some pixels have nearly this colour."""
    return (np.abs(picture(path) - to_rgb(colour)).max(axis=-1) < 0.06).sum() > 20


def test_six_columns_are_1200_pixels_wide_and_long_rows_wrap(tmp_path):
    one_line, two_lines = tmp_path / "one.png", tmp_path / "two.png"
    contact_sheet(one_line, [("row", [(IMAGE, "a")] * 6)])
    contact_sheet(two_lines, [("row", [(IMAGE, "a")] * 7)])
    assert picture(one_line).shape[1] == picture(two_lines).shape[1] == 1200
    assert picture(two_lines).shape[0] == 2 * picture(one_line).shape[0]


def test_every_thumbnail_of_a_wrapped_row_is_shown(tmp_path):
    contact_sheet(tmp_path / "sheet.png", [("", [(DARK, "")] * 8)])
    black = (picture(tmp_path / "sheet.png") < 0.01).all(axis=-1)
    assert black.mean() == pytest.approx(8 / 12 * 0.96**2 * 2.0 / 2.5, rel=0.03)


def test_the_background_is_white(tmp_path):
    contact_sheet(tmp_path / "sheet.png", [("title", [(IMAGE, "caption")] * 2), ("short", [(IMAGE, "caption")])])
    corner = picture(tmp_path / "sheet.png")[-50:, -50:]
    assert (corner == 1).all()


def test_one_hot_pixel_does_not_darken_a_grey_image(tmp_path):
    image = np.tile(np.linspace(0, 1, 64), (64, 1))
    image[0, 0] = 1000
    contact_sheet(tmp_path / "sheet.png", [("", [(image, "")])])
    assert 0.3 < picture(tmp_path / "sheet.png")[100:200].mean() < 0.8


def test_constant_and_colour_images_are_shown(tmp_path):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    contact_sheet(tmp_path / "sheet.png", [("", [(DARK, "constant"), (red, "colour")])])
    assert shows(tmp_path / "sheet.png", "red")


def test_predictions_and_truth_are_drawn_in_their_colours(tmp_path):
    path = tmp_path / "predictions.png"
    nothing_first = {"nothing": DARK, "exact": MASK}
    exact_first = {"exact": MASK, "nothing": DARK}
    prediction_sheet(path, [("a", DARK, MASK, nothing_first), ("b", DARK, MASK, exact_first)])
    pixels = picture(path)
    assert pixels.shape[1] == 600
    assert shows(path, TRUTH)
    filled = np.abs(pixels - 0.45 * np.array(to_rgb(PREDICTION))).max(axis=-1) < 0.03
    columns = [filled[:, start : start + 200].sum() for start in (0, 200, 400)]
    assert columns[0] == columns[1] == 0 and columns[2] > 1000  # each method keeps its column


def test_cases_with_other_methods_are_refused(tmp_path):
    with pytest.raises(ValueError, match="second"):
        prediction_sheet(
            tmp_path / "x.png", [("first", IMAGE, MASK, {"a": MASK}), ("second", IMAGE, MASK, {"b": MASK})]
        )


def test_dice_known_values():
    half = np.where(np.arange(64) < 32, MASK, 0)
    assert dice(MASK, MASK) == 1
    assert dice(MASK, half) == pytest.approx(2 / 3)
    assert dice(MASK, DARK) == 0
    assert dice(DARK, DARK) == 1


def test_a_failed_picture_leaves_the_old_one_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "sheet.png"
    contact_sheet(path, [("", [(IMAGE, "")])])
    before = path.read_bytes()

    def fail(figure, target):
        target.write_bytes(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr("nnunetv2_xssr.images.sheets.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        contact_sheet(path, [("", [(IMAGE, "")])])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_sheet_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet(tmp_path / "x.png", [])
    with pytest.raises(ValueError, match="at least one case"):
        prediction_sheet(tmp_path / "x.png", [])
