"""nnUNetv2_xssr_link: let nnU-Net find XSSRTrainer, or stop it from doing so."""

import argparse

from nnunetv2_xssr.commands.running import Parser, run
from nnunetv2_xssr.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_xssr_link",
        description="Write one small module into nnU-Net's trainer folder, so that nnUNetv2_train -tr XSSRTrainer "
        "works. nnUNetv2_xssr_select and nnUNetv2_xssr_collect do this by themselves.",
        examples=(
            "",
            "--check",
        ),
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--remove", action="store_true", help="remove the module")
    mode.add_argument("--check", action="store_true", help="only say whether nnU-Net finds XSSRTrainer")
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _link(args))


def _link(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.trainer_link import linking

    if args.remove:
        existed = linking.unlink()
        print(f"removed {linking.link_path()}" if existed else f"nothing to remove: {linking.link_path()} is not there")
    elif args.check:
        if not linking.trainer_found():
            raise UserError(f"nnU-Net does not find XSSRTrainer (no {linking.link_path()}); run nnUNetv2_xssr_link")
        print(f"nnU-Net finds XSSRTrainer ({linking.link_path()})")
    else:
        print(linking.ensure_linked() or f"nnU-Net finds XSSRTrainer already ({linking.link_path()})")
