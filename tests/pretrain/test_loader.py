"""Batches made ahead: the same ones, in order, and their mistakes in one sentence."""

import multiprocessing
import os
import signal
import sys
from itertools import count, islice
from pathlib import Path

import pytest
import torch

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.pretrain import engine
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint
from nnunetv2_xssr.pretrain.loader import batches, worker_count

sys.path.insert(0, str(Path(__file__).parent))
from engine_toy import Regression, train

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="workers are forked, on Linux alone")


def shares():
    return (range(8 * i, 8 * i + 8) for i in count())


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_batches_are_the_same_whoever_makes_them(n_workers):
    objective = Regression(seed=4)
    state = torch.get_rng_state()
    made = list(islice(batches(objective, shares(), n_workers=n_workers), 7))
    assert torch.equal(torch.get_rng_state(), state)
    for i, batch in enumerate(made):
        assert torch.equal(batch, objective.batch(range(8 * i, 8 * i + 8)))


def test_workers_change_no_weight(tmp_path, monkeypatch):
    # What the toy sets is put back after the test.
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", engine.BATCHES_PER_EPOCH)
    monkeypatch.setattr(engine, "draw_progress", engine.draw_progress)
    weights = []
    for n_workers in (0, 2):
        monkeypatch.setattr(engine, "worker_count", lambda device, n=n_workers: n)
        train(str(tmp_path / str(n_workers)), "Regression", {"epochs": 2, "batch_size": 8, "seed": 2})
        weights.append(load_checkpoint(tmp_path / str(n_workers) / "checkpoint_final.pth")["weights"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


class Broken(Regression):
    def batch(self, samples):
        if samples.start >= 16:
            raise UserError("image c_7.png is cut off; replace it")
        return super().batch(samples)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_broken_file_is_named_in_one_sentence(n_workers):
    stream = batches(Broken(seed=1), shares(), n_workers=n_workers)
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(UserError) as error:
        next(stream)
    assert str(error.value) == "image c_7.png is cut off; replace it"


class Process(Regression):
    def batch(self, samples):
        return torch.tensor([os.getpid(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL])


def test_workers_are_processes_that_end_when_told_to():
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        process, ends = next(batches(Process(seed=1), shares(), n_workers=1)).tolist()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert process != os.getpid() and ends


def test_as_many_as_nnunet_takes_but_none_where_cores_train(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    assert worker_count(torch.device("cpu")) == 0
    assert worker_count(torch.device("cuda")) == 1


def test_no_worker_outlives_the_last_batch(tmp_path, monkeypatch):
    # One that the end of Python ends in its place would stop the finished command with an error.
    alive, before = [], set(multiprocessing.active_children())  # those of other tests
    monkeypatch.setattr(engine, "BATCHES_PER_EPOCH", engine.BATCHES_PER_EPOCH)
    monkeypatch.setattr(engine, "draw_progress", engine.draw_progress)
    monkeypatch.setattr(engine, "worker_count", lambda device: 2)
    monkeypatch.setattr(Regression, "finish", lambda *_: alive.append(set(multiprocessing.active_children()) - before))
    train(str(tmp_path), "Regression", {"epochs": 1, "batch_size": 8, "seed": 2})
    assert alive == [set()]
