"""The training loop: alone, with others, in parts, stopped and continued."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from making import SOURCE, TARGET, command
from plans import write_plans

from nnunetv2_xssr.errors import Stopped, UserError
from nnunetv2_xssr.pretrain import engine, schedule
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
from engine_toy import STEPS_PER_EPOCH, train

SETTINGS = {"epochs": 3, "batch_size": 8, "seed": 2}


@pytest.fixture(autouse=True)
def toy_epochs(monkeypatch):
    """What the toy sets is put back after the test."""
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", STEPS_PER_EPOCH)
    monkeypatch.setattr(engine, "draw_progress", engine.draw_progress)


# What two processes find in their environment, on one machine or each on a machine of its own.
LAUNCHERS = {
    "torchrun": lambda rank: (
        {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
        | {"TORCHELASTIC_RUN_ID": "test"}
    ),
    "torchrun on two machines": lambda rank: (
        {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "RANK": rank, "LOCAL_RANK": 0}
        | {"GROUP_RANK": rank, "TORCHELASTIC_RUN_ID": "test"}
    ),
    "srun": lambda rank: (
        {"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_NNODES": 1, "SLURM_NODEID": 0}
        | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "test"}
    ),
}


def together(launcher, program):
    """Run a program in two processes; returns their exit codes and what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "OMP_WAIT_POLICY": "PASSIVE"}
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, program)],
            env={**os.environ, **{k: str(v) for k, v in {**shared, **LAUNCHERS[launcher](rank)}.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=200) for process in processes]
    return [process.returncode for process in processes], outputs


def toy(*jobs):
    return [Path(__file__).with_name("engine_toy.py"), *(json.dumps(job, default=str) for job in jobs)]


def assert_alike(one, other, tolerance):
    """Two checkpoints with the same losses and weights within a relative tolerance; 0: the same bytes."""
    for name, values in one["history"].items():
        if name != "images_per_second":
            assert values == pytest.approx(other["history"][name], rel=tolerance, abs=tolerance), name
    for key, tensor in one["weights"].items():
        if tolerance == 0:
            assert tensor.numpy().tobytes() == other["weights"][key].numpy().tobytes(), key
        # The norm after it takes a convolution's bias away: its gradient is rounding, of which Adam makes whole steps.
        near = torch.allclose(tensor, other["weights"][key], rtol=tolerance, atol=tolerance)
        assert near or (".convs." in key and key.endswith(".bias")), key


# --- many processes, many parts


def test_two_processes_learn_what_one_does_with_the_whole_batch(tmp_path):
    """Contrast compares all samples with all: its features are gathered over the processes, with gradients."""
    jobs = {
        "plain": {"task": "Regression", "settings": SETTINGS},
        "in parts": {"task": "Regression", "settings": {**SETTINGS, "accumulate": 2}},
        "contrast": {"task": "Contrast", "settings": SETTINGS},
    }
    codes, outputs = together("srun", toy(*({"folder": tmp_path / name, **job} for name, job in jobs.items())))
    assert codes == [0, 0], outputs
    assert "batch" not in outputs[1][1]  # only the first process shows its progress
    for name, job in jobs.items():
        one = load_checkpoint(train(tmp_path / "one" / name, job["task"], SETTINGS))
        assert one["history"]["loss"][-1] < 0.99 * one["history"]["loss"][0]
        assert_alike(one, load_checkpoint(tmp_path / name / "checkpoint_final.pth"), 1e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_are_the_larger_batch(tmp_path, parts):
    whole = load_checkpoint(train(tmp_path / "whole", "Regression", SETTINGS))
    split = load_checkpoint(train(tmp_path / "split", "Regression", {**SETTINGS, "accumulate": parts}))
    assert_alike(whole, split, 1e-5)


def test_batch_that_does_not_divide(tmp_path):
    with pytest.raises(UserError, match="batch_size must be a multiple of 3.*got 8"):
        train(tmp_path, "Regression", {**SETTINGS, "accumulate": 3})


@pytest.mark.parametrize(
    ("name", "argv", "written"),
    [
        ("pretrain", ["-s", "1"], f"{SOURCE}/XSSR_MAE__2d"),
        ("hssl_pretrain", ["-d", "2", "-c", "2d", "-s", "1", "2"], f"{TARGET}/XSSR_HSSL__nnUNetPlans__2d"),
    ],
)
def test_two_processes_of_a_command(workspace, name, argv, written):
    """The first process reads the images and writes; both learn."""
    write_plans(workspace.preprocessed / TARGET)
    shutil.rmtree(workspace.preprocessed / SOURCE, ignore_errors=True)
    shutil.rmtree(workspace.results / written, ignore_errors=True)
    short = "from nnunetv2_xssr.pretrain import engine\nengine.BATCHES_PER_EPOCH = 2\n"
    program = short + command(name, *argv, "--epochs", "2", "--batch_size", "4", "-device", "cpu")
    codes, outputs = together("torchrun", ["-c", program])
    assert codes == [0, 0], outputs
    assert "wrote" in outputs[0][0] and outputs[1] == ("", "")
    two = load_checkpoint(workspace.results / written / "checkpoint_final.pth")
    shutil.rmtree(workspace.results / written)
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0
    assert_alike(load_checkpoint(workspace.results / written / "checkpoint_final.pth"), two, 1e-4)


def test_mistake_is_told_once_by_many_processes(workspace):
    codes, outputs = together("torchrun", ["-c", command("pretrain", "-s", "77", "-device", "cpu")])
    assert codes == [2, 2]
    assert "77" in outputs[0][1] and "Traceback" not in outputs[0][1]
    assert outputs[1][1] == ""


# --- precision


def test_bfloat16_learns_on_a_cpu(tmp_path):
    full = load_checkpoint(train(tmp_path / "32", "Regression", SETTINGS))
    half = load_checkpoint(train(tmp_path / "16", "Regression", SETTINGS, precision="bf16-mixed"))
    assert half["training"]["precision"] == "bf16-mixed"
    assert half["history"]["loss"] == pytest.approx(full["history"]["loss"], rel=0.05)
    assert half["history"]["loss"] != full["history"]["loss"]
    assert all(tensor.dtype == torch.float32 for tensor in half["weights"].values())


# --- stopped and continued


@pytest.mark.parametrize(
    ("step", "name"), [(0, "SIGTERM"), (3, "SIGUSR1"), (4, "SIGTERM"), (5, "SIGTERM"), (13, "SIGTERM")]
)
def test_stopped_at_any_step_and_continued(tmp_path, name, step):
    whole = load_checkpoint(train(tmp_path / "whole", "Regression", SETTINGS))
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "cut", "Regression", SETTINGS, stop=(0, step, name))
    latest = tmp_path / "cut" / "checkpoint_latest.pth"
    assert stopped.value.number == getattr(signal, name) and str(latest) in str(stopped.value)
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1))
    assert load_checkpoint(latest)["step"] == step + 1  # the step was finished
    final = train(tmp_path / "cut", "Regression", SETTINGS, resume=True)
    assert_alike(whole, load_checkpoint(final), 0)
    assert not latest.exists()


def test_signal_in_the_last_step_comes_too_late(tmp_path):
    final = train(tmp_path, "Regression", SETTINGS, stop=(0, 3 * STEPS_PER_EPOCH - 1, "SIGTERM"))
    assert final.name == "checkpoint_final.pth"


def test_all_processes_stop_at_the_same_step(tmp_path):
    """Only the second one gets the signal."""
    folder = tmp_path / "two"
    job = {"folder": folder, "task": "Regression", "settings": SETTINGS, "stop": [1, 6, "SIGUSR1"]}
    codes, outputs = together("torchrun on two machines", toy(job))
    assert codes == [128 + signal.SIGTERM, 128 + signal.SIGUSR1], outputs
    assert "run it with --c" in outputs[0][1] and "Traceback" not in outputs[0][1]
    assert outputs[1][1] == ""  # said once
    assert load_checkpoint(folder / "checkpoint_latest.pth")["step"] == 7
    final = train(folder, "Regression", SETTINGS, resume=True)  # another number of processes may go on
    whole = load_checkpoint(train(tmp_path / "whole", "Regression", SETTINGS))
    assert_alike(whole, load_checkpoint(final), 1e-5)


def test_command_says_how_to_go_on(workspace):
    argv = ["-s", "1", "--epochs", "2", "--batch_size", "4", "--seed", "3", "-device", "cpu"]
    program = f"""
import os, signal
from nnunetv2_xssr.pretrain import engine
engine.BATCHES_PER_EPOCH = 2
step = engine.Run.train_step
def signalled(self, request):
    if self.step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, request)
engine.Run.train_step = signalled
{command("pretrain", *argv)}
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert result.returncode == 143
    sentence = result.stderr.splitlines()[-1]
    assert "stopped after" in sentence and "with --c" in sentence and "Traceback" not in result.stderr


@pytest.mark.parametrize(("change", "part"), [({"seed": 3}, "training"), ({"batch_size": 4}, "training")])
def test_continuing_with_other_settings(tmp_path, change, part):
    with pytest.raises(Stopped):
        train(tmp_path, "Regression", SETTINGS, stop=(0, 2, "SIGTERM"))
    with pytest.raises(UserError, match=f"other {part}"):
        train(tmp_path, "Regression", {**SETTINGS, **change}, resume=True)
    with pytest.raises(UserError, match="other task"):
        train(tmp_path, "Contrast", SETTINGS, resume=True)
    train(tmp_path, "Regression", {**SETTINGS, "accumulate": 2}, resume=True)  # only computes differently


# --- how long, and how well


def test_auto_stops_on_a_plateau_and_continues_alike(tmp_path):
    settings = {**SETTINGS, "epochs": "auto"}
    falling = [0.5, 0.45, 0.4, 0.3, 0.2, 0.1] + [0.1] * 100
    whole = load_checkpoint(train(tmp_path / "whole", "Regression", settings, health=falling))
    n_epochs = 6 + schedule.PATIENCE + schedule.COOL_DOWN_EPOCHS
    assert len(whole["history"]["loss"]) == n_epochs
    for epoch in (schedule.WARM_UP_EPOCHS, n_epochs - 2):  # in the warm-up's end and in the cool-down
        folder = tmp_path / str(epoch)
        with pytest.raises(Stopped):
            stop = (0, epoch * STEPS_PER_EPOCH + 1, "SIGTERM")
            train(folder, "Regression", settings, stop=stop, health=falling)
        done = load_checkpoint(folder / "checkpoint_latest.pth")["epoch"]
        final = train(folder, "Regression", settings, resume=True, health=falling[done:])
        assert_alike(whole, load_checkpoint(final), 0)


def test_collapse_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="embeddings have collapsed"):
        train(tmp_path / "collapsed", "AllAlike", SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path / "healthy", "Regression", SETTINGS)


def test_huge_gradients_are_clipped(tmp_path, monkeypatch):
    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def noted(parameters, max_norm, **kwargs):
        parameters = list(parameters)
        for parameter in parameters:
            parameter.grad *= 1e6
        total = clip(parameters, max_norm, **kwargs)
        norms.append(torch.stack([parameter.grad.norm() for parameter in parameters]).norm().item())
        return total

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    train(tmp_path, "Regression", SETTINGS)
    assert norms == pytest.approx([engine.CLIP_NORM] * len(norms), rel=1e-3)
