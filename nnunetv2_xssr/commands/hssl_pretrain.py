"""nnUNetv2_hssl_pretrain: weights of the whole U-Net from unlabelled images of several domains."""

import argparse
import shlex
import sys
from pathlib import Path

from nnunetv2_xssr.commands.options import add_training, training_options
from nnunetv2_xssr.commands.running import Parser, add_no_wait, run
from nnunetv2_xssr.pretrain.hssl import EPOCHS, LEAST_BATCH

PLANS = "nnUNetPlans"


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_hssl_pretrain",
        description="Pretrain the network of a target's plans, encoder and decoder, on unlabelled images of one or "
        "several datasets, for nnUNetv2_train -pretrained_weights.",
        examples=(
            "-d 2 -c 2d -s 2",
            "-d 2 -c 3d_fullres -s 1 2 3 --precision bf16-mixed",
        ),
    )
    add = parser.add_argument_group("for which network, and what to learn from").add_argument
    # fmt: off
    add("-d", required=True, metavar="TARGET", help="nnU-Net dataset whose plans the network follows")
    add("-c", required=True, metavar="CONFIGURATION", help="configuration of the plans: 2d, 3d_fullres, ...")
    add("-s", nargs="+", required=True, metavar="SOURCE", help="nnU-Net raw datasets to learn from, each a task; "
        "the target may be one of them; labels are not read")
    add("-p", default=PLANS, metavar="PLANS", help=f"name of the plans; {PLANS} by default")
    add("--groups", type=Path, metavar="FILE",
        help='JSON such as {"CT": ["Dataset003_Liver"]}: which tasks belong together; by default those with the same '
        "channel names")
    add("--like_channels", type=int, metavar="N", help="save a stem for N channels; by default for those of the images")
    # fmt: on
    training = parser.add_argument_group("how long, and where")
    add_training(training, epochs=EPOCHS, batch=f"the plans' batch size, but at least {LEAST_BATCH}")
    add_no_wait(training)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _pretrain(args), "run the same command with --c", no_wait=args.no_wait)


def _pretrain(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.pipeline.pretraining import pretrain_unet
    from nnunetv2_xssr.pretrain.processes import is_first_process
    from nnunetv2_xssr.records.dataset_json import read_dataset_json
    from nnunetv2_xssr.records.workspace import Workspace, channel_names_of, find_dataset

    weights = pretrain_unet(
        args.d,
        configuration=args.c,
        sources=args.s,
        plans_name=args.p,
        groups=args.groups,
        like_channels=args.like_channels,
        **training_options(args),
    )
    if is_first_process():
        dataset, named = find_dataset(args.d), [] if args.p == PLANS else ["-p", args.p]
        channels = len(channel_names_of(read_dataset_json(Workspace(dataset).dataset_json)))
        if args.like_channels not in (None, channels):
            dataset = f"DATASET_WITH_{args.like_channels}_CHANNELS"
        train = ["nnUNetv2_train", dataset, args.c, "0", *named, "-pretrained_weights", str(weights)]
        print(f"wrote {weights}")
        print(f"look at {weights.parent / 'progress.png'}")
        print(f"next: {shlex.join(train)}")


if __name__ == "__main__":
    sys.exit(main())
