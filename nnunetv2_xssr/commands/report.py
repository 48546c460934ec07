"""nnUNetv2_xssr_report: write the report of a selection again, or tell its facts to a script."""

import argparse

from nnunetv2_xssr.commands.running import Parser, add_name, add_no_wait, run


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="nnUNetv2_xssr_report",
        description="Write report.html beside a selection anew, from what nnUNetv2_xssr_select left on disk and the "
        "images of the picks: nothing is selected. The file needs no network and opens in any browser.",
        examples=(
            "-d 123",
            "-d 123 --no_thumbnails",
            "-d 123 --json",
        ),
    )
    parser.add_argument("-d", required=True, metavar="TARGET", help="the dataset of the selection, by name or number")
    add_name(parser)
    parser.add_argument("--json", action="store_true", help="print the facts of the report as JSON, and write nothing")
    parser.add_argument("--no_thumbnails", action="store_true", help="show no case, so that the page can be mailed")
    add_no_wait(parser)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _report(args), no_wait=args.no_wait)


def _report(args: argparse.Namespace) -> None:
    import json

    from nnunetv2_xssr.records.workspace import Workspace, find_dataset
    from nnunetv2_xssr.report.facts import gather
    from nnunetv2_xssr.report.page import write_report
    from nnunetv2_xssr.report.selection_data import load_record, load_selection_data

    dataset = find_dataset(args.d)
    if args.json:
        print(
            json.dumps(
                gather(load_selection_data(load_record(Workspace(dataset, args.name)))),
                indent=2,
                ensure_ascii=False,
                allow_nan=False,
            )
        )
        return
    print(f"wrote {write_report(dataset, name=args.name, thumbnails=not args.no_thumbnails)}")
