#!/usr/bin/env python3
"""Does nnU-Net, as the judge, confirm what evidence.py found by the fast one? One mixed study and one of a single kind.

    python benchmarks/confirm.py                 # some 90 minutes on one core; run it again to go on
    python benchmarks/confirm.py --gpu           # the planned network, 50 epochs

Everything goes through ``nnUNetv2_xssr_benchmark``, which prints the conclusion and leaves ``results.md`` and a report
per study. The small network sees the nuclei at full and the lungs at half their resolution.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from packs import SMALL, write_domain
from studies import CONFIRMING, STUDIES, source_views, target_of, use_folder

from nnunetv2_xssr.commands.running import run
from nnunetv2_xssr.demo.study import Study
from nnunetv2_xssr.device import resolve_device

CONFIRMED = {
    801: ("NucleiDSB", 120),  # fluo256 -> three kinds
    802: ("CXRLung", 40),  # hannover -> guangzhou
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--draws", type=int, default=10, help="random draws; 10 by default")
    add("--seeds", type=int, default=3, help="encoders; 3 by default")
    add("--work", type=Path, default=Path("results/confirm"), help="folder; results/confirm by default")
    add("--gpu", action="store_true", help="the planned network for 50 epochs, on a GPU")
    args = parser.parse_args()
    return run("confirm.py", lambda: confirm(args))


def confirm(args: argparse.Namespace) -> None:
    work = args.work.resolve()
    use_folder(work)
    configuration, trainer = ("2d", "XSSRTrainer_50epochs") if args.gpu else ("2d_small", "XSSRTrainer_5epochs")
    for number, (pack, size) in CONFIRMED.items():
        found = next(one for one in STUDIES if (one.half, one.pack, one.pool) == (CONFIRMING, pack, size))
        print(found.name, flush=True)
        held = target_of(pack, tuple(found.target.items()), work)
        order = np.random.default_rng(0).permutation(len(held.pool))
        pool = [held.pool[i] for i in order[:size]]
        target = f"Dataset{number}_{pack}_pool_of_{size}"
        write_domain(pack, list(found.target), work / "nnUNet_raw" / target, labelled=True, only=pool + list(held.test))
        source = source_views(pack, found.source, work).pool.name
        study = Study(work, source, target, configuration, trainer, resolve_device(None if args.gpu else "cpu"))
        study.preprocess(pool, held.test, None if args.gpu else SMALL[pack])
        test = work / f"{target}_test.txt"
        test.write_text("\n".join(held.test) + "\n", encoding="utf-8")
        study.run(
            *("nnUNetv2_xssr_benchmark", "-d", target, "-s", source, "-b", "5%", "--strategies", "xssr"),
            *("--draws", str(args.draws), "--seeds", str(args.seeds), "--test", str(test)),
            *("-c", configuration, "-tr", trainer, "-o", str(work / target), "-device", study.device),
        )
        print((work / target / "results.md").read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
