"""Whatever a user types or gives as a file is taken as it is meant, or refused in one sentence."""

import io
import json
import string

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from making import TARGET

from nnunetv2_xssr.annotation.label_check import label_values
from nnunetv2_xssr.commands.collect import _values
from nnunetv2_xssr.encoders.feature_files import read_features
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_table import read_names, with_case_table
from nnunetv2_xssr.images.normalise import parse_window
from nnunetv2_xssr.images.pools import Case, ImagePool
from nnunetv2_xssr.images.regions import parse_range
from nnunetv2_xssr.records.dataset_json import read_dataset_json
from nnunetv2_xssr.records.names import check_file_name, check_line
from nnunetv2_xssr.records.split import read_split
from nnunetv2_xssr.records.workspace import Workspace
from nnunetv2_xssr.selection.budget import parse_budget, parse_cost_budget

CASES = ("a", "b", "=c")
POOL = ImagePool(
    name=TARGET,
    cases=tuple(Case(identifier=case, files=()) for case in CASES),
    file_ending=".png",
    channel_names=("xray",),
    dataset_json={},
)
NUMBERS = [
    "0",
    "1",
    "-1",
    "9" * 5000,
    "1e22",
    "1" + "0" * 22,
    "inf",
    "nan",
    "-0",
    "1_0",
    "٣",
    "½",
    "0x1",
    ".5",
    "5.",
    "1e999",
]
NUMBER = st.one_of(st.sampled_from(NUMBERS), st.integers().map(str), st.floats().map(str), st.text(max_size=4))
TEXT = st.one_of(NUMBER, st.text(), st.text(alphabet="0123456789.%-/= \t", max_size=12))
PERCENT = st.tuples(NUMBER, st.sampled_from(["", "%", " %", "%%"])).map("".join)
PAIR = st.tuples(PERCENT, st.sampled_from(["-", "/", "=", "--"]), PERCENT).map("".join)
TYPED = st.one_of(TEXT, PERCENT, PAIR)


def budget_fits(text):
    assert 1 <= parse_budget(text, pool_size=50, available=40) <= 40


def cost_fits(text):
    assert 0 < parse_cost_budget(text, total=500.0, available=400.0) <= 400


def window_fits(text):
    centre, width = parse_window(text)
    assert np.isfinite(centre) and 0 < width < np.inf


def range_fits(text):
    low, high = parse_range(text)
    assert 0 <= low < high <= 1


def values_fit(text):
    assert all(isinstance(number, int) for pair in _values([text]).items() for number in pair)


def name_fits(text):
    assert Workspace(TARGET, text).record.parent.name == text


PARSERS = {
    "budget": budget_fits,
    "cost": cost_fits,
    "window": window_fits,
    "range": range_fits,
    "values": values_fit,
    "name": name_fits,
}


def said(call):
    """What a call returns, or None after one sentence."""
    try:
        return call()
    except UserError as error:
        assert "\n" not in str(error).strip() and len(str(error)) < 600, error
        return None


@pytest.mark.parametrize("n", [40, pytest.param(20000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PARSERS)
def test_what_is_typed(name, n):
    @settings(max_examples=n)
    @given(TYPED)
    def check(text):
        said(lambda: PARSERS[name](text))

    check()
    for number in NUMBERS:
        for text in (number, f"{number}%", f"{number}%-{number}%", f"{number}/{number}", f"{number}={number}"):
            said(lambda text=text: PARSERS[name](text))


ROW = st.lists(st.one_of(st.sampled_from([*CASES, "'=c", "A", "2,5", "2.5", *NUMBERS[:6], ""]), TEXT), max_size=6)
COLUMNS = st.lists(
    st.sampled_from(["case", "domain", "group", "patient", "cost", "slice_from", "slice_to", "", "Case", "x"]),
    max_size=6,
)
LINES = st.tuples(COLUMNS, st.lists(ROW, max_size=4)).map(lambda table: [table[0], *table[1]])


def written(lines, delimiter, encoding):
    return "\n".join(delimiter.join(cells) for cells in lines).encode(encoding, errors="replace")


TABLE = st.one_of(
    st.binary(max_size=60),
    st.builds(written, LINES, st.sampled_from(",;\t"), st.sampled_from(["utf-8", "utf-16", "cp1252", "utf-8-sig"])),
)


@pytest.mark.parametrize("n", [60, pytest.param(20000, marks=pytest.mark.slow)])
def test_tables_of_cases(tmp_path, n):
    path = tmp_path / "cases.csv"

    @settings(max_examples=n)
    @given(TABLE)
    @example(b"case,slice_from\na," + b"9" * 5000)
    @example(b"case,cost\na,inf\nb,1\n=c,1")
    def check(content):
        path.write_bytes(content)
        pool = said(lambda: with_case_table(POOL, path))
        for case in pool.cases if pool else ():
            assert case.cost is None or 0 < case.cost < np.inf
            assert case.slices is None or 0 <= case.slices[0]
            for text in filter(None, (case.domain, case.group)):
                check_line(text)
        said(lambda: read_names(path))

    check()


def npz(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


SHAPES = st.sampled_from([(), (0,), (3,), (3, 2), (2, 3), (3, 0), (3, 2, 1)])
KINDS = st.sampled_from(["float32", "float64", "int64", "uint8", "bool", "complex64", "S3", "U3", "datetime64[s]"])
ARRAYS = st.dictionaries(
    st.sampled_from(["cases", "features", "x"]),
    st.one_of(
        st.just(np.array(CASES)),
        st.builds(lambda shape, kind: np.zeros(shape, kind), SHAPES, KINDS),
        st.sampled_from(
            [np.full((3, 2), np.nan), np.full((3, 2), 1e300), np.array(["a", "a", "b"]), np.array([1, 2, 3])]
        ),
    ),
)
GOOD = npz({"cases": np.array(CASES), "features": np.eye(3)})
CUT = st.integers(0, len(GOOD)).map(lambda n: GOOD[:n])
FLIPPED = st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)).map(
    lambda at: GOOD[: at[0]] + bytes([GOOD[at[0]] ^ at[1]]) + GOOD[at[0] + 1 :]
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n", [80, pytest.param(10000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ending", [".npz", ".csv", ".npy"])
def test_files_of_features(tmp_path, ending, n):
    path = tmp_path / f"features{ending}"
    path.with_suffix(".txt").write_text("\n".join(CASES))
    contents = TABLE if ending == ".csv" else st.one_of(ARRAYS.map(npz), CUT, FLIPPED, st.binary(max_size=40))

    @settings(max_examples=n)
    @given(contents)
    def check(content):
        path.write_bytes(content)
        found = said(lambda: read_features(path, option="--embeddings", cases=CASES))
        if found:
            assert found[0] == list(CASES) and len(found[1]) == 3 and np.isfinite(found[1]).all()

    check()


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.sampled_from(NUMBERS))
ANY = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
LABELS = st.dictionaries(
    st.sampled_from(["background", "a", "b", "ignore", "1", ""]),
    st.one_of(st.integers(-1, 4), st.lists(st.integers(0, 4), max_size=3), st.sampled_from([True, 10**22, 0.0]), ANY),
)


@pytest.mark.parametrize("n", [60, pytest.param(10000, marks=pytest.mark.slow)])
def test_label_values(tmp_path, n):
    path = tmp_path / "dataset.json"

    @settings(max_examples=n)
    @given(st.one_of(LABELS, ANY), st.one_of(st.none(), st.lists(st.integers(0, 4), max_size=3), ANY))
    @example({"background": 0, "a": True}, None)
    @example({"background": False, "a": 1}, None)
    def check(labels, order):
        content = {"channel_names": {"0": "CT"}, "file_ending": ".png", "labels": labels, "regions_class_order": order}
        path.write_text(json.dumps(content))
        description = said(lambda: read_dataset_json(path))
        values = said(lambda: label_values(description)) if description else None
        assert values is None or all(type(value) is int and value >= 0 for value in values)

    check()


@pytest.mark.parametrize("n", [40, pytest.param(10000, marks=pytest.mark.slow)])
def test_json_of_any_kind(tmp_path, n):
    path = tmp_path / "split.json"

    @settings(max_examples=n)
    @given(st.one_of(ANY.map(json.dumps).map(str.encode), st.binary(max_size=40)))
    @example(b"[" * 100000)
    @example(b"9" * 5000)
    @example(b'[{"train": ["\\ud800"], "val": []}]')
    @example(b"NaN")
    def check(content):
        path.write_bytes(content)
        for read in (read_split, read_dataset_json):
            said(lambda read=read: read(path))

    check()


NAMES = [
    "",
    ".",
    "..",
    "\0",
    "/",
    "a/b",
    "a\\b",
    "../../../x",
    "a\nb",
    "\x1b[0m",
    "nul",
    "COM1.png",
    "v/3",
    "\ud800",
    "x" * 300,
    " a",
    "a ",
    "a\u00a0",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_file_can_have(name):
    with pytest.raises(ValueError, match="^must "):
        check_file_name(name)


@pytest.mark.parametrize("name", ["a", "Müller 1", "a.b-c_d", "null", "com", "…", "=1", "-x", "a" * 200])
def test_names_that_files_can_have(name):
    assert check_file_name(name) == name


@pytest.mark.parametrize("n", [40, pytest.param(20000, marks=pytest.mark.slow)])
def test_names_make_files(tmp_path, n):
    @settings(max_examples=n)
    @given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(string.punctuation)), max_size=30))
    def check(name):
        try:
            check_file_name(name)
        except ValueError:
            return
        path = tmp_path / f"{name}_0000.png"
        path.write_bytes(b"")
        assert path.parent == tmp_path and path.is_file()
        path.unlink()

    check()
