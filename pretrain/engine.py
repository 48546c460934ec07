"""The training loop of every pretraining: one process or many, any precision, stopped and continued at any step.

The loop knows nothing of what is learned: a `task.Task` gives the model, the batches, the loss and the health. What
holds for every task:

- Sample i of the endless stream of samples is the same on every machine: whatever is random about it (its crop, its
  mask) is drawn from the seed and i. A step takes the next ``batch_size`` samples; its processes and accumulated parts
  take contiguous slices of them. For losses that are means over samples, two processes, or two accumulated halves,
  therefore learn what one process with the whole batch does, up to rounding.
- Nothing but weights, optimizer and the number of the step decides what comes next. A run that was killed or stopped
  and continued ends with the same weights as one that was not: byte for byte on a CPU in float32.
- A loss that compares samples with each other needs the features of all processes: `processes.gather`. If then every
  process computes the same loss of all features, the gradients are those of one process with the whole batch.
  Accumulated parts are not compared with each other.
"""

import math
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from nnunetv2_xssr.errors import Stopped, UserError
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2_xssr.pretrain.figures import draw_progress
from nnunetv2_xssr.pretrain.health import collapse
from nnunetv2_xssr.pretrain.loader import batches, worker_count
from nnunetv2_xssr.pretrain.schedule import learning_rate_factor, total_epochs, warmed_up
from nnunetv2_xssr.pretrain.stopping import StopRequest
from nnunetv2_xssr.pretrain.task import Settings, Task

# As in nnU-Net an epoch is a number of batches, whatever the size of the dataset, so that the time is known beforehand.
BATCHES_PER_EPOCH = 50
# Healthy steps stay below it (norms on the demo's source: 0.09 to 0.9, half of them below 0.34; on real chest X-rays
# 0.4 % of the steps exceed it), so that it changes only the rare batch that would throw the weights far away.
CLIP_NORM = 1.0


def train(task: Task, settings: Settings, fabric: Fabric, folder: Path, resume: bool) -> Path:
    """Train a task; every process calls this, the first one writes.

    Parameters
    ----------
    task : Task
    settings : Settings
    fabric : Fabric
        As `processes.start` gives it.
    folder : Path
        Where to write; all processes can read it.
    resume : bool
        Continue from ``checkpoint_latest.pth`` if there is one.

    Returns
    -------
    Path
        ``checkpoint_final.pth``; ``progress.png`` and what the task adds lie beside it.

    Raises
    ------
    UserError
        If a checkpoint to resume was made with other settings, the batch does not divide, or the training diverges.
    Stopped
        After SIGTERM or SIGUSR1, with the checkpoint saved.
    """
    shares = fabric.world_size * settings.accumulate
    if settings.batch_size % shares:
        raise UserError(
            f"batch_size must be a multiple of {shares}, the number of processes times accumulate; "
            f"got {settings.batch_size}"
        )
    # Neither the number of processes nor `accumulate` changes what is learned: both may change when a run is continued.
    chosen = {key: value for key, value in asdict(settings).items() if key != "accumulate"}
    description = {**task.describe(), "training": {**chosen, "precision": _precision(fabric)}}
    latest, final = folder / "checkpoint_latest.pth", folder / "checkpoint_final.pth"
    # The first process looks, for all: the others could look when it has written already.
    found = fabric.broadcast((latest.is_file(), final.is_file()))
    if resume and found == (False, True):
        _check_resumable(load_checkpoint(final), description, final)
        return final

    run = Run(task, settings, fabric)
    if resume and found[0]:
        checkpoint = load_checkpoint(latest)
        _check_resumable(checkpoint, description, latest)
        run.load(checkpoint)

    def save() -> None:
        if fabric.is_global_zero:
            save_checkpoint(latest, {**description, **run.state()})

    progress = tqdm(initial=run.step, desc="pretraining", unit="batch", disable=not fabric.is_global_zero)
    with progress, StopRequest() as request:
        while not run.finished:
            progress.total = run.n_steps
            stop = run.train_step(request)
            progress.update()
            if run.step % BATCHES_PER_EPOCH == 0:
                run.end_epoch()
                progress.set_postfix_str(f"loss {run.history['loss'][-1]:.3f}")
                save()
                if fabric.is_global_zero:
                    draw_progress(folder / "progress.png", run.history, task.health_note)
            elif stop:
                save()
            if stop and not run.finished:
                fabric.barrier()  # nobody ends before the checkpoint is whole: a launcher may kill the others then
                raise Stopped(request.number or signal.SIGTERM, f"stopped after {run.step} batches and saved {latest}")
    if fabric.is_global_zero:
        run.model.eval()
        task.finish(run.model, folder)
        # From the file, because a run that was killed right here has no step left to train when it is continued.
        save_checkpoint(final, {k: v for k, v in load_checkpoint(latest).items() if k not in RESUME_ONLY})
        latest.unlink()
    fabric.barrier()
    return final


RESUME_ONLY = ("optimizer", "scaler", "step", "losses")


class Run:
    """A training on its way.

    Attributes
    ----------
    step : int
        Steps done.
    total : int or None
        Epochs of the whole training, None while it is not known.
    losses : dict of lists of float
        Of the steps of the epoch that is not over yet.
    history : dict of lists of float
        One value an epoch: losses, health, learning rate, speed.
    """

    def __init__(self, task: Task, settings: Settings, fabric: Fabric):
        self.task, self.settings, self.fabric = task, settings, fabric
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)  # the initial weights; everything later has its own generator
            self.model = task.build_model()
        optimizer = task.build_optimizer(self.model)
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.wrapped, self.optimizer = fabric.setup(self.model, optimizer)
        self.step, self.losses, self.history = 0, {}, {}
        self.total = total_epochs(settings.epochs, [])
        self.started = (time.perf_counter(), 0)
        self.warned = False

    @property
    def n_steps(self) -> int | None:
        """Of the whole training, None while it is not known."""
        return None if self.total is None else self.total * BATCHES_PER_EPOCH

    @property
    def finished(self) -> bool:
        return self.n_steps is not None and self.step >= self.n_steps

    def state(self) -> dict:
        """What a continued run needs, besides the description."""
        return {
            "epoch": self.step // BATCHES_PER_EPOCH,
            "history": self.history,
            "weights": self.model.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }

    def load(self, state: dict) -> None:
        """Go on from a `state`."""
        self.step, self.losses, self.history = state["step"], state["losses"], state["history"]
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.total = total_epochs(self.settings.epochs, self.history.get("held_out_loss", []))
        self.started = (time.perf_counter(), self.step)

    def train_step(self, request: StopRequest) -> bool:
        """Learn from the next batch; returns whether any process is asked to stop, the same answer in all of them."""
        factor = learning_rate_factor(self.step, self.settings.epochs, self.total, BATCHES_PER_EPOCH)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.optimizer.zero_grad()
        parts = [self._backward(part) for part in range(self.settings.accumulate)]
        # A step in float16 whose gradients are infinite is left out by the scaler and is no error.
        self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=CLIP_NORM, error_if_nonfinite=False)
        self.optimizer.step()

        names = list(parts[0])
        means = torch.stack([torch.stack([part[name] for part in parts]).mean() for name in names])
        message = torch.cat([means, means.new_tensor([request.number > 0])])  # one message for both
        *values, asked = self.fabric.all_reduce(message, reduce_op="mean").tolist()
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise UserError(f"pretraining diverged ({name} {value} at step {self.step}); try another --seed")
            self.losses.setdefault(name, []).append(value)
        self.step += 1
        return asked > 0

    def _backward(self, part: int) -> dict[str, torch.Tensor]:
        """Add the gradients of this process' share of one part of the batch; returns the detached losses."""
        fabric, n_parts = self.fabric, self.settings.accumulate
        batch = fabric.to_device(next(self.batches))
        with fabric.no_backward_sync(self.wrapped, enabled=part + 1 < n_parts):
            losses = self.task.loss(self.wrapped, batch)
            fabric.backward(losses["loss"] / n_parts)
        return {name: loss.detach().float() for name, loss in losses.items()}

    @cached_property
    def batches(self) -> Iterator[Any]:
        """This process' shares of the batches from the current step on, without end."""
        return batches(self.task, self._shares(), worker_count(self.fabric.device))

    def _shares(self) -> Iterator[range]:
        world = self.fabric.world_size
        share = self.settings.batch_size // (self.settings.accumulate * world)
        for part in count(self.step * self.settings.accumulate):
            first = (part * world + self.fabric.global_rank) * share
            yield range(first, first + share)

    def end_epoch(self) -> None:
        """Measure the health, and note it with the losses."""
        start, first = self.started
        seconds = time.perf_counter() - start
        health = self.fabric.broadcast(self._health() if self.fabric.is_global_zero else None)
        epoch = self.step // BATCHES_PER_EPOCH - 1
        sentence = collapse(health)
        if sentence and not self.warned and self.fabric.is_global_zero and warmed_up(epoch, self.settings.epochs):
            self.warned = True
            warnings.warn(f"after {epoch + 1} epochs {sentence}", stacklevel=2)
        factor = learning_rate_factor(self.step - 1, self.settings.epochs, self.total, BATCHES_PER_EPOCH)
        noted = {
            **{name: float(np.mean(values)) for name, values in self.losses.items()},
            **health,
            "learning_rate": self.peaks[0] * factor,
            "images_per_second": (self.step - first) * self.settings.batch_size / seconds,
        }
        for name, value in noted.items():
            self.history.setdefault(name, []).append(value)
        self.losses = {}
        self.total = total_epochs(self.settings.epochs, self.history.get("held_out_loss", []))
        self.started = (time.perf_counter(), self.step)

    @torch.no_grad()
    def _health(self) -> dict[str, float]:
        self.model.eval()
        with self.fabric.autocast():
            health = self.task.health(self.model)
        self.model.train()
        return health


def _precision(fabric: Fabric) -> str:
    return fabric.strategy.precision.precision


def _check_resumable(checkpoint: dict, description: dict, path: Path) -> None:
    for part, expected in description.items():
        found = checkpoint.get(part)
        if found != expected:
            raise UserError(
                f"{path} was made with other {part} ({found}) than asked for now ({expected}); "
                f"continue it with those, or delete it to start anew"
            )
