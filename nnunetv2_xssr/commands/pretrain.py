"""nnUNetv2_xssr_pretrain: learn an embedding from unlabelled source images."""

import argparse
import sys
from pathlib import Path

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
    parser.add_argument(
        "--epochs", type=_epochs, help="of 50 batches each, or auto: until held-out images gain no more; 24 by default"
    )
    parser.add_argument("--batch_size", type=int, help="views in a batch, those of all GPUs together; 32 by default")
    parser.add_argument("--accumulate", type=int, help="parts to compute a batch in, to save memory; 1 by default")
    parser.add_argument(
        "--precision", default="32-true", help="32-true (default), bf16-mixed, or 16-mixed, which needs a CUDA GPU"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every random number; 0 by default")
    parser.add_argument("--c", action="store_true", help="continue an interrupted pretraining")
    parser.add_argument("--skip-broken", action="store_true", help="set cases aside that cannot be read, and name them")
    add_device(parser)
    parser.add_argument(
        "-num_gpus", type=int, default=1, help="GPUs of this machine; 1 by default. torchrun and srun work as well"
    )
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _pretrain(args), "run the same command with --c")


def _epochs(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _pretrain(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.folders import check_environment
    from nnunetv2_xssr.pretrain.processes import first_on_rank_zero, start, stop_told_once
    from nnunetv2_xssr.pretrain.task import Settings
    from nnunetv2_xssr.pretrain.training import pretrain

    check_environment()
    given = {name: getattr(args, name) for name in ("epochs", "batch_size", "seed", "accumulate")}
    settings = Settings(**{key: value for key, value in given.items() if value is not None})
    fabric = start(resolve_device(args.device), args.num_gpus, args.precision)
    sources = first_on_rank_zero(fabric, lambda: _read(args))
    if fabric.is_global_zero:
        for sentence in (sentence for views in sources for sentence in views.broken):
            print(f"set aside: {sentence}")
    with stop_told_once(fabric):
        final = pretrain(sources, settings, fabric, resume=args.c)
    if fabric.is_global_zero:
        _say(final, args)


def _read(args: argparse.Namespace) -> list:
    from nnunetv2_xssr.pools import open_pools
    from nnunetv2_xssr.views import prepare_views

    pools = open_pools(args.s)
    named = next((pool.channel_names for pool in pools if pool.channel_names), None)
    return [prepare_views(pool, named, args.skip_broken) for pool in pools]


def _say(final: Path, args: argparse.Namespace) -> None:
    print(f"wrote {final}")
    print(f"look at {final.parent / 'reconstructions.png'} and {final.parent / 'progress.png'}")
    print(f"next: nnUNetv2_xssr_select -d TARGET -s {' '.join(args.s)} -b 5%")


if __name__ == "__main__":
    sys.exit(main())
