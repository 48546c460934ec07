"""nnUNetv2_xssr_pretrain: learn an embedding from unlabelled source images."""

import argparse

from nnunetv2_xssr.commands.frame import add_device, resolve_device, run


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_xssr_pretrain",
        description="Pretrain a masked autoencoder on the unlabelled images of one or several sources. "
        "nnUNetv2_xssr_select does this by itself; call it to choose the length, or to pretrain elsewhere.",
    )
    parser.add_argument(
        "-s", nargs="+", required=True, metavar="SOURCE", help="nnU-Net datasets (name or number) or folders of images"
    )
    parser.add_argument("--epochs", type=int, help="of 50 batches each; 24 by default")
    parser.add_argument("--batch_size", type=int, help="views in a batch; 32 by default")
    parser.add_argument("--seed", type=int, default=0, help="of every random number; 0 by default")
    parser.add_argument("--c", action="store_true", help="continue an interrupted pretraining")
    parser.add_argument("--skip-broken", action="store_true", help="set cases aside that cannot be read, and name them")
    add_device(parser)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _pretrain(args))


def _pretrain(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.folders import check_environment
    from nnunetv2_xssr.pools import open_pools
    from nnunetv2_xssr.pretrain.training import Settings, pretrain
    from nnunetv2_xssr.views import prepare_views

    check_environment()
    given = {"epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed}
    settings = Settings(**{key: value for key, value in given.items() if value is not None})
    device = resolve_device(args.device)
    pools = open_pools(args.s)
    named = next((pool.channel_names for pool in pools if pool.channel_names), None)
    sources = [prepare_views(pool, named, args.skip_broken) for pool in pools]
    for sentence in (sentence for views in sources for sentence in views.broken):
        print(f"set aside: {sentence}")
    final = pretrain(sources, settings, device, resume=args.c)
    print(f"wrote {final}")
    print(f"look at {final.parent / 'reconstructions.png'} and {final.parent / 'progress.png'}")
    print(f"next: nnUNetv2_xssr_select -d TARGET -s {' '.join(args.s)} -b 5%")
