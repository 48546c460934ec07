"""A second look: labels that are odd among the others, and those that the cross-validated prediction contradicts."""

import json
import os

import numpy as np
import pytest
from making import TARGET, fails, read_worklist, succeeds, write_picture
from test_annotation import COLLECT, SELECT, blob, handover, picked, state, train

from nnunetv2_xssr.annotation.label_facts import label_facts, load_label_facts
from nnunetv2_xssr.annotation.second_look import names_of_values, odd_labels
from nnunetv2_xssr.commands import collect, report, select, status
from nnunetv2_xssr.records.workspace import Workspace

DATASET = {"labels": {"background": 0, "liver": 1, "spleen": 2}}
LPS = {"sitk_stuff": {"spacing": (1, 1, 3), "origin": (0, 0, 0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}}
LPS["spacing"] = [3, 1, 1]
# The same volume stored from left to right and from back to front.
RAS = {**LPS, "sitk_stuff": {**LPS["sitk_stuff"], "direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}}
PICTURE = {"spacing": (999, 1, 1)}


def volume(liver=(slice(2, 5), slice(4, 12), slice(3, 9)), spleen=(slice(2, 4), slice(10, 14), slice(14, 18))):
    label = np.zeros((10, 20, 20))
    for value, place in enumerate((liver, spleen), start=1):
        if place:
            label[place] = value
    return label


def odd(*others, properties=LPS, dataset=DATASET, odd_properties=None):
    """What is odd about labels beside nine usual ones."""
    usual = [(volume(), properties)] * 9
    labels = {f"c{i}": pair for i, pair in enumerate(usual)}
    labels |= {f"odd{i}": (label, odd_properties or properties) for i, label in enumerate(others)}
    facts = {case: label_facts(label, how, dataset, sha256="0") for case, (label, how) in labels.items()}
    return odd_labels(facts, {1: "liver", 2: "spleen"})


def sprinkled():
    label = volume()
    label[8, 1:18:4, 1] = 1
    return label


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (volume(), None),
        (volume(liver=(slice(2, 5), slice(4, 13), slice(3, 9))), None),  # an eighth more
        (volume(liver=(slice(0, 8), slice(2, 14), slice(1, 11))), ["liver is 6.7 times as large as usual"]),
        (volume(liver=(slice(3, 4), slice(6, 10), slice(5, 7))), ["liver is 1/18.0 as large as usual"]),
        (sprinkled(), ["liver is in 6 pieces, usually in 1"]),
        (
            volume(liver=(slice(2, 5), slice(4, 12), slice(11, 17))),
            ["liver lies 39% of the image nearer to the patient's left than usual"],
        ),
        (
            volume(liver=(slice(6, 9), slice(4, 12), slice(3, 9))),
            ["liver lies 40% of the image nearer to the head than usual"],
        ),
        (volume(spleen=None), ["holds no spleen, which 9 of 10 labels hold"]),
    ],
)
def test_what_is_odd_about_a_volume(label, words):
    found = odd(label)
    assert not set(found) - {"odd0"}
    assert found.get("odd0") == words


def test_stored_orientation_is_no_oddity_and_a_swapped_side_is():
    turned = volume()[:, ::-1, ::-1]
    assert odd(turned, odd_properties=RAS) == {}
    assert any("patient's left" in words for words in odd(turned)["odd0"])


def test_picture_has_no_patient():
    found = odd(volume(liver=(slice(2, 5), slice(4, 12), slice(11, 17))), properties=PICTURE)
    assert found == {"odd0": ["liver lies 39% of the image nearer to the right than usual"]}


def test_parts_of_regions_are_named_with_their_value():
    names = names_of_values({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]})
    assert names == {0: "background (value 0)", 1: "whole (value 1)", 2: "whole and core (value 2)"}
    assert names_of_values(DATASET) == {0: "background", 1: "liver", 2: "spleen"}


def flat(mm):
    """A square of 20 mm in a picture with pixels of this size, and what nnU-Net's reader tells of it."""
    label, side = np.zeros((1, 100, 100)), round(20 / mm)
    label[0, 10 : 10 + side, 10 : 10 + side] = 1
    stuff = {"spacing": (mm, mm), "origin": (0, 0), "direction": (1, 0, 0, 1)}
    return label, {"sitk_stuff": stuff, "spacing": [999 * mm, mm, mm]}


def test_flat_labels_are_measured_by_their_area():
    sizes = [label_facts(*flat(mm), DATASET, sha256="0").drawn["1"].volume for mm in (0.25, 0.5, 1, 2)]
    assert sizes == pytest.approx([400] * 4)


def test_facts_that_an_older_version_measured_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    workspace = Workspace(TARGET)
    workspace.label_facts.parent.mkdir(parents=True)
    fact = {"sha256": "0", "whole": True, "known": False, "drawn": {}}
    for version in (1, 2):
        content = {"kind": "facts of labels", "format_version": version, "labels": {"t_00": fact}}
        workspace.label_facts.write_text(json.dumps(content))
        assert list(load_label_facts(workspace)) == ["t_00"][: version - 1]


def test_labels_of_slices_and_few_labels_are_not_compared():
    dataset = {"labels": {**DATASET["labels"], "ignore": 3}}
    sparse = volume(liver=(slice(0, 8), slice(2, 14), slice(1, 11)))
    sparse[9] = 3
    assert odd(sparse, dataset=dataset) == {}
    facts = {f"c{i}": label_facts(volume(), LPS, DATASET, sha256="0") for i in range(6)}
    facts["odd"] = label_facts(volume(spleen=None) * 0, LPS, DATASET, sha256="0")
    assert odd_labels(facts, {1: "liver"}) == {}


# ------------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def nine(again, capsys):
    """Nine labels were collected, of which the last one is large."""
    succeeds(capsys, select.main, [*SELECT[:4], "-b", "9", "-device", "cpu", "--overwrite"])
    cases = picked(again)
    for case in cases:
        to = 35 if case == cases[-1] else 9
        write_picture(handover(again) / "labels" / f"{case}.png", blob(to=to))
    return again, cases, succeeds(capsys, collect.main, COLLECT)


def validated(workspace, dice, *, network="XSSRTrainer__nnUNetPlans__2d", fold=0):
    train(workspace, network, fold=fold)
    folder = workspace.results / TARGET / network / f"fold_{fold}" / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    cases = [
        {
            "metrics": {"1": {"Dice": value, "IoU": 0.1}, "2": {"Dice": float("nan")}},
            "prediction_file": f"/else/where/{case}.png",
            "reference_file": f"/else/{case}.png",
        }
        for case, value in dice.items()
    ]
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": cases, "foreground_mean": {}}))
    return folder / "summary.json"


def test_odd_label_is_named_at_collect_and_by_status(nine, capsys):
    workspace, cases, out = nine
    words = f"{cases[-1]}: blob is 5.3 times as large as usual; blob lies "
    assert f"look again: {words}" in out and out.count("look again") == 1
    text = succeeds(capsys, status.main, ["-d", "2"])
    assert "look again at 1 of the labels:" in text and f"  {words}" in text
    corrected = workspace.root / "corrected" / f"{cases[-1]}.png"
    write_picture(corrected, blob())
    out = succeeds(capsys, collect.main, [*COLLECT, "-l", corrected.parent, "--replace", cases[-1]])
    assert "look again" not in out and state(capsys)["look_again"] == {}


def test_labels_are_read_once(nine, capsys, monkeypatch):
    from nnunetv2_xssr.annotation import label_facts as module

    monkeypatch.setattr(module, "label_facts", lambda *_, **__: pytest.fail("read again"))
    succeeds(capsys, collect.main, COLLECT)


def test_cases_that_the_network_contradicts_are_listed_worst_first(nine, capsys):
    workspace, cases, _ = nine
    usual = {case: 0.85 + 0.01 * i for i, case in enumerate(cases[:7])}
    validated(workspace, {**usual, cases[7]: 0.4, cases[8]: 0.2})
    assert list(state(capsys)["look_again"]) == [cases[8], cases[7]]
    text = succeeds(capsys, status.main, ["-d", "2"])
    assert f"  {cases[7]}: its Dice with the cross-validated prediction is 0.40, usually 0.87\n" in text
    # Folds come together; the network that was validated last is asked, and a label that was written since is left out.
    os.utime(validated(workspace, {case: 0.9 for case in cases}, network="XSSRTrainer_5epochs__p__2d"), (1, 1))
    assert cases[7] in state(capsys)["look_again"]
    label = workspace.raw / TARGET / "labelsTr" / f"{cases[7]}.png"
    future = label.stat().st_mtime + 1000
    os.utime(label, (future, future))
    assert list(state(capsys)["look_again"]) == [cases[8]]


def test_next_round_and_report_list_what_to_look_at_again(nine, capsys):
    workspace, cases, _ = nine
    validated(workspace, {**dict.fromkeys(cases[:8], 0.9), cases[0]: 0.2})
    odd = {cases[0]: "its Dice with the cross-validated prediction is 0.20", cases[8]: "blob is 5.3 times as large"}
    succeeds(capsys, select.main, [*SELECT[:4], "-b", "1", "-device", "cpu"])
    folder = handover(workspace, 2)
    (new,) = [row["case"] for row in read_worklist(folder / "worklist.csv")]
    note, page = ((folder / name).read_text(encoding="utf-8") for name in ("README.txt", "worklist.html"))
    report_page = workspace.record().with_name("report.html").read_text(encoding="utf-8")
    facts = json.loads(succeeds(capsys, report.main, ["-d", "2", "--json"]))
    assert list(facts["look_again"]) == list(odd)
    for case, words in odd.items():
        assert f"- {case} (round_01): {words}" in note and facts["look_again"][case][0].startswith(words)
        assert words in page and f'<img src="pictures/{case}.png"' in page and words in report_page
        assert (folder / "pictures" / f"{case}.png").is_file() and not (folder / "images" / f"{case}_0000.png").exists()
    # As the note says: a corrected one lies beside those of the round.
    write_picture(folder / "labels" / f"{cases[8]}.png", blob())
    out = succeeds(capsys, collect.main, [*COLLECT, "--replace", cases[8]])
    assert f"replaced: {cases[8]}" in out and f"still missing: {new}" in out
    assert list(json.loads(succeeds(capsys, report.main, ["-d", "2", "--json"]))["look_again"]) == [cases[0]]


def test_nothing_odd_is_told_of_where_nothing_is(again):
    pages = handover(again) / "README.txt", handover(again) / "worklist.html", again.record().with_name("report.html")
    assert not [page for page in pages if "ook again" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("few", [7])
def test_few_validated_cases_tell_nothing(nine, capsys, few):
    workspace, cases, _ = nine
    validated(workspace, {**dict.fromkeys(cases[1:few], 0.9), cases[0]: 0.1})
    assert cases[0] not in state(capsys)["look_again"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["is not a whole JSON file"]),
        ("{}", ["metric_per_case is missing", "--val"]),
        ('{"metric_per_case": [{"metrics": {"1": {}}, "prediction_file": "a"}]}', ["metrics", "Dice is missing"]),
        ('{"metric_per_case": [{"metrics": 3, "prediction_file": "a"}]}', ["metric_per_case[0].metrics", "object"]),
    ],
)
def test_broken_summary(nine, capsys, content, words):
    workspace, cases, _ = nine
    path = validated(workspace, dict.fromkeys(cases, 0.9))
    path.write_text(content)
    fails(capsys, status.main, ["-d", "2"], "summary.json", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content | {"kind": "x"}, ["is not an nnunetv2_xssr facts of labels"]),
        (lambda content: content | {"labels": {"a": {}}}, ["labels.a.sha256 is missing", "delete it"]),
    ],
)
def test_broken_facts(nine, capsys, change, words):
    workspace, _, _ = nine
    path = workspace.record().parent / "label_facts.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    fails(capsys, status.main, ["-d", "2"], "label_facts.json", *words)


def test_label_that_cannot_be_read_is_named_and_compared_with_none(nine, capsys):
    workspace, cases, _ = nine
    (workspace.raw / TARGET / "labelsTr" / f"{cases[0]}.png").write_bytes(b"broken")
    assert collect.main(COLLECT) in (0, 2)
    captured = capsys.readouterr()
    assert f"{cases[0]}.png cannot be read" in captured.out + captured.err
