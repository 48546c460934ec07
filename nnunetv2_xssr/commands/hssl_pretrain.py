"""nnUNetv2_hssl_pretrain: weights of the whole U-Net from unlabelled images of several domains."""

import argparse
import shlex
import sys
from pathlib import Path

from nnunetv2_xssr.commands.options import add_plans, add_sources, add_training, training_options
from nnunetv2_xssr.commands.running import Parser, add_no_wait, run
from nnunetv2_xssr.pretrain.hssl import EPOCHS, LEAST_BATCH


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_hssl_pretrain",
        description="Pretrain the network of a target's plans, encoder and decoder, on unlabelled images of one or "
        "several sources, each a task, for nnUNetv2_train -pretrained_weights. The target may be one of them.",
        examples=(
            "-d 2 -c 2d -s 2",
            "-d 2 -c 3d_fullres -s 1 2 3 --precision bf16-mixed",
        ),
    )
    what = parser.add_argument_group("for which network, and what to learn from")
    add_plans(what)
    add_sources(what)
    add = what.add_argument
    # fmt: off
    add("--groups", type=Path, metavar="FILE",
        help='JSON such as {"CT": ["Dataset003_Liver"]}: which tasks belong together; by default those with the same '
        "channel names")
    add("--like_channels", type=int, metavar="N", help="save a stem for N channels; by default for those of the images")
    # fmt: on
    training = parser.add_argument_group("how long, and where")
    batch = f"the plans' batch size, but at least {LEAST_BATCH}"
    parts = "1, on a GPU as many as make a part of the plans' batch size"
    add_training(training, epochs=EPOCHS, batch=batch, parts=parts)
    add_no_wait(training)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _pretrain(args), "run the same command with --c", no_wait=args.no_wait)


def _pretrain(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.commands.next_steps import train_from_weights
    from nnunetv2_xssr.pipeline.pretraining import pretrain_unet
    from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
    from nnunetv2_xssr.pretrain.processes import is_first_process
    from nnunetv2_xssr.records.workspace import find_dataset

    weights = pretrain_unet(
        args.d,
        configuration=args.c,
        plans_name=args.p,
        groups=args.groups,
        like_channels=args.like_channels,
        **training_options(args),
    )
    if is_first_process():
        dataset = find_dataset(args.d)
        plans = TargetPlans.load(dataset, configuration_name=args.c, plans_name=args.p)
        if args.like_channels not in (None, len(plans.inputs)):
            dataset = f"DATASET_WITH_{args.like_channels}_CHANNELS"
        train = train_from_weights(dataset, weights, configuration=args.c, plans_name=args.p, device=args.device)
        print(f"wrote {weights}")
        print(f"look at {weights.parent / 'progress.png'}")
        print(f"next: {shlex.join(train)}")


if __name__ == "__main__":
    sys.exit(main())
