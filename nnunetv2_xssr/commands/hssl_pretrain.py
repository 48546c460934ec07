"""nnUNetv2_hssl_pretrain: weights of the whole U-Net from unlabelled images of several domains."""

import argparse
import sys
from pathlib import Path

from nnunetv2_xssr.commands.options import add_training, start_training
from nnunetv2_xssr.commands.running import run

EPOCHS, LEAST_BATCH = 100, 8


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_hssl_pretrain",
        description="Pretrain the network of a target's plans, encoder and decoder, on unlabelled images of one or "
        "several datasets, for nnUNetv2_train -pretrained_weights.",
    )
    add = parser.add_argument
    # fmt: off
    add("-d", required=True, metavar="TARGET", help="nnU-Net dataset whose plans the network follows")
    add("-c", required=True, metavar="CONFIGURATION", help="configuration of the plans: 2d, 3d_fullres, ...")
    add("-s", nargs="+", required=True, metavar="SOURCE", help="nnU-Net raw datasets to learn from, each a task; "
        "the target may be one of them; labels are not read")
    add("-p", default="nnUNetPlans", metavar="PLANS", help="name of the plans; nnUNetPlans by default")
    add("--groups", type=Path, metavar="FILE",
        help='JSON such as {"CT": ["Dataset003_Liver"]}: which tasks belong together; by default those with the same '
        "channel names")
    add("--like_channels", type=int, metavar="N", help="save a stem for N channels; by default for those of the images")
    # fmt: on
    add_training(parser, EPOCHS, f"the plans' batch size, but at least {LEAST_BATCH}")
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _pretrain(args), "run the same command with --c")


def _pretrain(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.errors import UserError
    from nnunetv2_xssr.images.pools import open_pools
    from nnunetv2_xssr.pretrain.hssl.patches import preprocess_pool
    from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
    from nnunetv2_xssr.pretrain.hssl.pretrain import common_channels, group_of, pretrain_hssl
    from nnunetv2_xssr.pretrain.hssl.weights import match_weights
    from nnunetv2_xssr.pretrain.processes import first_on_rank_zero, stop_told_once
    from nnunetv2_xssr.records.workspace import check_environment, find_dataset

    check_environment()
    plans = TargetPlans.load(find_dataset(args.d), args.c, args.p)
    pools = open_pools(args.s)
    channels, wanted = common_channels(pools, plans), len(plans.channel_names)
    groups = group_of(pools, args.groups)
    saved = args.like_channels or channels
    if saved != wanted and args.like_channels is None:
        raise UserError(
            f"the images have {channels} channels but {plans.dataset} has {wanted}; --like_channels {wanted} saves a "
            f"stem that fits it"
        )
    settings, fabric = start_training(args, epochs=EPOCHS, batch_size=max(LEAST_BATCH, plans.configuration.batch_size))
    if fabric.is_global_zero:
        match = match_weights(plans.build_network(channels).state_dict(), plans.build_network(saved))
        print(f"what nnUNetv2_train will take over for {plans.plans_name}, {plans.configuration_name}: {match}")
        if len(pools) == 1:
            print("one dataset only: there are no tasks and groups to tell apart; several domains usually give more")
    prepared = first_on_rank_zero(
        fabric, lambda: [preprocess_pool(pool, plans, channels, args.skip_broken) for pool in pools]
    )
    with stop_told_once(fabric):
        weights = pretrain_hssl(plans, prepared, groups, channels, saved, settings, fabric, args.resume)
    if fabric.is_global_zero:
        for sentence in (sentence for pool in prepared for sentence in pool.broken):
            print(f"set aside: {sentence}")
        print(f"wrote {weights}")
        print(f"look at {weights.parent / 'progress.png'}")
        dataset = plans.dataset if saved == wanted else f"DATASET_WITH_{saved}_CHANNELS"
        print(f"next: nnUNetv2_train {dataset} {plans.configuration_name} 0 -pretrained_weights {weights}")


if __name__ == "__main__":
    sys.exit(main())
