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
    assert len(list(tmp_path.glob("rows_*.npy"))) == 1


@pytest.mark.parametrize("change", [{"settings": {"s": 2}}, {"shape": (3,)}, {"dtype": np.float16}])
def test_other_settings_carry_nothing_over(tmp_path, change):
    filled(tmp_path)
    assert opened(tmp_path, **change).missing() == [0, 1, 2]


def test_killed_between_rows_and_index(tmp_path, monkeypatch):
    """The old pair stays whole and is carried over by the next run."""
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
    assert opened(tmp_path, hashes=other).missing() == [3]


def test_rows_that_somebody_deleted_are_made_anew(tmp_path):
    filled(tmp_path).path.unlink()
    assert opened(tmp_path).missing() == [0, 1, 2]


def test_index_of_a_newer_format(tmp_path):
    filled(tmp_path)
    index = tmp_path / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "format_version": 9}))
    with pytest.raises(UserError, match="format version 9"):
        opened(tmp_path)


def test_files_are_hashed_again_only_when_they_changed(workspace, monkeypatch, tmp_path):
    from nnunetv2_xssr.images import case_rows

    pool, cache = dataset_pool(TARGET), tmp_path / "files.json"
    first = file_hashes(pool, cache, iter)
    assert list(first) == pool.identifiers and len(set(first.values())) == 10
    read = []
    original = case_rows.sha256_files
    monkeypatch.setattr(case_rows, "sha256_files", lambda files: read.append(files) or original(files))
    assert file_hashes(pool, cache, iter) == first
    assert read == []
    file = pool.cases[3].files[0]
    file.write_bytes(file.read_bytes() + b"x")
    changed = file_hashes(pool, cache, iter)
    assert [case for case in first if first[case] != changed[case]] == ["t_03"] and len(read) == 1
