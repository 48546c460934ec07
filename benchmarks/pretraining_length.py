"""Does HSSL gain more when it is pretrained for longer? nnU-Net from scratch, and from weights of several lengths.

    python benchmarks/pretraining_length.py --batch_size 16 --lengths 6 60 600 --pretraining_seeds 2
    python benchmarks/pretraining_length.py --batch_size 16 --lengths 6 600 --trainer XSSRTrainer_10epochs

Lengths are epochs of 50 batches. Weights learn from all of the pool's own images; their Dice is the mean over the
seeds of the pretraining. Data, draws of the labelled cases and folders are those of hssl.py. What is finished is kept:
run again to go on.
"""

import argparse
import sys
from dataclasses import replace

import numpy as np
from hssl import arguments, difference, prepare, pretrain, trained_dice

from nnunetv2_xssr.commands.running import run

SHARE = 0.05


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of the draws of labels")
    parser.add_argument("--pretraining_seeds", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[6, 60], help="of pretraining, in epochs")
    args = parser.parse_args()
    if args.epochs:
        parser.error("several lengths are compared; give them as --lengths in place of --epochs")
    return run("pretraining_length.py", lambda: benchmark(args))


def benchmark(args: argparse.Namespace) -> None:
    for pack in args.packs:
        target = prepare(pack, args)
        weights = {
            length: [pretrain(replace(target, epochs=length), "own", "all", s) for s in range(args.pretraining_seeds)]
            for length in args.lengths
        }
        dice = {arm: [] for arm in ("scratch", *weights)}
        for draw in args.draws:
            k = target.label(share=SHARE, draw=draw)
            for arm, values in dice.items():
                of_seeds = []
                for start in weights.get(arm, [None]):
                    name = target.arm(f"{start.stem if start else arm} {k} seed {draw}")
                    of_seeds.append(trained_dice(target.study, name, start))
                values.append(np.mean(of_seeds))
        print(f"\n{pack}, {100 * SHARE:g} % ({k}), draws {', '.join(map(str, args.draws))}, {target.study.trainer}:\n")
        print_table({arm: np.array(values) for arm, values in dice.items()})


def print_table(dice: dict[str | int, np.ndarray]) -> None:
    """Mean Dice, and paired differences to scratch and to the first length, with their intervals over draws."""
    first = list(dice)[1]
    print(f"| epochs | Dice | - scratch | - {first} epochs |\n|---|---|---|---|")
    for arm, values in dice.items():
        to_scratch = "" if arm == "scratch" else difference(values - dice["scratch"])
        to_first = "" if arm in ("scratch", first) else difference(values - dice[first])
        print(f"| {arm} | {values.mean():.2f} | {to_scratch} | {to_first} |")


if __name__ == "__main__":
    sys.exit(main())
