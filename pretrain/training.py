"""Pretraining of the masked autoencoder: one loop for every device, resumed exactly where it stopped.

Every random number is drawn from the seed and the number of the step, never from a state that an interruption could
lose: a run that was killed and continued ends with the same weights as one that was not.
"""

import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from tqdm import tqdm

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.folders import nnunet_folder
from nnunetv2_xssr.pretrain.checkpoint import load_checkpoint, save_checkpoint
from nnunetv2_xssr.pretrain.figures import draw_progress, draw_reconstructions
from nnunetv2_xssr.pretrain.mae import CELL, MaskedAutoencoder, random_crops, random_visible
from nnunetv2_xssr.records import sha256_json
from nnunetv2_xssr.views import VIEW_SIZE, Views

# As in nnU-Net an epoch is a number of batches, whatever the size of the dataset, so that the time is known beforehand.
BATCHES_PER_EPOCH = 50
ARCHITECTURE = {"features_per_stage": [32, 64, 128, 256], "strides": [4, 2, 2, 1], "decoder_features": 128}
MASK_RATIO = 0.6
LEARNING_RATE = 1e-3
WARM_UP = 0.1  # of all steps


@dataclass(frozen=True)
class Settings:
    """What a user chooses; the rest is fixed in this module."""

    epochs: int = 24
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be {least} or more; got {getattr(self, name)}")


def checkpoint_folder(pool_names: list[str]) -> Path:
    """``$nnUNet_results/<source>/XSSR_MAE__2d``.

    Several sources get a folder whose name does not begin with a dataset's: nnU-Net would take it for that dataset.
    """
    name = pool_names[0] if len(pool_names) == 1 else "XSSR__" + "__".join(pool_names)
    return nnunet_folder("nnUNet_results") / name / "XSSR_MAE__2d"


def learning_rate(step: int, n_steps: int) -> float:
    """Linear warm-up, then half a cosine to zero (MAE, He et al. 2022)."""
    warm = max(1, round(WARM_UP * n_steps))
    if step < warm:
        return LEARNING_RATE * (step + 1) / warm
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))


class ViewSampler:
    """All views of all pools, in an order that is shuffled anew for every pass over them."""

    def __init__(self, sources: list[Views], seed: int):
        self.rows = [views.rows for views in sources]
        self.index = [
            (source, case, view)
            for source, rows in enumerate(self.rows)
            for case in range(rows.shape[0])
            for view in range(rows.shape[1])
        ]
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, step: int, size: int) -> torch.Tensor:
        """The views of one step, float32 tensor of shape (size, channels, VIEW_SIZE, VIEW_SIZE)."""
        drawn = np.arange(step * size, (step + 1) * size)
        views = []
        for one_pass in np.unique(drawn // len(self)):
            order = np.random.default_rng([self.seed, int(one_pass)]).permutation(len(self))
            for i in order[drawn[drawn // len(self) == one_pass] % len(self)]:
                source, case, view = self.index[i]
                views.append(self.rows[source][case, view])
        return torch.from_numpy(np.stack(views).astype(np.float32))


def check_same_channels(sources: list[Views]) -> None:
    """Raise `UserError` unless all pools have equally many channels, normalised alike."""
    first = sources[0]
    for other in sources[1:]:
        a, b = first.settings["normalisation"], other.settings["normalisation"]
        if a != b:
            raise UserError(
                f"{first.pool.name} has the channels {', '.join(first.channel_names)} ({', '.join(a)}) but "
                f"{other.pool.name} has {', '.join(other.channel_names)} ({', '.join(b)}); an encoder needs the same "
                f"channels, normalised alike, everywhere: choose another source or mend channel_names in dataset.json"
            )


def pretrain(sources: list[Views], settings: Settings, device: str, resume: bool, folder: Path | None = None) -> Path:
    """Train a masked autoencoder on the views of one or several pools.

    Parameters
    ----------
    sources : list of Views
        Labels are neither needed nor read.
    settings : Settings
    device : {"cpu", "cuda", "mps"}
    resume : bool
        Continue from ``checkpoint_latest.pth`` if there is one.
    folder : Path, optional
        Where to write; `checkpoint_folder` by default.

    Returns
    -------
    Path
        ``checkpoint_final.pth``; ``progress.png`` and ``reconstructions.png`` lie beside it.

    Raises
    ------
    UserError
        If the pools do not fit together, or a checkpoint to resume was made with other settings.
    """
    check_same_channels(sources)
    folder = folder or checkpoint_folder([views.pool.name for views in sources])
    description = {
        "architecture": {"input_channels": len(sources[0].channel_names), **ARCHITECTURE},
        "views": {"view_size": VIEW_SIZE, "normalisation": sources[0].settings["normalisation"]},
        "sources": {views.pool.name: sha256_json(views.hashes) for views in sources},
        "training": asdict(settings),
    }
    latest, final = folder / "checkpoint_latest.pth", folder / "checkpoint_final.pth"
    if resume and final.is_file() and not latest.is_file():
        _check_resumable(load_checkpoint(final), description, final)
        return final

    fabric = _fabric(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # the initial weights; everything later has its own generator
        model = MaskedAutoencoder(**description["architecture"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    state = {"epoch": 0, "history": {"loss": [], "learning_rate": [], "images_per_second": []}}
    if resume and latest.is_file():
        state = load_checkpoint(latest)
        _check_resumable(state, description, latest)
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
    wrapped, optimizer = fabric.setup(model, optimizer)

    sampler = ViewSampler(sources, settings.seed)
    n_steps = settings.epochs * BATCHES_PER_EPOCH
    history = state["history"]
    progress = tqdm(total=n_steps, initial=state["epoch"] * BATCHES_PER_EPOCH, desc="pretraining", unit="batch")
    with progress:
        for epoch in range(state["epoch"], settings.epochs):
            start, losses = time.perf_counter(), []
            for step in range(epoch * BATCHES_PER_EPOCH, (epoch + 1) * BATCHES_PER_EPOCH):
                losses.append(_train_step(fabric, wrapped, optimizer, sampler, settings, step, n_steps))
                progress.update()
            speed = settings.batch_size * BATCHES_PER_EPOCH / (time.perf_counter() - start)
            history["loss"].append(float(np.mean(losses)))
            history["learning_rate"].append(learning_rate((epoch + 1) * BATCHES_PER_EPOCH - 1, n_steps))
            history["images_per_second"].append(speed)
            progress.set_postfix_str(f"loss {history['loss'][-1]:.3f}, {speed:.0f} images/s")
            content = {**description, "epoch": epoch + 1, "history": history, "weights": model.state_dict()}
            save_checkpoint(latest, {**content, "optimizer": optimizer.state_dict()})
            draw_progress(folder / "progress.png", history)
    draw_reconstructions(folder / "reconstructions.png", model, sampler.batch(0, 6), MASK_RATIO, settings.seed)
    # From the file, because a run that was killed right here has no epoch left to train when it is continued.
    save_checkpoint(final, {key: value for key, value in load_checkpoint(latest).items() if key != "optimizer"})
    latest.unlink()
    return final


def _fabric(device: str) -> Fabric:
    # Fabric tells about every device that it does not use; nnU-Net's user has chosen one.
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    return Fabric(accelerator=device, devices=1)


def _train_step(fabric, model, optimizer, sampler, settings: Settings, step: int, n_steps: int) -> float:
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([settings.seed, step]).generate_state(1)[0]))
    images = random_crops(sampler.batch(step, settings.batch_size), generator)
    cells = VIEW_SIZE // CELL
    visible = random_visible(len(images), cells, cells, MASK_RATIO, generator)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, n_steps)
    loss = model(fabric.to_device(images), fabric.to_device(visible))
    optimizer.zero_grad()
    fabric.backward(loss)
    optimizer.step()
    value = loss.item()
    if not math.isfinite(value):
        raise UserError(f"pretraining diverged (loss {value} at step {step}); try another --seed")
    return value


def _check_resumable(checkpoint: dict, description: dict, path: Path) -> None:
    for part, expected in description.items():
        found = checkpoint.get(part)
        if found != expected:
            raise UserError(
                f"{path} was made with other {part} ({found}) than asked for now ({expected}); "
                f"continue it with those, or delete it to start anew"
            )
