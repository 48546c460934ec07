"""The worklist to print: its pictures, and names that are no markup."""

from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from making import picture, volume, write_dataset_json, write_picture, write_volume
from PIL import Image

from nnunetv2_xssr.annotation.printing import write_printable
from nnunetv2_xssr.annotation.second_look import LookAgain
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pictures import LINE
from nnunetv2_xssr.images.pools import dataset_pool

NAME, HOSTILE = "Dataset043_Printed", "a<b>&\"c\" 'd'#%41"


class Page(HTMLParser):
    """The tags of a page, the sources of its pictures, and the texts of its cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.texts = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name == "src"]

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def pictures(empty):
    for i, case in enumerate([HOSTILE, "b"]):
        write_picture(empty.images(NAME) / f"{case}_0000.png", picture(i))
    write_dataset_json(empty.raw / NAME, numTraining=0, dataset={})
    return empty


def row(case, slice_=None, **more):
    return {"rank": 1, "case": case, "slice": slice_, "files": "f", "reason": "<script>x</script>", **more}


def printed(root, rows, **options):
    write_printable(root / "out", dataset_pool(NAME), rows, **options)
    return Page((root / "out" / "worklist.html").read_text(encoding="utf-8"))


def test_names_are_no_markup_and_pictures_are_found(pictures):
    page = printed(pictures.root, [row(HOSTILE), row("b")])
    assert "script" not in page.tags and "b" not in page.tags
    assert HOSTILE in page.texts and "<script>x</script>" in page.texts
    assert "slice" not in page.texts and "files" not in page.texts
    assert len(page.sources) == 2
    for source in page.sources:
        assert Image.open(pictures.root / "out" / unquote(source)).size == (256, 213)


def test_the_page_says_where_to_begin(pictures):
    """Whoever opens it first has not read README.txt."""
    texts = " ".join(printed(pictures.root, [row("b")]).texts)
    assert "Begin at the top" in texts and "README.txt says what to draw" in texts


def test_long_headings_wrap_and_words_of_a_reason_are_not_broken(pictures):
    """Else a table with the columns of slices is wider than a page, and breaks `volume;` before its semicolon."""
    printed(pictures.root, [row("b", None, slice_itksnap=4, reason="stands for its own volume; unsure")])
    text = (pictures.root / "out" / "worklist.html").read_text(encoding="utf-8")
    assert "<th>slice_<wbr>itksnap</th>" in text and "size: landscape" in text
    assert '<td class="words">stands for its own volume; unsure</td>' in text


def test_what_an_annotator_keeps_beside_the_pictures_stays(pictures):
    folder = pictures.root / "out" / "pictures"
    printed(pictures.root, [row(HOSTILE), row("b")])
    write_picture(folder / "mine.png", picture(5))
    (folder / "notes.txt").write_text("mine")
    printed(pictures.root, [row("b")])
    assert sorted(file.name for file in folder.iterdir()) == ["b.png", "mine.png", "notes.txt"]
    write_picture(folder / "b.png", picture(5))
    before = (folder / "b.png").read_bytes()
    with pytest.raises(UserError, match=r"b\.png was not written by select"):
        printed(pictures.root, [row("b")])
    assert (folder / "b.png").read_bytes() == before


def test_image_that_cannot_be_read_has_no_picture(pictures):
    (pictures.images(NAME) / "b_0000.png").write_bytes(b"no picture")
    page = printed(pictures.root, [row(HOSTILE), row("b")])
    assert len(page.sources) == 1 and "none" in page.texts and "b" in page.texts


def test_names_stand_in_one_line_as_far_as_there_is_room(pictures):
    """They are typed, and looked for; the longest ones would push the other columns off the paper."""
    printed(pictures.root, [row("b", label="labels/b.png")])
    text = (pictures.root / "out" / "worklist.html").read_text(encoding="utf-8")
    assert ".label { min-width: 13ch; }" in text and '<td class="label">labels/b.png</td>' in text
    assert '<meta name="viewport" content="width=device-width' in text  # or a phone shows letters of a third the size
    printed(pictures.root, [row("b", label="labels/" + 50 * "b")])
    assert ".label { min-width: 22ch; }" in (pictures.root / "out" / "worklist.html").read_text(encoding="utf-8")


def test_the_slice_is_marked(empty):
    write_volume(empty.images(NAME) / "v_0000.nii.gz", volume(0)[0])
    write_dataset_json(empty.raw / NAME, ".nii.gz", channel_names={"0": "T1"}, numTraining=0, dataset={})
    rows = [row("v", place, position=f"S {place}.0", label="labels/" + 50 * "v") for place in (3, 12)]
    page = printed(empty.root, rows)
    assert page.sources == ["pictures/v_slice_3.png", "pictures/v_slice_12.png"] and "S 12.0" in page.texts
    text = (empty.root / "out" / "worklist.html").read_text(encoding="utf-8")
    assert ".label { min-width: 12ch; }" in text  # the columns of slices have room beside it
    heights = []
    for source in page.sources:
        pixels = np.asarray(Image.open(empty.root / "out" / source))
        marked = (pixels == LINE).all(axis=2)
        assert not marked[:, :256].any()
        heights.append(np.flatnonzero(marked.any(axis=1)).mean() / 128)
    assert heights == pytest.approx([1 - 3.5 / 16, 1 - 12.5 / 16], abs=0.03)


def test_slices_of_a_pick_are_shown_though_its_old_label_is_to_be_looked_at(empty):
    write_volume(empty.images(NAME) / "v_0000.nii.gz", volume(0)[0])
    write_dataset_json(empty.raw / NAME, ".nii.gz", channel_names={"0": "T1"}, numTraining=0, dataset={})
    again = [LookAgain(case="v", round=1, slices=[3, 5], why=["odd"])]
    page = printed(empty.root, [row("v", 3), row("v", 12)], again=again)
    assert page.sources == [f"pictures/v_slice_{place}.png" for place in (3, 12, 3, 5)]
