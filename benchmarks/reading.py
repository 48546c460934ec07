#!/usr/bin/env python3
"""Reading of large images: from files to views against plain decoding, in cases per second and in memory.

    python benchmarks/reading.py
    python benchmarks/reading.py --size 0.1 --cases 2 --rounds 1

CT volumes of 512 x 512 x 300, int16, in .nii.gz, and pictures of 10,000 x 10,000 RGB pixels in .png are drawn into a
temporary folder (TMPDIR), with noise in their low bits as scanners have it. Plain decoding is SimpleITK's
``ReadImage`` and Pillow's ``load``, which check nothing and keep nothing. Ours is ``prepare_views`` in an empty cache:
hashes of all files, decoding, checks, statistics, views on disk. Both have as many threads, and rounds take turns.

Memory is that of one case in a process of its own: the peak of resident memory beyond what the process had when it had
read a small image of the kind. It needs Linux.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from nnunetv2_xssr.images.case_rows import file_hashes
from nnunetv2_xssr.images.pools import folder_pool
from nnunetv2_xssr.images.views import prepare_views

Image.MAX_IMAGE_PIXELS = None
CHANNELS = {"ct": ("CT",), "mr": ("MRI",), "png": ("red", "green", "blue")}
SHOWN = {"ct": "CT, .nii.gz", "mr": "the same as MR, z-scored", "png": "RGB, .png"}


def draw(kind, path, size, seed):
    rng = np.random.default_rng(seed)
    if kind == "png":
        n = max(64, round(10_000 * size))
        y, x = (np.arange(n, dtype=np.float32) / n * k for k in (31, 40))
        pixels = np.empty((n, n, 3), np.uint8)
        for channel in range(3):
            wave = 150 + 60 * np.cos(y + seed)[:, None] * np.sin(x + channel)
            pixels[..., channel] = np.clip(wave + 4 * rng.standard_normal((n, n), dtype=np.float32), 0, 255)
        Image.fromarray(pixels).save(path / f"{seed}.png", compress_level=3)
        return pixels.nbytes
    shape = [max(16, round(k * size)) for k in (300, 512, 512)]
    z, y, x = (np.linspace(-1, 1, k, dtype=np.float32) for k in shape)
    body = x**2 + (1.4 * y[:, None]) ** 2 < 0.7
    voxels = np.empty(shape, np.int16)
    for i in range(shape[0]):
        organs = 40 + 60 * np.sin(9 * x + 4 * z[i] + seed) * np.cos(7 * y[:, None])
        noise = np.where(body, 12, 4) * rng.standard_normal(body.shape, dtype=np.float32)
        voxels[i] = np.where(body, organs, -1000) + noise
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.8, 0.8, 1.5))
    sitk.WriteImage(image, str(path / f"{seed}.nii.gz"), True)
    return voxels.nbytes


# ------------------------------------------------------------------------------------------------- ways of reading
def plain(folder):
    def decode(file):
        if file.suffix == ".png":
            with Image.open(file) as picture:
                picture.load()
        else:
            sitk.ReadImage(str(file))

    with ThreadPoolExecutor(int(os.environ["nnUNet_def_n_proc"])) as threads:
        list(threads.map(decode, sorted(folder.iterdir())))


@contextlib.contextmanager
def empty_caches():
    with tempfile.TemporaryDirectory() as caches:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[variable] = caches
        yield


def ours(folder, channels):
    with empty_caches():
        return prepare_views(folder_pool(folder), channel_names=channels).rows[0].nbytes


def hashes(folder):
    with empty_caches():
        file_hashes(folder_pool(folder))


# ------------------------------------------------------------------------------------------------------ measurements
def rates(folder, channels, rounds):
    """Cases per second of plain decoding, of hashing and of all, and per second of processor time.

    Two arrays of shape (rounds, 3).
    """
    n, found = len(list(folder.iterdir())), []
    for _ in range(rounds):
        clocks = [(time.perf_counter(), time.process_time())]
        for way in (plain, hashes, lambda files: ours(files, channels)):
            way(folder)
            clocks.append((time.perf_counter(), time.process_time()))
        found.append(n / np.diff(clocks, axis=0))
    return np.moveaxis(np.array(found), 2, 0)


def peak(way, kind, folder, small):
    """Bytes that one case takes at most, in a process of its own."""
    call = [sys.executable, __file__, "--peak", way, kind, str(folder), str(small)]
    done = subprocess.run(call, env=os.environ | {"nnUNet_def_n_proc": "1"}, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_peak(way, kind, folder, small):
    def run(files):
        return plain(files) if way == "plain" else ours(files, CHANNELS[kind])

    run(Path(small))
    before = memory("VmRSS")
    views = run(Path(folder))
    print(json.dumps([memory("VmHWM") - before, views]))


def memory(name):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{name}:")[1].split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=1.0, help="share of the length of every axis")
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", default="ct,mr,png")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        return print_peak(*args.peak)
    os.environ["nnUNet_def_n_proc"] = str(args.threads)  # before nnU-Net is imported
    print(f"size {args.size:g}, {args.cases} cases, {args.threads} threads, medians of {args.rounds} rounds [range]\n")
    print(
        "| images | plain decoding, cases/s | hashes alone, cases/s | into views, cases/s | the same, of decoding "
        "| by processor time | peak of plain decoding, of the image as stored "
        "| peak into views, of the image as stored and its views |"
    )
    print("|" + "---|" * 8)
    for kind in args.kinds.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            cases, one, small = folders = [Path(temporary) / name for name in ("cases", "one", "small")]
            for folder in folders:
                folder.mkdir()
            n_bytes = [draw(kind, cases, args.size, seed) for seed in range(args.cases)][0]
            draw(kind, small, 0.05, 0)
            os.link(next(cases.iterdir()), one / next(cases.iterdir()).name)
            cells = row(kind, folders, n_bytes, args.rounds)
            print(f"| {SHOWN[kind]} | {' | '.join(cells)} |", flush=True)


def row(kind, folders, n_bytes, rounds):
    cases, one, small = folders
    (of_plain, _), (of_ours, views) = (peak(way, kind, one, small) for way in ("plain", "ours"))
    ours(small, CHANNELS[kind])  # imports and compiles
    found = rates(cases, CHANNELS[kind], rounds)
    shares = found[:, :, 2] / found[:, :, 0]
    return [
        *(f"{rate:.2f}" for rate in np.median(found[0], axis=0)),
        *(f"{np.median(share):.0%} [{share.min():.0%} to {share.max():.0%}]" for share in shares),
        f"{of_plain / n_bytes:.2f}",
        f"{of_ours / (n_bytes + views):.2f}",
    ]


if __name__ == "__main__":
    main()
