"""The training loop of every pretraining: one process or many, any precision, stopped and continued at any step.

The loop does not know what is learned: an `objective.Objective` gives the model, the batches, the loss and the health.
For every objective:

- Sample i of the endless stream of samples is the same on every machine: everything random about it (its crop, its
  mask) is drawn from the seed and i. A step takes the next ``batch_size`` samples and cuts them into contiguous parts,
  one per accumulation; each process takes a contiguous share of each part. If the loss is a mean over samples, two
  processes, or two accumulated halves, learn what one process with the whole batch does, up to rounding.
- Only the weights, the optimizer and the number of the step decide what comes next. A run that was killed or stopped
  and continued ends with the same weights as one that was not: byte for byte on a CPU in float32.
- A loss that compares samples with each other gets the features of all processes and all parts (`processes.Whole`).
  Every process then computes the same loss of all features, and the gradients are those of one process with the whole
  batch: ``accumulate`` changes the memory alone.
"""

import contextlib
import math
import reprlib
import signal
import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import asdict
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from tqdm import tqdm

from nnunetv2_xssr.errors import Stopped, UserError
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2_xssr.pretrain.figures import draw_progress
from nnunetv2_xssr.pretrain.health import collapse
from nnunetv2_xssr.pretrain.loader import batches, worker_count
from nnunetv2_xssr.pretrain.objective import Objective
from nnunetv2_xssr.pretrain.processes import Whole, first_holds_weights, gather, on_first
from nnunetv2_xssr.pretrain.schedule import learning_rate_factor, total_epochs, warmed_up
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.stopping import StopRequest
from nnunetv2_xssr.records.logs import duration, logger

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# As in nnU-Net an epoch is a fixed number of batches, whatever the size of the dataset, so that its duration is known.
BATCHES_PER_EPOCH = 50
# Healthy steps stay below it (norms on the demo's source: 0.09 to 0.9, half of them below 0.34; on real chest X-rays
# 0.4 % of the steps exceed it), so that it changes only the rare batch that would throw the weights far away.
CLIP_NORM = 1.0
LATEST = "checkpoint_latest.pth"  # of a training that is not finished
FINAL = "checkpoint_final.pth"
TIMED = 3  # batches by which the time of all is told, after a first one, in which workers and libraries start


def train(objective: Objective, *, settings: Settings, fabric: "Fabric", folder: Path, resume: bool) -> Path:
    """Train the model of an objective; every process calls this, the first one writes.

    Parameters
    ----------
    objective : Objective
    settings : Settings
    fabric : Fabric
        As `processes.start` returns it.
    folder : Path
        Where to write; all processes can read it.
    resume : bool
        Continue from ``checkpoint_latest.pth`` if there is one.

    Returns
    -------
    Path
        ``checkpoint_final.pth``; ``progress.png`` and the files of the objective lie beside it.

    Raises
    ------
    UserError
        If a checkpoint to resume was made with other settings, the batch does not divide into parts, or the training
        diverges.
    Stopped
        After SIGTERM or SIGUSR1, with the checkpoint saved.
    """
    settings.check_parts(n_processes=fabric.world_size, compares_samples=objective.compares_samples)
    with first_holds_weights(fabric, folder) as waited:
        if fabric.is_global_zero and not resume and (folder / LATEST).is_file():
            logger.warning(f"{folder / LATEST} of an unfinished training will be replaced; --c goes on with it")
        return _train(objective, settings=settings, fabric=fabric, folder=folder, resume=resume, waited=waited)


def _train(
    objective: Objective, *, settings: Settings, fabric: "Fabric", folder: Path, resume: bool, waited: bool
) -> Path:
    description = {**objective.describe(), "training": training_of(objective, settings=settings, fabric=fabric)}
    latest, final = folder / LATEST, folder / FINAL
    # The first process looks for all of them: it might have written already when another one looks.
    found = fabric.broadcast((latest.is_file(), final.is_file()))
    if waited and found == (False, True) and _differing(load_checkpoint(final), description) is None:
        return final  # what another command has just made is what this one would make
    if resume and found == (False, True):
        check_resumable(load_checkpoint(final), description, path=final)
        return final

    run = Run(objective, settings=settings, fabric=fabric)
    if resume and found[0]:
        checkpoint = load_checkpoint(latest)
        check_resumable(checkpoint, description, path=latest)
        if lacking := sorted(run.state().keys() - checkpoint.keys()):
            raise UserError(f"{latest} is of no unfinished training, it lacks {lacking[0]}; delete it to start anew")
        run.load(checkpoint)

    def save() -> None:
        on_first(fabric, lambda: save_checkpoint(latest, {**description, **run.state()}))

    def draw() -> None:
        draw_progress(folder / "progress.png", run.history, note=objective.health_note, recall=objective.recall)

    progress = tqdm(initial=run.step, desc="pretraining", unit="batch", disable=not fabric.is_global_zero)
    # Workers that live on would be ended with Python, and torch takes that for their failure.
    with contextlib.closing(run.batches), progress, StopRequest() as request:
        while not run.finished:
            progress.total = run.n_steps
            stop = run.train_step(request)
            progress.update()
            if run.timed == TIMED and fabric.is_global_zero:
                per = " per epoch" if run.n_steps is None else ""
                logger.info(f"pretraining takes about {duration(run.seconds())}{per}")
            if run.step % BATCHES_PER_EPOCH == 0:
                run.end_epoch()
                progress.set_postfix_str(f"loss {run.history['loss'][-1]:.3f}")
                save()
                on_first(fabric, draw)
            elif stop:
                save()
            if stop and not run.finished:
                fabric.barrier()  # a launcher may kill all processes when one ends: wait until the checkpoint is whole
                raise Stopped(request.number or signal.SIGTERM, f"stopped after {run.step} batches and saved {latest}")

    def finish() -> None:
        run.model.eval()
        objective.finish(run.model, folder)
        # From memory: another run may have replaced the latest checkpoint.
        save_checkpoint(final, {**description, **run.result()})
        latest.unlink(missing_ok=True)

    on_first(fabric, finish)
    return final


def remove_ended(folder: Path) -> None:
    """Remove the latest checkpoint of a training that was killed after it had written the final one."""
    latest, final = folder / LATEST, folder / FINAL
    if latest.is_file():
        with contextlib.suppress(UserError, OSError):  # what cannot be read or removed does no harm
            if load_checkpoint(latest).get("history") == load_checkpoint(final).get("history"):
                latest.unlink(missing_ok=True)


def training_of(objective: Objective, *, settings: Settings, fabric: "Fabric") -> dict:
    """What a checkpoint tells of its training."""
    training = {**asdict(settings), "precision": _precision(fabric)}
    if not objective.compares_samples:
        # Parts of a mean change the memory alone; features that are compared are computed once more for several parts.
        del training["accumulate"]
    return training


class Run:
    """A training in progress.

    Attributes
    ----------
    step : int
        Steps done.
    n_epochs : int or None
        Epochs of the whole training, None while their number is not known.
    losses : dict of lists of float
        One value per step of the epoch that is not over yet.
    history : dict of lists of float
        One value per epoch: losses, health, learning rate, speed.
    first : int
        Step with which this run began.
    after_first : float
        When that step was done.
    """

    def __init__(self, objective: Objective, *, settings: Settings, fabric: "Fabric"):
        self.objective, self.settings, self.fabric = objective, settings, fabric
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)  # the initial weights; everything later has its own generator
            self.model = objective.build_model()
        optimizer = objective.build_optimizer(self.model)
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.wrapped, self.optimizer = fabric.setup(self.model, optimizer)
        self.step: int = 0
        self.first, self.after_first = 0, 0.0
        self.losses: dict[str, list[float]] = {}
        self.history: dict[str, list[float]] = {}
        self.n_epochs = total_epochs(settings.epochs, [])
        self.started = (time.perf_counter(), 0)
        self.warned = False

    @property
    def n_steps(self) -> int | None:
        """Steps of the whole training, None while their number is not known."""
        return None if self.n_epochs is None else self.n_epochs * BATCHES_PER_EPOCH

    @property
    def timed(self) -> int:
        """Steps of this run since its first one."""
        return self.step - self.first - 1

    def seconds(self) -> float:
        """That all of this run takes, or an epoch where the number of epochs is not known, by the steps so far."""
        steps = BATCHES_PER_EPOCH if self.n_steps is None else self.n_steps - self.first
        return steps * (time.perf_counter() - self.after_first) / self.timed

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.n_steps is not None and self.step >= self.n_steps

    def result(self) -> dict:
        """What the final checkpoint holds, besides the description."""
        return {
            "epoch": self.step // BATCHES_PER_EPOCH,
            "history": self.history,
            "learned_on": self.learned_on(),
            "weights": {name: tensor.cpu() for name, tensor in self.model.state_dict().items()},
        }

    def learned_on(self) -> dict:
        """What the last bits of the weights depend on, besides the description: sums are made in another order."""
        return {
            "device": self.fabric.device.type,
            "threads": torch.get_num_threads(),
            "processes": self.fabric.world_size,
            "torch": str(torch.__version__),
        }

    def state(self) -> dict:
        """What a continued run needs, besides the description."""
        return {
            **self.result(),
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
        self.n_epochs = total_epochs(self.settings.epochs, self.history.get("held_out_loss", []))
        self.started, self.first = (time.perf_counter(), self.step), self.step

    def train_step(self, request: StopRequest) -> bool:
        """Learn from the next batch; returns in all processes whether any of them was asked to stop."""
        factor = self._learning_rate_factor(self.step)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.optimizer.zero_grad()
        parts = self._accumulate()
        # In float16 the scaler leaves out a step whose gradients are infinite; that is no error.
        self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=CLIP_NORM, error_if_nonfinite=False)
        self.optimizer.step()

        names = list(parts[0])
        means = torch.stack([torch.stack([part[name] for part in parts]).mean() for name in names])
        message = torch.cat([means, means.new_tensor([request.number > 0])])  # one message for both is faster
        *values, asked = cast(torch.Tensor, self.fabric.all_reduce(message, reduce_op="mean")).tolist()
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise UserError(f"pretraining diverged ({name} {value} at step {self.step}); try another --seed")
            self.losses.setdefault(name, []).append(value)
        self.step += 1
        if self.timed == 0:
            self.after_first = time.perf_counter()
        return asked > 0

    def _learning_rate_factor(self, step: int) -> float:
        return learning_rate_factor(
            step, epochs=self.settings.epochs, n_epochs=self.n_epochs, steps_per_epoch=BATCHES_PER_EPOCH
        )

    def _accumulate(self) -> list[dict[str, torch.Tensor]]:
        """Add the gradients of this process' share of the batch, part by part; returns the detached losses of each."""
        fabric, n_parts = self.fabric, self.settings.accumulate
        batches = [next(self.batches) for _ in range(n_parts)]
        known = [self._compared(batch) for batch in batches] if self.objective.compares_samples and n_parts > 1 else []
        losses = []
        for part, batch in enumerate(batches):
            with fabric.no_backward_sync(self.wrapped, enabled=part + 1 < n_parts):
                found = self.objective.loss(self.wrapped, fabric.to_device(batch), Whole(fabric, known, part=part))
                fabric.backward(found["loss"] / n_parts)
            losses.append({name: loss.detach().float() for name, loss in found.items()})
        return losses

    @torch.no_grad()
    def _compared(self, batch: Any) -> dict[str, torch.Tensor]:
        """What the loss compares of a part, of all processes."""
        with self.fabric.autocast():
            found = self.objective.compared(self.model, self.fabric.to_device(batch))
        return {name: gather(self.fabric, features) for name, features in found.items()}

    @cached_property
    def batches(self) -> Generator[Any, None, None]:
        """Shares of this process of the batches from the current step on, an endless stream."""
        return batches(self.objective, self._shares(), n_workers=worker_count(self.fabric.device))

    def _shares(self) -> Iterator[range]:
        world = self.fabric.world_size
        share = self.settings.batch_size // (self.settings.accumulate * world)
        for part in count(self.step * self.settings.accumulate):
            first = (part * world + self.fabric.global_rank) * share
            yield range(first, first + share)

    def end_epoch(self) -> None:
        """Measure the health, and add it and the losses to the history."""
        start, first = self.started
        seconds = time.perf_counter() - start
        health = self.fabric.broadcast(self._health() if self.fabric.is_global_zero else {})
        epoch = self.step // BATCHES_PER_EPOCH - 1
        sentence = collapse(health) if warmed_up(epoch, epochs=self.settings.epochs) else None
        if sentence and not self.warned and self.fabric.is_global_zero:
            self.warned = True
            warnings.warn(f"after {epoch + 1} epochs {sentence}", stacklevel=2)
        factor = self._learning_rate_factor(self.step - 1)
        noted = {
            **{name: float(np.mean(values)) for name, values in self.losses.items()},
            **health,
            "learning_rate": self.peaks[0] * factor,
            "images_per_second": (self.step - first) * self.settings.batch_size / seconds,
        }
        for name, value in noted.items():
            self.history.setdefault(name, []).append(value)
        self.losses = {}
        self.n_epochs = total_epochs(self.settings.epochs, self.history.get("held_out_loss", []))
        self.started = (time.perf_counter(), self.step)

    @torch.no_grad()
    def _health(self) -> dict[str, float]:
        self.model.eval()
        with self.fabric.autocast():
            health = self.objective.health(self.model)
        self.model.train()
        return health


def _precision(fabric: "Fabric") -> str:
    return fabric.strategy.precision.precision


def check_resumable(checkpoint: dict, description: dict, *, path: Path) -> None:
    """Raise `UserError` unless a checkpoint was made as described."""
    part = _differing(checkpoint, description)
    if part is None:
        return
    found, expected = checkpoint.get(part), description[part]
    if isinstance(found, dict) and isinstance(expected, dict):
        differ = [key for key in {**found, **expected} if found.get(key) != expected.get(key)]
        found, expected = ({key: one.get(key) for key in differ} for one in (found, expected))
    raise UserError(
        f"{path} was made with other {part} ({reprlib.repr(found)}) than asked for now "
        f"({reprlib.repr(expected)}); continue it with those, or delete it to start anew"
    )


def _differing(checkpoint: dict, description: dict) -> str | None:
    """The first part of a description that a checkpoint has otherwise; None if it was made as described."""
    return next((part for part, expected in description.items() if checkpoint.get(part) != expected), None)
