#!/usr/bin/env python3
"""Does the way in which files are stored decide what is picked? Before and after views were made by geometry.

    python benchmarks/storage.py                                       # half an hour on one core
    python benchmarks/storage.py --picture docs/views_before_after.png

A pool holds one anatomy: hippocampi of a real pack, or drawn upper abdomens as CT. Every case is stored in one of
several ways, drawn at random, so that storage says nothing about it; the source is stored plainly. Whatever storage
explains is then an artefact, and must be what it explains when it is shuffled among the cases: chance, of which the
mean and the middle 95 % of 1,000 permutations are printed. One of the storages is acquired in thick sagittal slices,
which are another picture of the same anatomy: results are told without these cases, and with them. The same cases, all
stored plainly, are the control: what the labels of storage explain there is chance, for the very same cases.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from encoders import compared
from stored import ANATOMIES, PLAIN, STORAGES, as_stored, drawn_cts, write_pool
from studies import use_folder
from torch.nn import functional as F

from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.encoders.encoder import Encoder
from nnunetv2_xssr.encoders.registry import open_encoder
from nnunetv2_xssr.images.extract import LEAST_VIEWS, VIEW_SIZE, Look, evenly_spaced, extract_views, foreground
from nnunetv2_xssr.images.geometry import Geometry
from nnunetv2_xssr.images.pools import ImagePool, dataset_pool
from nnunetv2_xssr.images.reading import read_image
from nnunetv2_xssr.images.scale import common_look
from nnunetv2_xssr.images.views import Views, prepare_views
from nnunetv2_xssr.pretrain.processes import start
from nnunetv2_xssr.pretrain.settings import Settings
from nnunetv2_xssr.pretrain.training import pretrain
from nnunetv2_xssr.selection import select
from nnunetv2_xssr.selection._engine.neighbours import nearest_neighbours
from nnunetv2_xssr.selection.scores import novelty
from nnunetv2_xssr.selection.standardise import standardise

STRATEGIES = ("xssr", "xssr_no_shares", "xssr_sum", "coreset")
SHARES = {
    "nearest case": "nearest case stored alike",
    "features": "variance of features",
    "novelty": "variance of novelty",
}
SHARE, PERMUTATIONS = 0.1, 1000
FORMER, PRESENT, AXIAL = "former", "present", "present, --axis axial"
CONTROL = "present, all stored plainly"
GROUPS = {"axial": STORAGES[:-1], "axial and sagittal": STORAGES}  # slices of the pool; the last storage is sagittal
SHOWN = ("plain", "rows flipped", "sagittal stack", "margin")


@dataclass(frozen=True, kw_only=True)
class Explained:
    """How much storage explains, and how much it does when it is shuffled among the cases.

    Attributes
    ----------
    found : float
    chance : array of shape (PERMUTATIONS,)
    """

    found: float
    chance: np.ndarray

    @property
    def p(self) -> float:
        """The share of permutations that explain as much, with what was found as one of them."""
        return float(1 + (self.chance >= self.found - 1e-12).sum()) / (1 + len(self.chance))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What storage explains by one encoder.

    Attributes
    ----------
    of : dict
        By what is explained: the names in ``SHARES`` and ``STRATEGIES``.
    own : array of shape (storages,)
        Share of the cases of every storage whose nearest case has the same one.
    picked : array of shape (storages,)
        Picks of every storage, mean of the strategies, as a multiple of what chance gives.
    """

    of: dict[str, Explained]
    own: np.ndarray
    picked: np.ndarray


Row = tuple[str, str, list[Measured]]  # rules of the views, kind of encoder, one per seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("results/storage"), help="keeps pools, encoders and features")
    parser.add_argument("--pools", nargs="+", choices=list(ANATOMIES), default=list(ANATOMIES), help="all by default")
    parser.add_argument("--cases", type=int, default=105, help="of a pool; the source has half as many; 105 by default")
    parser.add_argument("--seeds", type=int, default=2, help="encoders of each kind; 2 by default")
    parser.add_argument("--epochs", type=int, default=1, help="of pretraining; 1 by default")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw a case in four storages, and nothing else")
    args = parser.parse_args()
    return run("storage.py", lambda: draw(args.picture) if args.picture else benchmark(args))


def benchmark(args: argparse.Namespace) -> None:
    use_folder(args.work)
    torch.set_num_threads(1)
    for anatomy in args.pools:
        number = 700 + 3 * list(ANATOMIES).index(anatomy)
        names = [
            f"Dataset{number + i}_{anatomy}_{part}_{args.cases}" for i, part in enumerate(("mixed", "plain", "source"))
        ]
        mixed, plain, source = (args.work / "nnUNet_raw" / name for name in names)
        storage = write_pool(mixed, anatomy, args.cases, storages=STORAGES)
        write_pool(plain, anatomy, args.cases, storages=(PLAIN,))
        write_pool(source, anatomy, max(1, args.cases // 2), storages=(PLAIN,), after=args.cases)
        measured: dict[str, list[Row]] = {group: [] for group in GROUPS}
        for rules, target, archive in views_by_rules(*map(dataset_pool, names)):
            for kind, encoders in encoders_of(archive, args).items():
                for group, storages in GROUPS.items():
                    if rules == AXIAL and storages is not STORAGES:
                        continue  # all slices are axial
                    rows = np.flatnonzero(storage < len(storages))
                    found = [measure(encoder, target, archive, storage, rows, args.work) for encoder in encoders]
                    measured[group].append((rules, kind, found))
        print_tables(anatomy, measured)


def views_by_rules(mixed: ImagePool, plain: ImagePool, source: ImagePool) -> Iterator[tuple[str, Views, Views]]:
    """Views of a pool and of the source, by the rules of the former version and by the present ones."""
    look = common_look([source], dim=2)
    target, archive = (prepare_views(one, look=look) for one in (mixed, source))
    yield FORMER, former_views(target), former_views(archive)
    yield PRESENT, target, archive
    # The source has one axis, and needs no other encoder.
    yield AXIAL, prepare_views(mixed, look=replace(look, axis="axial")), archive
    yield CONTROL, prepare_views(plain, look=look), archive


def former_views(views: Views) -> Views:
    """The views of a pool as the former version made them."""
    reader = views.pool.reader()
    rows = [former_view(read_image(case, reader)[0], views.channel_names[0]) for case in views.pool.cases]
    settings = {**views.settings, "rules": FORMER, "views": LEAST_VIEWS, "view_channels": list(views.channel_names)}
    return replace(views, rows=np.stack(rows), settings=settings)


def former_view(image: np.ndarray, channel_name: str) -> np.ndarray:
    """Eight slices along the first axis of the file, squeezed into squares, normalised with their background.

    From an array of shape (1, z, y, x) to one of shape (8, 1, VIEW_SIZE, VIEW_SIZE).
    """
    places = evenly_spaced(foreground(image[0]), LEAST_VIEWS)
    image = image.astype(np.float32)
    if channel_name == "CT":
        shown = np.clip(image, -1000, 1000) / 500
    else:
        shown = (image - image.mean()) / image.std()
    slices = torch.from_numpy(shown[:, places]).transpose(0, 1)
    squeezed = F.interpolate(slices, (VIEW_SIZE, VIEW_SIZE), mode="bilinear", antialias=True, align_corners=False)
    return squeezed.numpy().astype(np.float16)


def encoders_of(source: Views, args: argparse.Namespace) -> dict[str, list[Encoder]]:
    """Untrained and trained ensembles of autoencoders for the views of a source, as many as there are seeds."""
    folder = args.work / f"{source.pool.name}_{source.settings.get('rules', PRESENT)}_{args.epochs}"
    found: dict[str, list[Encoder]] = {"untrained": [], "trained": []}
    for seed in range(args.seeds):
        settings = Settings(seed=seed, epochs=args.epochs)
        trained = pretrain([source], settings=settings, fabric=start("cpu"), resume=True, folder=folder / str(seed))
        for kind, spelling in (("untrained", "untrained"), ("trained", str(trained))):
            opened = open_encoder(spelling, weights=None, learn_from=[source.pool.name], dim=2, device="cpu")
            found[kind].append(opened.ready([source], seed=seed))
    return found


def measure(
    encoder: Encoder, target: Views, source: Views, storage: np.ndarray, rows: np.ndarray, work: Path
) -> Measured:
    """What the storage of some cases of the target explains."""
    storage, found = storage[rows], compared(encoder, target, source, rows.tolist(), work)
    z, x = standardise(found.pool, found.source, components=found.components, widths=found.widths)
    nearest = nearest_neighbours(z, k=1)[1][:, 0]
    novel = novelty(z, x)[:, None]
    measures: dict[str, Callable[[np.ndarray], float]] = {
        "nearest case": lambda labels: float((labels[nearest] == labels).mean()),
        "features": lambda labels: share_of_variance(z, labels),
        "novelty": lambda labels: share_of_variance(novel, labels),
    }
    budget, of_storages = max(1, int(SHARE * len(z))), np.bincount(storage)
    picked = []
    for strategy in STRATEGIES:
        how = {"components": found.components, "widths": found.widths}
        picks = select(found.pool, budget, source=found.source, strategy=strategy, **how).picks
        measures[strategy] = partial(unevenness, picks=picks)
        picked.append(np.bincount(storage[picks], minlength=len(of_storages)) * len(z) / budget / of_storages)
    return Measured(
        of={name: against_chance(one, storage) for name, one in measures.items()},
        own=np.bincount(storage, weights=storage[nearest] == storage) / of_storages,
        picked=np.mean(picked, axis=0),
    )


def against_chance(explained: Callable[[np.ndarray], float], storage: np.ndarray) -> Explained:
    """What the storages explain, and what they do when they are shuffled among the cases."""
    rng = np.random.default_rng(0)
    chance = [explained(rng.permutation(storage)) for _ in range(PERMUTATIONS)]
    return Explained(found=explained(storage), chance=np.array(chance))


def share_of_variance(rows: np.ndarray, labels: np.ndarray) -> float:
    """Variance between the means of the labels as a share of the whole (eta squared), of rows of shape (n, d)."""
    rows = rows - rows.mean(axis=0)
    sums = np.stack([rows[labels == label].sum(axis=0) for label in np.unique(labels)])
    counts = np.unique(labels, return_counts=True)[1]
    return float((sums**2 / counts[:, None]).sum() / max((rows**2).sum(), 1e-12))


def unevenness(labels: np.ndarray, *, picks: np.ndarray) -> float:
    """The chi-square statistic of how picks fall on the labels."""
    of_all = np.bincount(labels)
    expected = of_all * len(picks) / len(labels)
    return float(((np.bincount(labels[picks], minlength=len(of_all)) - expected) ** 2 / expected).sum())


def print_tables(anatomy: str, measured: dict[str, list[Row]]) -> None:
    """What storage explains by the views and the encoders, and of which storages the nearest cases are."""
    print(f"\n{anatomy}: what storage explains, in % (chance: mean, 95 %)\n")
    tested = [f"picks of {strategy}: chi-square (p)" for strategy in STRATEGIES]
    _print_row("slices", "views", "encoder", *SHARES.values(), *tested)
    print("|---" * (3 + len(SHARES) + len(tested)) + "|")
    for group, rows in measured.items():
        for rules, kind, seeds in rows:
            shares = [_as_share([one.of[name] for one in seeds]) for name in SHARES]
            tests = [_as_test([one.of[name] for one in seeds]) for name in STRATEGIES]
            _print_row(group, rules, kind, *shares, *tests)
    print(f"\n{anatomy}, by storage: nearest case stored alike, in %; picks, 1 by chance (means)\n")
    _print_row("slices", "views", "encoder", *(storage.name for storage in STORAGES))
    print("|---" * (3 + len(STORAGES)) + "|")
    for group, rows in measured.items():
        for rules, kind, seeds in rows:
            own, picked = (np.mean([getattr(one, name) for one in seeds], axis=0) for name in ("own", "picked"))
            cells = [f"{100 * share:.0f}; {picks:.1f}" for share, picks in zip(own, picked, strict=True)]
            _print_row(group, rules, kind, *cells, *[""] * (len(STORAGES) - len(cells)))


def _as_share(seeds: list[Explained]) -> str:
    chance = 100 * np.concatenate([one.chance for one in seeds])
    low, high = np.percentile(chance, (2.5, 97.5))
    each = ", ".join(f"{100 * one.found:.0f}" for one in seeds)
    return f"{each} ({chance.mean():.0f}, {low:.0f} to {high:.0f})"


def _as_test(seeds: list[Explained]) -> str:
    return ", ".join(f"{one.found:.1f} ({one.p:.3f})" for one in seeds)


def _print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def draw(file: Path) -> None:
    """One drawn CT in four storages as the former version and the present one see it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    (image,) = drawn_cts(1, after=0)
    pixel = max(image.GetSize()[:2]) * image.GetSpacing()[0] / VIEW_SIZE
    shown = [storage for storage in STORAGES if storage.name in SHOWN]
    figure, panels = plt.subplots(2, len(shown), figsize=(9, 4.9), layout="constrained")
    for storage, (above, below) in zip(shown, panels.T, strict=True):
        stored = as_stored(image, storage, empty=ANATOMIES["ct"].empty)
        array = sitk.GetArrayFromImage(stored)[None]
        above.imshow(former_view(array, "CT")[LEAST_VIEWS // 2, 0], cmap="gray", vmin=-2, vmax=2)
        properties = {"spacing": stored.GetSpacing()[::-1], "sitk_stuff": {"direction": stored.GetDirection()}}
        geometry = Geometry.of(properties)
        views = extract_views(array, ("CT",), LEAST_VIEWS, geometry=geometry, look=Look(pixel=pixel))
        below.imshow(views[LEAST_VIEWS // 2, 1], cmap="gray", vmin=0, vmax=1)
        above.set_title(storage.name, fontsize=11)
    for panel, rules in zip(panels[:, 0], ("before", "now (soft tissue)"), strict=True):
        panel.set_ylabel(rules, fontsize=11)
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
    figure.savefig(file, dpi=90)
    print(f"wrote {file}")


if __name__ == "__main__":
    sys.exit(main())
