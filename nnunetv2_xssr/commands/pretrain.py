"""nnUNetv2_xssr_pretrain: learn an embedding from unlabelled source images."""

import argparse
import shlex
import sys

from nnunetv2_xssr.commands.options import add_dim, add_look, add_sources, add_training, training_options
from nnunetv2_xssr.commands.running import Parser, add_no_wait, run


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_xssr_pretrain",
        description="Pretrain a masked autoencoder on the unlabelled images of one or several sources. "
        "nnUNetv2_xssr_select does this by itself; call it to choose the length, or to pretrain elsewhere.",
        examples=(
            "-s 1",
            "-s archive_a archive_b --channel_names CT --epochs auto",
        ),
    )
    add_sources(parser.add_argument_group("what to learn from"))
    seen = parser.add_argument_group("what is seen of volumes")
    add_dim(seen)
    add_look(seen)
    training = parser.add_argument_group("how long, and where")
    add_training(training, epochs=6, batch="128", parts="1")
    add_no_wait(training)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _pretrain(args), "run the same command with --c", no_wait=args.no_wait)


def _pretrain(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.pipeline.pretraining import pretrain_encoder
    from nnunetv2_xssr.pretrain.processes import is_first_process

    final = pretrain_encoder(dim=args.dim, axis=args.axis, window=args.window, **training_options(args))
    if is_first_process():
        options = " --dim 3" * (args.dim == 3) + " --recursive" * args.recursive
        options += " --no_patient_ids" * args.no_patient_ids
        sources = shlex.join(args.s)
        print(f"wrote {final}")
        print(f"look at {final.parent / 'reconstructions.png'} and {final.parent / 'progress.png'}")
        print(f"next: nnUNetv2_xssr_select -d TARGET -s {sources} -b 5%{options}")


if __name__ == "__main__":
    sys.exit(main())
