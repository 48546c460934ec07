"""Commands in processes that are forked from one with all imported: they start at once, to be killed at any time."""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest
from making import shorten_pretraining

_BEGINS = b"\0begins\n"
_PATIENCE = 600  # seconds after which a command hangs, on a busy machine too
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


def start_server():
    """Start what commands are forked from: of one thread, because locks of others would be inherited for ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        multiprocessing.set_forkserver_preload(["forking", "warm"])
        forkserver.ensure_running()


class Command:
    """A command that runs in a workspace.

    Parameters
    ----------
    workspace : making.Workspace
    argv : sequence
        Name of the module in ``nnunetv2_xssr.commands``, and the arguments.
    file_size : int, optional
        No file may become larger, as if the disk were full then.
    unprivileged : bool
        Obey the permissions of files as root, too.
    """

    def __init__(self, workspace, argv, *, file_size=None, unprivileged=False):
        self.output, self._begun = b"", threading.Event()
        reader, writer = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run,
            args=(writer, str(workspace.root), workspace.environment(), [str(word) for word in argv]),
            kwargs={"file_size": file_size, "unprivileged": unprivileged},
        )
        self._process.start()
        writer.close()
        self._reader = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._reader.start()
        assert self._begun.wait(_PATIENCE), "the command did not begin"

    def _read(self, reader):
        while content := os.read(reader.fileno(), 2**16):
            self.output += content
            if _BEGINS in self.output:
                self._begun.set()
        reader.close()

    def join(self, seconds):
        """Wait for the end, but not for longer."""
        self._process.join(seconds)

    def kill(self, number, *, after):
        """Send a signal after some seconds, and tell whether the command was still running."""
        self.join(after)
        if self._process.exitcode is not None:
            return False
        try:
            os.kill(self._process.pid, number)
        except ProcessLookupError:  # it has ended since
            return False
        return True

    def end(self):
        """Wait for the end, and return the exit code, or None where it hangs and had to be killed."""
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        self._reader.join(1)  # a process of its own that outlives the command would hold the pipe open
        return code

    @property
    def said(self):
        """What it has printed."""
        return self.output.decode(errors="replace").partition(_BEGINS.decode())[2]

    @property
    def fell(self):
        """Whether it has ended in a traceback."""
        return "Traceback (most recent call last)" in self.said


def _run(writer, folder, environment, argv, *, file_size, unprivileged):
    from nnunetv2_xssr import entry, interrupts

    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(writer.fileno(), number)
        setattr(sys, name, open(number, "w", buffering=1, closefd=False))
    writer.close()
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)  # as outside of a server
    os.environ.update(environment, TMPDIR=folder)
    os.chdir(folder)
    sys.argv = [f"nnUNetv2_xssr_{argv[0]}", *argv[1:]]
    _shorten(Path(folder))
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if unprivileged:
        _drop_capabilities()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell lets background jobs ignore
    interrupts.end_on_ctrl_c()  # the first that an installed command does
    os.write(1, _BEGINS)
    sys.exit(entry.start(argv[0], argv[1:]))


def _shorten(folder):
    """Let trainings take moments, and nnU-Net's folder of trainers be another."""
    from nnunetv2_xssr.benchmark import fast_judge, jobs, run, statistics
    from nnunetv2_xssr.trainer_link import linking

    patch = pytest.MonkeyPatch()
    shorten_pretraining(patch)
    patch.setattr(fast_judge, "ITERATIONS", 2)
    patch.setattr(statistics, "RESAMPLES", 20)
    patch.setattr(jobs, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    patch.setattr(run, "_workers", lambda judge, device: (1, []))
    path = folder / linking.LINK_MODULE.name
    patch.setattr(linking, "link_path", lambda: path)
    patch.setattr(linking, "trainer_found", path.is_file)


def _drop_capabilities():
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
