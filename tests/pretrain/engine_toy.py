"""Tiny objectives for the engine, for one process or several: ``python engine_toy.py JOB...``, each JSON of a call."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.pretrain import engine
from nnunetv2_xssr.pretrain.health import embedding_health
from nnunetv2_xssr.pretrain.objective import sample_generator
from nnunetv2_xssr.pretrain.processes import start, stop_reported_once
from nnunetv2_xssr.pretrain.settings import Settings

STEPS_PER_EPOCH = 5


class Regression:
    """Learn a fixed map from random points: every sample has its own, and the loss is a mean over samples."""

    compares_samples = False
    health_note = "drawn points"
    recall = "the nearest is of the same point"

    def __init__(self, seed, health=None):
        self.seed, self.given = seed, list(health or [])

    def describe(self):
        return {"objective": type(self).__name__}

    def build_model(self):
        return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 6))

    def build_optimizer(self, model):
        return torch.optim.AdamW(model.parameters(), lr=0.01)

    def batch(self, samples):
        return torch.stack([torch.randn(6, generator=sample_generator(self.seed, i)) for i in samples])

    def compared(self, model, batch):
        return {}

    def shown(self, samples):
        return []

    def loss(self, model, batch, whole=None):
        error = (model(batch) - batch.roll(1, 1).tanh()).square().mean()
        return {"loss": error, "copy_of_loss": error}

    def health(self, model):
        points = self.batch(range(10**6, 10**6 + 32))
        loss = self.loss(model, points)["loss"].item()
        features = model(points).float()
        told = embedding_health(features, features, torch.arange(32))
        return {"held_out_loss": self.given.pop(0) if self.given else loss, **told}

    def finish(self, model, folder):
        pass


class Contrast(Regression):
    """Two noisy copies of every sample find each other among all samples of all processes and parts (InfoNCE)."""

    compares_samples = True

    def batch(self, samples):
        points = super().batch(samples)
        noise = torch.stack([torch.randn(2, 6, generator=sample_generator(self.seed, i, 1)) for i in samples])
        return points + 0.1 * noise[:, 0], points + 0.1 * noise[:, 1]

    def compared(self, model, batch):
        return dict(zip(("first", "second"), F.normalize(model(torch.cat(batch)), dim=1).chunk(2), strict=True))

    def loss(self, model, batch, whole):
        first, second = (whole(name, features) for name, features in self.compared(model, batch).items())
        return {"loss": F.cross_entropy(first @ second.T / 0.2, torch.arange(len(first)))}

    def health(self, model):
        return {}


class AllAlike(Regression):
    """All samples look nearly the same, and so do their features."""

    def batch(self, samples):
        return 3 + 1e-3 * super().batch(samples)


OBJECTIVES = {objective.__name__: objective for objective in (Regression, Contrast, AllAlike)}


def train(folder, objective, settings, resume=False, precision="32-true", stop=None, health=None):
    """``stop``: rank, number of the step and signal that this process sends itself before it."""
    engine.BATCHES_PER_EPOCH, engine.draw_progress = STEPS_PER_EPOCH, lambda *args, **kwargs: None
    fabric = start("cpu", precision=precision)
    made = OBJECTIVES[objective](settings.get("seed", 0), health)
    if stop:
        rank, step, name = stop
        batch = made.batch

        def signalled(samples):
            first = step * settings["batch_size"]
            if fabric.global_rank == rank and first <= samples[0] < first + settings["batch_size"]:
                os.kill(os.getpid(), getattr(signal, name))
            return batch(samples)

        made.batch = signalled
    with stop_reported_once(fabric):
        return engine.train(made, settings=Settings(**settings), fabric=fabric, folder=Path(folder), resume=resume)


def train_all():
    for job in sys.argv[1:]:
        train(**json.loads(job))


if __name__ == "__main__":
    sys.exit(run("toy", train_all, "run it with --c"))
