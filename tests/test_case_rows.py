"""Rows on disk, filled case by case."""

import json

import numpy as np
import pytest
from making import TARGET

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import CaseRows, file_hashes
from nnunetv2_xssr.images.pools import dataset_pool

HASHES = {"a": "1", "b": "2", "c": "3"}


def opened(folder, hashes=HASHES, settings=None, shape=(2,), dtype=np.float32):
    return CaseRows.open(folder, hashes, settings or {"s": 1}, shape, dtype)


def filled(folder, **kwargs):
    store = opened(folder, **kwargs)
    for i in range(3):
        store.write(i, np.full(2, i + 1.0))
    return store


def test_rows_are_missing_until_they_are_written(tmp_path):
    store = opened(tmp_path)
    assert store.missing() == [0, 1, 2]
    store.write(1, np.array([4.0, 5.0]))
    assert store.missing() == [0, 2]
    again = opened(tmp_path)
    assert again.missing() == [0, 2]
    assert again.rows[1].tolist() == [4.0, 5.0]
    assert again.rows.dtype == np.float32 and isinstance(again.rows, np.memmap)


def test_scripts_find_what_they_use_at_its_former_address():
    from nnunetv2_xssr.case_rows import CaseRows as rows_of_former_address
    from nnunetv2_xssr.images.extract import extract_views
    from nnunetv2_xssr.views import extract_views as views_of_former_address

    assert rows_of_former_address is CaseRows and views_of_former_address is extract_views


def test_row_that_was_cut_off_is_missing(tmp_path):
    store = filled(tmp_path)
    with open(store.path, "r+b") as file:
        file.seek(store.rows.offset + 12)  # the second number of the second row
        file.write(np.float32(np.nan).tobytes())
    assert opened(tmp_path).missing() == [1]


def test_rows_file_is_plain_numpy(tmp_path):
    store = filled(tmp_path)
    assert np.load(store.path).tolist() == [[1, 1], [2, 2], [3, 3]]


def test_unchanged_cases_are_carried_over(tmp_path):
    filled(tmp_path)
    store = opened(tmp_path, hashes={"a": "1", "b": "changed", "d": "4", "c": "3"})
    assert store.identifiers == ["a", "b", "d", "c"]
    assert store.missing() == [1, 2]
    assert store.rows[0].tolist() == [1, 1] and store.rows[3].tolist() == [3, 3]
    store.write(1, np.full(2, 7.0))
    assert opened(tmp_path).missing() == []  # the other pool has what it had
    both = opened(tmp_path, hashes={"b": "changed", "a": "1", "e": "5"})  # of both
    assert both.missing() == [2] and both.rows[:2].tolist() == [[7, 7], [1, 1]]


def test_rows_that_are_not_whole_are_not_carried_over(tmp_path):
    opened(tmp_path).write(0, np.full(2, 1.0))
    assert opened(tmp_path, hashes={"b": "2", "a": "1"}).missing() == [0]


def test_order_of_the_cases_is_that_of_the_rows(tmp_path):
    filled(tmp_path)
    turned = opened(tmp_path, hashes=dict(reversed(HASHES.items())))
    assert turned.identifiers == ["c", "b", "a"] and turned.rows[:, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize("change", [{"settings": {"s": 2}}, {"shape": (3,)}, {"dtype": np.float16}])
def test_other_settings_carry_nothing_over(tmp_path, change):
    filled(tmp_path)
    assert opened(tmp_path, **change).missing() == [0, 1, 2]


def test_several_settings_live_side_by_side(tmp_path):
    """Two encoders at work on one pool, each with its memory map."""
    a, b = (opened(tmp_path, settings={"encoder": name}) for name in "AB")
    for i in range(3):
        a.write(i, np.full(2, 1.0))
        b.write(i, np.full(2, 2.0))
    assert a.key != b.key
    for store, value in ((a, 1), (b, 2)):
        assert (store.rows == value).all()
        loaded, index = CaseRows.load(tmp_path, store.key)
        assert (loaded.rows == value).all() and loaded.identifiers == list(index["cases"]) == ["a", "b", "c"]
    assert opened(tmp_path, settings={"encoder": "A"}).missing() == []


def test_two_runs_that_make_the_same_rows_at_once_share_them(tmp_path, monkeypatch):
    """Whichever is first: neither is left with a map of a file that another one has replaced."""
    from nnunetv2_xssr.images import case_rows

    earlier, others = case_rows._earlier_rows, []

    def while_another_run_opens_them(*args):
        monkeypatch.setattr(case_rows, "_earlier_rows", earlier)
        others.append(opened(tmp_path))
        return earlier(*args)

    monkeypatch.setattr(case_rows, "_earlier_rows", while_another_run_opens_them)
    store, (other,) = opened(tmp_path), others
    store.write(0, np.full(2, 1.0))
    other.write(1, np.full(2, 2.0))
    assert store.missing() == other.missing() == [2]


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert filled(tmp_path).missing() == []


def test_killed_between_rows_and_index(tmp_path, monkeypatch):
    """Both pools keep what was written of them."""
    from nnunetv2_xssr.images import case_rows

    filled(tmp_path)
    other = {**HASHES, "d": "4"}

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(case_rows, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path, hashes=other)
    assert opened(tmp_path).missing() == []
    store = opened(tmp_path, hashes=other)
    assert store.missing() == [3]
    assert CaseRows.load(tmp_path, store.key)[0].missing() == [3]


def test_rows_that_somebody_deleted_are_made_anew(tmp_path):
    filled(tmp_path).path.unlink()
    assert opened(tmp_path).missing() == [0, 1, 2]


def test_caches_that_are_gone_or_damaged_are_named(tmp_path):
    store = filled(tmp_path)
    index = tmp_path / f"index_{store.key}.json"
    with pytest.raises(UserError, match="index_0123.json is gone; run nnUNetv2_xssr_select again"):
        CaseRows.load(tmp_path, "0123")
    np.save(store.path, np.zeros((3, 1), np.float32))
    with pytest.raises(UserError, match=f"{store.path.name} does not fit its index"):
        CaseRows.load(tmp_path, store.key)
    assert opened(tmp_path).missing() == [0, 1, 2]
    index.write_text(json.dumps({**json.loads(index.read_text()), "format_version": 9}))
    with pytest.raises(UserError, match="format version 9"):
        CaseRows.load(tmp_path, store.key)
    assert opened(tmp_path, hashes={"a": "1"}).missing() == [0]  # takes nothing from damaged ones


def test_files_are_hashed_again_only_when_they_changed(workspace, monkeypatch):
    from nnunetv2_xssr.images import case_rows

    pool = dataset_pool(TARGET)
    (workspace.preprocessed / TARGET / "xssr" / "caches" / "files.json").unlink()
    first = file_hashes(pool)
    assert list(first) == pool.identifiers and len(set(first.values())) == 10
    read = []
    original = case_rows.sha256_files
    monkeypatch.setattr(case_rows, "sha256_files", lambda files: read.append(files) or original(files))
    assert file_hashes(pool) == first
    assert read == []
    file = pool.cases[3].files[0]
    file.write_bytes(file.read_bytes() + b"x")
    changed = file_hashes(pool)
    assert [case for case in first if first[case] != changed[case]] == ["t_03"] and len(read) == 1


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_hashes_of_an_interrupted_run_are_kept(workspace, monkeypatch, how):
    from nnunetv2_xssr.images import case_rows

    pool = dataset_pool(TARGET)
    cache = workspace.preprocessed / TARGET / "xssr" / "caches" / "files.json"
    first = file_hashes(pool)
    whole = json.loads(cache.read_text())
    cache.write_text(json.dumps({name: {**entry, "stamp": []} for name, entry in whole.items()}))
    original = case_rows.sha256_files

    def interrupted(files):
        if "t_06" in files[0].name:
            raise KeyboardInterrupt
        return original(files)

    with monkeypatch.context() as patch:
        patch.setattr(case_rows, "_SAVE_EVERY", 0 if how == "killed" else 1e9)
        patch.setattr(case_rows, "sha256_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            file_hashes(pool)
    kept = json.loads(cache.read_text())
    assert list(kept) == list(whole)  # those of other cases stay
    assert [name for name in kept if kept[name] == whole[name]] == [f"t_{i:02d}" for i in range(6)]
    read = []
    monkeypatch.setattr(case_rows, "sha256_files", lambda files: read.append(files) or original(files))
    assert file_hashes(pool) == first
    assert sorted(files[0].name for files in read) == [f"t_{i:02d}_0000.png" for i in range(6, 10)]
