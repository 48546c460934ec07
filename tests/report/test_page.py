"""The report's page as text: whole, escaped, and without a word to the network."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hostile import NAMES, hostile_page
from making import succeeds
from slicing import CASES, VOLUMES, picks, run

from nnunetv2_xssr.commands import select
from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.report.charts import ticks, x_axis, y_axis
from nnunetv2_xssr.report.facts import gather
from nnunetv2_xssr.report.page import can_be_listed, render
from nnunetv2_xssr.report.selection_data import load_record, load_selection_data
from nnunetv2_xssr.report.thumbnails import Shown, Thumbnail

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Elements with their attributes, the text of each, and the mistakes in nesting."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open, self.mistakes = [], {}, [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.mistakes.append(tag)

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def page(again):
    text = (again.record().parent / "report.html").read_text("utf-8")
    return Page(text)


def check_is_sound(page):
    assert page.mistakes == [] and page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert name not in attributes or attributes[name] in ids
    assert all(link["href"][1:] in [*ids, "main"] for link in page.all("a"))
    assert all(attributes.get("alt") is not None for attributes in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper - above <= 1 for above, deeper in zip(levels, levels[1:], strict=False))


def vetoes(page):
    """The cases whose boxes can be ticked."""
    return [attributes["data-veto"] for attributes in page.all("input") if attributes.get("type") == "checkbox"]


def test_page_is_sound(page):
    check_is_sound(page)
    assert len([attributes for attributes in page.all("li") if attributes.get("class") == "pick"]) == 3


def test_rows_show_only_what_has_a_picture(workspace, capsys):
    """Of features made elsewhere there are no views: the picks alone have pictures."""
    file, cases = workspace.root / "features.npz", [f"t_{i:02d}" for i in range(10)]
    np.savez(file, cases=np.array(cases), features=np.random.default_rng(0).normal(size=(10, 4)))
    succeeds(capsys, select.main, ["-d", "2", "-b", "3", "--embeddings", str(file)])
    text = (workspace.record().parent / "report.html").read_text("utf-8")
    check_is_sound(Page(text))
    rows = "".join(re.findall(r'<ul class="row">.*?</ul>', text, re.S))
    picked = {pick["case"] for pick in workspace.selection()["selections"][0]["picks"]}
    assert set(re.findall(r'data-image="(\w+)"', rows)) == picked
    assert "Every case came with a list of numbers" in text and "An encoder turned" not in text
    assert "that the source does not have" not in text and "These numbers between 0 and 1 describe a pick" in text


def test_page_says_what_compared_the_cases_and_counts_one(again):
    facts = gather(load_selection_data(load_record(Workspace("Dataset002_Target"))))
    facts["set_aside"], facts["selections"][0]["labelled"] = ["case x cannot be read"], ["t_00"]
    text = " ".join(render(facts, {}, selection="s0").split())
    assert "An encoder turned every case into a list of numbers" in text and "neural network" not in text
    assert "look like it, that the source does not have, and for which no pick stands yet. These numbers" in text
    assert "1 was labelled before and is counted in." in text
    assert "<strong>1 broken</strong> case was set aside; it is listed at the end." in text


def test_page_says_of_how_many_draws_and_of_how_many_cases_it_speaks(again):
    """The slider asks for fewer picks, and a row has no room for all: neither changes what stands beside it."""
    facts = gather(load_selection_data(load_record(Workspace("Dataset002_Target"))))
    (section,) = facts["selections"]
    named = [{name: dot[name] for name in ("identifier", "case", "name")} for dot in section["map"]["dots"]]
    rest = {"labelled": 0, "shown": [{**one, "rank": None} for one in named[-4:]]}
    section["groups_of_pool"] = [
        {"size": 6, "picks": [1, 2], "missed_by_random": 0.03, **rest},
        {"size": 4, "picks": [3], "missed_by_random": 0.25, **rest},
    ]
    section["kinds"] = {"sizes": [6, 4], "missed": 0, "missed_by_random": 0.28, "in_words": ""}
    shown = {"": {one["identifier"]: Shown([Thumbnail("", 1, 1, "")], []) for one in named}}
    text = " ".join(render(facts, shown, selection="s0").split())
    assert "a random draw of 3 would miss 0.3 on average" in text and "which 25 of 100 such draws miss" in text
    assert "25 of 100 random draws of 3 miss it" in text
    assert "6 cases (4 shown), " in text and "4 cases, " in text


def test_page_says_what_to_type_after_vetoes(again, capsys, monkeypatch):
    folder = again.record().parent
    text = (folder / "report.html").read_text("utf-8")
    (command,) = re.findall(r"<code>nnUNetv2_xssr_select ([^<]*--exclude[^<]*)</code>", text)
    vetoed = again.selection()["selections"][0]["picks"][0]["case"]
    assert "Put it beside this page" in text  # where the command finds both files
    monkeypatch.chdir(folder)
    (folder / "exclude.txt").write_text(f"{vetoed}\tunusable\n")
    succeeds(capsys, select.main, command.split())
    assert vetoed not in {pick["case"] for pick in again.selection()["selections"][0]["picks"]}


def test_page_of_a_study_asks_nobody_to_annotate(again):
    facts = gather(load_selection_data(load_record(Workspace("Dataset002_Target"))))
    for mode, told, wrong in (
        ("annotation", "Annotate in the order below", "to train on"),
        ("study", "A network is trained on these", "to annotate</h1>"),
    ):
        text = " ".join(render({**facts, "mode": mode}, {}, selection="s0").split())
        assert told in text and wrong not in text


def test_page_names_nothing_to_load(page):
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in page.text["style"] and "url(" not in page.text["style"]
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy


def test_numbers_on_the_map_do_not_overlap(again):
    """Of picks that lie on each other the first has its number, above the others; the legend says what these are."""
    facts = gather(load_selection_data(load_record(Workspace("Dataset002_Target"))))
    places = {1: 0.5, 2: 0.51, 3: -0.5}  # on a map of 560 with a margin of 20, 1 and 2 lie 2.6 apart
    for dot in facts["selections"][0]["map"]["dots"]:
        dot["x"], dot["y"] = places.get(dot["rank"], 0), 0
    dots = re.findall(r'data-rank="(\d)".*?<circle r="(\d+)"/>(?:<text[^>]*>(\d))?', render(facts, {}, selection="s0"))
    assert dots == [("2", "6", ""), ("1", "10", "1"), ("3", "10", "3")]
    assert "whose number has no room" in render(facts, {}, selection="s0")


def test_hostile_names_are_text(again):
    text, picks = hostile_page()
    page = Page(text)
    check_is_sound(page)
    assert len(page.all("script")) == 3 and len(page.all("iframe")) == 0
    boxes = vetoes(page)
    labels = [attributes.get("aria-label", "") for attributes in page.all("g")]
    for name in NAMES:
        assert any(label.startswith(name) for label in labels)
    assert boxes == [name for name in picks if can_be_listed(name)]
    images = json.loads(re.search(r'<script type="application/json" id="images">(.*?)</script>', text, re.S)[1])
    assert set(NAMES) <= set(images[""])


def test_page_of_slices_speaks_of_slices(volumes, capsys):
    run(capsys, "--max_per_volume", "3", budget="12")
    text = (volumes.record(VOLUMES).parent / "report.html").read_text("utf-8")
    check_is_sound(Page(text))
    shown = re.sub(r"<style>.*?</style>", "", text.split('id="made"')[0], flags=re.S)
    shown = re.sub(r' (class|data-[a-z]+)="[^"]*"', "", shown)
    assert not re.search(r"\bcases?\b", shown, re.I)
    assert "12 of 48 slices picked" in shown and "The list names whole volumes" in shown
    for pick in picks(volumes):
        assert f"{pick.case}, slice {pick.slice}<" in shown


def test_hostile_names_of_volumes_are_text(volumes, capsys):
    run(capsys, "--max_per_volume", "3", budget="12")
    text, chosen = hostile_page(VOLUMES)
    page = Page(text)
    check_is_sound(page)
    assert len(page.all("script")) == 3 and len(page.all("iframe")) == 0
    assert vetoes(page) == [name for name in chosen if can_be_listed(name)]
    labels = [attributes.get("aria-label", "") for attributes in page.all("g")]
    for name in NAMES[: len(CASES)]:
        assert sum(label.startswith(f"{name}, ") for label in labels) == 8


@pytest.mark.parametrize("name", ["a b", "ä", "<b>", "x,y"])
def test_names_that_can_be_listed(name):
    assert can_be_listed(name)


@pytest.mark.parametrize("name", ["a\nb", " a", "a\t", "a\u2028b", "a\r"])
def test_names_that_a_list_would_tear_apart(name):
    assert not can_be_listed(name)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.0003), (0, 1.37), (0, 5), (0, 23), (0, 100), (0, 7000)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7 and low <= found[0] and found[-1] <= high * (1 + 1e-9)
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in zip(found, found[1:], strict=False)}
    assert steps == {1.0}
    assert str(f"{found[1] - found[0]:e}")[0] in "125"


def test_axes_of_a_single_point_and_of_zeros():
    assert x_axis(0, 0).at(0) < x_axis(0, 0).at(1)
    assert y_axis([0.0, 0.0]).at(0.0) > 0
