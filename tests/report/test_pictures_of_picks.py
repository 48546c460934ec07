"""What the page shows of the picks: their images at true aspect, all channels, and what to do when an image is gone."""

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from making import TARGET, picture, succeeds, write_dataset_json, write_picture
from slicing import VOLUMES, picks, run, with_volumes
from test_page import Page, check_is_sound

from nnunetv2_xssr.commands import report, select
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.report import thumbnails
from nnunetv2_xssr.report.selection_data import load_record, load_selection_data
from nnunetv2_xssr.report.thumbnails import pick_thumbnails

LOST, VIEW = "is gone, or is another one", "this is the small view that the encoder saw"
CHANNELS = "Dataset033_Channels"


def page_of(workspace, dataset):
    text = (workspace.record(dataset).parent / "report.html").read_text("utf-8")
    check_is_sound(Page(text))
    return text


def pictures_on(text):
    """Alternative text and size of every picture of a pick."""
    shown = [a for a in Page(text).all("img") if "data-part" in a and a["alt"].startswith("Image of")]
    return [(a["alt"], int(a["width"]), int(a["height"])) for a in shown]


def shown_of(dataset):
    return pick_thumbnails(load_selection_data(load_record(Workspace(dataset))))


def test_pictures_have_the_aspect_of_their_files(again):
    """The files have 40 x 48 pixels."""
    assert [size for _, *size in pictures_on(page_of(again, TARGET))] == [[256, 213]] * 3


def test_beside_other_cases_a_pick_is_shown_as_they_are(again):
    """By the view that the encoder saw, which comes behind the pictures of its image."""
    marked = [a for a in Page(page_of(again, TARGET)).all("img") if a["alt"].startswith("Pick ")]
    assert len(marked) == 3 and {(a["data-part"], a["width"]) for a in marked} == {("1", "96")}


CHANGES = {
    "gone": Path.unlink,
    "another one": lambda file: write_picture(file, picture(999)),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:100]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_pick_whose_image_has_gone_is_shown_by_its_view(again, capsys, change):
    chosen = [pick["case"] for pick in again.selection()["selections"][0]["picks"]]
    before = shown_of(TARGET)
    CHANGES[change](again.images() / f"{chosen[0]}_0000.png")
    succeeds(capsys, report.main, ["-d", "2"])
    text = page_of(again, TARGET)
    assert text.count(LOST) == text.count(VIEW) == 1
    after = shown_of(TARGET)
    (thumb,) = after[chosen[0]].thumbnails
    assert (thumb.width, thumb.height) == (128, 107)
    assert [after[case] for case in chosen[1:]] == [before[case] for case in chosen[1:]]


def test_an_image_that_goes_while_the_report_is_written(again, monkeypatch):
    case = again.selection()["selections"][0]["picks"][0]["case"]

    def open_and_lose(name):
        pool = dataset_pool(name)
        (again.images() / f"{case}_0000.png").unlink()
        return pool

    monkeypatch.setattr(thumbnails, "dataset_pool", open_and_lose)
    assert [name for name, one in shown_of(TARGET).items() if LOST in " ".join(one.notes)] == [case]


def test_a_dataset_that_cannot_be_opened_any_more_is_shown_by_views(again, capsys):
    for file in again.images().glob("*"):
        file.unlink()
    succeeds(capsys, report.main, ["-d", "2"])
    text = page_of(again, TARGET)
    assert text.count("The image cannot be read (no image *_0000.png in ") == text.count(VIEW) == 3


def test_a_picked_volume_that_has_gone_is_shown_by_three_views(empty, capsys):
    with_volumes(empty)
    succeeds(capsys, select.main, ["-d", "31", "-b", "2", "-device", "cpu"])
    for file in empty.images(VOLUMES).glob("*"):
        file.unlink()
    succeeds(capsys, report.main, ["-d", "31"])
    text = page_of(empty, VOLUMES)
    assert text.count(VIEW) == 2 and len(pictures_on(text)) == 6


def test_a_picked_slice_is_shown_with_its_neighbours_and_its_place(volumes, capsys):
    """Volumes of 16 slices of 20 x 20 pixels, of 2 mm and 1.5 x 1 mm."""
    run(capsys, budget="3")
    found = pictures_on(page_of(volumes, VOLUMES))
    for pick, four in zip(picks(volumes), zip(*[iter(found)] * 4, strict=True), strict=True):
        name, number = f"{pick.case}, slice {pick.slice}", pick.slice
        assert [alt for alt, *_ in four] == [
            f"Image of {name}: axial slice {number}",
            f"Image of {name}: axial slice {number - 1}, towards the feet",
            f"Image of {name}: axial slice {number + 1}, towards the head",
            f"Image of {name}: sagittal reformat",
        ]
        assert [tuple(size) for _, *size in four] == [(171, 256), (107, 160), (107, 160), (150, 160)]


@pytest.fixture
def channels(empty):
    """Volumes with three channels, of which the last is 0 everywhere in every second case."""
    rng = np.random.default_rng(0)
    for case in range(6):
        for channel in range(3):
            values = rng.uniform(1, 2, (8, 20, 20)).astype(np.float32) * (channel < 2 or case % 2)
            image = sitk.GetImageFromArray(values.astype(np.float32))
            image.SetSpacing((1.0, 1.0, 3.0))
            folder = empty.images(CHANNELS)
            folder.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(folder / f"c_{case}_{channel:04d}.nii.gz"))
    names = {"0": "T1", "1": "T2", "2": "<FLAIR>"}
    write_dataset_json(empty.raw / CHANNELS, ".nii.gz", channel_names=names, numTraining=0, dataset={})
    return empty


def test_all_channels_are_shown_by_name_and_a_missing_one_is_named(channels, capsys):
    succeeds(capsys, select.main, ["-d", "33", "-b", "5", "-device", "cpu"])
    text = page_of(channels, CHANNELS)
    for card in re.findall(r'<li id="s0-pick-.*?</article>', text, re.S):
        missing = int(re.search(r"c_(\d)", card)[1]) % 2 == 0
        titles = re.findall(r"<figcaption>(.*?)</figcaption>", card)
        assert titles[0] == "T1, axial slice 4" and ("&lt;FLAIR&gt;" in titles) == (not missing) and "T2" in titles
        assert ("The channel &lt;FLAIR&gt; holds one value only" in card) == missing
    assert text.count("holds one value only") >= 2
