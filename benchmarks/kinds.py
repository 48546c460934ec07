#!/usr/bin/env python3
"""How many kinds of images do selections see, where some are rare and anatomy is aligned? After the demo.

    make demo
    python benchmarks/kinds.py xssr_demo      # with the encoder that the demo left; some minutes

Draws pools as the demo does, 120 images of an ordinary and four rare kinds, and counts the kinds among six and twelve
picks.
"""

import argparse
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunetv2_xssr.demo.phantom import write_datasets
from nnunetv2_xssr.encoders.embedding import embed, kept_layout
from nnunetv2_xssr.encoders.mae import load_encoder
from nnunetv2_xssr.encoders.pooling import compare
from nnunetv2_xssr.images.pools import open_pool
from nnunetv2_xssr.images.scale import common_look
from nnunetv2_xssr.images.views import prepare_views
from nnunetv2_xssr.selection import select

POOLS, PICKS, RANDOM_DRAWS = 8, (6, 12), 200
STRATEGIES = ("xssr", "xssr_sum", "facility_location", "kmeans", "coreset")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder that the demo left")
    args = parser.parse_args()
    (path,) = args.demo.glob("nnUNet_results/*/XSSR_MAE__2d/checkpoint_final.pth")
    encoder, seen = load_encoder(path, device="cpu"), defaultdict(list)
    for seed in tqdm(range(1, POOLS + 1)):
        kinds, compared = drawn(encoder, seed)
        pool, source = compared.features
        rng = np.random.default_rng(seed)
        for k in PICKS:
            draws = [rng.choice(len(pool), k, replace=False) for _ in range(RANDOM_DRAWS)]
            seen["random", k].append(np.mean([len(set(kinds[draw])) for draw in draws]))
            for strategy in STRATEGIES:
                picks = select(pool, k, source=source, strategy=strategy, **compared.how).picks
                seen[strategy, k].append(len(set(kinds[picks])))
    print(f"Kinds seen, mean of {POOLS} pools:\n\n| strategy | {' | '.join(f'{k} picks' for k in PICKS)} |")
    print(f"|---|{'---|' * len(PICKS)}")
    for strategy in ("random", *STRATEGIES):
        print(f"| {strategy} | {' | '.join(f'{np.mean(seen[strategy, k]):.1f}' for k in PICKS)} |")


def drawn(encoder, seed):
    """Kind of every case of a pool, and by what pool and source are compared."""
    with tempfile.TemporaryDirectory() as folder:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[variable] = folder
        kinds = write_datasets(folder, n_source=40, n_test=0, seed=seed)["variants"]
        target, archive = (open_pool(name) for name in ("902", "901"))
        look = common_look([archive], dim=2)
        pools = [prepare_views(pool, look=look) for pool in (target, archive)]
        kept = [np.array(embed(encoder, views).rows) for views in pools]
        order = np.array([kinds[case] for case in pools[0].pool.identifiers])
        return order, compare(kept, kept_layout(encoder, pools[0].rows.shape[2]), embedding="auto")


if __name__ == "__main__":
    main()
