#!/usr/bin/env python3
"""Which features make selections that cover the target? The studies of studies.py; no segmenter is trained.

    python benchmarks/embedding.py              # pretrains what evidence.py has not, in the same --work
    python benchmarks/embedding.py --tables     # only by the encoders that are there

A pool is covered well if its cases are near to their nearest pick. A selection's score is the percentile of this mean
distance among 1,000 random draws of as many cases (50 is chance), mean over budgets of 2.5 % and 5 %. The distance of
two cases is 1 - Dice of their masks, or that of what their objects look like (`appearances`). A study's pool is all of
its target, drawn again four times: 80 % of the cases each. Retrieval is the Dice of a case's mask and that of its
nearest case, on a scale from a random case's (0) to the best case's (100).
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from encoders import ENCODERS, SEEDLESS, compared, is_there, opened, thumbnails
from evidence import header, row
from skimage.segmentation import find_boundaries
from sklearn.metrics import pairwise_distances
from sklearn.preprocessing import StandardScaler
from studies import ALL, STUDIES, Study, source_views, target_of, use_folder
from tqdm import tqdm

from nnunetv2_xssr.benchmark.arms import Features
from nnunetv2_xssr.benchmark.small_cases import SmallCases
from nnunetv2_xssr.benchmark.statistics import percentile_within
from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.selection._engine.cells import cells_of
from nnunetv2_xssr.selection.kinds import tell_kinds
from nnunetv2_xssr.selection.limits import unlimited
from nnunetv2_xssr.selection.scores import density, novelty
from nnunetv2_xssr.selection.standardise import standardise
from nnunetv2_xssr.selection.strategies import STRATEGIES, Problem

BUDGETS = (0.025, 0.05)
COMPARED = ("xssr_no_shares", "xssr_sum")  # strategies
KINDS = ("grid", "average", "gap")  # of the autoencoders' features: see --embedding of nnUNetv2_xssr_select
N_RANDOM, N_POOLS = 1000, 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=int, default=5, help="of every encoder that knows seeds; 5 by default")
    add("--work", type=Path, default=Path("results/evidence"), help="folder; results/evidence by default")
    add("--tables", action="store_true", help="pretrain nothing")
    args = parser.parse_args()
    return run("embedding.py", lambda: embedding(args.work.resolve(), args.seeds, training=not args.tables))


def embedding(work: Path, seeds: int, *, training: bool) -> None:
    use_folder(work)
    torch.set_num_threads(1)
    studies = {study.name: study for study in (replace(study, pool=ALL) for study in STUDIES)}
    results = [measure(study, work, seeds, training=training) for study in tqdm(studies.values())]
    print_tables(results, seeds)


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the features of an encoder are worth in a study.

    Attributes
    ----------
    percentiles : dict
        Of the coverage, by distance and strategy.
    picks : dict
        By strategy, pool and budget.
    retrieval, same_kind : float
        In percent; the latter is the share of cases whose nearest one is of their own domain.
    """

    percentiles: dict[tuple[str, str], float]
    picks: dict[tuple[str, int, float], set[int]]
    retrieval: float
    same_kind: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """The scores in a study by encoder, one per seed."""

    study: Study
    scores: dict[str, list[Score]] = field(default_factory=lambda: defaultdict(list))


def measure(study: Study, work: Path, seeds: int, *, training: bool) -> Result:
    """All encoders in a study."""
    source, folder = source_views(study.pack, study.source, work), work / "encoders"
    target = target_of(study.pack, tuple(study.target.items()), work)
    views = target.views(source)
    cases, domains = views.pool.identifiers, target.images.dataset_json["domains"]
    judge, rows = Judge(target.small_cases(), cases, [domains[case] for case in cases]), range(len(cases))
    result = Result(study=study)
    for name in ENCODERS:
        for seed in range(1 if name in SEEDLESS else seeds):
            if not training and not is_there(name, source, seed, folder):
                continue
            if name == "thumbnails":
                result.scores[name].append(judge.score(thumbnails(views, source, rows, seed, folder)))
                continue
            encoder = opened(name, source, seed, folder)
            for kind in KINDS if name == "mae" else ("grid" if encoder.layout.cells else "average",):
                score = judge.score(compared(encoder, views, source, rows, folder, kind=kind))
                result.scores[kind if name == "mae" else name].append(score)
    result.scores["mae"] = result.scores["grid"]
    return result


class Judge:
    """Scores features of the cases of a target by their masks, which no selection sees."""

    def __init__(self, small: SmallCases, cases: Sequence[str], domains: Sequence[str]):
        images, labels = small.rows(cases)
        self.distances = {
            "masks": mask_distances(labels, n_labels=small.n_labels),
            "appearances": pairwise_distances(StandardScaler().fit_transform(appearances(images, labels > 0))),
        }
        self.domains, rng, n = np.array(domains), np.random.default_rng(0), len(cases)
        self.pools = [np.sort(rng.choice(n, int(0.8 * n), replace=False)) for _ in range(N_POOLS)]
        self.random: dict[tuple[str, int, float], np.ndarray] = {}
        for i, pool in enumerate(self.pools):
            for budget in BUDGETS:
                draws = [rng.choice(pool, picks_of(pool, budget), replace=False) for _ in range(N_RANDOM)]
                for name in self.distances:
                    self.random[name, i, budget] = np.array([self.coverage(name, pool, draw) for draw in draws])

    def coverage(self, name: str, pool: np.ndarray, picks: np.ndarray) -> float:
        """Mean distance of the cases of a pool to their nearest pick, negative: more is better."""
        return -float(self.distances[name][np.ix_(pool, picks)].min(axis=1).mean())

    def score(self, features: Features) -> Score:
        z, x = standardise(features.pool, features.source, components=features.components)
        percentiles, picks = defaultdict(list), {}
        for i, pool in enumerate(self.pools):
            cells = cells_of(z[pool])
            parts = {"density": density(cells), "novelty": novelty(cells, x), "limits": unlimited(len(pool))}
            parts["kind"] = tell_kinds(z[pool])
            for budget in BUDGETS:
                problem = Problem(pool=cells, budget=picks_of(pool, budget), chosen=np.empty(0, int), **parts)
                for strategy in COMPARED:
                    found = pool[STRATEGIES[strategy](problem).picks]
                    picks[strategy, i, budget] = set(found.tolist())
                    for name in self.distances:
                        ours = np.array([self.coverage(name, pool, found)])
                        percentile = percentile_within(ours, self.random[name, i, budget])
                        percentiles[name, strategy].append(percentile)
        means = {key: float(np.mean(found)) for key, found in percentiles.items()}
        return Score(percentiles=means, picks=picks, **self.neighbours(z))

    def neighbours(self, z: np.ndarray) -> dict[str, float]:
        """How well the nearest case of every case fits."""
        itself = np.diag(np.full(len(z), np.inf))
        nearest = (pairwise_distances(z) + itself).argmin(axis=1)
        distance = self.distances["masks"]
        random, best = distance[~np.eye(len(z), dtype=bool)].mean(), (distance + itself).min(axis=1).mean()
        found = distance[np.arange(len(z)), nearest].mean()
        same = (self.domains[nearest] == self.domains).mean()
        return {"retrieval": float(100 * (random - found) / (random - best)), "same_kind": float(100 * same)}


def picks_of(pool: np.ndarray, budget: float) -> int:
    return max(1, int(budget * len(pool)))


def mask_distances(labels: np.ndarray, *, n_labels: int) -> np.ndarray:
    """1 - Dice of all pairs of cases, shape (n, n), with all labels counted together; labels: (n, slices, ...)."""
    masks = np.concatenate([labels.reshape(len(labels), -1) == label for label in range(1, n_labels + 1)], axis=1)
    masks = masks.astype(np.float32)
    size = masks.sum(axis=1)
    return 1 - 2 * masks @ masks.T / np.maximum(size[:, None] + size, 1)


def appearances(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """What objects look like: brightness of every channel and its deviation inside and outside of the mask, size of the
    mask, length of its boundary.

    Parameters
    ----------
    images : array of shape (n, slices, channels, height, width)
    masks : bool array of shape (n, slices, height, width)
    """
    found = []
    for image, mask in zip(np.moveaxis(images, 2, 1), masks, strict=True):
        parts = [channel[where] if where.any() else np.zeros(1) for channel in image for where in (mask, ~mask)]
        told = [value for part in parts for value in (part.mean(), part.std())]
        found.append([*told, np.sqrt(mask.mean()), np.sqrt(find_boundaries(mask).mean())])
    return np.array(found)


def print_tables(results: Sequence[Result], seeds: int) -> None:
    both, learned = " / ".join(COMPARED), [name for name in ENCODERS if name not in SEEDLESS]
    mixed = [result for result in results if result.study.mixed]
    for names, what in ((ENCODERS, ""), (KINDS, ", by kind of the autoencoders' features")):
        for name in ("masks", "appearances"):
            print_table(f"Coverage of {name}{what}: {both}", results, names, seeds, partial(covered, name))
    print_table("Retrieval of masks", results, ENCODERS, seeds, lambda scores: [mean(s.retrieval for s in scores)])
    nearest = "Cases whose nearest one is of their own kind, %"
    print_table(nearest, mixed, ENCODERS, seeds, lambda scores: [mean(s.same_kind for s in scores)])
    print_table(f"Picks that two seeds share, %: {both}", results, learned, seeds, shared)


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def covered(distance: str, scores: Sequence[Score]) -> list[float]:
    """The mean percentile of every strategy."""
    return [mean(score.percentiles[distance, strategy] for score in scores) for strategy in COMPARED]


def shared(scores: Sequence[Score]) -> list[float]:
    """Equal picks of every strategy by the encoders of two seeds, in percent, mean over the pairs."""
    pairs = list(combinations([score.picks for score in scores], 2))
    return [
        100 * mean(len(a[key] & b[key]) / len(a[key]) for a, b in pairs for key in a if key[0] == strategy)
        for strategy in COMPARED
        if pairs
    ]


def print_table(
    title: str,
    results: Sequence[Result],
    names: Iterable[str],
    seeds: int,
    numbers: Callable[[Sequence[Score]], list[float]],
) -> None:
    """A row per study, and their mean; n is the number of seeds where it is another one than was asked for."""
    print(f"\n{title}:\n")
    header("study", list(names))
    columns: dict[str, list[list[float]]] = {name: [] for name in names}
    for result in results:
        cells = []
        for name, column in columns.items():
            scores = result.scores[name]
            found = numbers(scores) if scores else []
            column += [found] if found else []
            few = f" (n = {len(scores)})" if found and name not in SEEDLESS and len(scores) != seeds else ""
            cells.append(" / ".join(str(round(value)) for value in found) + few)
        row(result.study.name, cells)
    means = (np.mean(column, axis=0) if column else [] for column in columns.values())
    row("mean", [" / ".join(str(round(value)) for value in found) for found in means])


if __name__ == "__main__":
    sys.exit(main())
