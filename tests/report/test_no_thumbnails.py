"""A report that can be mailed, and a worklist without pictures."""

import pytest
from making import TARGET, fails, succeeds
from slicing import VOLUMES
from slicing import run as select_slices
from test_page import Page, check_is_sound

from nnunetv2_xssr.commands import report, select
from nnunetv2_xssr.records.workspace import Workspace

SELECT = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]


def page_of(dataset):
    return Workspace(dataset).report.read_text("utf-8")


def pictures_in(text):
    return text.count("data:image"), text.count("<img"), '"images">{}' in text


@pytest.mark.parametrize("main, argv", [(select.main, SELECT), (report.main, ["-d", "2"])])
def test_no_case_is_shown(again, capsys, main, argv):
    assert pictures_in(page_of(TARGET))[0] > 9
    succeeds(capsys, main, [*argv, "--no_thumbnails"])
    text = page_of(TARGET)
    assert pictures_in(text) == (0, 0, True)
    check_is_sound(Page(text))
    for pick in again.selection()["selections"][0]["picks"]:
        assert pick["case"] in text
    succeeds(capsys, main, argv)
    assert pictures_in(page_of(TARGET))[0] > 9


def test_nothing_is_shown_beside_the_worklist(again, capsys):
    handover = Workspace(TARGET).handover(1)
    pictures, images = handover / "pictures", sorted((handover / "images").iterdir())
    own = pictures / "own.png"
    own.write_bytes(b"of the annotator")
    assert len(list(pictures.iterdir())) == 4 and "<img" in (handover / "worklist.html").read_text()
    succeeds(capsys, select.main, [*SELECT, "--no_thumbnails"])
    assert list(pictures.iterdir()) == [own] and sorted((handover / "images").iterdir()) == images
    text = (handover / "worklist.html").read_text()
    assert "<img" not in text and "none" not in text and "t_0" in text


def test_neither_are_slices(volumes, capsys):
    select_slices(capsys, "--no_thumbnails")
    assert pictures_in(page_of(VOLUMES)) == (0, 0, True)
    assert not (Workspace(VOLUMES).handover(1) / "pictures").exists()


def test_facts_are_without_pictures_anyway(again, capsys):
    assert "data:image" not in succeeds(capsys, report.main, ["-d", "2", "--json", "--no_thumbnails"])
    fails(capsys, report.main, ["-d", "77", "--no_thumbnails"], "no dataset")
