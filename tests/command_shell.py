"""A shell in which commands are typed as in the documentation, but end in seconds.

Commands are run by processes forked from one that has the large libraries loaded already, because loading them takes
longer than most commands do on small data, and nnU-Net's workers are forked too.
"""

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import time
from importlib.metadata import distribution

SHORTENED = "XSSR_TESTS_SHORTENED"  # set where pretraining and training are cut short: to so many iterations
_SCRIPT = "run_script"
_OURS, _NNUNET = "nnunetv2_xssr", "nnunetv2"
_CLIENT = """#!/bin/sh
exec {python} -S -E {server} client {socket} {module} {function} "$@"
"""


def entry_points():
    """Command to module and function, of nnU-Net and of this package."""
    points = [p for name in (_NNUNET, _OURS) for p in distribution(name).entry_points if p.group == "console_scripts"]
    return {point.name: point.value.split(":") for point in points}


class Shell:
    """Runs the commands of nnU-Net and of this package so that they cost little.

    Parameters
    ----------
    folder : Path
        For the commands' stand-ins.
    site : Path
        With the nnU-Net to use.
    """

    def __init__(self, folder, site):
        self.scripts, self.socket = folder / "bin", folder / "socket"
        self.scripts.mkdir(parents=True)
        programs = {_SCRIPT: ("command_shell", "run_script")}
        for name, (module, function) in {**entry_points(), **programs}.items():
            self._write(
                name,
                _CLIENT.format(
                    python=sys.executable, server=__file__, socket=self.socket, module=module, function=function
                ),
            )
        self._write("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        # Of one thread each, because a process that is forked from one with threads of OpenMP hangs.
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")},
            "PATH": f"{self.scripts}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OMP_NUM_THREADS": "1",
        }
        self.server = subprocess.Popen(
            [sys.executable, __file__, "server", str(self.socket)], env=self.environment, stdin=subprocess.DEVNULL
        )

    def _write(self, name, program):
        (self.scripts / name).write_text(program)
        (self.scripts / name).chmod(0o755)

    def run(self, program, cwd):
        """Exit code and all that a bash program printed, with short trainings; it ends at the first failure."""
        process = self.start(["bash", "-c", f"set -eo pipefail\n{program}"], cwd, {SHORTENED: "2"})
        out, _ = process.communicate(timeout=280)
        return process.returncode, out

    def start_python(self, program, cwd, environment=None):
        """Start a Python program: its file and arguments, or its text."""
        if isinstance(program, str):
            (cwd / "program.py").write_text(program)
            program = ["program.py"]
        environment = {**os.environ, **self.environment, **(environment or {})}
        return self.start([_SCRIPT, *program], cwd, environment, stderr=subprocess.PIPE)

    def start(self, argv, cwd, environment, stderr=subprocess.STDOUT):
        """Start a program; a PYTHONPATH in its environment stands before that of the server."""
        while not self.socket.exists():
            assert self.server.poll() is None, "the server has ended"
            time.sleep(0.1)
        return subprocess.Popen(
            [shutil.which(argv[0], path=self.environment["PATH"]), *map(str, argv[1:])],
            cwd=cwd,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def close(self):
        self.server.terminate()
        self.server.wait()


def _client(path, *words):
    """Have the server run a command with this process's folder, environment, input and output."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        call = json.dumps([os.getcwd(), dict(os.environ), *words]).encode() + b"\n"
        socket.send_fds(connection, [call[:1]], [0, 1, 2])
        connection.sendall(call[1:])
        sys.exit(int(connection.makefile().readline() or 1))


def _server(path):
    import lightning_fabric  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import numba  # noqa: F401
    import scipy.ndimage  # noqa: F401
    import SimpleITK  # noqa: F401
    import skimage.io  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import torch  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(5)
        tests = os.getppid()
        while os.getppid() == tests:  # which may be killed
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            first, descriptors, *_ = socket.recv_fds(connection, 1, 3)
            if os.fork():
                for descriptor in [*descriptors, connection.detach()]:
                    os.close(descriptor)
                while True:  # no zombies
                    try:
                        if os.waitpid(-1, os.WNOHANG)[0] == 0:
                            break
                    except ChildProcessError:
                        break
                continue
            call = json.loads(first + connection.makefile("rb").readline())
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            for number, name in enumerate(("stdout", "stderr"), 1):  # those of old believe in the old files
                setattr(sys, name, open(number, "w", closefd=False, buffering=1))
            if os.fork() == 0:
                _run(*call)
            os._exit(_tell(connection))


def _tell(connection):
    _, status = os.wait()
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return 0


def _run(folder, environment, module, function, *argv):
    """Run one command in this process, and end it as the command would."""
    import importlib

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *argv]
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    if module.partition(".")[0] == _NNUNET:
        _fork_workers()
        _seed()
    code = 1
    try:
        if SHORTENED in environment:
            _shorten(int(environment[SHORTENED]))
        code = getattr(importlib.import_module(module), function)()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _fork_workers():
    """nnU-Net's workers would load all libraries again."""
    import multiprocessing

    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork
    multiprocessing.cpu_count = lambda: 1  # which its training on a CPU takes for torch's threads


def _seed():
    """nnU-Net seeds nothing: what a short training learns would be left to chance."""
    import random

    import numpy as np
    import torch

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)


def run_script():
    """What ``python FILE ARGUMENT...`` does."""
    del sys.argv[0]
    runpy.run_path(os.path.abspath(sys.argv[0]), run_name="__main__")  # processes that it starts look for it


def _shorten(iterations):
    import pytest
    from making import shorten_pretraining

    from nnunetv2_xssr import trainers

    shorten_pretraining(pytest.MonkeyPatch())
    for name in (*trainers.__all__, "XSSRTrainer_demo"):
        trainer = getattr(trainers, name)
        trainer.epochs, trainer.iterations_per_epoch = 1, iterations


if __name__ == "__main__":
    {"client": _client, "server": _server}[sys.argv[1]](*sys.argv[2:])
