"""The objective of masked autoencoding: its batches, its loss and its health, for the engine."""

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch.nn import functional as F

from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.channels import channel_order, different_channels
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.engine import train
from nnunetv2_xssr.pretrain.figures import draw_reconstructions
from nnunetv2_xssr.pretrain.health import embedding_health
from nnunetv2_xssr.pretrain.held_out import held_out
from nnunetv2_xssr.pretrain.inputs import draw_batch
from nnunetv2_xssr.pretrain.mae import CELL, Ensemble, MaskedAutoencoder, crop_numbers, random_crops, visible_cells
from nnunetv2_xssr.pretrain.objective import sample_generator
from nnunetv2_xssr.pretrain.processes import Whole, on_first
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.records.files import sha256_json
from nnunetv2_xssr.records.workspace import encoder_folder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MEMBERS = 4  # of the ensemble: benchmarks/transfer.py measures how far picks depend on the seed with one and two
ARCHITECTURE = {"features_per_stage": [32, 64, 128, 256], "strides": [4, 2, 2, 1], "decoder_features": 128}
MASK_RATIO = 0.6
# Pixels of the crops that are learned from, by dimension. Features of single cells need no whole view, and a quarter of
# the pixels takes a quarter of the time.
CROP = {2: 64, 3: 48}
# Of the views that an encoder learns from: those that it embeds must follow the same ones.
VIEW_RULES = ("version", "view_size", "normalisation", "view_channels", "pixel", "axis", "window")
LEARNING_RATE = 1e-3
MOST_HEALTH_VIEWS = 128  # measuring them takes less than a tenth of the time of an epoch
HEALTH_BATCH = 32
HEALTH = 2**32 - 1  # separates the random numbers of the health from those of the samples, which are counted from 0


class ViewSampler:
    """All views of some cases of all pools, in an order that is shuffled again for every pass over them.

    Parameters
    ----------
    sources : list of Views
    seed : int
    cases : set of int, optional
        Numbers of the cases, counted through all pools; all of them by default.
    """

    def __init__(self, sources: list[Views], *, seed: int, cases: set[int] | None = None):
        self.rows, self.pools = [views.rows for views in sources], [views.pool for views in sources]
        numbered = [(source, case) for source, rows in enumerate(self.rows) for case in range(len(rows))]
        self.index = [
            (number, source, case, view)
            for number, (source, case) in enumerate(numbered)
            if cases is None or number in cases
            for view in range(self.rows[source].shape[1])
        ]
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def views(self, samples: range) -> torch.Tensor:
        """These views of the endless stream, float32 tensor of shape (samples, channels, ...)."""
        return self.at(self._places(samples))

    def titles(self, samples: range) -> list[str]:
        """Pool and case of these views, by name."""
        found = (self.index[place] for place in self._places(samples))
        return [f"{self.pools[source].name}: {self.pools[source].identifiers[case]}" for _, source, case, _ in found]

    def _places(self, samples: range) -> list[int]:
        drawn = np.asarray(samples)
        places: list[int] = []
        for one_pass in np.unique(drawn // len(self)):
            order = np.random.default_rng([self.seed, int(one_pass)]).permutation(len(self))
            places.extend(order[drawn[drawn // len(self) == one_pass] % len(self)].tolist())
        return places

    def at(self, places: list[int]) -> torch.Tensor:
        """The views at these places of the index.

        Raises
        ------
        UserError
            If the file that holds them has vanished or is broken.
        """
        for rows in self.rows:
            _check_file(rows)
        views = []
        for _, source, case, view in (self.index[place] for place in places):
            views.append(self.rows[source][case, view])
            if not np.isfinite(views[-1]).all():
                raise _broken(self.rows[source], f"row {case} is not whole")
        return torch.from_numpy(np.stack(views).astype(np.float32))


def _check_file(rows: np.ndarray) -> None:
    # Reading beyond the end of a mapped file kills the process without a message, so its size is checked first.
    if not isinstance(rows, np.memmap) or rows.filename is None:
        return
    try:
        size = Path(rows.filename).stat().st_size
    except OSError as error:
        raise _broken(rows, str(error.strerror)) from None
    if size < rows.offset + rows.nbytes:
        raise _broken(rows, f"it has {size} bytes instead of {rows.offset + rows.nbytes}")


def _broken(rows: np.ndarray, what: str) -> UserError:
    file = getattr(rows, "filename", None) or "an array in memory"
    return UserError(
        f"the views in {file} cannot be read ({what}); delete it and run the command again, which reads the images anew"
    )


class MaskedAutoencoding:
    """The `objective.Objective` of reconstructing masked cells; its loss is a mean over samples."""

    compares_samples = False
    recall = "a crop's nearest is of the same case"

    def __init__(self, sources: list[Views], *, seed: int):
        self.sources, self.seed = sources, seed
        # Patients of two sources are two, also where they share a number.
        groups = [f"{views.pool.name} {case.group_name}" for views in sources for case in views.pool.cases]
        drawn, n_cases = held_out(groups, seed=seed), len(groups)
        learned, self.held_out = set(np.flatnonzero(~drawn).tolist()), set(np.flatnonzero(drawn).tolist())
        self.sampler, self.everything = ViewSampler(sources, seed=seed, cases=learned), ViewSampler(sources, seed=seed)
        self.health_note = (
            f"held-out loss of {len(self.held_out)} cases"
            if self.held_out
            else f"held-out loss of training views: {n_cases} cases are too few to hold some out"
        )

    def describe(self) -> dict:
        """Plain values for the checkpoint: see `objective.Objective`."""
        first = self.sources[0]
        return {
            "architecture": {
                "members": MEMBERS,
                "input_channels": first.rows.shape[2],
                **ARCHITECTURE,
                "dim": first.dim,
            },
            "views": {
                **{key: first.settings[key] for key in VIEW_RULES},
                "views": max(views.settings["views"] for views in self.sources),
                "channel_names": list(first.channel_names),
            },
            "sources": {views.pool.name: sha256_json(views.hashes) for views in self.sources},
        }

    def build_model(self) -> Ensemble:
        """A new model: see `objective.Objective`."""
        return Ensemble(**self.describe()["architecture"])

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a model: see `objective.Objective`."""
        return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)

    def batch(self, samples: range) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """These samples: see `objective.Objective`."""
        generators = [sample_generator(self.seed, i) for i in samples]
        return *crop_and_mask(self.sampler.views(samples), generators), torch.tensor(samples)

    def compared(self, model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        """Nothing: every view is reconstructed by itself."""
        return {}

    def loss(self, model: torch.nn.Module, batch: tuple[torch.Tensor, ...], whole: Whole) -> dict[str, torch.Tensor]:
        """The loss of a batch: see `objective.Objective`."""
        return {"loss": model(*batch)}

    def shown(self, samples: range) -> list[tuple[str, list[tuple[str, torch.Tensor]]]]:
        """What the encoder is shown, hidden cells as zero: see `objective.Objective`."""
        crops, visible, _ = self.batch(samples)
        masks = F.interpolate(visible, crops.shape[2:], mode="nearest")
        titles = self.sampler.titles(samples)
        return [
            (title, [("crop", crop), ("shown", crop * mask)])
            for title, crop, mask in zip(titles, crops, masks, strict=True)
        ]

    def health(self, model: Ensemble) -> dict[str, float]:
        """Health on fixed views: see `objective.Objective`."""
        device = next(model.parameters()).device
        (first, visible), (second, _), cases, n_held_out = self._health_views
        shown = first[:n_held_out], visible[:n_held_out], torch.arange(n_held_out)
        parts = zip(*(each.split(HEALTH_BATCH) for each in shown), strict=True)
        losses = [len(part[0]) * model(*(each.to(device) for each in part)).item() for part in parts]

        def embed(crops: torch.Tensor) -> torch.Tensor:
            maps = (model.encode(part.to(device)).float() for part in crops.split(HEALTH_BATCH))
            return torch.cat([each.flatten(2).mean(dim=2) for each in maps])

        return {"held_out_loss": sum(losses) / n_held_out, **embedding_health(embed(first), embed(second), cases)}

    @cached_property
    def _health_views(self):
        """Two crops of some views, always the same, with masks; the case of every view; the number of held-out views.

        The loss is that of held-out views. Spread, rank and recall need many views, so training views fill up the set:
        embeddings collapse on training views no later than on others.
        """
        index = self.everything.index
        shuffled = np.random.default_rng([self.seed, HEALTH]).permutation(len(index)).tolist()
        places = sorted(shuffled, key=lambda place: index[place][0] not in self.held_out)[:MOST_HEALTH_VIEWS]
        views, cases = self.everything.at(places), [index[place][0] for place in places]
        crops = [
            crop_and_mask(views, [sample_generator(self.seed, HEALTH, place, copy) for place in places])
            for copy in range(2)
        ]
        return *crops, torch.tensor(cases), sum(case in self.held_out for case in cases) or len(cases)

    def finish(self, model: Ensemble, folder: Path) -> None:
        """Pictures of the trained model: see `objective.Objective`."""
        images = self.everything.views(range(6))
        draw_reconstructions(
            folder / "reconstructions.png",
            cast(MaskedAutoencoder, model.members[0]),
            images,
            mask_ratio=MASK_RATIO,
            seed=self.seed,
        )


def crop_and_mask(views: torch.Tensor, generators: list[torch.Generator]) -> tuple[torch.Tensor, torch.Tensor]:
    """A random crop of every view and its mask of visible cells, drawn from the generator of the view."""
    dim = views.ndim - 2
    shape, n = (CROP[dim] // CELL,) * dim, crop_numbers(dim)
    # Numbers are drawn per view, and used for all views at once, which takes half of the time.
    numbers = torch.stack([torch.rand(n + math.prod(shape), generator=generator) for generator in generators])
    visible = visible_cells(numbers[:, n:], shape, mask_ratio=MASK_RATIO)
    return random_crops(views, numbers[:, :n], size=CROP[dim]), visible


def check_same_channels(sources: list[Views]) -> None:
    """Raise `UserError` unless all views show the same channels in the same order."""
    first = sources[0]
    for other in sources[1:]:
        if channel_order(other.channel_names, like=first.channel_names) != tuple(range(len(first.channel_names))):
            raise different_channels(first.pool.name, first.channel_names, other.pool.name, other.channel_names)


def pretrain(
    sources: list[Views],
    *,
    settings: Settings,
    fabric: "Fabric",
    resume: bool,
    folder: Path | None = None,
    show_batch: Path | None = None,
) -> Path:
    """Train an ensemble of masked autoencoders on the views of one or several pools.

    Parameters
    ----------
    sources : list of Views
        Labels are neither needed nor read.
    settings : Settings
    fabric : Fabric
        As `processes.start` returns it.
    resume : bool
        Continue from ``checkpoint_latest.pth`` if there is one.
    folder : Path, optional
        Where to write; `encoder_folder` by default.
    show_batch : Path, optional
        Where to draw a batch before the training.

    Returns
    -------
    Path
        ``checkpoint_final.pth``; ``progress.png`` and ``reconstructions.png`` lie beside it.

    Raises
    ------
    UserError
        If the pools do not fit together, or as `engine.train` raises it.
    """
    check_same_channels(sources)
    folder = folder or encoder_folder([views.pool.name for views in sources], dim=sources[0].dim)
    objective = MaskedAutoencoding(sources, seed=settings.seed)
    if show_batch:
        on_first(fabric, lambda: draw_batch(show_batch, objective, batch_size=settings.batch_size))
    return train(objective, settings=settings, fabric=fabric, folder=folder, resume=resume)
