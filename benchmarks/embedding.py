#!/usr/bin/env python3
"""Which embedding makes selections that cover the target? No segmenter is trained.

    python benchmarks/embedding.py              # about two hours on two cores; encoders and scores are kept

A selection's score is the percentile of its coverage among 1,000 random draws of as many cases (50 = random): the mean
over the pool of the distance between a case and the picked one that is nearest, 1 - Dice of the two masks, or the
distance of what the objects in them look like (`proxies.appearance`). Every pool is drawn again: 80 % of its cases,
several times. Retrieval is the Dice between a case's mask and that of its nearest neighbour, as a share of the way from
a random case's (0) to the best case's (100), and, where a pool has several domains, the share of cases whose nearest
neighbour is of their own.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from packs import pack_folder, write_domain
from proxies import appearance, euclidean, mask_vectors, shrink, soft_dice_distance, textures
from skimage.transform import resize
from torch.nn import functional as F
from tqdm import tqdm
from vit import ViTMaskedAutoencoder

from nnunetv2_xssr.encoders.pooling import ALIGNED, GRID, FeatureLayout, place_share, symmetries
from nnunetv2_xssr.images.extract import VIEW_SIZE
from nnunetv2_xssr.images.normalise import Statistics, normalise
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.reading import read_case
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.pretrain.mae import MaskedAutoencoder
from nnunetv2_xssr.pretrain.objective import sample_generator
from nnunetv2_xssr.pretrain.training import ARCHITECTURE, LEARNING_RATE, ViewSampler, crop_and_mask
from nnunetv2_xssr.selection._engine.cells import cells_of
from nnunetv2_xssr.selection.limits import unlimited
from nnunetv2_xssr.selection.scores import density, novelty
from nnunetv2_xssr.selection.standardise import on_grid
from nnunetv2_xssr.selection.strategies import STRATEGIES, Problem

STUDIES = {
    "CXRLung hannover -> guangzhou": ("CXRLung", "hannover", "guangzhou"),
    "NucleiDSB fluo256 -> histology": ("NucleiDSB", "fluo256", "histology"),
    "NucleiDSB fluo256 -> fluo696": ("NucleiDSB", "fluo256", "fluo696"),
    "NucleiDSB fluo256 -> three kinds": ("NucleiDSB", "fluo256", "fluo360+fluo696+histology"),
    "Hippocampus3D range8bit -> standard": ("Hippocampus3D", "range8bit", "standard"),
}
BUDGETS = (0.025, 0.05, 0.1)
STRATEGY_NAMES = ("facility_location", "xssr", "coreset")
N_RANDOM, N_POOLS = 1000, 8
STEPS, BATCH_SIZE = 1200, 32
BEFORE, LAST = -2, -1  # layers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("results/embedding"))
    parser.add_argument("--seeds", type=int, default=2, help="encoders of every kind; 2 by default")
    parser.add_argument("--kinds", nargs="+", default=["conv", "conv untrained", "vit"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    scores = json.loads((args.work / "scores.json").read_text()) if (args.work / "scores.json").is_file() else {}
    for study, (pack, source, target) in STUDIES.items():
        judge = Judge(pack, target, args.work)
        for seed in range(args.seeds):
            for name, pool, archive in embeddings(pack, source, target, args.work, seed, args.kinds):
                for after, finish in AFTER.items():
                    key = f"{study} | {name} | {after} | {seed}"
                    if key not in scores:
                        scores[key] = judge.scores(*finish(pool, archive))
                        (args.work / "scores.json").write_text(json.dumps(scores))
    print_tables(scores)


def views_of(pack, domain, work, labelled=True):
    """Views of a domain: float32 array of shape (cases, views, channels, VIEW_SIZE, VIEW_SIZE), and the pool."""
    import os

    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(work / variable)
    targets = sorted({(pack, target) for pack, _, target in STUDIES.values()})
    number = 100 + targets.index((pack, domain)) if labelled else 200
    name = f"Dataset{number}_{pack}_{domain.replace('+', '_')}"
    extra = "imagesUnlabelled" if (pack, domain) == ("CXRLung", "hannover") else None
    write_domain(pack, domain.split("+"), work / "nnUNet_raw" / name, labelled, extra)
    return prepare_views(open_pool(name))


def embeddings(pack, source, target, work, seed, kinds):
    """Name, pool features and source features of every embedding."""
    archive, pool = (views_of(pack, domain, work, domain == target) for domain in (source, target))
    x, z = (torch.from_numpy(np.asarray(views.rows, np.float32)) for views in (archive, pool))
    if seed == 0:
        yield "thumbnail 16", *(shrink(a.numpy().mean(1), 16).reshape(len(a), -1) for a in (z, x))
        yield "pixels 32", *(shrink(a.numpy().mean(1), 32).reshape(len(a), -1) for a in (z, x))
        yield "textures", *(np.mean([textures(a[:, i].numpy()) for i in range(a.shape[1])], 0) for a in (z, x))
    for kind in kinds:
        model = encoder(kind, archive, work / f"{kind} {pack} {source} {seed}.pth".replace(" ", "_"), seed)
        found = [maps(kind, model, a) for a in (z, x)]
        for name, of in pooled(kind).items():
            yield f"{kind} {name}", *(of(m).numpy() for m in found)
        forms = {name: [averaged(kind, model, a, *settings) for a in (z, x)] for name, settings in AVERAGED.items()}
        for name, rows in forms.items():
            yield f"{kind} {name}", *rows
        share = share_of_place(found[0][BEFORE])
        tqdm.write(f"{pack} {target}, {kind} {seed}: the place explains {share:.2f} of the layer before the last")
        if share >= ALIGNED:
            default = [grid(m[BEFORE], GRID, True).numpy() for m in found]
        else:
            default = forms["before, average over symmetries"]
        yield f"{kind} as the place share decides", *default


def encoder(kind, views, path, seed):
    torch.manual_seed(seed)
    channels = len(views.channel_names)
    vit = kind == "vit"
    model = (
        ViTMaskedAutoencoder(channels, VIEW_SIZE // 16)
        if vit
        else MaskedAutoencoder(input_channels=channels, **ARCHITECTURE)
    )
    if path.is_file():
        model.load_state_dict(torch.load(path))
    elif "untrained" not in kind:
        start = time.perf_counter()
        learn(model, views, seed, 5e-4 if vit else LEARNING_RATE)
        torch.save(model.state_dict(), path)
        tqdm.write(f"{path.name}: {time.perf_counter() - start:.0f} s")
    return model.eval()


def learn(model, views, seed, learning_rate):
    sampler = ViewSampler([views], seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, STEPS, pct_start=0.1)
    for step in tqdm(range(STEPS), leave=False):
        samples = range(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
        loss = model(*crop_and_mask(sampler.views(samples), [sample_generator(seed, i) for i in samples]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def maps(kind, model, views):
    """Features of some layers: a list of tensors of shape (cases, views, d, rows, columns)."""
    flat, found = views.flatten(0, 1), []
    for part in flat.split(64):
        if kind == "vit":
            found.append(model.maps(part))
        else:
            layers, h = [], part
            for stage in model.encoder.stages:
                h = stage(h)
                layers.append(h)
            found.append([F.adaptive_avg_pool2d(layers[1], 8), *layers[2:]])
    return [torch.cat(layer).unflatten(0, views.shape[:2]) for layer in zip(*found, strict=True)]


def over_symmetries(views):
    return [(each.unflatten(0, views.shape[:2]), lambda layer: layer) for each in symmetries(views.flatten(0, 1))]


def over_mirror_images(views):
    return [(views, lambda layer: layer), (views.flip(-1), lambda layer: layer.flip(-1))]


def over_shifts(views, far=4):
    """By a few pixels along both axes; the border is repeated."""
    padded = F.pad(views.flatten(0, 1), (far,) * 4, mode="replicate").unflatten(0, views.shape[:2])
    size = views.shape[-1]
    moved = [(far, far), (0, far), (2 * far, far), (far, 0), (far, 2 * far)]
    return [(padded[..., row : row + size, column : column + size], lambda layer: layer) for row, column in moved]


AVERAGED = {
    "before, average over symmetries": (over_symmetries, 1, False),
    "before, grid 4 over mirror images": (over_mirror_images, GRID, True),
    "before, grid 4 over shifts": (over_shifts, GRID, True),
}


@torch.inference_mode()
def averaged(kind, model, views, over, size, keep_views):
    """`grid` of the layer before the last, the mean over several forms of every view, each turned back."""
    forms = [grid(back(maps(kind, model, form)[BEFORE]), size, keep_views) for form, back in over(views)]
    return torch.stack(forms).mean(0).numpy()


def grid(layer, size, keep_views):
    """Cells of an even grid side by side; views side by side too, or averaged."""
    cells = F.adaptive_avg_pool2d(layer.flatten(0, 1), size).flatten(1).unflatten(0, layer.shape[:2])
    return cells.flatten(1) if keep_views else cells.mean(1)


def pooled(kind):
    """The embeddings of one network by name: functions of its maps."""
    found = {
        "last, average": lambda m: grid(m[LAST], 1, False),
        "before, average": lambda m: grid(m[BEFORE], 1, False),
        "both, average": lambda m: torch.cat([grid(m[i], 1, False) for i in (BEFORE, LAST)], 1),
        "before, grid 4": lambda m: grid(m[BEFORE], 4, True),
        "last, grid 4": lambda m: grid(m[LAST], 4, True),
    }
    if kind == "conv":
        found |= {
            "all, average": lambda m: torch.cat([grid(layer, 1, False) for layer in m], 1),
            "before, mean and deviation": lambda m: torch.cat([m[BEFORE].mean((1, 3, 4)), m[BEFORE].std((1, 3, 4))], 1),
            "before, grid 2": lambda m: grid(m[BEFORE], 2, True),
            "before, grid 8": lambda m: grid(m[BEFORE], 8, True),
            "early, grid 4": lambda m: grid(m[0], 4, True),
        }
    return found


def share_of_place(layer):
    """`place_share` of the grid of a layer, shape (cases, views, d, rows, columns)."""
    kept = F.adaptive_avg_pool2d(layer.flatten(0, 1), GRID).flatten(1).unflatten(0, layer.shape[:2])
    averages = torch.zeros(*layer.shape[:3])  # they have no say in it
    return place_share(torch.cat([averages, kept], 2).numpy(), FeatureLayout(0, layer.shape[2], GRID**2))


def standardised(pool, archive, by_archive=False):
    measured = archive if by_archive else pool
    mean, std = measured.mean(0), measured.std(0)
    factor = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-12), 1 / np.maximum(std, 1e-30), 0)
    return (pool - mean) * factor, (archive - mean) * factor


def components(pool, archive, n, whiten=False):
    """The leading principal components of the pool, after standardising; at most half as many as cases."""
    pool, archive = standardised(pool, archive)
    n = min(n, len(pool) // 2)
    _, values, axes = np.linalg.svd(pool, full_matrices=False)
    axes = axes[:n].T / (values[:n] if whiten else 1)
    return pool @ axes, archive @ axes


AFTER = {
    "as it is": standardised,
    "by the source's statistics": lambda pool, archive: standardised(pool, archive, by_archive=True),
    "PCA 32": lambda pool, archive: components(pool, archive, 32),
    "PCA 64": lambda pool, archive: components(pool, archive, 64),
    "PCA 32, whitened": lambda pool, archive: components(pool, archive, 32, True),
}


def unit(rows):
    return on_grid(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


class Judge:
    """Scores of selections from one target."""

    def __init__(self, pack, domain, work):
        views = views_of(pack, domain, work)
        channels, reader = views.channel_names, views.pool.reader()
        masks, appearances = [], []
        self.domains = np.array([case.domain for case in views.pool.cases])
        for case in views.pool.cases:
            label = reader.read_seg(str(pack_folder(pack) / "labelsTr" / f"{case.identifier}{views.pool.file_ending}"))
            label = label[0][0]
            masks.append(mask_of(label))
            image = read_case(case, reader)
            image = normalise(image, channels, Statistics.of(image, channels))
            appearances.append(appearance(image, (label > 0).astype(np.float32)))
        self.distances = {
            "masks": soft_dice_distance(np.stack(masks).astype(np.float64)),
            "appearance": euclidean(np.stack(appearances)),
        }
        rng = np.random.default_rng(0)
        n = len(masks)
        self.pools = [np.sort(rng.choice(n, int(0.8 * n), replace=False)) for _ in range(N_POOLS)]
        self.random = {}
        for i, rows in enumerate(self.pools):
            for budget in BUDGETS:
                k = max(1, int(budget * len(rows)))
                draws = [rng.choice(len(rows), k, replace=False) for _ in range(N_RANDOM)]
                for kind, distance in self.distances.items():
                    d = distance[np.ix_(rows, rows)]
                    self.random[i, budget, kind] = np.sort([d[:, draw].min(1).mean() for draw in draws])

    def scores(self, pool, archive):
        """Percentiles by kind of coverage, strategy and budget, and the retrieval."""
        found = defaultdict(list)
        x = unit(archive)
        for i, rows in enumerate(self.pools):
            z = unit(pool[rows])
            cells = cells_of(z)
            parts = {"density": density(cells), "novelty": novelty(cells, x)}
            for budget in BUDGETS:
                k = max(1, int(budget * len(rows)))
                problem = Problem(pool=cells, **parts, budget=k, chosen=np.empty(0, int), limits=unlimited(len(rows)))
                for strategy in STRATEGY_NAMES:
                    picks = rows[STRATEGIES[strategy](problem).picks]
                    for kind, distance in self.distances.items():
                        covered = distance[np.ix_(rows, picks)].min(1).mean()
                        percentile = (self.random[i, budget, kind] > covered).mean() * 100
                        found[f"{kind} {strategy} {budget}"].append(float(percentile))
        z, distance = unit(pool).astype(np.float64), self.distances["masks"]
        others = distance + np.diag(np.full(len(pool), np.inf))
        nearest = (z @ z.T - np.diag(np.full(len(z), 9.0))).argmax(1)
        typical = np.mean(distance[~np.eye(len(distance), dtype=bool)])
        gain = (typical - others[np.arange(len(z)), nearest].mean()) / (typical - others.min(1).mean())
        same = float((self.domains[nearest] == self.domains).mean())
        means = {key: float(np.mean(values)) for key, values in found.items()}
        return {**means, "retrieval": float(gain), "same domain": same}


def mask_of(label):
    """Label of shape (z, y, x) as a vector: 32 x 32 cells in 2D, 16 x 16 x 16 of every structure in 3D."""
    if len(label) == 1:
        return mask_vectors(label > 0)[0]
    values = (1, 2)  # anterior and posterior hippocampus
    return np.concatenate([resize((label == v).astype(np.float32), (16, 16, 16)).ravel() for v in values])


def print_tables(scores):
    """One row an embedding: mean percentile over budgets, encoders and pools, for every study."""
    for kind in ("masks", "appearance"):
        print(f"\nCoverage of {kind}: {' / '.join(STRATEGY_NAMES)} / retrieval of masks\n")
        print_table(scores, kind)
    study = next(name for name, (_, _, target) in STUDIES.items() if "+" in target)
    print(f"\n{study}: cases whose nearest neighbour is of their own domain, %\n\n| embedding | |\n|---|---|")
    for name, by_study in by_embedding(scores).items():
        print(f"| {name} | {100 * np.mean([value['same domain'] for value in by_study[study]]):.0f} |")


def by_embedding(scores):
    """Scores of all seeds by embedding and study."""
    rows = defaultdict(lambda: defaultdict(list))
    for key, value in scores.items():
        study, name, after, _ = key.split(" | ")
        rows[f"{name}, {after}"][study].append(value)
    return rows


def print_table(scores, kind):
    order = {}
    for name, by_study in by_embedding(scores).items():
        order[name] = [
            [
                np.mean([v[f"{kind} {strategy} {b}"] for v in by_study[study] for b in BUDGETS])
                for strategy in STRATEGY_NAMES
            ]
            + [100 * np.mean([v["retrieval"] for v in by_study[study]])]
            for study in STUDIES
            if study in by_study
        ]
    print(f"| embedding | {' | '.join(STUDIES)} | mean |\n|{'---|' * (2 + len(STUDIES))}")
    for name, cells in sorted(order.items(), key=lambda item: -np.mean([c[:2] for c in item[1]])):
        texts = [" / ".join(f"{v:.0f}" for v in cell) for cell in [*cells, np.mean(cells, 0)]]
        print(f"| {name} | {' | '.join(texts)} |")


if __name__ == "__main__":
    main()
