"""Ctrl-C ends a command with one sentence wherever it comes, and with it the processes that it has started."""

import os
import signal
import subprocess
import sys
import time

import pytest
from making import CHECKOUT

PRESSED = "signal.raise_signal(signal.SIGINT)"
# What the main thread is doing when Ctrl-C comes, where Python's exception would be lost, or printed with a traceback.
PLACES = {
    "a line": PRESSED,
    "an error that a library takes for its own": f"""
try:
    {PRESSED}
except BaseException:
    pass
""",
    "a library that says another error": f"""
try:
    {PRESSED}
except BaseException as error:
    raise ImportError("it failed to import") from error
""",
    "an object is freed": f"""
class Freed:
    def __del__(self):
        {PRESSED}
del (freed := [Freed()])[0]
""",
    "Python forks": f"""
os.register_at_fork(before=lambda: {PRESSED})
if os.fork() == 0:
    os._exit(0)
""",
    "a log is written": f"""
class Handler(logging.Handler):
    def emit(self, record):
        try:
            {PRESSED}
        except BaseException:
            self.handleError(record)
logging.getLogger().addHandler(Handler())
logging.warning("of something")
""",
    "the interpreter ends": f"atexit.register(lambda: {PRESSED})",
}
COMMAND = """
import atexit, logging, os, signal, sys, time, types
from nnunetv2_xssr import entry
from nnunetv2_xssr.commands.running import run

def command():
{body}

sys.modules["nnunetv2_xssr.commands.probe"] = types.SimpleNamespace(main=lambda argv: run("probe", command))
sys.exit(entry.start("probe"))
"""


def started(code, *, ignoring=False, folder=None):
    """A Python program in a group of processes of its own, as a shell starts one."""
    action = signal.SIG_IGN if ignoring else signal.default_int_handler
    return subprocess.Popen(
        [sys.executable, "-c", code] if folder is None else [sys.executable, str(folder / "program.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, action),
    )


def program(body):
    return COMMAND.format(body="\n".join(f"    {line}" for line in body.strip().splitlines()))


@pytest.mark.parametrize("place", PLACES)
def test_one_sentence(place):
    process = started(program(PLACES[place]))
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (
        130,
        "probe: interrupted; run the same command again to go on where it stopped",
    )


def test_while_a_command_is_imported(tmp_path):
    (tmp_path / "slow.py").write_text(f"import signal\n{PRESSED}\n")
    code = "import sys, types\nfrom nnunetv2_xssr import entry\n"
    code += f"sys.path.append({str(tmp_path)!r})\n"
    code += "import nnunetv2_xssr.commands as room\nroom.__path__.append(sys.path[-1])\nentry.start('slow')"
    process = started(code)
    assert process.communicate(timeout=60)[0].strip() == "interrupted; run the same command again"
    assert process.returncode == 130


def test_what_a_shell_runs_in_the_background_goes_on():
    process = started(program(f"{PRESSED}\nprint('done')"), ignoring=True)
    assert process.communicate(timeout=60)[0] == "done\n" and process.returncode == 0


def test_what_was_printed_is_there():
    said, _ = started(program(f"print('before')\n{PRESSED}")).communicate(timeout=60)
    assert said.startswith("before\n")


# ------------------------------------------------------------------------------------------------- other processes
FORKED = """
child = os.fork()
if child == 0:
    signal.raise_signal(signal.SIGINT)
print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
PROGRAM = """
from nnunetv2_xssr.processes import run_program
sleep = "import os, time; print('process', os.getpid(), flush=True); time.sleep(100)"
run_program([sys.executable, "-c", sleep], environment=os.environ, output=sys.stdout)
"""
WORKERS = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from nnunetv2_xssr import interrupts, processes

def work(_):
    os.write(1, f"process {os.getpid()}\\n".encode())
    time.sleep(100)

if __name__ == "__main__":
    interrupts.end_on_ctrl_c()
    interrupts.announce("probe: interrupted")
    with ProcessPoolExecutor(2, processes.Workers()) as pool:
        list(pool.map(work, range(4)))
"""
# Programs of workers, as where several GPUs train: these programs hold the pipe, too.
PROGRAMS = WORKERS.replace(
    "    time.sleep(100)\n",
    """    sleep = "import os, time; os.write(1, b'process %d\\\\n' % os.getpid()); time.sleep(100)"
    processes.run_program([sys.executable, "-c", sleep], environment=os.environ, output=sys.stdout)
""",
)


def test_a_forked_process_ends_silently():
    process = started(program(FORKED))
    assert process.communicate(timeout=60)[0] == "ended with 130\n"


@pytest.mark.parametrize("to_all", [True, False])
@pytest.mark.parametrize(
    "code, n, number",
    [
        (PROGRAM, 1, signal.SIGINT),
        *((code, n, number) for number in (signal.SIGINT, signal.SIGKILL) for code, n in ((WORKERS, 2), (PROGRAMS, 4))),
    ],
)
def test_they_end_with_the_command(tmp_path, code, n, number, to_all):
    (tmp_path / "program.py").write_text(program(code) if code is PROGRAM else code)
    process = started("", folder=tmp_path)
    begun = [process.stdout.readline() for _ in range(n)]
    assert all(line.startswith("process ") for line in begun), begun
    (os.killpg if to_all and number == signal.SIGINT else os.kill)(process.pid, number)
    rest, _ = process.communicate(timeout=60)  # until nobody holds the pipe any more
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    said = [line for line in rest.splitlines() if line]
    if code is not PROGRAM:
        assert said == ["probe: interrupted"] * (number == signal.SIGINT)
    else:
        assert said[-1].startswith("probe: interrupted")
    assert not [line for line in begun if _runs(int(line.split()[1]))]


def _runs(pid):
    """Whether a process runs; one that has ended may wait to be noticed."""
    for _ in range(20):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return False
        except FileNotFoundError:
            return False
        time.sleep(0.1)
    return True
