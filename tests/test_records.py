"""Records are written whole or not at all, and read back with one clear sentence."""

import json
import os
import stat

import pytest
from pydantic_core import SchemaError

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records import schema
from nnunetv2_xssr.records.files import atomic, check_format, read_json, sha256_files, sha256_json, write_json
from nnunetv2_xssr.records.selection import FoldSelection, Pick, SelectionRecord, check_replaceable


def test_atomic_replaces_when_the_block_ends_well(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    for text in ("one", "two"):
        with atomic(path) as temporary:
            assert temporary.parent == path.parent and temporary != path
            temporary.write_text(text)
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["file.txt"]


def test_atomic_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(("name", "ending"), [("a.b.nii.gz", ".nii.gz"), ("a.b.json", ".json"), ("a", "")])
def test_atomic_keeps_the_ending(tmp_path, name, ending):
    """Writers of images choose the format by it."""
    with atomic(tmp_path / name) as temporary:
        assert temporary.name.startswith(".") and temporary.name.endswith(ending)
        temporary.write_text("x")


def test_atomic_gives_the_permissions_of_an_ordinary_new_file(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic(tmp_path / "file.txt") as temporary:
            temporary.write_text("x")
        assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027  # the umask itself is as before
    finally:
        os.umask(old)


def test_json_round_trip_and_no_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"größe": [1, 2.5, None]})
    assert read_json(path) == {"größe": [1, 2.5, None]}
    assert "größe" in path.read_text("utf-8") and path.read_text().endswith("\n")
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert read_json(path) == {"größe": [1, 2.5, None]}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe"])
def test_json_that_is_cut_off(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.json is not a whole JSON file"):
        read_json(path)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([], "is not an nnunetv2_xssr thing"),
        ({"kind": "other", "format_version": 1}, "is not an nnunetv2_xssr thing"),
        ({"kind": "thing"}, "format version None"),
        ({"kind": "thing", "format_version": "1"}, "format version '1'"),
        ({"kind": "thing", "format_version": 3}, "format version 3 .* up to 2; upgrade"),
    ],
)
def test_format(tmp_path, record, words):
    with pytest.raises(UserError, match=words):
        check_format(record, "thing", 2, tmp_path / "a.json")


def test_older_and_equal_formats_are_read(tmp_path):
    for version in (1, 2):
        check_format({"kind": "thing", "format_version": version}, "thing", 2, tmp_path)


def test_hashes(tmp_path):
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 2, "b": 1})
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "b").write_bytes(b"34")
    both = sha256_files([tmp_path / "a", tmp_path / "b"])
    assert both != sha256_files([tmp_path / "b", tmp_path / "a"])
    (tmp_path / "b").write_bytes(b"35")
    assert both != sha256_files([tmp_path / "a", tmp_path / "b"])


SETTINGS = {
    "source": [],
    "budget": "3",
    "strategy": "xssr",
    "alpha": None,
    "alpha_criterion": "mean_distance",
    "unit": "case",
    "excluded": [],
    "encoder": None,
    "dim": 2,
}
PROVENANCE = {
    "pool": "x",
    "source": {},
    "embedding": "grid",
    "components": 32,
    "encoder": "e",
    "embeddings": "f",
    "embeddings_cache": {"Dataset001_A": "0a"},
}


def record(**settings):
    pick = Pick(
        rank=1,
        case="a",
        domain=None,
        group="p",
        cost=2.0,
        density=0.5,
        novelty=0.0,
        diversity=1.0,
        score=0.75,
        stands_for=2,
    )
    curve = {
        "alpha": [0.0],
        "mean_distance": [0.1],
        "covering_radius": [0.2],
        "novel_mean_distance": [0.1],
        "overlap": [],
    }
    selection = FoldSelection(
        pool_size=3,
        budget=1,
        labelled=["b"],
        picks=[pick],
        alpha=0.0,
        alpha_curve=curve,
        mean_distance=0.1,
        covering_radius=0.2,
        random_mean_distance=0.3,
    )
    return SelectionRecord(
        dataset="Dataset001_A",
        mode="annotation",
        settings={**SETTINGS, **settings},
        provenance=PROVENANCE,
        versions={"numpy": "2"},
        selections=[selection],
        set_aside=["s"],
    )


def test_selection_record_round_trip(tmp_path):
    path = tmp_path / "selection.json"
    record(budget="5%").write(path)
    assert SelectionRecord.load(path) == record(budget="5%")
    content = json.loads(path.read_text())
    assert content["kind"] == "selection" and content["format_version"] == 1
    before = path.read_bytes()
    SelectionRecord.load(path).write(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_record_holds_numbers_that_json_has(tmp_path, number):
    """Python reads others, and everything that is written from them fails."""
    path = tmp_path / "selection.json"
    record(cases="a table").write(path)
    path.write_text(path.read_text().replace('"a table"', number))
    with pytest.raises(UserError, match="selection.json holds NaN or infinity, which is no JSON; "):
        SelectionRecord.load(path)


@pytest.mark.parametrize(
    ("what", "words"), [("[" * 400 + "]" * 400, "is nested too deeply"), (r'"\ud800"', "not UTF-8")]
)
def test_a_record_that_nobody_can_write_again(tmp_path, what, words):
    path = tmp_path / "selection.json"
    record(cases="a table").write(path)
    path.write_text(path.read_text().replace('"a table"', what))
    with pytest.raises(UserError, match=f"selection.json .*{words}; "):
        SelectionRecord.load(path)


def test_replacing_is_refused_with_what_differs(tmp_path):
    path = tmp_path / "selection.json"
    check_replaceable(path, part="settings", new={"budget": "3"})  # there is none yet
    record(budget="5%", seed=0, gone=1).write(path)
    check_replaceable(path, part="settings", new={**SETTINGS, "budget": "5%", "seed": 0, "gone": 1})
    with pytest.raises(UserError) as caught:
        check_replaceable(path, part="settings", new={**SETTINGS, "budget": "3", "seed": 0, "new": 2})
    words = ("budget was '5%', now '3'", "gone was 1, now None", "new was None, now 2", "--overwrite")
    assert all(word in str(caught.value) for word in words)
    assert "seed" not in str(caught.value)


def test_ctrl_c_while_a_schema_is_built(monkeypatch):
    def interrupted(shape):
        raise SchemaError('Error building "dataclass" validator:\n  KeyboardInterrupt: ')

    monkeypatch.setattr(schema, "TypeAdapter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        schema.check_shape([], list[complex], where="a file", advice="do something")
