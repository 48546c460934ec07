"""nnUNetv2_hssl_pretrain: weights of the whole U-Net from unlabelled images of several domains."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_xssr.commands.options import add_training, start_training
from nnunetv2_xssr.commands.running import run

if TYPE_CHECKING:  # importing them takes seconds, which --help must not
    from nnunetv2_xssr.images.pools import ImagePool
    from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans

EPOCHS, LEAST_BATCH = 100, 8
PLANS = "nnUNetPlans"


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
    add("-p", default=PLANS, metavar="PLANS", help=f"name of the plans; {PLANS} by default")
    add("--groups", type=Path, metavar="FILE",
        help='JSON such as {"CT": ["Dataset003_Liver"]}: which tasks belong together; by default those with the same '
        "channel names")
    add("--like_channels", type=int, metavar="N", help="save a stem for N channels; by default for those of the images")
    # fmt: on
    add_training(parser, epochs=EPOCHS, batch=f"the plans' batch size, but at least {LEAST_BATCH}")
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _pretrain(args), "run the same command with --c")


def _pretrain(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.images.pools import open_pools
    from nnunetv2_xssr.pretrain.hssl.objective import HSSLObjective
    from nnunetv2_xssr.pretrain.hssl.patches import preprocess_pool
    from nnunetv2_xssr.pretrain.hssl.plans import TargetPlans
    from nnunetv2_xssr.pretrain.hssl.pretrain import common_channels, group_of, pretrain_hssl
    from nnunetv2_xssr.pretrain.processes import first_on_rank_zero, stop_reported_once
    from nnunetv2_xssr.records.workspace import check_environment, find_dataset

    check_environment()
    plans = TargetPlans.load(find_dataset(args.d), configuration_name=args.c, plans_name=args.p)
    pools = open_pools(args.s)
    channels = common_channels(pools, plans)
    groups = group_of(pools, file=args.groups)
    saved = _saved_channels(args.like_channels, channels=channels, plans=plans)
    settings, fabric = start_training(
        args,
        compares_samples=HSSLObjective.compares_samples,
        epochs=EPOCHS,
        batch_size=max(LEAST_BATCH, plans.configuration.batch_size),
    )
    if fabric.is_global_zero:
        _say_before(pools, plans, channels=channels, saved=saved)
    prepared = first_on_rank_zero(
        fabric, lambda: [preprocess_pool(pool, plans, skip_broken=args.skip_broken) for pool in pools]
    )
    with stop_reported_once(fabric):
        weights = pretrain_hssl(
            plans,
            prepared,
            groups=groups,
            channels=channels,
            saved_channels=saved,
            settings=settings,
            fabric=fabric,
            resume=args.resume,
        )
    if fabric.is_global_zero:
        for sentence in (sentence for pool in prepared for sentence in pool.broken):
            print(f"set aside: {sentence}")
        print(f"wrote {weights}")
        print(f"look at {weights.parent / 'progress.png'}")
        dataset = plans.dataset if saved == len(plans.channel_names) else f"DATASET_WITH_{saved}_CHANNELS"
        named = [] if args.p == PLANS else ["-p", args.p]
        train = ["nnUNetv2_train", dataset, args.c, "0", *named, "-pretrained_weights", str(weights)]
        print(f"next: {shlex.join(train)}")


def _saved_channels(like_channels: int | None, *, channels: int, plans: "TargetPlans") -> int:
    """The number of input channels of the saved stem."""
    from nnunetv2_xssr.errors import UserError

    wanted = len(plans.channel_names)
    if like_channels is None and channels != wanted:
        raise UserError(
            f"the images have {channels} channels but {plans.dataset} has {wanted}; --like_channels {wanted} saves a "
            f"stem that fits it"
        )
    if like_channels is not None and like_channels < 1:
        raise UserError(f"--like_channels must be 1 or more; got {like_channels}")
    return like_channels or channels


def _say_before(pools: list["ImagePool"], plans: "TargetPlans", *, channels: int, saved: int) -> None:
    """Print what the weights will fit, and how images are normalised that have other channels than the target."""
    from nnunetv2_xssr.pretrain.hssl.weights import match_weights

    match = match_weights(plans.build_network(channels).state_dict(), plans.build_network(saved))
    print(f"nnUNetv2_train will load, for {plans.plans_name}, {plans.configuration_name}: {match}")
    for pool in pools:
        names = pool.channel_names or plans.channel_names
        if [name.casefold() for name in names] != [name.casefold() for name in plans.channel_names]:
            schemes = plans.for_channels(names).configuration.normalization_schemes
            listed = ", ".join(f"{name} by {scheme}" for name, scheme in zip(names, schemes, strict=True))
            print(f"normalisation of {pool.name}: {listed}")
    if len(pools) == 1:
        print("one dataset only: there are no tasks and groups to contrast")


if __name__ == "__main__":
    sys.exit(main())
