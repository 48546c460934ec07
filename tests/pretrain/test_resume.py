"""Killed at any moment and run again, everything ends as if nothing had happened."""

import os

import numpy as np
import pytest
import torch
from making import SOURCE, TARGET, Workspace, succeeds, write_source_and_target

from nnunetv2_xssr.commands import pretrain, select
from nnunetv2_xssr.pretrain import engine

# One process forks for every attempt.
DRIVER = """
import os, random, signal, sys

import torch
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2_xssr.images import case_rows, views
from nnunetv2_xssr.commands import pretrain, select, select_text
from nnunetv2_xssr.pipeline import plan as select_plan
from nnunetv2_xssr.trainer_link import linking
from nnunetv2_xssr.encoders import mae as mae_encoder
from nnunetv2_xssr.pretrain import engine, settings, training

argv, seed = sys.argv[2:], int(sys.argv[1])
main = {"select": select.main, "pretrain": pretrain.main}[argv.pop(0)]
engine.BATCHES_PER_EPOCH, training.MEMBERS = 2, 2
settings.Settings.__init__.__kwdefaults__ = {"epochs": 3, "batch_size": 4, "seed": 0, "accumulate": 1}
linking.ensure_linked = lambda: None

left = 0  # moments until the kill


def dies(before=None):
    global left
    left -= 1
    if left == 0:
        if before:
            before()
        os.kill(os.getpid(), signal.SIGKILL)


replace, write, step = os.replace, case_rows.CaseRows.write, engine.Run.train_step


def killed_at_replace(*args):
    dies()
    replace(*args)
    dies()


def killed_at_write(self, i, row):
    def half():
        with open(self.path, "r+b") as file:
            file.seek(self.rows.offset + i * self.rows[0].nbytes)
            file.write(row.astype(self.rows.dtype).tobytes()[: self.rows[0].nbytes // 2])

    dies(half)
    write(self, i, row)


def killed_at_step(self, request):
    dies()
    return step(self, request)


os.replace, case_rows.CaseRows.write, engine.Run.train_step = killed_at_replace, killed_at_write, killed_at_step

draw = random.Random(seed)
kills = 0
while True:
    moments = draw.randint(1, 40) if seed and kills < (10 if seed == 1 else 30) else 10**9
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        left = moments
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = main(argv)
        sys.stderr.flush()
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
        continue
    print("kills", kills)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


def drive(shell, workspace, seed, *argv):
    """Run a command until it ends; with a seed it is killed again and again. Returns the number of kills."""
    if not workspace.raw.is_dir():
        workspace.make_folders()
        write_source_and_target(workspace.raw)
    (workspace.root / "driver.py").write_text(DRIVER)
    program = ["driver.py", seed, *argv, "-device", "cpu"]
    process = shell.start_python(program, workspace.root, workspace.environment())
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err[-3000:]
    return int(out.split()[-1])


SELECT = ["select", "-d", "2", "-s", "1", "-b", "4"]


@pytest.fixture(scope="module")
def uninterrupted(shell, tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("uninterrupted") / "nnunet")
    assert drive(shell, workspace, 0, *SELECT) == 0
    return workspace


def written(workspace):
    """Name and bytes of everything that must not depend on interruptions: all but paths and times."""
    files = {}
    for name in (SOURCE, TARGET):
        folder = workspace.preprocessed / name
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.name != "files.json" and file.suffix != ".log":
                files[str(file.relative_to(workspace.preprocessed))] = file.read_bytes()
    return files


def assert_same_weights(path, other):
    a, b = (torch.load(p, weights_only=True)["weights"] for p in (path, other))
    assert list(a) == list(b)
    for key in a:
        assert a[key].numpy().tobytes() == b[key].numpy().tobytes(), key


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_again_and_again_ends_with_the_same_bytes(shell, uninterrupted, tmp_path, seed):
    workspace = Workspace(tmp_path / "nnunet")
    assert drive(shell, workspace, seed, *SELECT) >= 3
    ours, expected = written(workspace), written(uninterrupted)
    visible, others = ({name for name in one if not os.path.basename(name).startswith(".")} for one in (ours, expected))
    assert visible == others  # what a kill leaves behind is hidden
    assert any("embeddings/rows_" in name for name in visible)
    assert any(name.endswith("selection.json") for name in visible)
    assert not any(name.endswith("splits_xssr.json") for name in visible)  # collect writes it
    for name in visible:
        assert ours[name] == expected[name], name
    assert_same_weights(workspace.encoder(), uninterrupted.encoder())


def test_continued_pretraining_ends_with_the_same_weights(shell, uninterrupted, tmp_path):
    workspace = Workspace(tmp_path / "nnunet")
    assert drive(shell, workspace, 2, "pretrain", "-s", "1", "--c") >= 1
    # The first one learned by select, this one by pretrain.
    assert_same_weights(workspace.encoder(), uninterrupted.encoder())


@pytest.mark.parametrize("epochs_done", [1, 3])
def test_continued_after_ctrl_c(empty, monkeypatch, epochs_done):
    write_source_and_target(empty.raw)
    argv = ["-s", "1", "--epochs", "3", "--batch_size", "4", "--seed", "3", "-device", "cpu"]
    assert pretrain.main(argv) == 0
    weights = torch.load(empty.encoder(), weights_only=True)["weights"]
    empty.encoder().unlink()
    draw, calls = engine.draw_progress, []

    def interrupted_after(path, history, **note):
        draw(path, history, **note)
        calls.append(path)
        if len(calls) == epochs_done:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "draw_progress", interrupted_after)
        assert pretrain.main(argv) == 130
    assert not empty.encoder().exists()
    steps = []
    step = engine.Run.train_step
    monkeypatch.setattr(engine.Run, "train_step", lambda self, asked: steps.append(self.step) or step(self, asked))
    assert pretrain.main([*argv, "--c"]) == 0
    assert steps == list(range(2 * epochs_done, 6))
    again = torch.load(empty.encoder(), weights_only=True)["weights"]
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert not empty.encoder().with_name("checkpoint_latest.pth").exists()


def test_without_c_pretraining_starts_anew(empty):
    write_source_and_target(empty.raw)
    argv = ["-s", "1", "--epochs", "1", "--batch_size", "4", "-device", "cpu"]
    assert pretrain.main(argv) == 0
    first = torch.load(empty.encoder(), weights_only=True)
    assert pretrain.main([*argv, "--seed", "1"]) == 0
    second = torch.load(empty.encoder(), weights_only=True)
    assert second["training"]["seed"] == 1
    assert any(not torch.equal(first["weights"][key], second["weights"][key]) for key in first["weights"])
    assert np.isfinite(second["history"]["loss"]).all()


@pytest.mark.parametrize("ended", [True, False])
def test_what_a_training_killed_in_its_last_moment_left_goes_with_the_next_select(workspace, capsys, ended):
    """Another training, which is not finished, may go on: its checkpoint stays."""
    checkpoint = torch.load(workspace.encoder(), weights_only=True)
    if not ended:
        checkpoint["history"]["loss"][-1] += 1
    latest = workspace.encoder().with_name(engine.LATEST)
    torch.save({**checkpoint, "step": 2, "optimizer": {}}, latest)
    succeeds(capsys, select.main, ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"])
    assert latest.exists() != ended
