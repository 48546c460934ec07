"""nnUNetv2_xssr_pretrain: learn an embedding from unlabelled source images."""

import argparse
import sys
from pathlib import Path

from nnunetv2_xssr.commands.options import add_dim, add_training, start_training
from nnunetv2_xssr.commands.running import run


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_xssr_pretrain",
        description="Pretrain a masked autoencoder on the unlabelled images of one or several sources. "
        "nnUNetv2_xssr_select does this by itself; call it to choose the length, or to pretrain elsewhere.",
    )
    parser.add_argument(
        "-s", nargs="+", required=True, metavar="SOURCE", help="nnU-Net datasets (name or number) or folders of images"
    )
    add_dim(parser)
    add_training(parser, 24, "32")
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _pretrain(args), "run the same command with --c")


def _pretrain(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.pretrain.processes import first_on_rank_zero, stop_told_once
    from nnunetv2_xssr.pretrain.training import pretrain
    from nnunetv2_xssr.records.workspace import check_environment

    check_environment()
    settings, fabric = start_training(args)
    sources = first_on_rank_zero(fabric, lambda: _read(args))
    if fabric.is_global_zero:
        for sentence in (sentence for views in sources for sentence in views.broken):
            print(f"set aside: {sentence}")
    with stop_told_once(fabric):
        final = pretrain(sources, settings, fabric, resume=args.resume)
    if fabric.is_global_zero:
        _say(final, args)


def _read(args: argparse.Namespace) -> list:
    from nnunetv2_xssr.images.pools import open_pools
    from nnunetv2_xssr.images.views import prepare_views

    pools = open_pools(args.s)
    named = next((pool.channel_names for pool in pools if pool.channel_names), None)
    return [prepare_views(pool, named, args.skip_broken, args.dim) for pool in pools]


def _say(final: Path, args: argparse.Namespace) -> None:
    print(f"wrote {final}")
    print(f"look at {final.parent / 'reconstructions.png'} and {final.parent / 'progress.png'}")
    dim = " --dim 3" if args.dim == 3 else ""
    print(f"next: nnUNetv2_xssr_select -d TARGET -s {' '.join(args.s)} -b 5%{dim}")


if __name__ == "__main__":
    sys.exit(main())
