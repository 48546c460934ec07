"""Killed at any moment and typed again, every command that writes ends as if nothing had happened."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from forking import Command
from making import CHECKOUT
from scenes import BENCHMARK, SCENES, SELECT, Contents, Undisturbed, command_of, run_step, study

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ATTEMPTS = 30  # at times spread over the whole run
IN_A_ROW = 5  # kills before the command may end


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES, indirect=True)
def test_killed_and_typed_again(scene, stage, faults):
    name, put = scene
    argv = command_of(stage, name)
    run = Undisturbed(stage, argv)
    for attempt in range(ATTEMPTS):
        group, place = divmod(attempt, IN_A_ROW)
        number = SIGNALS[(group + place) % len(SIGNALS)]
        if place == 0:
            put()
        command = Command(stage, argv)
        killed = command.kill(number, after=0.9 * run.seconds * (attempt * 7 % ATTEMPTS) / ATTEMPTS)
        wrong = run.judge_end(command, command.end(), Contents(stage))
        faults.note("kill", name, number.name, killed, **wrong)
        if place == IN_A_ROW - 1:
            again = Command(stage, argv)
            wrong = run.judge_again(again, again.end(), Contents(stage))
            faults.note("kill", name, number.name, 0, **wrong)
    faults.check()


STARTS = 16  # of each command, from nothing, by a Python of its own
STARTED = {
    "status": ["status", "-d", "2"],
    "report": ["report", "-d", "2"],
    "select": [*SELECT, "--name", "b"],
    "benchmark": [*BENCHMARK, "--encoder", "intensity"],  # of several processes, and without a whole pretraining
}
_PATIENCE = 600  # seconds: a select that loads torch on a busy machine takes minutes
_FIRST = ("__init__.py", "entry.py", "interrupts.py")  # of ours, imported before anything of ours can answer


class Start:
    """A command as a shell starts it, in a group of processes of its own."""

    def __init__(self, workspace, argv, *, site):
        name, *words = argv
        code = f"import sys; from nnunetv2_xssr.entry import {name} as main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=workspace.root,
            env={**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{site}", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def end(self):
        """Wait for the end of all its processes; exit code (None if they hang) and what they have printed."""
        try:
            said, _ = self.process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return None, self.process.communicate()[0]
        return self.process.returncode, said


def ours(said):
    """The frames of ours in what was printed, without those of the first imports: before them Python answers Ctrl-C."""
    frames = re.findall(r'File "(.+)", line \d+, in (.+)', said)
    # An environment may lie in the checkout, and with it what pip has written to find the package.
    own = [frame for frame in frames if frame[0].startswith(str(CHECKOUT)) and not frame[0].startswith(sys.prefix)]
    return [frame for frame in own if frame[1] != "<module>" or not frame[0].endswith(_FIRST)]


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTED)
def test_ctrl_c_from_the_start(bare, faults, linked_nnunet, name):
    stage = bare()
    run_step(stage, partial(study, n=24) if name == "benchmark" else SELECT)
    started, begun = partial(Start, stage, STARTED[name], site=linked_nnunet), time.monotonic()
    code, said = started().end()
    assert code == 0, said
    seconds = time.monotonic() - begun
    for attempt in range(STARTS):
        start = started()
        time.sleep(seconds * (attempt / STARTS) ** 2)  # most of them early
        os.killpg(start.process.pid, signal.SIGINT)
        code, said = start.end()
        fell = "Traceback" in said
        pythons = fell and not ours(said)
        faults.note(
            "Ctrl-C from the start",
            name,
            "before ours is loaded" if pythons or code == -signal.SIGINT else "later",
            tracebacks=[said[-2000:]] * (fell and not pythons),
            losses=[f"exit code {code}: {said[-2000:]}"] * (code not in (0, 130, -signal.SIGINT, None) and not pythons),
            hangs=[said[-2000:]] * (code is None),
        )
    code, said = started().end()
    wrong = [f"exit code {code}: {said[-2000:]}"] * (code != 0)
    faults.note("Ctrl-C from the start", name, "typed again", 0, losses=wrong)
    faults.check()
