"""nnUNetv2_xssr_pretrain: learn an embedding from unlabelled source images."""

import argparse
import shlex
import sys

from nnunetv2_xssr.commands.options import add_dim, add_folders, add_look, add_training, training_options
from nnunetv2_xssr.commands.running import add_no_wait, run


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_xssr_pretrain",
        description="Pretrain a masked autoencoder on the unlabelled images of one or several sources. "
        "nnUNetv2_xssr_select does this by itself; call it to choose the length, or to pretrain elsewhere.",
    )
    parser.add_argument(
        "-s", nargs="+", required=True, metavar="SOURCE", help="nnU-Net datasets (name or number) or folders of images"
    )
    add_folders(parser)
    parser.add_argument(
        "--channel_names",
        nargs="+",
        metavar="NAME",
        help="of every channel of images in folders, such as CT, as in nnU-Net",
    )
    add_dim(parser)
    add_look(parser)
    add_training(parser, epochs=6, batch="128")
    add_no_wait(parser)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _pretrain(args), "run the same command with --c", no_wait=args.no_wait)


def _pretrain(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.pipeline.pretraining import pretrain_encoder
    from nnunetv2_xssr.pretrain.processes import is_first_process

    final = pretrain_encoder(
        args.s,
        dim=args.dim,
        channel_names=args.channel_names,
        axis=args.axis,
        window=args.window,
        recursive=args.recursive,
        patient_ids=not args.no_patient_ids,
        **training_options(args),
    )
    if is_first_process():
        options = " --dim 3" * (args.dim == 3) + " --recursive" * args.recursive
        sources = shlex.join(args.s)
        print(f"wrote {final}")
        print(f"look at {final.parent / 'reconstructions.png'} and {final.parent / 'progress.png'}")
        print(f"next: nnUNetv2_xssr_select -d TARGET -s {sources} -b 5%{options}")


if __name__ == "__main__":
    sys.exit(main())
