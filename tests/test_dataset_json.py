"""dataset.json of another shape is one sentence that names the file and the key, whoever reads it."""

import json

import pytest
from making import SOURCE, TARGET, fails, picture, write_picture

from nnunetv2_xssr.commands import collect, hssl_pretrain, pretrain, report, select, status
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.pools import dataset_pool
from nnunetv2_xssr.records.dataset_json import read_dataset_json

GOOD = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".png", "numTraining": 0}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "dataset.json"


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]},
        {"labels": None, "regions_class_order": None},
        {"dataset": {}, "domains": {}, "anything": [None], "channel_names": {"1": "B", "0": "A"}},
        {"dataset": {"a b-1": {"images": ["x.png", "y.png"], "label": "z.png", "more": 1}, "ü": {"images": ["z.png"]}}},
        {"domains": {"a\u00a0b": "Hannover"}, "overwrite_image_reader_writer": "SimpleITKIO"},
    ],
)
def test_what_nnunet_takes(file, content):
    file.write_text(json.dumps({**GOOD, **content}))
    assert read_dataset_json(file) == {**GOOD, **content}


CASE = {"images": ["imagesTr/c_0000.png"], "label": "labelsTr/c.png"}


FILE, LINE, WHOLE = "the name of a file", "one line of text", "a whole number"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("channel_names", None, "channel_names must be an object; got null"),
        ("channel_names", {}, "channel_names must not be empty"),
        ("channel_names", ["xray"], 'must be an object; got ["xray"]'),
        ("channel_names", "xray", 'got "xray"'),
        ("channel_names", {"T1": "0"}, "number the channels"),
        ("channel_names", {"0": "a", "2": "b"}, "without a gap; got"),
        ("channel_names", {"0": 5}, "channel_names.0 must be text; got 5"),
        ("channel_names", {"0": " "}, "must give the channel a name"),
        ("file_ending", "", "begins with a point"),
        ("file_ending", 5, "must be text; got 5"),
        ("file_ending", "png", 'begins with a point, such as ".nii.gz"; got "png"'),
        ("file_ending", [".png"], 'got [".png"]'),
        ("labels", {"0": "background", "1": "heart"}, "the other way round, as in nnU-Net v1"),
        ("labels", ["background", "heart"], "must be an object"),
        ("labels", {"background": 0, "a": True}, f"labels.a must be {WHOLE}"),
        ("labels", {"background": 0, "a": -1}, "got -1"),
        ("labels", {"background": 0, "a": 1.0}, "got 1.0"),
        ("labels", {"background": 0, "a": "1"}, 'got "1"'),
        ("labels", {"background": 0, "a": [1, [2]]}, "got [1, [2]]"),
        ("labels", {"background": 0, "a": []}, "got []"),
        ("labels", {"background": 0, "a": 10**22}, "up to 65535"),
        ("labels", {"a": 1}, '"background" the value 0'),
        ("labels", {"background": 1, "a": 0}, '"background" the value 0'),
        ("regions_class_order", "1, 2", "must be a list"),
        ("regions_class_order", [1, True], f"regions_class_order[1] must be {WHOLE}; got true"),
        ("dataset", [{"image": "imagesTr/c_0000.png", "label": "labelsTr/c.png"}], "must be an object"),
        ("dataset", None, "must be an object"),
        ("dataset", {"c": {"image": "imagesTr/c_0000.png"}}, "dataset.c.images is missing"),
        ("dataset", {"c": "imagesTr/c_0000.png"}, "dataset.c must be an object"),
        ("dataset", {"c": {"images": "imagesTr/c_0000.png"}}, "dataset.c.images must be a list"),
        ("dataset", {"c": {"images": []}}, "dataset.c.images must not be empty"),
        ("dataset", {"c d": {"images": [None]}}, 'dataset["c d"].images[0] must be text; got null'),
        ("dataset", {"c": {"images": ["a\0"]}}, "must be the path of a file"),
        ("dataset", {"c": {**CASE, "label": None}}, "dataset.c.label must be text"),
        ("dataset", {"c": {**CASE, "label": ["x"]}}, "dataset.c.label must be text"),
        *(("dataset", {name: CASE}, FILE) for name in (".", "..", "a/b", "a\\b", "../../../x", "case/3")),
        *(("dataset", {name: CASE}, "Windows") for name in ("nul", "COM1", "aux.01")),
        *((key, {name: "A"}, LINE) for key in ("domains", "groups") for name in ("a\0", "a\nb", "a\r", "\x1b[0m")),
        ("domains", {"": "A"}, "a name in domains must not be empty"),
        ("domains", {"x" * 300: "A"}, "at most 200 bytes"),
        ("domains", ["A", "B"], "must be an object"),
        ("domains", {"c": 5}, "domains.c must be text; got 5"),
        ("domains", {"c": None}, "domains.c must be text"),
        ("domains", {"c": "A\nB"}, LINE),
        ("groups", ["A", "B"], "must be an object"),
        ("groups", {"c": 5}, "groups.c must be text; got 5"),
        ("overwrite_image_reader_writer", 5, "must be text; got 5"),
    ],
)
def test_other_shapes(file, key, value, words):
    file.write_text(json.dumps({**GOOD, key: value}))
    with pytest.raises(UserError) as caught:
        read_dataset_json(file)
    sentence = str(caught.value)
    assert str(file) in sentence and key in sentence and words in sentence, sentence
    assert len(sentence.replace(str(file), "")) < 200


@pytest.mark.parametrize("key", ["channel_names", "file_ending"])
def test_what_nnunet_needs(file, key):
    file.write_text(json.dumps({name: value for name, value in GOOD.items() if name != key}))
    with pytest.raises(UserError, match=f"dataset.json: {key} is missing"):
        read_dataset_json(file)


def test_no_object(file):
    file.write_text(json.dumps([GOOD]))
    with pytest.raises(UserError, match="must be an object; got"):
        read_dataset_json(file)


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (select.main, ["-d", "2", "-b", "1"]),
        (select.main, ["-d", "1", "-s", "2", "-b", "1"]),
        (status.main, ["-d", "2"]),
        (collect.main, ["-d", "2"]),
        (report.main, ["-d", "2"]),
        (pretrain.main, ["-s", "2"]),
        (hssl_pretrain.main, ["-d", "2", "-c", "2d", "-s", "1"]),
    ],
)
def test_every_command_says_it_in_one_sentence(again, capsys, main, argv):
    path = again.raw / TARGET / "dataset.json"
    path.write_text(json.dumps({**GOOD, "channel_names": ["xray"]}))
    (again.preprocessed / TARGET / "nnUNetPlans.json").write_text(json.dumps({"configurations": {"2d": {}}}))
    fails(capsys, main, argv, path, "channel_names must be an object")


def test_new_dataset_over_one_of_another_shape(again, capsys):
    path = again.raw / TARGET / "dataset.json"
    path.write_text(json.dumps({**GOOD, "labels": ["background", "blob"]}))
    argv = ["-i", again.images(SOURCE), "-d", "002_Target", "--channel_names", "xray", "--labels", "blob", "-b", "1"]
    fails(capsys, select.main, argv, path, "labels must be an object")


def test_file_whose_name_no_case_can_have(again):
    write_picture(again.images() / "a\nb_0000.png", picture(1))
    with pytest.raises(UserError, match="a case of .* is called 'a.nb', but a name must be one line"):
        dataset_pool(TARGET)
