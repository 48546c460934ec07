"""What the system refuses is one sentence with the file's name: disks, limits, pipes and devices, closed streams."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from making import SOURCE, TARGET, command, fails, only_sentence
from mutating import outcome
from plans import write_plans
from scenes import study

from nnunetv2_xssr.commands import (
    benchmark,
    collect,
    demo,
    embed,
    hssl_pretrain,
    pretrain,
    report,
    select,
    status,
    verify,
    weights,
)
from nnunetv2_xssr.encoders.feature_files import FeatureFile, write_features
from nnunetv2_xssr.records import files

SELECT = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]
ERRORS = (
    "EIO",
    "ESTALE",
    "EMFILE",
    "ENFILE",
    "ENAMETOOLONG",
    "EISDIR",
    "ELOOP",
    "ENOSPC",
    "EROFS",
    "EACCES",
    "ENOTDIR",
)


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("named", [True, False])
def test_reading_fails(again, capsys, monkeypatch, name, named):
    number, read = getattr(errno, name), Path.read_bytes

    def refuse(path):
        if path == again.record():
            raise OSError(number, os.strerror(number), *([str(path)] * named))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    fails(capsys, status.main, ["-d", "2"], again.record(), os.strerror(number), "again")


@pytest.mark.parametrize("name", ERRORS)
def test_writing_fails(tmp_path, capsys, monkeypatch, name):
    number = getattr(errno, name)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(status, "_status", lambda args: files.write_json(tmp_path / "record.json", {}))
    fails(capsys, status.main, ["-d", "2"], tmp_path / "record.json", os.strerror(number), "again")
    assert not list(tmp_path.iterdir())


def test_names_that_are_not_utf8(empty, capsys):
    folder = os.fsencode(empty.raw / "Dataset002_Target" / "imagesTr")
    os.makedirs(folder)
    for name in (b"a\xff_0000.png", b"b_0000.png"):
        shutil.copyfile(__file__, os.path.join(folder, name))
    (empty.raw / TARGET / "dataset.json").write_text('{"channel_names": {"0": "xray"}, "file_ending": ".png"}')
    fails(capsys, select.main, ["-d", "2", "-b", "1", "-device", "cpu"], "UTF-8", "rename it")
    fails(capsys, select.main, ["-d", "2", "-b", "1", "--cases", os.fsdecode(b"\xff.csv")])


# --------------------------------------------------------------------------------- what stands in a file's place
def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path)


def folder(path):
    path.mkdir()


IN_PLACE = {
    "dataset.json": (f"raw/{TARGET}/dataset.json", [(status.main, ["-d", "2"]), (select.main, SELECT)]),
    "image": (f"raw/{TARGET}/imagesTr/t_03_0000.png", [(select.main, SELECT)]),
    "record": (
        f"preprocessed/{TARGET}/xssr/xssr/selection.json",
        [(status.main, ["-d", "2"]), (report.main, ["-d", "2"]), (collect.main, ["-d", "2"]), (select.main, SELECT)],
    ),
    "split": (f"preprocessed/{TARGET}/splits_xssr.json", [(status.main, ["-d", "2"]), (select.main, SELECT)]),
    "plans": (f"preprocessed/{TARGET}/nnUNetPlans.json", [(status.main, ["-d", "2"])]),
    "encoder": (f"results/{SOURCE}/XSSR_MAE__2d/checkpoint_final.pth", [(select.main, SELECT)]),
    "hashes": (f"preprocessed/{TARGET}/xssr/caches/files.json", [(select.main, SELECT)]),
    **{
        option: ("given", [(select.main, [*SELECT, option, "given"])])
        for option in ("--cases", "--labelled", "--exclude", "--encoder")
    },
    "log": (f"preprocessed/{TARGET}/xssr/xssr/select.log", [(select.main, SELECT)]),
    "views": (
        f"preprocessed/{TARGET}/xssr/caches/views/rows_*.npy",
        [(report.main, ["-d", "2"]), (select.main, SELECT)],
    ),
    "features": (f"preprocessed/{TARGET}/xssr/caches/embeddings/rows_*.npy", [(report.main, ["-d", "2"])]),
    "--groups": ("given", [(hssl_pretrain.main, ["-d", "2", "-c", "2d", "-s", "1", "--groups", "given"])]),
    "a checkpoint": ("given", [(weights.main, ["-i", "given", "-d", "2", "-c", "2d", "-o", "new.pth"])]),
    "the demo": ("demo/drawn.json", [(demo.main, ["-o", "demo"])]),
    "a benchmark": ("out/benchmark.json", [(benchmark.main, ["--job", "0", "-o", "out"])]),
    "--embeddings": ("given.npz", [(select.main, ["-d", "2", "-b", "3", "--embeddings", "given.npz"])]),
}


@contextmanager
def seconds(most):
    """An error where something waits for ever."""

    def stop(*_):
        raise TimeoutError("it hangs")

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(most)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("put", [pipe, endless, loop, folder])
@pytest.mark.parametrize("name", IN_PLACE)
def test_no_file(again, capsys, monkeypatch, name, put):
    monkeypatch.chdir(again.root)
    file, calls = IN_PLACE[name]
    write_plans(again.preprocessed / TARGET)
    path = next(again.root.glob(file), again.root / file)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    put(path)
    for main, argv in calls:
        with seconds(20):
            sentence = fails(capsys, main, argv)
        assert path.name in sentence, sentence


@pytest.mark.parametrize("put", [pipe, endless])
def test_verify_waits_for_no_image(again, capsys, put):
    path = next((again.raw / TARGET / "annotate" / "round_01" / "images").iterdir())
    path.unlink()
    put(path)
    with seconds(20):
        assert verify.main(["-d", "2"]) == 1
    assert f"changed: {path} must be a file, but is a pipe or device" in capsys.readouterr().out


@pytest.mark.parametrize("put", [pipe, endless, folder])
def test_no_picture(again, capsys, put):
    path = next((again.raw / TARGET / "annotate" / "round_01" / "pictures").iterdir())
    path.unlink()
    put(path)
    with seconds(20):
        fails(capsys, select.main, SELECT, path, "move it away")


# ------------------------------------------------------------------------------------------- streams and limits
@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdin", "stdout", "stderr")])
@pytest.mark.parametrize("argv", [["-d", "2"], ["-d", "77"]])
def test_closed_streams(again, monkeypatch, closed, argv):
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    assert status.main(argv) == (0 if argv[1] == "2" else 2)


@pytest.mark.parametrize(
    "streams, code, words",
    [(">&- 2>&- <&-", 0, ""), (">/dev/full", 2, "No space left on device"), (">&- </dev/null", 0, "")],
)
def test_streams_of_a_shell(again, streams, code, words):
    program = ["bash", "-c", f'"$0" -c "$1" {streams}', sys.executable, command("status", "-d", "2")]
    done = subprocess.run(program, stderr=subprocess.PIPE, text=True)
    assert done.returncode == code, done.stderr
    assert words in only_sentence(done.stderr) if words else not done.stderr


@contextmanager
def output(stream):
    """Standard output is another stream, and every line of it is written at once."""
    with pytest.MonkeyPatch.context() as patch, open(stream, "w", buffering=1) as opened:
        patch.setattr(sys, "stdout", opened)
        yield
        with suppress(OSError):
            opened.close()


def unread():
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_nobody_reads_the_output(again, capsys):
    """The work is done all the same, and the exit code says how it ended."""
    with output(unread()):
        assert select.main([*SELECT, "-b", "4", "--overwrite"]) == 0
    assert len(again.selection()["selections"][0]["picks"]) == 4
    label = again.raw / TARGET / "annotate" / "round_01" / "labels" / "t_99.png"
    label.write_bytes(b"")
    with output(unread()):
        assert collect.main(["-d", "2"]) == 2
    assert only_sentence(capsys.readouterr().err)


def test_the_output_cannot_be_written(again, capsys):
    """What is logged on the way is no traceback, and the work is done."""
    with output("/dev/full"):
        assert select.main([*SELECT, "-b", "4", "--overwrite"]) == 2
    assert "No space left on device" in only_sentence(capsys.readouterr().err)
    assert len(again.selection()["selections"][0]["picks"]) == 4


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    "error, words",
    [
        (MemoryError(), "not known by how much"),
        (MemoryError("Unable to allocate 37.3 GiB"), "37.3 GiB"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "2.00 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "8 bytes"),
    ],
)
def test_memory_is_too_small(again, capsys, monkeypatch, error, words):
    def refuse(args):
        raise error

    monkeypatch.setattr(status, "_status", refuse)
    fails(capsys, status.main, ["-d", "2"], "the memory is too small", words, "run the same command again")


def test_few_open_files(again, capsys):
    shutil.rmtree(again.preprocessed / TARGET / "xssr" / "caches")
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 48
    for spare in (0, 1, 2, 4, 8, 16):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, old[1]))
        try:
            problem = outcome(capsys, select.main, SELECT)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, old)
        assert problem is None, (spare, problem)


# ----------------------------------------------------------------------------------------------- numbers in options
NUMBERS = ("", "x", "-1", "inf", "-inf", "nan", "1e22", "1" + "0" * 22, "9" * 5000, "True", "0x10", "1.5.2")
GIVEN = ["-d", "2", "--embeddings", "FEATURES", "--overwrite", "-device", "cpu"]
BENCHMARK = ["-d", "2", "--judge", "fast", "--encoder", "intensity", "--dry_run", "-device", "cpu"]
OPTIONS = [
    (select.main, [*GIVEN, "-b", "3"], ("--alpha", "--density_weight", "--min_distance", "--max_per_group")),
    (select.main, [*GIVEN, "-b", "3"], ("-b", "--seed", "--domain_quota", "--max_per_volume", "--pretrain_epochs")),
    (select.main, [*GIVEN, "-b", "3"], ("--control", "--window", "--slice_range", "--axis", "--dim")),
    (select.main, [*GIVEN, "-b", "3", "--raters", "ann", "bob"], ("--overlap",)),
    (select.main, [*GIVEN, "-b", "5h"], ("--minutes_per_case",)),
    (
        pretrain.main,
        ["-s", "1", "-device", "cpu"],
        ("--epochs", "--batch_size", "--accumulate", "--seed", "-num_gpus", "--precision", "--window", "--show_batch"),
    ),
    (embed.main, ["-d", "2", "--encoder", "dictionary", "-o", "new.npz", "-device", "cpu"], ("--seed", "--window")),
    (benchmark.main, BENCHMARK, ("-b", "--draws", "--seeds", "--training_seeds")),
    (demo.main, ["-o", "demo", "-device", "cpu"], ("--seed",)),
    (
        hssl_pretrain.main,
        ["-d", "2", "-c", "2d", "-s", "1", "-device", "cpu"],
        ("--epochs", "--batch_size", "--accumulate", "--seed", "-num_gpus", "--like_channels", "--show_batch"),
    ),
    (weights.main, ["-i", "given.pth", "-d", "2", "-c", "2d", "-o", "new.pth"], ("--least",)),
]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "f.npz"
    write_features(path, FeatureFile([f"t_{i:02d}" for i in range(10)], np.random.default_rng(0).normal(size=(10, 4))))
    return path


@pytest.mark.parametrize(
    "main, argv, option", [(main, argv, one) for main, argv, options in OPTIONS for one in options]
)
def test_numbers(again, capsys, monkeypatch, features, main, argv, option):
    monkeypatch.setattr("nnunetv2_xssr.pipeline.select_cases.write_page", lambda *_, **__: None)
    monkeypatch.chdir(again.root)
    write_plans(again.preprocessed / TARGET)
    if main is benchmark.main:
        study(again, n=24)
    for number in NUMBERS:
        typed = [features if word == "FEATURES" else word for word in argv]
        assert outcome(capsys, main, [*typed, f"{option}={number}"]) is None, number[:50]
