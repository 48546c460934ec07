"""What the system refuses is one sentence with the file's name: disks, limits, pipes and devices, closed streams."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from making import SOURCE, TARGET, command, fails, only_sentence
from mutating import outcome

from nnunetv2_xssr.commands import collect, pretrain, report, select, status
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
    path = again.root / file
    path.unlink(missing_ok=True)
    put(path)
    for main, argv in calls:
        with seconds(20):
            sentence = fails(capsys, main, argv)
        assert path.name in sentence, sentence


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
OPTIONS = {
    select.main: ("-b", "--alpha", "--density_weight", "--min_distance", "--max_per_group", "--seed", "--domain_quota"),
    pretrain.main: ("--epochs", "--batch_size", "--accumulate", "--seed", "-num_gpus", "--precision", "--window"),
}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "f.npz"
    write_features(path, FeatureFile([f"t_{i:02d}" for i in range(10)], np.random.default_rng(0).normal(size=(10, 4))))
    return path


@pytest.mark.parametrize("main, option", [(main, option) for main, options in OPTIONS.items() for option in options])
def test_numbers(again, capsys, monkeypatch, features, main, option):
    monkeypatch.setattr("nnunetv2_xssr.pipeline.select_cases.write_page", lambda *_, **__: None)
    argv = ["-d", "2", "-b", "3", "--embeddings", features, "--overwrite", "-device", "cpu"]
    argv = argv if main is select.main else ["-s", "1", "-device", "cpu"]
    for number in NUMBERS:
        assert outcome(capsys, main, [*argv, f"{option}={number}"]) is None, number[:50]
