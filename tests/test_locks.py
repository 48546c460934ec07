"""Of two commands that write into one folder, the second waits for the first, or ends in one sentence."""

import errno
import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from making import SOURCE, TARGET, command, fails, succeeds, write_dataset_json, write_pictures

from nnunetv2_xssr.commands import benchmark, collect, demo, embed, pretrain, report, select, status
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.records import locks
from nnunetv2_xssr.records.locks import caches_lock, dataset_lock, job_lock, output_lock, selection_lock, weights_lock
from nnunetv2_xssr.records.workspace import Workspace, encoder_folder

# It holds a lock until its stdin is closed, or it is killed.
HOLDER = """
import sys
from pathlib import Path
from nnunetv2_xssr.records.locks import caches_lock, dataset_lock, output_lock, selection_lock, weights_lock
from nnunetv2_xssr.records.workspace import Workspace, encoder_folder
sys.argv = ["nnUNetv2_xssr_other", "-d", "a name"]
with {lock}:
    print("held", flush=True)
    sys.stdin.read()
"""
LOCKS = {
    "selection": f"selection_lock(Workspace({TARGET!r}))",
    "dataset": f"dataset_lock(Workspace({TARGET!r}))",
    "encoder": f"weights_lock(encoder_folder([{SOURCE!r}]))",
    "target's caches": f"caches_lock({TARGET!r})",
    "source's caches": f"caches_lock({SOURCE!r})",
    "output": "output_lock(Path('out'))",
}
CPU = ["-device", "cpu"]
SELECT = (select.main, ["-d", "2", "-s", "1", "-b", "3", *CPU])
COMMANDS = [
    ("selection", *SELECT),
    ("target's caches", *SELECT),
    ("source's caches", *SELECT),
    ("selection", collect.main, ["-d", "2"]),
    ("dataset", collect.main, ["-d", "2"]),
    ("selection", report.main, ["-d", "2"]),
    ("encoder", pretrain.main, ["-s", "1", *CPU]),
    ("source's caches", pretrain.main, ["-s", "1", *CPU]),
    ("target's caches", embed.main, ["-d", "2", "-s", "1", "-o", "OUT.csv", *CPU]),
    ("target's caches", status.main, ["-d", "2", "--clean"]),
]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(locks, "_MOMENT", 0.05)


@contextmanager
def held(lock):
    """Another process that holds a lock while the block runs."""
    program = HOLDER.format(lock=LOCKS[lock])
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def ends_when_waited_for(process):
    """A holder ends once this process has said that it waits."""

    class Ends(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("waiting for "):
                process.stdin.close()

    handler = Ends()
    locks.logger.addHandler(handler)
    try:
        yield
    finally:
        locks.logger.removeHandler(handler)


def named(argv, folder):
    return [str(folder / word) if word == "OUT.csv" else word for word in argv]


@pytest.mark.parametrize(("lock", "main", "argv"), COMMANDS, ids=[f"{c[1].__module__[23:]}-{c[0]}" for c in COMMANDS])
def test_second_command_ends_or_waits(lock, main, argv, again, capsys):
    argv, before = named(argv, again.root), again.results_of_select()
    with held(lock) as process:
        words = f"nnUNetv2_xssr_other -d 'a name' (process {process.pid} on "
        fails(capsys, main, [*argv, "--no_wait"], "is being written by", words, "--no_wait")
        assert again.results_of_select() == before
        with ends_when_waited_for(process):
            out = succeeds(capsys, main, argv)
    (said,) = (line for line in out.splitlines() if line.startswith("waiting for "))
    assert words in said


@pytest.mark.parametrize(
    "main, argv",
    [
        (benchmark.main, ["-d", "2", "-b", "2", "--judge", "fast", "-o", "out"]),
        (demo.main, ["-o", "out"]),
    ],
)
def test_folders_that_users_name(again, capsys, monkeypatch, main, argv):
    monkeypatch.chdir(again.root)
    monkeypatch.setattr("nnunetv2_xssr.commands.running.no_waiting", lambda wanted: locks.no_waiting())
    write_pictures(again.raw / TARGET, 24, first_seed=200, labelled=24, shift=1.0, prefix="t")
    write_dataset_json(again.raw / TARGET)
    with held("output") as process:
        before = sorted(again.root.rglob("*"))
        fails(capsys, main, [*argv, "-device", "cpu"], "is being written by", f"process {process.pid}")
        assert sorted(again.root.rglob("*")) == before


def test_second_pretraining_uses_what_the_first_has_made(again, capsys):
    """Also where it was to begin anew; one of other settings does begin anew."""
    same, other = ["-s", "1", *CPU], ["-s", "1", "--seed", "7", *CPU]
    made = again.encoder().stat().st_ino
    for argv, kept in ((same, True), (other, False)):
        with held("encoder") as process, ends_when_waited_for(process):
            succeeds(capsys, pretrain.main, argv)
        assert (again.encoder().stat().st_ino == made) == kept
    succeeds(capsys, pretrain.main, other)  # nobody was waited for: what was typed is done
    assert again.encoder().stat().st_ino != made


def test_readers_do_not_wait(again, capsys):
    with held("selection"), held("dataset"), held("target's caches"):
        succeeds(capsys, status.main, ["-d", "2"])
        succeeds(capsys, report.main, ["-d", "2", "--json"])


def test_a_killed_holder_is_not_believed(again):
    folder = Workspace(TARGET).selection
    with held("selection"):
        pass
    assert (folder / locks.HOLDER).is_file()  # its words are still there
    with locks.no_waiting(), selection_lock(Workspace(TARGET)) as waited:
        assert not waited
        assert f'"pid": {os.getpid()}' in (folder / locks.HOLDER).read_text()
    assert not (folder / locks.HOLDER).exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ('{"host": "node7", "pid": 12, "command": "nnUNetv2_xssr_collect"}', "collect (process 12 on node7)"),
        ("[]", "another command"),
        ('{"host": ', "another command"),
        (None, "another command"),
    ],
)
def test_words_of_a_holder(again, words, named):
    with held("selection"):
        path = Workspace(TARGET).selection / locks.HOLDER
        path.unlink() if words is None else path.write_text(words)
        with pytest.raises(UserError, match="is being written by") as caught, locks.no_waiting():
            with selection_lock(Workspace(TARGET)):
                raise AssertionError
        assert named in str(caught.value)


IN_ORDER = [
    lambda: output_lock(Workspace(TARGET).raw / "out"),
    lambda: job_lock(Workspace(TARGET).raw / "out" / "job"),
    lambda: dataset_lock(Workspace(TARGET)),
    lambda: selection_lock(Workspace(TARGET)),
    lambda: weights_lock(encoder_folder([SOURCE])),
    lambda: caches_lock(TARGET),
]


@pytest.mark.parametrize(("first", "second"), [(i, j) for i in range(6) for j in range(6)])
def test_locks_are_taken_in_one_order(empty, first, second):
    """No two processes wait for each other; what is held may be taken again."""
    with IN_ORDER[first]():
        if first <= second:
            with IN_ORDER[second]() as waited:
                assert not waited
        else:
            with pytest.raises(RuntimeError, match="must be taken before"), IN_ORDER[second]():
                pass
    with IN_ORDER[second](), locks.no_waiting(), IN_ORDER[second]():  # all are free again
        pass


def test_never_two_of_a_kind(empty):
    with caches_lock("a"), pytest.raises(RuntimeError), caches_lock("b"):
        pass


def test_threads_exclude_each_other(empty):
    inside, most = [], []

    def work():
        with selection_lock(Workspace(TARGET)):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_other_processes_of_a_run_read_without_lock(again):
    with held("source's caches"), locks.no_waiting(), locks.reading_only(), caches_lock(SOURCE):
        pass


@pytest.mark.parametrize(("writable", "goes_on"), [(False, True), (True, False)])
def test_folder_that_cannot_be_written_needs_no_lock(again, monkeypatch, writable, goes_on):
    """There, only a command that reads will succeed; a lock that belongs to somebody else is an error."""

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(locks.FileLock, "acquire", denied)
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    if goes_on:
        with caches_lock(SOURCE):
            pass
    else:
        with pytest.raises(PermissionError), caches_lock(SOURCE):
            pass


@pytest.mark.parametrize("mode", [0o755, 0o775])
def test_whoever_may_write_the_folder_may_take_its_lock(tmp_path, mode):
    folder = tmp_path / "weights"
    folder.mkdir()
    folder.chmod(mode)
    with weights_lock(folder):
        pass
    assert (folder / locks.LOCK).stat().st_mode & 0o777 == mode & 0o666


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP"])
@pytest.mark.parametrize("mode", [0o755, 0o2775])
def test_file_systems_without_locks(again, capsys, monkeypatch, name, mode):
    """Such as network drives: there is no lock to wait for, and none to be refused for."""

    def refuse(*_):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    for lock in again.root.rglob(locks.LOCK):
        lock.parent.chmod(mode)
        lock.unlink()
    monkeypatch.setattr(fcntl, "flock", refuse)
    succeeds(capsys, select.main, SELECT[1])


LEFT = {  # what a killed run has left, and whether the lock of the selection `xssr` removes it
    "preprocessed/{t}/xssr/xssr/.xssr_tmp_selection_abcd1234.json": True,
    "preprocessed/{t}/xssr/xssr/partitions/.xssr_tmp_part_abcd1234.npy": True,
    "preprocessed/{t}/.xssr_tmp_splits_xssr_abcd1234.json": True,
    "preprocessed/{t}/.xssr_tmp_splits_xssr_b_abcd1234.json": False,  # of another selection
    "preprocessed/{t}/xssr/xssr_b/.xssr_tmp_selection_abcd1234.json": False,
    "preprocessed/{t}/xssr/caches/views/.xssr_tmp_rows_abcd1234.npy": False,
    "raw/{t}/annotate/round_01/.xssr_tmp_abcd1234/a.nii.gz": True,
    "raw/{t}/annotate/round_01/images/.xssr_tmp_t_00_0000_abcd1234.png": True,
    "raw/{t}/annotate/replaced/.xssr_tmp_t_00_01_abcd1234.png": True,
    "raw/{t}/annotate/.xssr_tmp_corrections_abcd1234.json": True,
    "raw/{t}/annotate/other/round_01/.xssr_tmp_worklist_abcd1234.csv": False,
    "raw/{t}/imagesTr/.xssr_tmp_t_00_0000_abcd1234.png": False,
    "raw/{t}/annotate/round_01/images/._t_00_0000.png": False,  # not ours
    "raw/{t}/annotate/round_01/labels/xssr_tmp_notes.txt": False,
}


def test_what_killed_runs_left_is_removed_by_the_next_holder(empty):
    files = {empty.root / name.format(t=TARGET): goes for name, goes in LEFT.items()}
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    with selection_lock(Workspace(TARGET)):
        assert {file: not file.exists() for file in files} == files
    with dataset_lock(Workspace(TARGET)), caches_lock(TARGET):
        pass
    left = [file.name for file in files if file.exists()]
    assert len(left) == 5 and not any("rows" in name or "t_00_0000_ab" in name for name in left)


PAIRS = {
    "pretrain": [["pretrain", "-s", "1", *CPU]] * 2,
    "select": [["select", "-d", "2", "-s", "1", "-b", str(b), *CPU, "--overwrite"] for b in (2, 4)],
}


@pytest.mark.slow  # as are all pairs, in tests/faults/test_two_at_once.py
@pytest.mark.parametrize("pair", ["pretrain", "select"])
def test_two_at_once_end_as_one_after_the_other(again, pair, capsys):
    if pair == "pretrain":
        again.encoder().unlink()
    start = "import making, pytest\nmaking.shorten_pretraining(pytest.MonkeyPatch())\n"
    start += "from nnunetv2_xssr.trainer_link import linking\nlinking.ensure_linked = lambda: None\n"
    programs = [start + command(*argv) for argv in PAIRS[pair]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    runs = [
        subprocess.Popen([sys.executable, "-c", one], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for one in programs
    ]
    said = [run.communicate(timeout=300)[0].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    if pair == "pretrain":
        assert again.encoder().is_file() and not again.encoder().with_name("checkpoint_latest.pth").exists()
        succeeds(capsys, select.main, [*SELECT[1], "--overwrite"])  # another number of threads learns other last bits
    else:
        assert "was interrupted" not in succeeds(capsys, status.main, ["-d", "2"])
        n_picks = len(again.selection()["selections"][0]["picks"])
        assert n_picks in (2, 4) and again.results_of_select()[1] is None  # collect writes the split
