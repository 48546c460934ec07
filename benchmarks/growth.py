#!/usr/bin/env python3
"""How time and memory of a whole selection grow with the pool, drawn into docs/growth.png.

    OMP_NUM_THREADS=2 python benchmarks/growth.py                      1,000 to 100,000 cases
    OMP_NUM_THREADS=2 python benchmarks/growth.py --sizes 1000000 --picks_only    a million, without the grid

A budget of 5 % up to 50,000 cases and 10,000 picks beyond; features of 384 numbers on disk, clustered as in
selection.py; a source of 2,000 cases. ``select`` is everything from raw features to the record by the default strategy:
scores, the grid of eleven alphas, coverage against 20 random draws. ``scores`` are standardising, density and novelty,
``greedy`` is the picking of ``xssr_sum`` for one alpha, 0.2. Every size runs in a process of its own. Results are kept
in a file, so that sizes can be added one by one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, os.environ.get("OMP_NUM_THREADS", "1"))

import numpy as np  # noqa: E402  (after the number of threads)
from threadpoolctl import threadpool_limits  # noqa: E402

from nnunetv2_xssr.selection import select  # noqa: E402
from nnunetv2_xssr.selection._engine.cells import cells_of  # noqa: E402
from nnunetv2_xssr.selection.greedy import greedy  # noqa: E402
from nnunetv2_xssr.selection.scores import density, novelty  # noqa: E402
from nnunetv2_xssr.selection.standardise import standardise  # noqa: E402
from selection import NONE, clustered_blocks  # noqa: E402

D, N_SOURCE, ALPHA = 384, 2000, 0.2


def write_pool(path, n):
    """Pool and source as one float32 .npy file, written block by block."""
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (n + N_SOURCE, D))
    start = 0
    for block in clustered_blocks(n + N_SOURCE, D, np.random.default_rng(0), 50_000):
        rows[start : start + len(block)] = block
        start += len(block)
    rows.flush()


def peak_mib():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(path, k, picks_only):
    rows = np.load(path, mmap_mode="r")
    pool, source = rows[:-N_SOURCE], np.array(rows[-N_SOURCE:])
    for n in (500, 6000):  # compile
        for strategy in ("xssr", "xssr_sum"):
            select(np.array(rows[:n]), 10, source=source[:100], strategy=strategy)
    start = time.perf_counter()
    with threadpool_limits(1, "blas"):
        z, x = standardise(pool, source)
        cells = cells_of(z)
        fixed = 0.5 * density(cells) + ALPHA * novelty(cells, x)
        scored = time.perf_counter()
        greedy(cells, fixed=fixed, diversity_weight=1 - ALPHA, budget=k, chosen=NONE)
    picked = time.perf_counter()
    result = {"n": len(pool), "k": k, "scores_s": scored - start, "greedy_s": picked - scored}
    if not picks_only:
        del z, x, cells
        start = time.perf_counter()
        select(pool, k, source=source)
        result["select_s"] = time.perf_counter() - start
    return {**result, "peak_mib": peak_mib(), "pool_mib": pool.nbytes / 2**20}


def draw(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    n = [r["n"] for r in results]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    whole = [r for r in results if "select_s" in r]
    left.loglog([r["n"] for r in whole], [r["select_s"] for r in whole], "o-", label="select: all of it")
    left.loglog(n, [r["scores_s"] for r in results], "^-", label="standardising, density, novelty")
    left.loglog(n, [r["greedy_s"] for r in results], "s-", label="greedy: the picks for one alpha")
    left.set(xlabel="cases in the pool", ylabel="seconds", title="Time")
    right.loglog(n, [r["peak_mib"] for r in results], "o-", label="peak of the process")
    right.loglog(n, [r["pool_mib"] for r in results], "k:", label="the features themselves")
    right.set(xlabel="cases in the pool", ylabel="MiB", title="Memory")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 50_000, 100_000])
    parser.add_argument("--results", type=Path, default=Path("results/growth.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/growth.png"))
    parser.add_argument("--picks_only", action="store_true", help="leave the whole select out")
    parser.add_argument("--one", nargs=2, metavar=("FILE", "K"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]), args.picks_only)))
        return
    known = {r["n"]: r for r in json.loads(args.results.read_text())} if args.results.is_file() else {}
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pool.npy"
            write_pool(file, n)
            call = [sys.executable, __file__, "--one", str(file), str(n // 20 if n <= 50_000 else 10_000)]
            call += ["--picks_only"] if args.picks_only else []
            known[n] = json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout)
        args.results.write_text(json.dumps([known[n] for n in sorted(known)], indent=1))
    results = [known[n] for n in sorted(known)]
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    print(f"{threads} thread(s)\n| cases | picks | scores, s | greedy, s | select, s | peak, MiB |\n|{'---|' * 6}")
    for r in results:
        whole = f"{r['select_s']:.1f}" if "select_s" in r else "-"
        print(
            f"| {r['n']:,} | {r['k']:,} | {r['scores_s']:.1f} | {r['greedy_s']:.2f} | {whole} | {r['peak_mib']:.0f} |"
        )
    draw(results, args.figure)
    print(f"wrote {args.figure}")


if __name__ == "__main__":
    main()
