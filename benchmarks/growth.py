#!/usr/bin/env python3
"""How time and memory of a whole selection grow with the pool, drawn into docs/growth.png.

    OMP_NUM_THREADS=2 python benchmarks/growth.py                      1,000 to 200,000 cases
    OMP_NUM_THREADS=2 python benchmarks/growth.py --sizes 1000000      a million: hours

A budget of 5 % up to 50,000 cases and 10,000 picks beyond; features of 384 numbers on disk, clustered as in
selection.py; a source of 2,000 cases. ``select`` is everything from raw features to the record: standardising,
density, novelty, the grid of eleven alphas, coverage against 20 random draws. ``greedy`` is the picking alone, for one
alpha. Every size runs in a process of its own. Results are kept in a file: sizes can be added one by one.
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

from nnunetv2_xssr.selection import select  # noqa: E402
from nnunetv2_xssr.selection.cells import cells_of  # noqa: E402
from nnunetv2_xssr.selection.greedy import greedy  # noqa: E402
from nnunetv2_xssr.selection.scores import density, novelty  # noqa: E402
from nnunetv2_xssr.selection.standardise import standardise  # noqa: E402
from selection import NONE, clustered_blocks  # noqa: E402

D, N_SOURCE = 384, 2000


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


def measure(path, k):
    rows = np.load(path, mmap_mode="r")
    pool, source = rows[:-N_SOURCE], np.array(rows[-N_SOURCE:])
    for n in (500, 6000):  # compile
        select(np.array(rows[:n]), 10, source[:100])
    before = peak_mib()
    start = time.perf_counter()
    chosen = select(pool, k, source)
    whole, peak = time.perf_counter() - start, peak_mib()
    z, x = standardise(pool, source)
    cells = cells_of(z)
    fixed = 0.5 * density(cells) + chosen.alpha * novelty(cells, x)
    start = time.perf_counter()
    picks, _ = greedy(z, fixed, 1 - chosen.alpha, k, NONE)
    alone = time.perf_counter() - start
    return {
        "n": len(pool),
        "k": k,
        "select_s": whole,
        "greedy_s": alone,
        "peak_mib": peak,
        "before_mib": before,
        "pool_mib": pool.nbytes / 2**20,
        "alpha": chosen.alpha,
        "gain": chosen.random_mean_distance / chosen.mean_distance,
        "same": bool(np.array_equal(picks, chosen.picks)),
    }


def draw(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    n = [r["n"] for r in results]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.loglog(n, [r["select_s"] for r in results], "o-", label="select: all of it")
    left.loglog(n, [r["greedy_s"] for r in results], "s-", label="greedy: the picks alone")
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
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 50_000, 100_000, 200_000])
    parser.add_argument("--results", type=Path, default=Path("results/growth.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/growth.png"))
    parser.add_argument("--one", nargs=2, metavar=("FILE", "K"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    known = {r["n"]: r for r in json.loads(args.results.read_text())} if args.results.is_file() else {}
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pool.npy"
            write_pool(file, n)
            call = [sys.executable, __file__, "--one", str(file), str(n // 20 if n <= 50_000 else 10_000)]
            known[n] = json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout)
        args.results.write_text(json.dumps([known[n] for n in sorted(known)], indent=1))
    results = [known[n] for n in sorted(known)]
    print(f"{os.environ.get('OMP_NUM_THREADS', '1')} thread(s)\n| cases | picks | select, s | greedy, s | peak, MiB | ")
    for r in results:
        print(f"| {r['n']} | {r['k']} | {r['select_s']:.1f} | {r['greedy_s']:.2f} | {r['peak_mib']:.0f} |")
    draw(results, args.figure)
    print(f"wrote {args.figure}")


if __name__ == "__main__":
    main()
