"""Draw docs/method.png: mass, weight and what is not covered yet on a toy pool of two features, and what is picked.

    python benchmarks/draw_method.py

The pool is a large, a small and a sparse group of points, and a few loners; the source covers the large group only.
Everything that is drawn comes from the selection itself; only the standardisation, which needs more than two features
to make sense, is left out.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.metrics import pairwise_distances

from nnunetv2_xssr.selection.facility import facility_picks
from nnunetv2_xssr.selection.limits import unlimited
from nnunetv2_xssr.selection.scores import novelty

BUDGET, ALPHA = 8, 0.3


def toy() -> tuple[np.ndarray, np.ndarray]:
    """A pool and a source of points in the plane."""
    rng = np.random.default_rng(3)
    large = rng.normal([0, 0], 0.5, (90, 2))
    small = rng.normal([2.6, 1.3], 0.25, (25, 2))
    sparse = rng.normal([1.2, -2.2], 0.6, (20, 2))
    loners = np.array([[-2.2, 1.9], [3.3, -1.3], [-1.9, -2.1]])
    source = rng.normal([-0.3, 0.2], 0.6, (60, 2))
    return np.concatenate([large, small, sparse, loners]).astype(np.float32), source.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw docs/method.png.")
    home = Path(__file__).resolve().parent.parent / "docs" / "method.png"
    parser.add_argument("-o", type=Path, default=home, metavar="FILE")
    file = parser.parse_args().o
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    pool, source = toy()
    distance = pairwise_distances(pool.astype(np.float64))
    close = 2 - 2 * distance / distance.max()
    weight = 1 - ALPHA + ALPHA * novelty(pool, source)
    picks = facility_picks(
        pool,
        budget=BUDGET,
        chosen=np.empty(0, int),
        limits=unlimited(len(pool)),
        utility=lambda distances: 2 - 2 * distances / distance.max(),
        weights=weight,
    )
    uncovered = weight * (2 - close[:, picks[:4]].max(axis=1))

    figure, panels = plt.subplots(1, 4, figsize=(13, 3.4), sharex=True, sharey=True, layout="constrained")
    shown = [
        ("density: the mass that a case covers", weight @ close),
        ("novelty: far from the source", weight),
        ("diversity: not covered by four picks", uncovered),
    ]
    for panel, (title, values) in zip(panels, shown, strict=False):
        scaled = (values - values.min()) / np.ptp(values)
        dots = panel.scatter(*pool.T, c=scaled, s=16, cmap="viridis", vmin=0, vmax=1)
        panel.set_title(title, fontsize=11)
    panels[1].scatter(*source.T, marker="x", s=16, c="0.55", linewidths=0.8, label="source")
    panels[1].legend(loc="lower left", fontsize=9)
    panels[2].scatter(*pool[picks[:4]].T, marker="s", s=45, facecolors="none", edgecolors="crimson", label="picked")
    panels[2].legend(loc="lower left", fontsize=9)
    panels[3].scatter(*pool.T, s=16, c="0.75")
    panels[3].scatter(*pool[picks].T, marker="s", s=45, facecolors="none", edgecolors="crimson")
    for rank, (x, y) in enumerate(pool[picks], start=1):
        panels[3].annotate(str(rank), (x, y), xytext=(5, 5), textcoords="offset points", color="crimson", fontsize=11)
    panels[3].set_title(f"the first {BUDGET} picks at alpha {ALPHA:g}", fontsize=11)
    for panel in panels:
        panel.set(xticks=[], yticks=[])
        panel.margins(0.12)
        panel.set_aspect("equal")
    figure.colorbar(dots, ax=panels[:3], shrink=0.7, pad=0.01)
    figure.savefig(file, dpi=90)
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
