#!/usr/bin/env python3
"""Does what can be measured without training a segmenter predict the Dice that training gives?

    python benchmarks/proxy.py train          # 15 minutes to an hour on one core; goes on where it stopped
    python benchmarks/proxy.py correlate      # after embedding.py, whose encoders it takes

``train`` makes 20 selections a pool and budget, from the best and the worst in mask coverage of 1,000 random draws, by
several strategies in several feature spaces and at random, trains one small U-Net on each (200 batches of 8 patches of
64 x 64 from views of 128 x 128 pixels) and keeps its Dice on the test cases. ``correlate`` prints the rank correlation
of every proxy with Dice, of what ``nnUNetv2_xssr_select`` prints as coverage among them. The pools are those of
CXRLung's children and of all four kinds of NucleiDSB, at 1 %, 2.5 % and 5 %.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from packs import views_and_masks
from proxies import PROXIES, features_of, mask_vectors, mean_nearest, soft_dice_distance
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from nnunetv2_xssr.encoders.mae import Autoencoder, embed_views
from nnunetv2_xssr.encoders.pooling import COMPONENTS, GRID, FeatureLayout, choose_embedding, features
from nnunetv2_xssr.pretrain.mae import MaskedAutoencoder
from nnunetv2_xssr.pretrain.training import ARCHITECTURE
from nnunetv2_xssr.selection import select
from nnunetv2_xssr.selection.standardise import standardise

POOLS = {"CXRLung": ["guangzhou"], "NucleiDSB": ["fluo256", "fluo360", "fluo696", "histology"]}
SOURCES = {"CXRLung": "hannover", "NucleiDSB": "fluo256"}  # of the encoders
BUDGETS = (0.01, 0.025, 0.05)
N_SELECTIONS = 20
BATCHES, BATCH_SIZE, PATCH, LEARNING_RATE = 200, 8, 64, 2e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "correlate"))
    parser.add_argument("--results", type=Path, default=Path("results/proxy.json"))
    parser.add_argument("--encoders", type=Path, default=Path("results/embedding"), help="--work of embedding.py")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(args.results.read_text()) if args.results.is_file() else {}
    if args.step == "train":
        train_all(results, args.results)
    else:
        correlate(results, args.encoders)


def halves(n):
    """Pool and test: a fifth of the cases is for testing."""
    order = np.random.default_rng(0).permutation(n)
    return np.sort(order[n // 5 :]), np.sort(order[: n // 5])


def selections(images, masks, k, rng):
    """Name and picks of the selections that differ in coverage as much as they can."""
    distance = soft_dice_distance(mask_vectors(masks))
    draws = [rng.choice(len(images), k, replace=False) for _ in range(1000)]
    order = np.argsort([distance[:, draw].min(axis=1).mean() for draw in draws])
    chosen = {f"mask coverage rank {rank}": draws[order[rank]] for rank in (0, 5, 100, 500, 900, 994, 999)}
    for name, rows in features_of(images).items():
        for strategy in ("coreset", "facility_location", "typiclust"):
            chosen[f"{strategy} on {name}"] = select(rows, k, strategy=strategy).picks
        near = np.argsort(((rows - rows[draws[0][0]]) ** 2).sum(axis=1))
        chosen[f"neighbours in {name}"] = near[:k]
    chosen |= {f"random {i}": draws[i] for i in range(N_SELECTIONS - len(chosen))}
    return {name: sorted(map(int, picks)) for name, picks in chosen.items()}


def train_all(results, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    work = []
    for fraction in BUDGETS:
        for pack, domains in POOLS.items():
            images, masks = views_and_masks(pack, domains)
            pool, test = halves(len(images))
            k = max(1, int(fraction * len(pool)))
            for name, picks in selections(images[pool], masks[pool], k, np.random.default_rng(1)).items():
                work.append((f"{pack} {fraction} {name}", pool[picks], images, masks, test, picks))
    for key, rows, images, masks, test, picks in tqdm(work):
        if key not in results:
            dice = train(images[rows], masks[rows], images[test], masks[test])
            results[key] = {"picks": picks, "dice": dice.tolist()}
            path.write_text(json.dumps(results))


def train(images, masks, test_images, test_masks):
    """Dice of every test image after training on some, array of shape (test,)."""
    torch.manual_seed(0)
    model = PlainConvUNet(
        images.shape[1], 4, [8, 16, 32, 64], nn.Conv2d, 3, [1, 2, 2, 2], 1, 1, 1, conv_bias=True,
        norm_op=nn.InstanceNorm2d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={},
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, BATCHES)
    x, y = torch.from_numpy(images), torch.from_numpy(masks)[:, None]
    generator = torch.Generator().manual_seed(0)
    for _ in range(BATCHES):
        rows = torch.randint(len(x), (BATCH_SIZE,), generator=generator)
        inputs, target = augment(x[rows], y[rows], generator)
        logits = model(inputs)
        p = logits.sigmoid()
        dice = (2 * (p * target).sum((2, 3)) + 1) / ((p + target).sum((2, 3)) + 1)
        loss = F.binary_cross_entropy_with_logits(logits, target) + 1 - dice.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        parts = [model(part) > 0 for part in torch.from_numpy(test_images).split(32)]
    predicted, truth = torch.cat(parts)[:, 0], torch.from_numpy(test_masks) > 0.5
    return (2 * (predicted & truth).sum((1, 2)) / (predicted.sum((1, 2)) + truth.sum((1, 2))).clamp(min=1)).numpy()


def augment(images, masks, generator):
    """Patches with flips, scaling, rotation, contrast and brightness, drawn image by image."""
    n, channels, size, _ = images.shape
    u = torch.rand(n, 7, generator=generator)
    angle, scale = (u[:, 0] - 0.5) * 0.5, (0.8 + 0.5 * u[:, 1]) * PATCH / size
    flip = torch.where(u[:, 2] < 0.5, 1.0, -1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos() * flip, -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin() * flip, scale * angle.cos()
    theta[:, :, 2] = (2 * u[:, 5:] - 1) * (1 - scale[:, None])
    grid = F.affine_grid(theta, [n, channels, PATCH, PATCH], align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    masks = F.grid_sample(masks, grid, align_corners=False)
    contrast, brightness = 0.75 + 0.5 * u[:, 3], (u[:, 4] - 0.5) * 0.4
    return images * contrast[:, None, None, None] + brightness[:, None, None, None], (masks > 0.5).float()


def compared_by_select(images, path):
    """Distances between cases by the default embedding of an encoder that embedding.py pretrained."""
    model = MaskedAutoencoder(input_channels=images.shape[1], **ARCHITECTURE)
    model.load_state_dict(torch.load(path))
    before, last = ARCHITECTURE["features_per_stage"][-2:]
    encoder = Autoencoder(
        name="mae",
        members=torch.nn.ModuleList([model.encoder]).eval(),
        identity="",
        weights="",
        layout=FeatureLayout(last, before, GRID**2),
        views={},
        sources={},
        where=str(path),
    )
    kept = np.stack([embed_views(encoder, case[None]) for case in images])
    kind = choose_embedding(kept, encoder.layout, kind="auto")
    z = standardise(features(kept, encoder.layout, kind=kind), components=COMPONENTS[kind])[0].astype(np.float64)
    return np.sqrt(np.maximum(2 - 2 * z @ z.T, 0))


def correlate(results, encoders):
    names = [*PROXIES, "what select prints (no label)"]
    print(f"| pool, budget | selections | Dice, range | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
    for pack, domains in POOLS.items():
        images, masks = views_and_masks(pack, domains)
        pool, _ = halves(len(images))
        distances = {name: proxy(images[pool], masks[pool]) for name, proxy in PROXIES.items()}
        distances[names[-1]] = compared_by_select(images[pool], encoders / f"conv_{pack}_{SOURCES[pack]}_0.pth")
        for fraction in BUDGETS:
            entries = [value for key, value in results.items() if key.startswith(f"{pack} {fraction} ")]
            if len(entries) < N_SELECTIONS:
                continue  # not trained on all of them yet
            dice = np.array([np.mean(entry["dice"]) for entry in entries]) * 100
            cells = []
            for name, distance in distances.items():
                coverage = [-mean_nearest(distance, entry["picks"], worst="hardest" in name) for entry in entries]
                cells.append(f"{spearmanr(coverage, dice).statistic:.2f}")
            k = len(entries[0]["picks"])
            row = f"{pack} {100 * fraction:g} % ({k})", len(entries), f"{dice.min():.1f} to {dice.max():.1f}", *cells
            print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
