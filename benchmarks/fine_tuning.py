"""Which learning rates suit pretrained weights? Peaks x warm-ups, each from weights and from scratch.

    python benchmarks/fine_tuning.py --draws 0 1                                     all nine schedules
    python benchmarks/fine_tuning.py --draws 2 3 4 5 --schedules "0.003, first 10 %"    some of them, on other draws

The first schedule, nnU-Net's, is always among them. Weights are those of hssl.py, from all of the pool's own images;
data, draws and folders, too. What is finished is kept: run again to go on.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from hssl import arguments, difference, prepare, pretrain, trained_dice

from nnunetv2_xssr.commands.running import run

PEAKS = ("0.01", "0.003", "0.001")
WARM_UPS = {"no warm-up": ("0", "0"), "first 10 %": ("0.1", "0"), "decoder first": ("0.1", "1")}
SCHEDULES = {f"{peak}, {name}": (peak, *options) for peak in PEAKS for name, options in WARM_UPS.items()}
NNUNET = next(iter(SCHEDULES))
STARTS = ("weights", "scratch")
SHARE = 0.05


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1], help="seeds of the draws of labelled cases")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=SCHEDULES)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS, help="to start with")
    args = parser.parse_args()
    if args.gpu:
        parser.error("the schedules are compared at the short length; leave --gpu out")
    return run("fine_tuning.py", lambda: benchmark(args))


def benchmark(args) -> None:
    schedules = list(dict.fromkeys([NNUNET, *args.schedules]))
    for pack in args.packs:
        target = prepare(pack, args)
        study = replace(target.study, trainer=target.study.trainer.replace("Trainer", "Trainer_pretrained"))
        weights = pretrain(target, "own", "all")
        dice = {(schedule, start): [] for schedule in schedules for start in args.starts}
        for draw in args.draws:
            k = target.label(share=SHARE, draw=draw)
            for (schedule, start), values in dice.items():
                train = (sys.executable, str(Path(__file__).with_name("schedule.py")), *SCHEDULES[schedule])
                arm = target.arm(f"{schedule} {weights.stem if start == 'weights' else start} {k} seed {draw}")
                values.append(trained_dice(study, arm, weights if start == "weights" else None, train))
        print(f"\n{pack}, {100 * SHARE:g} % ({k}), draws {', '.join(map(str, args.draws))}:\n")
        print_table(schedules, {key: np.array(values) for key, values in dice.items()})


def print_table(schedules: list[str], dice: dict[tuple[str, str], np.ndarray]) -> None:
    """Mean Dice from weights and from scratch, their paired difference, and that to nnU-Net's schedule."""
    print("| peak rate, warm-up | weights | scratch | weights - scratch | weights - weights by nnU-Net's rates |")
    print("|---|---|---|---|---|")
    for schedule in schedules:
        ours, scratch = (dice.get((schedule, start)) for start in STARTS)
        cells = [schedule, *("" if values is None else f"{values.mean():.2f}" for values in (ours, scratch))]
        for values, other in ((ours, scratch), (ours, dice.get((NNUNET, "weights")))):
            cells.append("" if values is None or other is None or other is values else difference(values - other))
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
