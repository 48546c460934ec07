"""The labels in the hand-over as 3D Slicer, ITK-SNAP and napari read them."""

import itertools
import json
import re

import pytest

from nnunetv2_xssr.annotation.colour_tables import shown_labels, write_colour_tables
from nnunetv2_xssr.annotation.slice_places import NAPARI_NIFTI
from nnunetv2_xssr.annotation.tool_steps import tool_steps

LABELS = {"background": 0, "left  lung": 1, 'the "big" one': 5, "Äther": 9, "ignore": 10}
NAMES = {0: "background", 1: "left lung", 5: "the 'big' one", 9: "Äther", 10: "ignore"}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
    "regions_class_order": [1, 2],
}


def slicer(text):
    """Value to name and colour, as 3D Slicer reads a .ctbl: six or more words a line, underscores for spaces."""
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert all(len(line) == 6 for line in lines)
    return {int(v): (name.replace("_", " "), tuple(map(int, rgb)), int(a) / 255) for v, name, *rgb, a in lines}


def itk_snap(text):
    """The same as ITK-SNAP reads a label description: seven numbers, and a name in double quotes."""
    pattern = r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"([^"]*)"'
    found = [re.fullmatch(pattern, line) for line in text.splitlines() if not line.startswith("#")]
    assert all(found)
    return {int(m[1]): (m[8], (int(m[2]), int(m[3]), int(m[4])), float(m[5])) for m in found}


def napari(text):
    rows = json.loads(text)
    return {x["value"]: (x["name"], tuple(round(255 * part) for part in x["color"][:3]), x["color"][3]) for x in rows}


def tables(folder, description):
    write_colour_tables(folder, description)
    readers = {"labels.ctbl": slicer, "labels.label": itk_snap, "labels.json": napari}
    return [read((folder / name).read_text(encoding="utf-8")) for name, read in readers.items()]


def test_all_tools_show_the_same(tmp_path):
    first, *others = tables(tmp_path, {"labels": LABELS})
    assert {value: name for value, (name, _, _) in first.items()} == NAMES
    for other in others:
        assert {value: shown[:2] for value, shown in other.items()} == {v: shown[:2] for v, shown in first.items()}
        assert [shown[2] for shown in other.values()] == pytest.approx([shown[2] for shown in first.values()], abs=0.01)
    opacity = {name: a for name, _, a in first.values()}
    assert opacity["background"] == 0 and 0 < opacity["ignore"] < 0.2
    assert all(opacity[NAMES[value]] == 1 for value in (1, 5, 9))


def test_parts_of_regions_are_called_by_all_of_them(tmp_path):
    for table in tables(tmp_path, REGIONS):
        assert [name for name, _, _ in table.values()] == ["background", "whole", "whole and core", "ignore"]


def test_colours_of_many_labels_are_distinct():
    labels = shown_labels({"labels": {"background": 0, **{f"organ {i}": i for i in range(1, 118)}}})
    pairs = itertools.combinations([one.rgb for one in labels if one.value], 2)
    assert min(sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pairs) >= 8


@pytest.mark.parametrize("ending", NAPARI_NIFTI)
def test_napari_is_opened_with_the_plugin_by_which_slices_are_counted(ending):
    text = tool_steps(
        image=f"images/a_0000{ending}", label=f"a{ending}", ending=ending, template=True, prelabelled=False
    )
    assert "with the plugin napari-nifti" in text


@pytest.mark.parametrize("ending", [".png", ".tif", ".nii.gz", ".mha"])
@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("prelabelled", [False, True])
def test_steps_are_numbered_and_short(ending, template, prelabelled):
    text = tool_steps(
        image=f"images/a_0000{ending}",
        label=f"labels/a{ending}",
        ending=ending,
        template=template,
        prelabelled=prelabelled,
    )
    tools = re.split(r"\n\n(?=\S)", text)
    assert [tool.split("\n")[0] for tool in tools[:3]] == ["3D Slicer", "ITK-SNAP", "napari"]
    for tool, table in zip(tools, ("labels.ctbl", "labels.label", "labels.json"), strict=False):
        assert re.findall(r"^(\d)\.", tool, re.M) == ["1", "2", "3"] and "labels/a." in tool and table in tool
    assert all(len(line) <= 120 for line in text.splitlines())
    assert 'open("labels.json")' in text and "start napari in this folder" in text
    # What is there already is opened before anybody draws: it is named once more than where it is saved.
    named = [tool.count("labels/a.") for tool in [*tools[:3], text[text.index("MITK") :]]]
    assert named == [1 + (template or prelabelled)] * 4
    assert ("call the segment that is there ignore" in text) == (template and not prelabelled)
