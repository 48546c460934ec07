#!/usr/bin/env python3
"""The selection over partitions on Dask: against the exact one, with a worker killed, and in little memory.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py --tables objective,killed
    OMP_NUM_THREADS=1 python benchmarks/scaling.py --tables memory --n 160000 --d 2048 --k 1000 --partitions 16
    OMP_NUM_THREADS=1 python benchmarks/scaling.py --tables speed --n 100000 --k 2000 --partitions 4

``pip install "nnunetv2_xssr[scale]"`` installs what it needs. The folder of the partitions is a temporary one (TMPDIR).
The table ``memory`` needs Linux and, there, three times the pool's size. It lets no process, this one included, have
more than 1 GiB of its own (RLIMIT_DATA). Dask limits every worker to 1 GiB of resident memory, pages of mapped files
included; this process, which writes the partitions, maps the whole pool while it does.
"""

import argparse
import os
import resource
import signal
import tempfile
import threading
import time
from multiprocessing import get_context
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, os.environ.get("OMP_NUM_THREADS", "1"))

import numpy as np  # noqa: E402  (after the number of threads)
from distributed import Client, LocalCluster  # noqa: E402

from nnunetv2_xssr.selection import select  # noqa: E402
from nnunetv2_xssr.selection._engine.neighbours import nearest_distances  # noqa: E402
from nnunetv2_xssr.selection.distributed import select_partitions  # noqa: E402
from nnunetv2_xssr.selection.greedy import greedy  # noqa: E402
from nnunetv2_xssr.selection.partitions import write_partitions  # noqa: E402
from selection import POOLS  # noqa: E402  (the benchmark beside this one)

WORKERS = 2
NONE = np.empty(0, int)


def make(data, n, d, path):
    """Write a pool and, beside it, a source of a tenth of its size."""
    rows = POOLS[data](n + n // 10, d, np.random.default_rng(0))
    np.save(path / "pool.npy", rows[:n].astype(np.float32))
    np.save(path / "source.npy", rows[n:].astype(np.float32))


def load(path):
    return [np.load(path / f"{name}.npy", mmap_mode="r") for name in ("pool", "source")]


def cluster(memory_limit=0):
    return LocalCluster(WORKERS, threads_per_worker=1, memory_limit=memory_limit, dashboard_address=":0")


def timed(call, *arguments, clock=time.perf_counter, **options):
    start = clock()
    return call(*arguments, **options), clock() - start


def peak_mib():
    """Largest resident memory of this process so far, files that it has mapped included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


# --------------------------------------------------------------------------------------------------------- tables
def objective_table(args, folder):
    print(f"\nagainst the exact selection of one process, {args.k} picks over {args.partitions} partitions")
    print("mean distance and covering radius of the calibrated picks, sum of scores at alpha 0.5: ratios to the exact;")
    print("random draws: their mean distance, ratio to the exact")
    print(
        "| pool      | alpha, exact | mean distance | covering radius | sum of scores | random draws, mean distance |"
    )
    with cluster() as workers, Client(workers) as client:
        for data in POOLS:
            make(data, args.n, args.d, folder)
            pool, source = load(folder)
            write_partitions(folder / "parts", pool, n_partitions=args.partitions, source=source)
            ours = [select_partitions(folder / "parts", args.k, client=client, alpha=alpha) for alpha in (None, 0.5)]
            exact = [
                select(np.array(pool), args.k, source=np.array(source), alpha=alpha, strategy="xssr_sum")
                for alpha in (None, 0.5)
            ]
            print(
                f"| {data:<9} | {ours[0].alpha}, {exact[0].alpha} "
                f"| {ours[0].mean_distance / exact[0].mean_distance:.4f} "
                f"| {ours[0].covering_radius / exact[0].covering_radius:.4f} "
                f"| {ours[1].score.sum() / exact[1].score.sum():.4f} "
                f"| {exact[0].random_mean_distance / exact[0].mean_distance:.4f} |",
                flush=True,
            )


def killed_table(args, folder):
    print(f"\na worker killed when half of the neighbour distances are there, {args.k} picks")
    make("clustered", args.n, args.d, folder)
    pool, source = load(folder)
    for name in ("whole", "killed"):
        write_partitions(folder / name, pool, n_partitions=args.partitions, source=source)
    with cluster() as workers, Client(workers) as client:
        whole, seconds = timed(select_partitions, folder / "whole", args.k, client=client)
        victim = min(client.run(os.getpid).values())

        def kill():
            while len(list((folder / "killed").glob("distances_*"))) < args.partitions // 2:
                time.sleep(0.01)
            os.kill(victim, signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
        killed, longer = timed(select_partitions, folder / "killed", args.k, client=client)
        assert victim not in client.run(os.getpid).values()
    same = np.array_equal(whole.picks, killed.picks)
    print(f"{seconds:.0f} s undisturbed, {longer:.0f} s with the kill; picks: {'the same' if same else 'DIFFERENT'}")


def memory_table(args, folder):
    child = get_context("spawn").Process(target=make, args=("clustered", args.n, args.d, folder))
    child.start()
    child.join()
    resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))  # the workers inherit it
    pool, source = load(folder)
    print(f"\n{WORKERS} workers of 1 GiB, a pool of {pool.nbytes / 2**30:.2f} GiB, {args.partitions} partitions")
    _, seconds = timed(write_partitions, folder / "parts", pool, n_partitions=args.partitions, source=source)
    print(f"partitions written in {seconds:.0f} s")
    with cluster("1GiB") as both, Client(both) as client:
        before = set(client.run(os.getpid).values())
        chosen, seconds = timed(select_partitions, folder / "parts", args.k, client=client)
        same = before == set(client.run(os.getpid).values())
        peaks = sorted(client.run(peak_mib).values())
    print(f"{args.k} picks in {seconds:.0f} s; workers {'never restarted' if same else 'RESTARTED'}")
    print(f"mean distance {chosen.mean_distance:.4f}, of random draws {chosen.random_mean_distance:.4f}")
    workers = ", ".join(map(str, peaks))
    print(f"peak resident memory, mapped files included: workers {workers} MiB, this process {peak_mib()} MiB")


def speed_table(args, folder):
    print("\nprocessor time of one core: MB written a second, 10^9 pairs a second of one partition with")
    print("| pool      | writing | the pool, 20 neighbours | k picks, greedy | k picks, coverage |")

    def timed_here(call, *arguments, **options):
        return timed(call, *arguments, clock=time.process_time, **options)

    for data in POOLS:
        make(data, args.n, args.d, folder)
        pool, _ = load(folder)
        parts, writing = timed_here(write_partitions, folder / "parts", pool, n_partitions=args.partitions)
        rows, fixed = np.array(parts.rows(0)), np.random.default_rng(1).random(parts.size(0))
        others = [None, *(parts.rows(p) for p in range(1, args.partitions))]
        asked = {"fixed": fixed, "diversity_weight": 1.0, "chosen": NONE}
        nearest_distances(rows[:6000], k=1, parts=[rows[:10]])  # compile
        greedy(rows, budget=10, **asked)
        (picks, _), picking = timed_here(greedy, rows, budget=args.k, **asked)
        _, neighbours = timed_here(nearest_distances, rows, k=20, parts=others)
        _, covering = timed_here(nearest_distances, rows, k=1, parts=[rows[picks]])
        pairs = len(rows) * np.array([len(pool), args.k, args.k]) / [neighbours, picking, covering] / 1e9
        cells = " | ".join(f"{rate:.2f}" for rate in pairs)
        print(f"| {data:<9} | {pool.nbytes / writing / 1e6:.0f} | {cells} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--d", type=int, default=384)
    parser.add_argument("--k", type=int, default=2500)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--tables", default="objective,killed")
    args = parser.parse_args()
    print(f"n = {args.n}, d = {args.d}, {WORKERS} workers of one thread")
    for table in args.tables.split(","):
        with tempfile.TemporaryDirectory() as folder:
            globals()[f"{table}_table"](args, Path(folder))


if __name__ == "__main__":
    main()
