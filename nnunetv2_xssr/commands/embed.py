"""nnUNetv2_xssr_embed: write the features by which nnUNetv2_xssr_select would compare cases."""

import argparse
import shlex
import sys
from pathlib import Path

from nnunetv2_xssr.commands.options import add_dim, add_encoder, add_folders, add_look
from nnunetv2_xssr.commands.running import Parser, add_device, add_no_wait, run


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_xssr_embed",
        description="Write the features by which nnUNetv2_xssr_select would compare cases: to look at, to change, or "
        "to give to nnUNetv2_xssr_select --embeddings where the images are not.",
        examples=(
            "-d 2 -s 1 -o pool.npz",
            "-d 2 -s 1 -o pool.csv --encoder intensity",
        ),
    )
    pool = parser.add_argument_group("what is read and written")
    add = pool.add_argument
    # fmt: off
    add("-d", dest="target", required=True, metavar="TARGET", help="nnU-Net raw dataset, by name or number")
    add("-s", dest="sources", nargs="+", default=[], metavar="SOURCE", help="as in nnUNetv2_xssr_select")
    add("-o", dest="output", type=Path, required=True, metavar="FILE",
        help="a .npz or a .csv; with -s the features of the sources go to NAME_source beside it")
    add("--skip_broken", action="store_true", help="leave cases out that cannot be read, and name them")
    # fmt: on
    add_folders(pool)
    compared = parser.add_argument_group("by what")
    add_encoder(compared, kinds=("auto", "grid+intensity", "grid", "average"))
    add_dim(compared)
    add_look(compared)
    compared.add_argument("--seed", type=int, default=0, help="of what is random in learning; 0 by default")
    add_device(compared)
    add_no_wait(compared)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _embed(args), no_wait=args.no_wait)


def _embed(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.pipeline.embed_cases import embed_cases

    given = {**vars(args)}
    del given["no_wait"]
    given["patient_ids"] = not given.pop("no_patient_ids")
    files = embed_cases(given.pop("target"), **given)
    for file in files:
        print(f"wrote {file}")
    options = ["--embeddings", str(files[0]), *(["--source_embeddings", str(files[1])] if files[1:] else [])]
    print(f"next: {shlex.join(['nnUNetv2_xssr_select', '-d', args.target, *options, '-b', '5%'])}")


if __name__ == "__main__":
    sys.exit(main())
