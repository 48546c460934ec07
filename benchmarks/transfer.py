#!/usr/bin/env python3
"""What should the autoencoder predict, from which images, how long, and how many should there be? In estimates.

    python benchmarks/transfer.py               # three hours on one core; keeps everything in --work
    python benchmarks/transfer.py --tables      # only prints what there is

A small U-Net (that of the fast judge, 50 iterations) learns from every case of a pool alone, and is measured on all
test cases. The Dice of a selection is then estimated as the mean over the test cases of the best of its cases. So
thousands of selections can be compared without a training each. The studies are six of the tuning half. The first table
tells how far this estimate follows the fast judge's trainings on random draws, where evidence.py has made them.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from evidence import header, row
from studies import STUDIES, TUNING, Study, Target, source_views, target_of, use_folder
from torch import nn
from tqdm import tqdm

from nnunetv2_xssr.benchmark import fast_judge
from nnunetv2_xssr.benchmark.arms import random_arms
from nnunetv2_xssr.benchmark.jobs import DICE, Job, load_result
from nnunetv2_xssr.benchmark.statistics import describe, mean_over_studies
from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.encoders import mae
from nnunetv2_xssr.encoders.pooling import COMPONENTS, GRID, FeatureLayout, features
from nnunetv2_xssr.images.views import Views
from nnunetv2_xssr.pretrain.mae import MaskedAutoencoder, cell_targets, random_crops, random_visible, to_cells
from nnunetv2_xssr.pretrain.training import ARCHITECTURE, CROP, LEARNING_RATE, MASK_RATIO
from nnunetv2_xssr.records.files import atomic
from nnunetv2_xssr.selection import select

ITERATIONS, BATCHES, BATCH_SIZE, RANDOM_DRAWS = 50, 300, 32, 300
# The large pool of lungs is left out for the time it would take, the one of 40 nuclei because its cases are in another.
SOME = [s for s in STUDIES if s.half == TUNING and s.name not in (
    "CXRLung hannover -> guangzhou", "NucleiDSB fluo256 -> fluo360, fluo696, histology, pool of 40"
)]  # fmt: skip
SEEDS, SIZES = 5, (1, 2)  # of every way to learn; autoencoders side by side
STRATEGIES = ("facility_location", "xssr", "xssr_sum", "kmeans", "typiclust", "coreset")


@dataclass(frozen=True)
class Learning:
    """How an autoencoder learns.

    Attributes
    ----------
    target : {"both", "cells", "pixels", "untrained"}
        What it predicts: what the package learns, the normalised pixels of cells, or pixels; or it does not learn.
    batches : int
    pool : bool
        Whether the images of the pool lie beside those of the source.
    """

    target: str = "both"
    batches: int = BATCHES
    pool: bool = False

    @property
    def name(self) -> str:
        words = [f"{self.batches} batches"] * (self.batches != BATCHES) + ["source and pool"] * self.pool
        return ", ".join([self.target, *words])


BOTH = Learning()
TARGETS = [BOTH, *(Learning(target) for target in ("cells", "pixels", "untrained"))]
WAYS = [
    BOTH,
    Learning(batches=75),
    Learning(batches=150),
    Learning(pool=True),
    Learning("untrained"),
    Learning(batches=1200),
]


class Autoencoder(MaskedAutoencoder):
    """One autoencoder of the ensemble, with the pixels of cells, the normalised ones, or what the package learns."""

    target = "both"

    def forward(self, image: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """The loss: a mean over the masked cells."""
        found, wanted, masked = self.reconstruct(image, visible), cell_targets(image), 1 - visible
        if self.target == "both":
            return super().forward(image, visible).mean()
        wanted = to_cells(image) if self.target == "pixels" else wanted[:, :-2]
        return ((found[:, :-2] - wanted).square().mean(dim=1, keepdim=True) * masked).sum() / masked.sum()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("results/evidence"), help="folder; results/evidence by default"
    )
    parser.add_argument("--tables", action="store_true", help="only print what there is")
    args = parser.parse_args()
    return run("transfer.py", lambda: transfer(args.work.resolve(), training=not args.tables))


def transfer(work: Path, *, training: bool) -> None:
    use_folder(work)
    torch.set_num_threads(1)
    pools = [Pool(study, work) for study in SOME]
    if training:
        for pool in pools:
            pool.measure()
    pools = [pool for pool in pools if pool.file.is_file()]
    print_agreement(pools)
    columns = ["mean Dice", "5th percentile", "percentile of the draws", "same picks", "mean Dice less the first row"]
    print("\nEstimated gain over random draws by facility location, means over studies and budgets; differences with")
    print("95 % intervals over studies. By what is predicted:\n")
    print_ways(TARGETS, "target", pools, columns, training)
    print("\nThe same by how long and from what is learned, with both targets:\n")
    print_ways(WAYS, "way", pools, columns, training)
    print("\nThe same by strategy, one autoencoder with both targets:\n")
    header("strategy", columns)
    first = None
    for strategy in STRATEGIES:
        units = [(BOTH, (seed,)) for seed in range(SEEDS)]
        first = print_arm(strategy, pools, units, strategy, training, less=first)


def plain(name: str) -> str:
    """As part of a file's name."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def print_ways(
    ways: Sequence[Learning], heading: str, pools: "Sequence[Pool]", columns: Sequence[str], training: bool
) -> None:
    """A table of ways to learn, with one autoencoder and with several; all is compared with the first row."""
    header(f"{heading}, autoencoders", columns)
    first = None
    for size in SIZES:
        for way in ways:
            units = [(way, tuple((seed + i) % SEEDS for i in range(size))) for seed in range(SEEDS)]
            first = print_arm(f"{way.name}, {size}", pools, units, "facility_location", training, less=first)


class Pool:
    """The pool of a study, and how well each of its cases teaches each test case."""

    def __init__(self, study: Study, work: Path):
        self.study, self.work = study, work
        self.target: Target = target_of(study.pack, tuple(study.target.items()), work)
        order = np.random.default_rng(0).permutation(len(self.target.pool))
        self.cases = sorted(self.target.pool[i] for i in order[: study.pool])
        self.budgets = sorted({3, *(max(1, int(share * len(self.cases))) for share in (0.025, 0.05, 0.1))})
        self.file = work / "transfer" / f"{plain(study.name)}.npy"
        self.random: dict[int, np.ndarray] = {}

    @cached_property
    def source(self) -> Views:
        """Of the study's source."""
        return source_views(self.study.pack, self.study.source, self.work)

    @cached_property
    def views(self) -> Views:
        """Of the target, at the scale of the source."""
        return self.target.views(self.source)

    def measure(self) -> None:
        """Learn from every case alone; what is there is kept."""
        if self.file.is_file():
            return
        small, fast_judge.ITERATIONS = self.target.small_cases(), ITERATIONS
        at = {case: i for i, case in enumerate(small.identifiers)}
        test = [at[case] for case in self.target.test]
        measured = [
            fast_judge.judge(
                small.images[[at[case]]].astype(np.float32), small.labels[[at[case]]],
                small.images[test].astype(np.float32), small.labels[test], n_labels=small.n_labels, seed=0,
            )
            for case in tqdm(self.cases, desc=self.study.name)
        ]  # fmt: skip
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(self.file) as temporary, open(temporary, "wb") as file:
            np.save(file, np.array(measured, np.float32))

    def score(self, picks: Sequence[int]) -> np.ndarray:
        """Estimated mean Dice, and 5th percentile of the Dice of cases."""
        dice = 100 * np.load(self.file)[list(picks)].max(axis=0)
        return np.array([dice.mean(), np.percentile(dice, 5)])

    def gain(self, picks: Sequence[int]) -> tuple[float, float, float]:
        """Over random draws: in both outcomes; and the percentile of the first within the draws."""
        k = len(picks)
        if k not in self.random:
            rng = np.random.default_rng(0)
            draws = (rng.choice(len(self.cases), k, replace=False) for _ in range(RANDOM_DRAWS))
            self.random[k] = np.array([self.score(draw) for draw in draws])
        ours, random = self.score(picks), self.random[k]
        mean, worst = ours - random.mean(axis=0)
        return mean, worst, 100 * (random[:, 0] < ours[0]).mean()

    def features(self, way: Learning, seeds: Sequence[int], *, training: bool) -> tuple[np.ndarray, np.ndarray] | None:
        """Of pool and source, those of several autoencoders side by side; None while one is missing."""
        source, views = self.source, self.views
        at = {case: i for i, case in enumerate(views.pool.identifiers)}
        rows, found = [at[case] for case in self.cases], []
        beside = {self.study.name: views.rows[rows]} if way.pool else {}
        for seed in seeds:
            encoder = autoencoder(way, source, beside, seed, self.work / "transfer", training=training)
            if encoder is None:
                return None
            pooled = [kept(encoder, each, self.work / "transfer") for each in (views, source)]
            found.append([features(each, encoder.layout, kind="grid") for each in pooled])
        pool, archive = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
        return pool[rows], archive


def autoencoder(
    way: Learning, source: Views, beside: dict[str, np.ndarray], seed: int, folder: Path, *, training: bool
) -> mae.Autoencoder | None:
    """Of a source, what lies beside it, and a seed; trained where it is missing; None where it is not to be trained."""
    words = [source.pool.name, *map(plain, beside), way.target] + [str(way.batches)] * (way.batches != BATCHES)
    name = "_".join([*words, str(seed)])
    path, channels = folder / f"{name}.pth", source.rows.shape[2]
    torch.manual_seed(seed)
    model = Autoencoder(input_channels=channels, **ARCHITECTURE)
    model.target = way.target
    if way.target != "untrained":
        if not path.is_file() and not training:
            return None
        if not path.is_file():
            learn(model, [source.rows, *beside.values()], way.batches, seed, name=name)
            with atomic(path) as temporary:
                torch.save(model.encoder.state_dict(), temporary)
        model.encoder.load_state_dict(torch.load(path))
    before, last = ARCHITECTURE["features_per_stage"][-2:]
    return mae.Autoencoder(
        name="mae", members=nn.ModuleList([model.encoder]).eval(), identity=name, weights=name,
        layout=FeatureLayout(last, before, GRID**2), views={}, sources={}, where=str(path),
    )  # fmt: skip


def learn(model: Autoencoder, pools: Sequence[np.ndarray], batches: int, seed: int, *, name: str) -> None:
    """As the package does, with one autoencoder and a schedule of torch's own; every view counts as much as another."""
    draws = torch.Generator().manual_seed(seed)
    everything = torch.cat([torch.from_numpy(np.array(rows)).flatten(0, 1) for rows in pools])
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, batches, pct_start=0.1)
    size, shape = CROP[2], (CROP[2] // 16,) * 2
    for _ in tqdm(range(batches), desc=name):
        images = everything[torch.randint(len(everything), (BATCH_SIZE,), generator=draws)].float()
        crops = random_crops(images, torch.rand(BATCH_SIZE, 3, generator=draws), size=size)
        loss = model(crops, random_visible(BATCH_SIZE, shape, mask_ratio=MASK_RATIO, generator=draws))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def kept(encoder: mae.Autoencoder, views: Views, folder: Path) -> np.ndarray:
    """The pooled features of a pool, from disk where they were computed before."""
    path = folder / f"{encoder.identity}_of_{views.pool.name}_{views.cache}.npy"
    if not path.is_file():
        with atomic(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.stack([mae.embed_views(encoder, case) for case in views.rows]).astype(np.float16))
    return np.load(path).astype(np.float32)


def print_arm(
    name: str,
    pools: Sequence[Pool],
    units: Sequence[tuple[Learning, tuple[int, ...]]],
    strategy: str,
    training: bool,
    *,
    less: np.ndarray | None,
) -> np.ndarray | None:
    """One row: means over units (sets of seeds), and how many picks two units without a common seed share.

    Returns the gain in mean Dice of every study in the first row, which the rows below are given as ``less``.
    """
    gains, picks = np.zeros((len(units), len(pools), 3)), []
    for gains_of_unit, (way, seeds) in zip(gains, units, strict=True):
        found: dict[tuple[str, int], set[int]] = {}
        for at, pool in enumerate(pools):
            both = pool.features(way, seeds, training=training)
            if both is None:
                return less
            components = COMPONENTS["grid"]
            for k in pool.budgets:
                chosen = select(both[0], k, source=both[1], strategy=strategy, components=components).picks.tolist()
                gains_of_unit[at] += np.array(pool.gain(chosen)) / len(pool.budgets)
                found[pool.study.name, k] = set(chosen)
        picks.append((set(seeds), found))
    apart = [(a, b) for (mine, a), (yours, b) in combinations(picks, 2) if not mine & yours]
    same = [len(a[key] & b[key]) / len(a[key]) for a, b in apart for key in a]
    of_studies = gains.mean(axis=0)
    mean, worst, percentile = of_studies.mean(axis=0)
    cells = [f"{mean:+.1f}", f"{worst:+.1f}", f"{percentile:.0f}", f"{100 * np.mean(same):.0f} %" if same else None]
    row(name, [*cells, None if less is None else describe(mean_over_studies(of_studies[:, 0] - less))])
    return of_studies[:, 0] if less is None else less


def print_agreement(pools: Sequence[Pool]) -> None:
    print("Estimate against the fast judge, random draws:\n")
    header("study", ["k", "draws", "judge", "estimate", "correlation"])
    for pool in pools:
        for k in pool.budgets:
            judged, estimated = [], []
            for arm in random_arms(pool.cases, budgets=[k], draws=10):
                result = load_result(
                    pool.work / "jobs", Job(judge=pool.target.identity, cases=tuple(arm.cases), seed=0)
                )
                if result is not None:
                    judged.append(100 * np.mean([result.measures[DICE][case] for case in pool.target.test]))
                    estimated.append(pool.score([pool.cases.index(case) for case in arm.cases])[0])
            if len(judged) > 2:
                both = [f"{np.mean(each):.1f} ± {np.std(each):.1f}" for each in (judged, estimated)]
                correlation = f"{np.corrcoef(judged, estimated)[0, 1]:.2f}"
                row(pool.study.name, [str(k), str(len(judged)), *both, correlation])


if __name__ == "__main__":
    sys.exit(main())
