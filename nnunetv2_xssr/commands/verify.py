"""nnUNetv2_xssr_verify: say what has changed since a selection was made."""

import argparse
import json
from dataclasses import asdict

from nnunetv2_xssr.commands.running import Parser, add_name, run


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0 if all is as it was, 1 if something has changed."""
    parser = Parser(
        prog="nnUNetv2_xssr_verify",
        description="Hash all that belongs to a selection anew, and say what has changed since: images, cached views "
        "and features, encoder, split, hand-overs, collected labels, versions. Nothing is written.",
        examples=("-d 2", "-d 2 --json"),
    )
    parser.add_argument("-d", required=True, metavar="TARGET", help="nnU-Net raw dataset, by name or number")
    add_name(parser)
    parser.add_argument("--json", action="store_true", help="the same for scripts")
    args = parser.parse_args(argv)
    changed: list[str] = []
    return run(parser.prog, lambda: changed.extend(_verify(args))) or int(bool(changed))


def _verify(args: argparse.Namespace) -> list[str]:
    """Print what has changed, and return it."""
    from nnunetv2_xssr.pipeline.verify import verify_selection

    result = verify_selection(args.d, name=args.name)
    if args.json:
        print(json.dumps(asdict(result), indent=2, ensure_ascii=False))
    else:
        print(f"{result.dataset}, selection {result.selection}")
        if result.whole:
            print(f"as it was: {', '.join(result.whole)}")
        for sentence in result.changed:
            print(f"changed: {sentence}")
    return result.changed
