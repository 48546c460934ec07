#!/usr/bin/env python3
"""How many kinds of images do selections see, where some are rare and anatomy is aligned? After the demo.

    make demo
    python benchmarks/kinds.py xssr_demo      # with the encoder that the demo left; a minute

Draws pools as the demo does, 120 images of an ordinary and four rare kinds, and counts the kinds among twelve picks by
the grid, for several numbers of principal components.
"""

import argparse
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunetv2_xssr.demo.phantom import write_datasets
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.pretrain.embedding import embed, load_encoder
from nnunetv2_xssr.pretrain.pooling import features
from nnunetv2_xssr.selection import select

POOLS, PICKS, RANDOM_DRAWS = 8, 12, 200
COMPONENTS = (16, 24, 32, 48, 60)
STRATEGIES = ("xssr", "facility_location", "coreset")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder that the demo left")
    args = parser.parse_args()
    (path,) = args.demo.glob("nnUNet_results/*/XSSR_MAE__2d/checkpoint_final.pth")
    encoder, seen = load_encoder(path, device="cpu"), defaultdict(list)
    for seed in tqdm(range(1, POOLS + 1)):
        kinds, (pool, source) = drawn(encoder, seed)
        rng = np.random.default_rng(seed)
        draws = [rng.choice(len(pool), PICKS, replace=False) for _ in range(RANDOM_DRAWS)]
        seen["random", "-"].append(np.mean([len(set(kinds[draw])) for draw in draws]))
        for strategy in STRATEGIES:
            for components in COMPONENTS:
                picks = select(pool, PICKS, source=source, strategy=strategy, components=components).picks
                seen[strategy, components].append(len(set(kinds[picks])))
    print(f"| strategy | components | kinds seen, mean of {POOLS} pools | of every pool |\n|---|---|---|---|")
    for (strategy, components), found in seen.items():
        each = ", ".join(f"{number:.2g}" for number in found)
        print(f"| {strategy} | {components} | {np.mean(found):.2f} | {each} |")


def drawn(encoder, seed):
    """Kind of every case of a pool, and the features of pool and source."""
    with tempfile.TemporaryDirectory() as folder:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[variable] = folder
        kinds = write_datasets(folder, n_source=40, n_test=0, seed=seed)["variants"]
        pools = [prepare_views(open_pool(name)) for name in ("902", "901")]
        kept = [np.array(embed(encoder, views).rows) for views in pools]
        order = np.array([kinds[case] for case in pools[0].pool.identifiers])
        return order, [features(rows, encoder.layout, "grid") for rows in kept]


if __name__ == "__main__":
    main()
