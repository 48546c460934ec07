"""Changed bytes of caches and checkpoints: what select uses is made anew, or refused by name, and never mixed in."""

import shutil

import numpy as np
import pytest
import torch
from making import TARGET, Workspace, fails, succeeds
from mutating import kept

from nnunetv2_xssr.commands import report, select
from nnunetv2_xssr.encoders.mae import load_encoder
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_rows import CaseRows
from nnunetv2_xssr.pretrain.checkpoint import load_tensors, save_checkpoint

SELECT = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu", "--overwrite"]
ROWS = 10  # cases of the target


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def zero(content, at, n):
    return content[:at] + bytes(n) + content[at + n :]


def swap(content, one, other, n):
    """Two blocks of n bytes, the first one ahead."""
    between = content[one + n : other]
    return content[:one] + content[other : other + n] + between + content[one : one + n] + content[other + n :]


# Of what a file holds, where its rows and their sums begin, and the length of a row.
CORRUPTIONS = {
    "flip in the first row": lambda content, rows, sums, n: flip(content, rows),
    "flip in the last row": lambda content, rows, sums, n: flip(content, sums - 1),
    "flip in a sum": lambda content, rows, sums, n: flip(content, sums + 5),
    "other order of bytes": lambda content, rows, sums, n: content.replace(b"'<f", b"'>f", 1),
    "other order of axes": lambda content, rows, sums, n: content.replace(b"False, ", b"True,  ", 1),
    "zero a block": lambda content, rows, sums, n: zero(content, rows + 3 * n + n // 2, 64),
    "zero a row": lambda content, rows, sums, n: zero(content, rows + 3 * n, n),
    "zero a row and the sums": lambda content, rows, sums, n: zero(zero(content, rows + 3 * n, n), sums, 4 * ROWS),
    "zero the header": lambda content, rows, sums, n: zero(content, 0, 64),
    "zero all": lambda content, rows, sums, n: bytes(len(content)),
    "swap two rows": lambda content, rows, sums, n: swap(content, rows + n, rows + 4 * n, n),
    "swap two rows and their sums": lambda content, rows, sums, n: swap(
        swap(content, rows + n, rows + 4 * n, n), sums + 4, sums + 16, 4
    ),
    "cut off a row": lambda content, rows, sums, n: content[: sums - n],
    "cut off the sums": lambda content, rows, sums, n: content[:sums],  # as older versions wrote it
    "cut off a byte": lambda content, rows, sums, n: content[:-1],
    "cut off all": lambda content, rows, sums, n: b"",
    "extend": lambda content, rows, sums, n: content + bytes(n),
}
OFTEN = ("flip in the last row", "zero a block", "swap two rows", "cut off a row", "extend")  # the rest with test-all


def corrupted(path, corruption):
    """What the file of rows holds with a corruption."""
    content, array = path.read_bytes(), np.load(path, mmap_mode="r")
    begin = array.offset
    return CORRUPTIONS[corruption](content, begin, begin + array.nbytes, array.nbytes // ROWS)


@pytest.fixture(scope="module")
def study(_ready, tmp_path_factory):
    root = tmp_path_factory.mktemp("corruption") / "nnunet"
    shutil.copytree(_ready.root, root)
    return Workspace(root)


@pytest.fixture
def inside(study, monkeypatch):
    for name, value in study.environment().items():
        monkeypatch.setenv(name, value)
    with kept(study.root):
        yield study


@pytest.mark.parametrize(
    "corruption, kind",
    [
        pytest.param(one, kind, marks=[] if one in OFTEN else pytest.mark.slow)
        for one in CORRUPTIONS
        for kind in ("views", "facts", "embeddings")
        if (one, kind) != ("swap two rows", "facts")  # those of pictures are all alike
    ],
)
def test_caches(inside, capsys, faults, corruption, kind):
    """The report refuses them, and select makes them anew: byte by byte as they were."""
    (path,) = (inside.preprocessed / TARGET / "xssr" / "caches" / kind).glob("rows_*.npy")
    before, picks = path.read_bytes(), inside.selection()["selections"]
    path.write_bytes(corrupted(path, corruption))
    assert path.read_bytes() != before
    if kind != "facts":  # which the report reads of slices only
        fails(capsys, report.main, ["-d", "2"], path, "nnUNetv2_xssr_select again")
    out = succeeds(capsys, select.main, SELECT)
    assert sum(str(path) in line and "made anew" in line for line in out.splitlines()) == 1, out
    assert path.read_bytes() == before and inside.selection()["selections"] == picks
    faults.note("corruption", f"cache of {kind}", "")


def filled(folder, settings=1):
    store = CaseRows.open(folder, {f"c{i}": str(i) for i in range(3)}, {"s": settings}, (2,), np.float32)
    for i in range(3):
        store.write(i, np.full(2, i + 1.0))
    return store


def test_every_bit_of_a_cache(tmp_path, faults):
    store = filled(tmp_path)
    content, rows = store.path.read_bytes(), store.rows.tolist()
    for at in range(len(content)):
        for bit in range(8):
            store.path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            try:
                found, _ = CaseRows.load(tmp_path, store.key)
            except UserError as error:
                assert store.path.name in str(error)
            else:
                assert found.rows.tolist() == rows, (at, bit)
            faults.note("corruption", "every bit of a small cache", "")


def test_rows_of_another_cache_are_not_taken(tmp_path):
    """Such as those of another encoder, put back under a wrong name."""
    store, other = filled(tmp_path, settings=1), filled(tmp_path, settings=2)
    shutil.copyfile(other.path, store.path)
    with pytest.raises(UserError, match="3 rows do not fit their checksums \\(c0, c1, c2\\)"):
        CaseRows.load(tmp_path, store.key)
    assert filled(tmp_path).missing() == []


@pytest.mark.parametrize("moment", ["in the row", "before the sum"])
def test_killed_between_row_and_sum(tmp_path, caplog, moment):
    """The row is made again, whether it was new or made anew itself."""
    store = filled(tmp_path)
    whole = store.path.read_bytes()
    at = store.rows.offset + store.rows[0].nbytes
    new = np.full(2, 9, np.float32).tobytes()[: 4 if moment == "in the row" else 8]
    for sum_before in (whole[store.sums.offset + 4 : store.sums.offset + 8], bytes(4)):
        content = bytearray(whole)
        content[at : at + len(new)] = new
        content[store.sums.offset + 4 : store.sums.offset + 8] = sum_before
        store.path.write_bytes(content)
        assert store.missing() == [1]
        assert "1 rows do not fit their checksums (c1), and are made anew" in caplog.text
        store.write(1, np.full(2, 2.0))
        assert store.path.read_bytes() == whole and store.missing() == []


def test_a_damaged_row_is_not_carried_over(tmp_path):
    store = filled(tmp_path)
    store.path.write_bytes(flip(store.path.read_bytes(), store.rows.offset))
    larger = CaseRows.open(tmp_path, {f"c{i}": str(i) for i in range(4)}, {"s": 1}, (2,), np.float32)
    assert larger.missing() == [0, 3]


# ------------------------------------------------------------------------------------------------------ checkpoints
def block(content, part):
    """Where a part of a checkpoint begins, for blocks of 512 bytes."""
    return int(part * (len(content) - 1024))


OF_CHECKPOINTS = {
    **{f"flip at {part}": lambda content, part=part: flip(content, block(content, part)) for part in (0.2, 0.5, 0.8)},
    "flip at the end": lambda content: flip(content, len(content) - 8),
    "zero a block": lambda content: zero(content, block(content, 0.6), 512),
    "swap two blocks": lambda content: swap(content, block(content, 0.3), block(content, 0.7), 512),
    "cut off": lambda content: content[:-100],
    "cut off all": lambda content: b"",
    "extend": lambda content: content + bytes(100),
}


@pytest.mark.parametrize("corruption", OF_CHECKPOINTS)
def test_encoders(inside, capsys, faults, corruption):
    path = inside.encoder()
    identity = load_encoder(path, device="cpu").identity
    before, picks = path.read_bytes(), inside.selection()["selections"]
    path.write_bytes(OF_CHECKPOINTS[corruption](before))
    try:
        assert load_encoder(path, device="cpu").identity == identity
    except UserError:
        fails(capsys, select.main, SELECT, path, "cut off" if "cut off" in corruption else "is damaged")
    else:
        succeeds(capsys, select.main, SELECT)
    assert inside.selection()["selections"] == picks
    faults.note("corruption", "encoder", "")


@pytest.mark.parametrize("others", [False, True])
def test_bytes_of_a_checkpoint(tmp_path, faults, others):
    """Of ours, and of those of other programs."""
    path, weights = tmp_path / "checkpoint.pth", torch.arange(40.0)
    torch.save({"weights": weights}, path) if others else save_checkpoint(path, {"weights": weights})
    content, words = path.read_bytes(), set()
    for at in range(0, len(content), 3):
        path.write_bytes(flip(content, at))
        try:
            found = load_tensors(path)
        except UserError as error:
            words.add(str(error).removeprefix(f"{path} is ")[:7])
        else:
            assert torch.equal(found["weights"], weights), at
        faults.note("corruption", "every third byte of a checkpoint", "")
    assert words == {"cut off", "damaged"}
