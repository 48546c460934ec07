"""The training loop: alone, with others, in parts, stopped and continued."""

import importlib
import json
import os
import shutil
import signal
import socket
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
from nnunetv2_xssr.pretrain.processes import _processes_here, start
from nnunetv2_xssr.pretrain.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))
from engine_toy import STEPS_PER_EPOCH, Regression, train

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
        {"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_NNODES": 1, "SLURM_NODEID": 0, "SLURM_STEP_NUM_TASKS": 2}
        | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "test"}
    ),
}


# What one process finds when nnU-Net's users submit it, and how many processes -num_gpus 4 must then start.
BATCH_SCRIPT = {"SLURM_JOB_ID": 1, "SLURM_JOB_NAME": "train", "SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NODEID": 0}
ENVIRONMENTS = {
    "no cluster": ({}, 4, (4, 1)),
    "sbatch": (BATCH_SCRIPT, 4, (4, 1)),
    "sbatch --ntasks=1": ({**BATCH_SCRIPT, "SLURM_NTASKS": 1}, 4, (4, 1)),
    "sbatch --ntasks=4 without srun": (
        {**BATCH_SCRIPT, "SLURM_NTASKS": 4, "SLURM_NTASKS_PER_NODE": 4, "SLURM_NNODES": 1}, 4, (4, 1),
    ),
    "srun --ntasks=1": ({**BATCH_SCRIPT, "SLURM_NTASKS": 1, "SLURM_STEP_NUM_TASKS": 1}, 4, (4, 1)),
    "salloc": ({**BATCH_SCRIPT, "SLURM_NTASKS": 4, "SLURM_JOB_NAME": "interactive"}, 4, (4, 1)),
    "srun": (LAUNCHERS["srun"](1), 1, (2, 1)),
    "srun, with the number said twice": (LAUNCHERS["srun"](1), 2, (2, 1)),
    "srun on two machines": (
        {**LAUNCHERS["srun"](1), "SLURM_NTASKS": 4, "SLURM_STEP_NUM_TASKS": 4, "SLURM_NNODES": 2}, 1, (2, 2),
    ),
    "torchrun": (LAUNCHERS["torchrun"](1), 1, (2, 1)),
    "torchrun on two machines": (LAUNCHERS["torchrun on two machines"](1), 1, (1, 2)),
    "srun torchrun": ({**LAUNCHERS["srun"](1), **LAUNCHERS["torchrun on two machines"](1)}, 1, (1, 2)),
}  # fmt: skip


@pytest.fixture
def cluster(monkeypatch):
    """Puts the variables of a cluster into an environment without others of them."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    return lambda found: [monkeypatch.setenv(name, str(value)) for name, value in found.items()]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_processes_that_are_there_or_must_be_started(cluster, name):
    found, n_devices, expected = ENVIRONMENTS[name]
    cluster(found)
    assert _processes_here(n_devices)[:2] == expected


@pytest.mark.parametrize(
    ("found", "n_devices", "words"),
    [
        ({}, 2, "num_gpus must be between 1 and 1 for the device cpu.*got 2"),
        ({}, 0, "num_gpus must be between 1 and 1 for the device cpu.*got 0"),
        (LAUNCHERS["srun"](1), 4, "num_gpus must be 1 or 2.*got 4"),
        (LAUNCHERS["torchrun"](1), 4, "num_gpus must be 1 or 2.*got 4"),
        ({"SLURM_NTASKS": 2, "SLURM_STEP_NUM_TASKS": 2}, 1, "2 tasks without --ntasks-per-node"),
    ],
)
def test_processes_that_do_not_fit(cluster, found, n_devices, words):
    cluster(found)
    with pytest.raises(UserError, match=words):
        start("cpu", n_devices=n_devices)


def test_one_process_of_a_batch_script_does_not_wait_for_others(cluster):
    cluster(ENVIRONMENTS["sbatch --ntasks=4 without srun"][0])
    assert start("cpu").world_size == 1


@pytest.fixture
def together(shell, tmp_path):
    """Runs a program in two processes; returns their exit codes and what they printed."""

    def run(launcher, program):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environments = [{k: str(v) for k, v in {**address, **LAUNCHERS[launcher](rank)}.items()} for rank in range(2)]
        processes = [shell.start_python(program, tmp_path, environment) for environment in environments]
        outputs = [process.communicate(timeout=200) for process in processes]
        return [process.returncode for process in processes], outputs

    return run


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
        # Where a gradient is rounding alone, Adam makes whole steps of it: so for the bias of a convolution, which the
        # norm after it takes away, and for one weight in thousands.
        far = ~torch.isclose(tensor, other["weights"][key], rtol=tolerance, atol=tolerance)
        assert far.float().mean() < 1e-3 or (".convs." in key and key.endswith(".bias")), key


# --- many processes, many parts


def test_two_processes_learn_what_one_does_with_the_whole_batch(together, tmp_path):
    """Contrast compares all samples with all: its features are gathered over the processes, with gradients."""
    jobs = {
        "plain": {"objective": "Regression", "settings": SETTINGS},
        "in parts": {"objective": "Regression", "settings": {**SETTINGS, "accumulate": 2}},
        "contrast": {"objective": "Contrast", "settings": SETTINGS},
        "contrast in parts": {"objective": "Contrast", "settings": {**SETTINGS, "accumulate": 4}},
    }
    codes, outputs = together("srun", toy(*({"folder": tmp_path / name, **job} for name, job in jobs.items())))
    assert codes == [0, 0], outputs
    assert "batch" not in outputs[1][1]  # only the first process shows its progress
    for name, job in jobs.items():
        one = load_checkpoint(train(tmp_path / "one" / name, job["objective"], SETTINGS))
        assert one["history"]["loss"][-1] < 0.99 * one["history"]["loss"][0]
        assert_alike(one, load_checkpoint(tmp_path / name / "checkpoint_final.pth"), 1e-5)


@pytest.mark.parametrize("objective", ["Regression", "Contrast"])
@pytest.mark.parametrize("parts", [2, 8])
def test_accumulated_parts_are_the_larger_batch(tmp_path, objective, parts):
    """Of one sample each, too, in which a contrast has nothing to compare."""
    whole = load_checkpoint(train(tmp_path / "whole", objective, SETTINGS))
    split = load_checkpoint(train(tmp_path / "split", objective, {**SETTINGS, "accumulate": parts}))
    assert_alike(whole, split, 1e-5)


def test_batch_that_does_not_divide(tmp_path):
    with pytest.raises(UserError, match="batch_size must be a multiple of 3.*got 8"):
        train(tmp_path, "Regression", {**SETTINGS, "accumulate": 3})


def test_a_single_sample_is_refused_where_samples_are_compared(tmp_path):
    settings = {**SETTINGS, "batch_size": 1, "epochs": 1}
    with pytest.raises(UserError, match="batch_size must be 2 or more.*got 1"):
        train(tmp_path, "Contrast", settings)
    assert not list(tmp_path.iterdir())
    train(tmp_path, "Regression", settings)  # its loss is a mean over samples


def test_parts_are_shared_by_processes():
    """Four images in two parts for two processes: each process has one image per part."""
    settings = Settings(batch_size=4, accumulate=2)
    settings.check_parts(n_processes=2, compares_samples=True)
    with pytest.raises(UserError, match="multiple of 8"):
        settings.check_parts(n_processes=4, compares_samples=True)


SHORT = """
from nnunetv2_xssr.pretrain import engine, training
engine.BATCHES_PER_EPOCH, training.MEMBERS = 2, 2
"""


@pytest.mark.parametrize(
    ("name", "argv", "written"),
    [
        ("pretrain", ["-s", "1"], f"{SOURCE}/XSSR_MAE__2d"),
        pytest.param(
            *("hssl_pretrain", ["-d", "2", "-c", "2d", "-s", "1", "2"], f"{TARGET}/XSSR_HSSL__nnUNetPlans__2d"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_of_a_command(workspace, together, monkeypatch, name, argv, written):
    """The first process reads the images and writes; both learn."""
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", 2)
    write_plans(workspace.preprocessed / TARGET)
    shutil.rmtree(workspace.preprocessed / SOURCE, ignore_errors=True)
    shutil.rmtree(workspace.results / written, ignore_errors=True)
    argv = [*argv, "--epochs", "2", "--batch_size", "4", "-device", "cpu"]
    codes, outputs = together("torchrun", SHORT + command(name, *argv))
    assert codes == [0, 0], outputs
    assert "wrote" in outputs[0][0] and outputs[1] == ("", "")
    two = load_checkpoint(workspace.results / written / "checkpoint_final.pth")
    shutil.rmtree(workspace.results / written)
    assert importlib.import_module(f"nnunetv2_xssr.commands.{name}").main(argv) == 0
    assert_alike(load_checkpoint(workspace.results / written / "checkpoint_final.pth"), two, 1e-4)


def test_mistake_is_told_once_by_many_processes(workspace, together):
    codes, outputs = together("torchrun", command("pretrain", "-s", "77", "-device", "cpu"))
    assert codes == [2, 2]
    assert "77" in outputs[0][1] and "Traceback" not in outputs[0][1]
    assert outputs[1][1] == ""


@pytest.mark.parametrize("cannot", ["be drawn", "be logged"])
def test_what_the_first_process_cannot_write_ends_all(workspace, together, tmp_path, cannot):
    """The others would wait for it."""
    argv = ["-s", "1", "--batch_size", "4", "-device", "cpu", "--show_batch", tmp_path / "file" / "batch.png"]
    if cannot == "be drawn":
        (tmp_path / "file").touch()
    else:
        (workspace.encoder().parent / "pretrain.log").unlink(missing_ok=True)
        (workspace.encoder().parent / "pretrain.log").mkdir()
    codes, outputs = together("torchrun", SHORT + command("pretrain", *argv))
    assert codes == [2, 2], outputs
    assert "cannot " in outputs[0][1] and "Traceback" not in outputs[0][1] and outputs[1][1] == ""


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


def test_a_finished_checkpoint_in_the_place_of_an_unfinished_one_is_named(tmp_path):
    final = train(tmp_path, "Regression", SETTINGS)
    final.rename(tmp_path / "checkpoint_latest.pth")
    with pytest.raises(UserError, match="checkpoint_latest.pth is of no unfinished training, it lacks losses; delete"):
        train(tmp_path, "Regression", SETTINGS, resume=True)


def test_all_processes_stop_at_the_same_step(together, tmp_path):
    """Only the second one gets the signal."""
    folder = tmp_path / "two"
    job = {"folder": folder, "objective": "Regression", "settings": SETTINGS, "stop": [1, 6, "SIGUSR1"]}
    codes, outputs = together("torchrun on two machines", toy(job))
    assert codes == [128 + signal.SIGTERM, 128 + signal.SIGUSR1], outputs
    assert "run it with --c" in outputs[0][1] and "Traceback" not in outputs[0][1]
    assert outputs[1][1] == ""  # said once
    assert load_checkpoint(folder / "checkpoint_latest.pth")["step"] == 7
    final = train(folder, "Regression", SETTINGS, resume=True)  # another number of processes may go on
    whole = load_checkpoint(train(tmp_path / "whole", "Regression", SETTINGS))
    assert_alike(whole, load_checkpoint(final), 1e-5)


def test_command_says_how_to_go_on(workspace, shell, tmp_path):
    argv = ["-s", "1", "--epochs", "2", "--batch_size", "4", "--seed", "3", "-device", "cpu"]
    program = f"""
import os, signal
{SHORT}
step = engine.Run.train_step
def signalled(self, request):
    if self.step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, request)
engine.Run.train_step = signalled
{command("pretrain", *argv)}
"""
    process = shell.start_python(program, tmp_path)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 143
    sentence = err.splitlines()[-1]
    assert "stopped after" in sentence and "with --c" in sentence and "Traceback" not in err


@pytest.mark.parametrize(("change", "part"), [({"seed": 3}, "training"), ({"batch_size": 4}, "training")])
def test_continuing_with_other_settings(tmp_path, change, part):
    with pytest.raises(Stopped):
        train(tmp_path, "Regression", SETTINGS, stop=(0, 2, "SIGTERM"))
    with pytest.raises(UserError, match=f"other {part}"):
        train(tmp_path, "Regression", {**SETTINGS, **change}, resume=True)
    with pytest.raises(UserError, match="other objective"):
        train(tmp_path, "Contrast", SETTINGS, resume=True)
    train(tmp_path, "Regression", {**SETTINGS, "accumulate": 2}, resume=True)  # only computes differently


@pytest.mark.parametrize("finished", [False, True])
def test_parts_that_are_compared_within_stay_the_same_when_continued(tmp_path, finished):
    if finished:
        train(tmp_path, "Contrast", SETTINGS)
    else:
        with pytest.raises(Stopped):
            train(tmp_path, "Contrast", SETTINGS, stop=(0, 2, "SIGTERM"))
    with pytest.raises(
        UserError, match=r"other training \({'accumulate': 1}\) than asked for now \({'accumulate': 2}\)"
    ):
        train(tmp_path, "Contrast", {**SETTINGS, "accumulate": 2}, resume=True)
    train(tmp_path, "Contrast", SETTINGS, resume=True)


def test_final_checkpoint_is_of_the_run_that_trained_it(tmp_path, monkeypatch):
    """Another run replaces the latest checkpoint, or removes it, in the last moment."""
    expected = load_checkpoint(train(tmp_path / "alone", "Regression", SETTINGS))
    with pytest.raises(Stopped):
        train(tmp_path / "other", "Regression", {**SETTINGS, "seed": 5}, stop=(0, 2, "SIGTERM"))
    other = tmp_path / "other" / "checkpoint_latest.pth"

    def replaced(self, model, folder):
        shutil.copy(other, folder / "checkpoint_latest.pth")

    def removed(self, model, folder):
        (folder / "checkpoint_latest.pth").unlink()

    for finish in (replaced, removed):
        monkeypatch.setattr(Regression, "finish", finish)
        final = load_checkpoint(train(tmp_path / finish.__name__, "Regression", SETTINGS))
        assert_alike(expected, final, 0)
        assert final["training"] == expected["training"] and set(final) == set(expected)
        assert not {"optimizer", "step"} & set(final)


def test_killed_after_its_last_step_and_continued(tmp_path, monkeypatch):
    expected = load_checkpoint(train(tmp_path / "alone", "Regression", SETTINGS))

    def killed(self, model, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Regression, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", "Regression", SETTINGS)
    assert not (tmp_path / "killed" / "checkpoint_final.pth").exists()
    monkeypatch.setattr(Regression, "loss", lambda *args: pytest.fail("trained again"))
    final = load_checkpoint(train(tmp_path / "killed", "Regression", SETTINGS, resume=True))
    assert_alike(expected, final, 0)
    assert set(final) == set(expected)


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
