"""nnUNetv2_xssr_demo: the main job on built-in data, from pretraining to trained nnU-Nets, in minutes on a CPU."""

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from nnunetv2_xssr.commands.running import Parser, add_device, run
from nnunetv2_xssr.device import resolve_device
from nnunetv2_xssr.errors import UserError

_PICKED = "xssr"  # the arm that is compared with random draws
_SOURCE, _TARGET = "Dataset901_XSSRDemoSource", "Dataset902_XSSRDemoTarget"
_BUDGET = "10%"
_RANDOM_DRAWS = 3


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_xssr_demo",
        description="Draw chest X-ray phantoms of two sites, pick cases of the second one, train nnU-Net on them "
        "and on random picks of the same size, and compare. Everything lies in one folder that can be deleted.",
        examples=(
            "",
            "-o elsewhere",
        ),
    )
    parser.add_argument("-o", type=Path, default=Path("xssr_demo"), metavar="FOLDER", help="xssr_demo by default")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms; 0 by default")
    add_device(parser)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _demo(args))


def _demo(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.pretrain.settings import check_seed
    from nnunetv2_xssr.records.locks import output_lock

    check_seed(args.seed)
    folder = args.o.resolve()
    with output_lock(folder):
        _run(folder, seed=args.seed, device=args.device)


def _run(folder: Path, *, seed: int, device: str | None) -> None:
    from tqdm import tqdm

    from nnunetv2_xssr.demo.phantom import write_datasets
    from nnunetv2_xssr.demo.study import Drawn, Study
    from nnunetv2_xssr.records.files import is_there, write_json
    from nnunetv2_xssr.records.schema import read_as
    from nnunetv2_xssr.records.workspace import is_visible

    drawn_file = folder / "drawn.json"
    if not is_there(drawn_file):
        if any(is_visible(path) for path in folder.iterdir()):
            raise UserError(f"{folder} is neither empty nor a whole demo; delete it or give another folder with -o")
        write_json(drawn_file, {"seed": seed, **write_datasets(folder / "nnUNet_raw", _SOURCE, _TARGET, seed=seed)})
    drawn = read_as(drawn_file, Drawn, advice=f"delete {folder}, or give another folder with -o")
    if drawn["seed"] != seed:
        raise UserError(f"{folder} holds a demo with --seed {drawn['seed']}; give that, or another folder with -o")
    study = Study(folder, _SOURCE, _TARGET, "2d_small", "XSSRTrainer_demo", resolve_device(device))
    arms = {_PICKED: ["-b", _BUDGET]}
    arms |= {f"random {i + 1}": ["-b", _BUDGET, "--strategy", "random", "--seed", str(i)] for i in range(_RANDOM_DRAWS)}

    print(f"demo in {folder} (log.txt tells what nnU-Net says)")
    dice = {}
    with tqdm(total=2 + len(arms), unit="step") as progress:
        progress.set_description("pretraining on the source")
        study.pretrain("--epochs", "2")
        progress.update()
        progress.set_description("preprocessing the target")
        study.preprocess(drawn["pool"], drawn["test"], small={"batch_size": 4})
        progress.update()
        for arm, options in arms.items():
            progress.set_description(f"selecting and training: {arm}")
            dice[arm] = study.run_arm(arm, *options)
            progress.update()
    _tell(study, drawn["variants"], dice)


def _tell(study, variants: dict[str, str], dice: dict[str, dict[str, float]]) -> None:
    import numpy as np

    test = sorted(dice[_PICKED])
    rare = [case for case in test if variants[case] != "ordinary"]
    groups = {"all": test, "ordinary": [case for case in test if case not in rare], "rare kinds": rare}
    random = [arm for arm in dice if arm != _PICKED]

    def mean(arm: str, cases: list[str]) -> float:
        return 100 * float(np.mean([dice[arm][case] for case in cases]))

    print(f"\ntest Dice in % of {len(test)} cases after training on {len(study.picks(_PICKED))} picked ones:\n")
    print(f"{'picks':<28}" + "".join(f"{name:>14}" for name in groups) + f"{'kinds seen':>14}")
    for arm in dice:
        kinds = len({variants[case] for case in study.picks(arm)})
        print(f"{arm:<28}" + "".join(f"{mean(arm, cases):>14.1f}" for cases in groups.values()) + f"{kinds:>14}")
    spread = [[mean(arm, cases) for arm in random] for cases in groups.values()]
    row = "".join(f"{f'{np.mean(s):.1f} +- {np.std(s, ddof=1):.1f}':>14}" for s in spread)
    print(f"{f'random, mean +- sd of {len(random)}':<28}{row}\n")
    for picture in _draw(study, variants, dice, random, rare):
        print(f"wrote {picture}")
    report = study.report(_PICKED)
    if report.is_file():  # a demo that an older version finished has none
        print(f"wrote {report}")
        show(report)
    print("next: the same on your own data, as the examples of nnUNetv2_xssr_select --help show")


def show(page: Path) -> None:
    """Show a page to whoever sits before the screen; nothing where nobody does."""
    has_screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.stdout.isatty() and has_screen:
        webbrowser.open(page.as_uri())


def _draw(study, variants: dict[str, str], dice: dict[str, dict[str, float]], random: list[str], rare: list[str]):
    import numpy as np
    from skimage.io import imread

    from nnunetv2_xssr.images.sheets import contact_sheet, prediction_sheet

    raw = study.folder / "nnUNet_raw" / study.target

    def image(case: str) -> np.ndarray:
        return imread(raw / "imagesTr" / f"{case}_0000.png")

    picks = study.folder / "picks.png"
    shown = {"picked by XSSR": _PICKED} | {f"random draw {i + 1}": arm for i, arm in enumerate(random)}
    contact_sheet(
        picks,
        [
            (title, [(image(case), f"{rank + 1}: {variants[case]}") for rank, case in enumerate(study.picks(arm))])
            for title, arm in shown.items()
        ],
    )
    # The random draw in the middle stands for all; of every kind the first test case, so that none is hand-picked.
    middle = sorted(random, key=lambda arm: np.mean(list(dice[arm].values())))[len(random) // 2]
    first = {variants[case]: case for case in sorted(dice[_PICKED], reverse=True)}
    methods = {"XSSR": _PICKED, middle: middle}
    predictions = study.folder / "predictions.png"
    prediction_sheet(
        predictions,
        [
            (
                kind,
                image(case),
                imread(raw / "labelsTr" / f"{case}.png"),
                {name: imread(study.prediction(arm, case, ".png")) for name, arm in methods.items()},
            )
            for kind, case in sorted(first.items())
        ],
    )
    return picks, predictions
