#!/usr/bin/env python3
"""Selection, nearest neighbours and the alpha grid, side by side with the libraries that are installed.

    OMP_NUM_THREADS=1 python benchmarks/selection.py --n 50000 --k 2500
    OMP_NUM_THREADS=1 python benchmarks/selection.py --n 50000 --k 2500 --data isotropic --tables greedy,neighbours
    OMP_NUM_THREADS=1 python benchmarks/selection.py --data embeddings.npy
    OMP_NUM_THREADS=1 python benchmarks/selection.py --n 10000 --k 500 --tables facility

Every run of another method lies between two of ours, and only ratios are reported: what else the machine does cancels.
A method that makes one pass over the pool per pick is run for a few picks, and the rest follows from the slope (~).
The competitors know k-center only, so that is what they are compared on; the score of XSSR follows against a plain
loop. ``pip install scikit-activeml skmatter faiss-cpu apricot-select`` installs them; one that is missing is left out.
"""

import argparse
import importlib.util
import os
import statistics
import time
import tracemalloc
import warnings

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, os.environ.get("OMP_NUM_THREADS", "1"))

import numpy as np  # noqa: E402  (after the number of threads)

from nnunetv2_xssr.selection._engine.cells import cells_of  # noqa: E402
from nnunetv2_xssr.selection._engine.neighbours import nearest_neighbours  # noqa: E402
from nnunetv2_xssr.selection.alpha import ALPHAS, calibrate_sum  # noqa: E402
from nnunetv2_xssr.selection.facility import facility_picks  # noqa: E402
from nnunetv2_xssr.selection.greedy import greedy, nearest_distance  # noqa: E402
from nnunetv2_xssr.selection.limits import unlimited  # noqa: E402
from nnunetv2_xssr.selection.scores import density, novelty  # noqa: E402
from nnunetv2_xssr.selection.standardise import on_grid  # noqa: E402

NONE = np.empty(0, int)
FEW = 40  # picks that a method with one pass per pick is timed on


# ---------------------------------------------------------------------------------------------------------- pools
def clustered(n, d, rng):
    """Slices of volumes from 8 sites: every volume is a smooth curve in 24 dimensions, with 3 % noise in all d."""
    return np.concatenate(list(clustered_blocks(n, d, rng, n)))


def clustered_blocks(n, d, rng, size):
    """The rows of `clustered`, ``size`` at a time."""
    t = np.linspace(0, 1, 100)[:, None]
    waves = np.cos(np.pi * t * np.arange(1, 7)) / np.arange(1, 7)
    shared, sites = 1.5 * rng.standard_normal((6, 24)), rng.standard_normal((8, 24))
    volumes = [
        waves @ (shared + 0.5 * rng.standard_normal((6, 24))) + sites[v % 8] + 0.5 * rng.standard_normal(24)
        for v in range(-(-n // 100))
    ]
    mix = rng.standard_normal((24, d)) / np.sqrt(np.arange(1, 25))[:, None]
    rows = rng.permutation(np.concatenate(volumes))[:n]
    for start in range(0, n, size):
        block = rows[start : start + size]
        yield block @ mix + 0.03 * rng.standard_normal((len(block), d))


def blobs(n, d, rng):
    """64 clusters, each with 16 directions of its own."""
    label, basis = rng.integers(0, 64, n), rng.standard_normal((64, 16, d)) / 4
    rows = rng.standard_normal((64, d))[label] + 0.05 * rng.standard_normal((n, d))
    for c in range(64):
        rows[label == c] += 0.6 * rng.standard_normal(((label == c).sum(), 16)) @ basis[c]
    return rows


def isotropic(n, d, rng):
    """All directions alike: nothing can be skipped."""
    return rng.standard_normal((n, d))


POOLS = {f.__name__: f for f in (clustered, blobs, isotropic)}


def load(data, n, d):
    rows = POOLS[data](n, d, np.random.default_rng(0)) if data in POOLS else np.load(data)[:n].astype(np.float64)
    return on_grid(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


# -------------------------------------------------------------------------------------------------------- methods
def ours(pool, k):
    return greedy(pool, fixed=np.zeros(len(pool)), diversity_weight=1.0, budget=k, chosen=NONE)[0]


def activeml_coreset(pool, k):
    from skactiveml.pool import CoreSet

    labels = np.full(len(pool), np.nan)
    labels[0] = 0
    return np.append(0, CoreSet(random_state=0).query(pool, labels, batch_size=k - 1))


def skmatter_voronoi_fps(pool, k):
    from skmatter.sample_selection import VoronoiFPS

    return VoronoiFPS(n_to_select=k, initialize=0).fit(pool).selected_idx_


def plain_loop(pool, k, fixed=0.0, weight=1.0):
    """One product with the pool per pick, in the precision of the pool; with float64 the definition of exactness."""
    squares = (pool**2).sum(1)
    nearest, free = np.full(len(pool), np.inf), np.zeros(len(pool)) + fixed
    picks = []
    for _ in range(k):
        radius = nearest.max()
        i = int(np.argmax(radius * free + weight * nearest if 0 < radius < np.inf else free))
        picks.append(i)
        free[i] = -np.inf
        nearest = np.minimum(nearest, np.sqrt(np.maximum(squares + squares[i] - 2 * (pool @ pool[i]), 0)))
    return np.array(picks)


def product_floor(pool, k):
    """The float32 products of all cases with k picks, and nothing else."""
    for start in range(0, k, 256):
        others = pool[start : min(start + 256, k)].T
        for row in range(0, len(pool), 1024):
            pool[row : row + 1024] @ others


def faiss_flat(pool, k):
    import faiss

    faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    index = faiss.IndexFlatIP(pool.shape[1])
    index.add(pool)
    return index.search(pool, k + 1)[1]


def our_facility(pool, k):
    limits = unlimited(len(pool))
    return facility_picks(pool, budget=k, chosen=NONE, limits=limits, utility=lambda distance: 2 - distance)


def apricot_facility(pool, k):
    """Holds all n x n similarities."""
    from apricot import FacilityLocationSelection

    return FacilityLocationSelection(k, metric="euclidean", optimizer="two-stage").fit(pool).ranking


def exact_facility(pool, k):
    """The lazy greedy in float64, with all n x n distances."""
    double = pool.astype(np.float64)
    squares = (double**2).sum(1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * (double @ double.T), 0))
    nearest, bound = np.full(len(pool), 2.0), np.full(len(pool), np.inf)
    picks = []
    while len(picks) < k:
        i = int(np.argmax(bound))
        before, bound[i] = bound[i], np.maximum(nearest - distances[i], 0).sum()
        if bound[i] == before:  # a gain only falls, so no other is larger
            picks.append(i)
            nearest = np.minimum(nearest, distances[i])
            bound[i] = -np.inf
    return picks


# --------------------------------------------------------------------------------------------------------- timing
def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def extrapolated(method, pool, k):
    """Seconds for k picks, from the slope between a quarter of a few picks and a few."""
    some = FEW // 4
    short, long = seconds(lambda: method(pool, some)), seconds(lambda: method(pool, FEW))
    return long + (k - FEW) * max(0.0, long - short) / (FEW - some)


def ratios(reference, other, rounds):
    """other / reference, every run of the other between two of the reference."""
    result = []
    for _ in range(rounds):
        before, middle, after = seconds(reference), other(), seconds(reference)
        result.append(2 * middle / (before + after))
    return result


def peak_mib(call):
    """Peak of the arrays that a call makes."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def show(name, values, note=""):
    spread = f"[{min(values):.3g} to {max(values):.3g}]"
    print(f"| {name:<43} | {statistics.median(values):>9.3g} | {spread:<20} | {note}")


# --------------------------------------------------------------------------------------------------------- tables
def greedy_table(pool, k, rounds):
    print(f"\nk-center, {k} picks: time / ours")
    picks = ours(pool, k)
    for name, method, package, by_slope in (
        ("scikit-activeml CoreSet", activeml_coreset, "skactiveml", True),
        ("skmatter VoronoiFPS", skmatter_voronoi_fps, "skmatter", False),
        ("plain loop, float32", plain_loop, "numpy", True),
        ("float32 products alone", product_floor, "numpy", False),
    ):
        if importlib.util.find_spec(package) is None:
            continue
        method(pool[:1000], 10)
        if by_slope and k > FEW:
            show(f"~ {name}", ratios(lambda: ours(pool, k), lambda m=method: extrapolated(m, pool, k), rounds))
        else:
            note = ""
            if method is skmatter_voronoi_fps:
                note = f"same picks: {np.mean(method(pool, k) == picks):.3f}"
            show(name, ratios(lambda: ours(pool, k), lambda m=method: seconds(lambda: m(pool, k)), rounds), note)
    print(f"peak memory beyond the pool: {peak_mib(lambda: ours(pool, k)):.0f} MiB")
    rng = np.random.default_rng(1)
    fixed = rng.random(len(pool))

    def scored():
        return greedy(pool, fixed=fixed, diversity_weight=0.7, budget=k, chosen=NONE)

    def plain_scored(pool, k):
        return plain_loop(pool, k, fixed, 0.7)

    print(f"score of XSSR, {k} picks: time / ours")
    show("~ plain loop, float32", ratios(scored, lambda: extrapolated(plain_scored, pool, k), rounds))
    check = min(k, 200)
    for name, part, weight in (("k-center", np.zeros(len(pool)), 1.0), ("score of XSSR", fixed, 0.7)):
        exact = plain_loop(pool.astype(np.float64), check, part, weight)
        first, _ = greedy(pool, fixed=part, diversity_weight=weight, budget=check, chosen=NONE)
        same = np.array_equal(first, exact)
        print(f"first {check} picks of the plain float64 greedy, {name}: {'the same' if same else 'DIFFERENT'}")


def neighbours_table(pool, rounds, k=20):
    print(f"\n{k} nearest neighbours: time / ours")
    if importlib.util.find_spec("faiss"):
        reference, other = (lambda: nearest_neighbours(pool, k=k)), (lambda: seconds(lambda: faiss_flat(pool, k)))
        show("faiss IndexFlatIP", ratios(reference, other, rounds))
    print(f"peak memory beyond the pool: {peak_mib(lambda: nearest_neighbours(pool, k=k)):.0f} MiB")
    distances, _ = nearest_neighbours(pool, k=k)
    double = pool.astype(np.float64)
    squares = (double**2).sum(1)
    some = np.random.default_rng(2).choice(len(pool), 300, replace=False)
    true = [np.sort(np.sqrt(squares + squares[i] - 2 * double @ double[i]))[1 : k + 1] for i in some]
    print(f"recall on 300 cases: {np.mean(distances[some] == np.array(true)):.4f}")


def facility_table(pool, k, rounds):
    if not importlib.util.find_spec("apricot") or len(pool) > 20_000:
        return  # from there on its n x n similarities fill the memory of a small machine
    print(f"\nfacility location, {k} picks: time / ours")
    our_facility(pool[:6000], 10)
    apricot_facility(pool[:1000], 10)
    reference, other = (lambda: our_facility(pool, k)), (lambda: seconds(lambda: apricot_facility(pool, k)))
    show("apricot FacilityLocationSelection", ratios(reference, other, rounds))
    print(f"peak memory beyond the pool: {peak_mib(reference):.0f} MiB")
    methods = {"ours": our_facility, "apricot": apricot_facility}
    if len(pool) <= 10_000:  # 800 MB per array
        methods["exact greedy"] = exact_facility
    means = {name: nearest_distance(pool, chosen=np.array(method(pool, k))).mean() for name, method in methods.items()}
    print("mean distance to the nearest pick: " + ", ".join(f"{name} {mean:.4f}" for name, mean in means.items()))


def alpha_table(pool, k, rounds):
    print("\nalpha grid of 11")
    source = pool[:: max(1, len(pool) // 500)]

    def scores(cells):
        return {"weighted_density": 0.5 * density(cells), "novelty": novelty(cells, source)}

    once = scores(cells_of(pool))

    def grid(alphas):
        return calibrate_sum(pool, **once, budget=k, chosen=NONE, alphas=alphas)

    def grid_and_scores(alphas):
        cells = cells_of(pool)
        return calibrate_sum(cells, **scores(cells), budget=k, chosen=NONE, alphas=alphas)

    for name, run in (("greedy", grid), ("density, novelty and greedy", grid_and_scores)):
        times = ratios(lambda f=run: f((0.0,)), lambda f=run: seconds(lambda: f(ALPHAS)), rounds)
        show(f"{name}: grid / alpha 0", times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--k", type=int, help="default 5 %% of n")
    parser.add_argument("--data", default="clustered", help=f"{', '.join(POOLS)} or a .npy file of shape (n, d)")
    parser.add_argument("--tables", default="greedy,neighbours,facility,alpha")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")  # of the competitors
    pool = load(args.data, args.n, args.d)
    k = args.k or len(pool) // 20
    print(f"{args.data}, n = {len(pool)}, d = {pool.shape[1]}, {os.environ['OMP_NUM_THREADS']} thread(s)")
    for small in (pool[:500], pool[:6000]):  # compile
        calibrate_sum(small, weighted_density=np.zeros(len(small)), novelty=density(small), budget=10, chosen=NONE)
    if "greedy" in args.tables:
        greedy_table(pool, k, args.rounds)
    if "neighbours" in args.tables:
        neighbours_table(pool, args.rounds)
    if "facility" in args.tables:
        facility_table(pool, k, args.rounds)
    if "alpha" in args.tables:
        alpha_table(pool, k, args.rounds)


if __name__ == "__main__":
    main()
