#!/usr/bin/env python3
"""A default select from typing to report, stage by stage, in a process of its own.

    XSSR_PACKS=FOLDER python benchmarks/stages.py
    XSSR_PACKS=FOLDER python benchmarks/stages.py --cases 100 -- --pretrain_epochs 1

The pool are X-rays of the pack CXRLung without their labels; where it has too few, they come again, a little brighter.
The source are the pack's unlabelled X-rays. Nothing is there at the start: no views, no features, no encoder. What
follows ``--`` is given to nnUNetv2_xssr_select. Then the same is typed again, which finds all but the selection done.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from packs import pack_folder
from skimage.io import imread, imsave

PACK, POOL, SOURCE, BUDGET = "CXRLung", "Dataset002_Pool", "Dataset001_Source", "5%"
TIMED = {  # stage to the functions that do it, where select looks them up
    "reading": ("nnunetv2_xssr.pipeline.select_cases", "read_pools"),
    "pretraining": ("nnunetv2_xssr.encoders.opened_mae", "pretrain"),
    "embedding": ("nnunetv2_xssr.pipeline.select_cases", "embed_pools"),
    "selecting": ("nnunetv2_xssr.pipeline.select_cases", "make_record"),
    "hand-over": ("nnunetv2_xssr.pipeline.select_cases", "write_handover"),
    "report": ("nnunetv2_xssr.pipeline.select_cases", "write_page"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("options", nargs="*", help="of nnUNetv2_xssr_select, behind --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        variables = {name: f"{folder}/{name}" for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for path in variables.values():
            Path(path).mkdir()
        n_source = write(Path(variables["nnUNet_raw"]), args.cases)
        environment = {**os.environ, **variables}
        runs = [timed(environment, args.options), timed(environment, [*args.options, "--overwrite"])]
    print(f"{args.cases} X-rays, {n_source} of the source, -b {BUDGET}; {os.cpu_count()} cores\n")
    print("| stage | seconds | typed again |\n|---|---|---|")
    for stage in runs[0]:
        print(f"| {stage} | {runs[0][stage]:.1f} | {runs[1][stage]:.1f} |")


def write(raw, n):
    """The two datasets; returns the number of cases of the source."""
    pack = pack_folder(PACK)
    described = json.loads((pack / "dataset.json").read_text())
    described |= {"numTraining": 0, "dataset": {}, "domains": {}}
    files = {"imagesTr": sorted((pack / "imagesTr").iterdir()), "source": sorted((pack / "imagesUnlabelled").iterdir())}
    for name, images, count in ((POOL, files["imagesTr"], n), (SOURCE, files["source"], len(files["source"]))):
        (raw / name / "imagesTr").mkdir(parents=True)
        (raw / name / "dataset.json").write_text(json.dumps(described))
        for i in range(count):
            pixels = imread(images[i % len(images)]).astype(int) + i // len(images)
            imsave(
                raw / name / "imagesTr" / f"x_{i:04d}_0000.png",
                np.clip(pixels, 0, 255).astype(np.uint8),
                check_contrast=False,
            )
    return len(files["source"])


def timed(environment, options):
    """Stage to seconds of one select, and of all of it."""
    child = [sys.executable, __file__, "--", *options]
    began = time.perf_counter()
    done = subprocess.run(child, env={**environment, "XSSR_STAGES": "1"}, stdout=subprocess.PIPE, text=True, check=True)
    whole = time.perf_counter() - began
    seconds = json.loads(done.stdout.splitlines()[-1])
    seconds["embedding"] -= seconds["pretraining"]
    return {"starting": whole - sum(seconds.values()), **seconds, "all": whole}


def select(options):
    """What the child does: the command, with its stages timed."""
    from importlib import import_module

    from nnunetv2_xssr.commands.select import main as command

    seconds = dict.fromkeys(TIMED, 0.0)

    def watched(function, stage):
        @functools.wraps(function)
        def call(*args, **kwargs):
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[stage] += time.perf_counter() - began

        return call

    for stage, (module, name) in TIMED.items():
        setattr(import_module(module), name, watched(getattr(import_module(module), name), stage))
    code = command(["-d", POOL, "-s", SOURCE, "-b", BUDGET, *options])
    print(json.dumps(seconds))
    return code


if __name__ == "__main__":
    if "XSSR_STAGES" in os.environ:
        sys.exit(select(sys.argv[2:]))
    main()
