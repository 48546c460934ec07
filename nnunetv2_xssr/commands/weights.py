"""nnUNetv2_xssr_weights: a training of nnU-Net from weights that others trained."""

import argparse
import shlex
import sys
from pathlib import Path

from nnunetv2_xssr.commands.options import add_plans
from nnunetv2_xssr.commands.running import Parser, run
from nnunetv2_xssr.errors import first_few
from nnunetv2_xssr.records.logs import logger

FROZEN = "XSSRTrainer_pretrained_frozen"


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_xssr_weights",
        description="Make weights of nnssl, nnU-Net, MONAI's DynUNet or a plain state dict fit the network of a "
        "target's plans, for nnUNetv2_train -pretrained_weights.",
        examples=(
            "-i checkpoint_final.pth -d 2 -c 3d_fullres -o weights.pth",
            "-i dynunet.pt -d 2 -c 2d -o weights.pth --encoder_only --stem mean",
        ),
    )
    files = parser.add_argument_group("from which weights, for which network, to where")
    add = files.add_argument
    # fmt: off
    add("-i", required=True, type=Path, metavar="CHECKPOINT", help="file of weights; no code in it is run")
    add_plans(files)
    add("-o", required=True, type=Path, metavar="FILE", help="file to write; none is replaced")
    add = parser.add_argument_group("what is taken").add_argument
    add("--encoder_only", action="store_true", help="leave the decoder at its initial values")
    add("--stem", choices=("mean", "repeat"),
        help="for another number of channels: each gets the mean of the old ones, or the old ones in turn; by default "
        "another number is refused")
    add("--freeze", choices=("encoder",),
        help=f"name the trainer that leaves the encoder as it is, {FROZEN}, in what comes next; the file is the same")
    add("--least", type=float, default=1.0, metavar="SHARE",
        help="refuse if less of the network's tensors is found, from 0 to 1; 1 by default. The rest keeps its initial "
        "values")
    # fmt: on
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _convert(args))


def _convert(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.commands.next_steps import train_from_weights
    from nnunetv2_xssr.pipeline.foreign_weights import convert_weights
    from nnunetv2_xssr.records.workspace import Workspace
    from nnunetv2_xssr.trainer_link.linking import ensure_linked

    done = convert_weights(
        args.i,
        target=args.d,
        configuration=args.c,
        plans_name=args.p,
        output=args.o,
        encoder_only=args.encoder_only,
        stem=args.stem,
        least=args.least,
    )
    trainer = FROZEN if args.freeze else None
    train = train_from_weights(
        done.dataset, done.path, configuration=args.c, plans_name=args.p, device=None, trainer=trainer
    )
    print(f"wrote {done.path}")
    if args.freeze and (initial := [name for name in done.match.missing if name.startswith("encoder.")]):
        logger.warning(
            f"{len(initial)} tensors of the encoder ({first_few(initial)}) stay at their initial values for good: "
            f"{FROZEN} does not train them; leave --freeze out"
        )
    if args.freeze and (line := ensure_linked()):  # or nnU-Net does not find the trainer
        print(line)
    if args.freeze and not Workspace(done.dataset).split.is_file():
        logger.warning(f"{FROZEN} trains on a selection, and there is none yet: select before what comes next")
    print(f"next: {shlex.join(train)}")


if __name__ == "__main__":
    sys.exit(main())
