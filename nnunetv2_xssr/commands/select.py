"""nnUNetv2_xssr_select: pick the cases of a target pool that are worth annotating."""

import argparse
from pathlib import Path
from typing import Any

from nnunetv2_xssr.commands.config_file import add_config, options_to_keep
from nnunetv2_xssr.commands.options import add_dim, add_embeddings, add_encoder, add_folders, add_look, add_slices
from nnunetv2_xssr.commands.running import Options, Parser, add_device, add_name, add_no_wait, run
from nnunetv2_xssr.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _select(args, options_to_keep(parser, args)), no_wait=args.no_wait)


def make_parser() -> Parser:
    """The parser of the command's options."""
    parser = Parser(
        prog="nnUNetv2_xssr_select",
        description="Pick the few cases of a target dataset that are worth annotating, and write the split that "
        "nnUNetv2_train -tr XSSRTrainer trains on.",
        examples=(
            "-d 2 -s 1 -b 5%",
            "-i new_site --channel_names xray --labels lung -d 123_Chest -s archive -b 22",
            "-d 123 -s archive -b 22 --cases cases.csv --max_per_group 1 --exclude exclude.txt",
            "-d 4 -s 3 -b 60 --unit slice",
            "-d 2 -s 1 -b 5% --dry_run",
        ),
    )
    _add_pool(parser.add_argument_group("what to pick from"))
    _add_limits(parser.add_argument_group("how many, and which must or must not be among them"))
    add_slices(parser.add_argument_group("to choose slices of volumes"))
    compared = parser.add_argument_group("how cases are compared")
    add_encoder(compared, kinds=("auto", "grid+intensity", "grid", "average", "gap"))
    add_embeddings(compared)
    add_dim(compared)
    add_look(compared)
    compared.add_argument(
        "--pretrain_epochs",
        type=int,
        metavar="N",
        help="epochs, of 50 batches each, for which the autoencoder is pretrained where it must be; 6 by default",
    )
    _add_strategy(parser.add_argument_group("how they are picked"))
    _add_raters(parser.add_argument_group("who annotates, where there are several"))
    runs = parser.add_argument_group("where it runs, and what it writes")
    add_name(runs)
    # fmt: off
    add_config(runs)
    runs.add_argument("--dry_run", action="store_true",
        help="say what would be read, pretrained and written and how long it would take, by a few images and batches; "
        "nothing is written")
    runs.add_argument("--overwrite", action="store_true", help="replace a selection that was made with other settings")
    runs.add_argument("--prelabel", nargs="?", type=Path, const=True, default=False, metavar="MODEL_FOLDER",
        help="put the prediction of a trained nnU-Net into the hand-over, to be corrected: of this folder, or of the "
        "network of the target that was trained last")
    runs.add_argument("--no_thumbnails", action="store_true",
        help="show no case in the report, to be mailed, and have no pictures beside the worklist")
    runs.add_argument("--scheduler", metavar="ADDRESS",
        help="with --strategy xssr_sum: select on the workers of this Dask scheduler (tcp://host:8786), or on this "
        "machine's cores (local); for pools that do not fit into memory")
    # fmt: on
    add_device(runs)
    add_no_wait(runs)
    return parser


def _add_pool(group: Options) -> None:
    add = group.add_argument
    # fmt: off
    add("-d", dest="target", required=True, metavar="TARGET",
        help="nnU-Net raw dataset to pick from, by name or number; with -i a new one, such as 123_Name")
    add("-s", dest="sources", nargs="+", default=[], metavar="SOURCE",
        help="datasets or folders of unlabelled images from the place where a model or an archive exists; without it "
        "the autoencoder learns from the pool itself and novelty is off")
    add("-i", dest="images", type=Path, metavar="FOLDER",
        help="folder of unlabelled images or DICOM series to make the dataset of; needs --channel_names and --labels")
    add("--channel_names", nargs="+", metavar="NAME", help="with -i: of every channel, as in nnU-Net")
    add("--labels", nargs="+", metavar="NAME", help="with -i: what is to be drawn, as values 1, 2, ...")
    add("--skip_broken", action="store_true", help="set cases aside that cannot be read, and name them")
    # fmt: on
    add_folders(group)


def _add_limits(group: Options) -> None:
    add = group.add_argument
    # fmt: off
    add("-b", "--budget", required=True, metavar="BUDGET",
        help="how many cases to pick: a number, 5%%, a time such as 60min or 2h, or auto for the knee of the coverage")
    add("--minutes_per_case", type=float, metavar="M",
        help="what annotating a case takes, for a -b that is a time, or a slice with --unit slice; by default the mean "
        "of the column minutes in the collected worklists")
    add("--labelled", type=Path, metavar="FILE",
        help="text file, one case per line: labelled already, they count as picked and cost nothing; by default the "
        "cases that have a label, unless all have one")
    add("--exclude", dest="excluded", type=Path, metavar="FILE",
        help="text file, one case per line and, after a tab, the reason if any: unusable, wrong body part, duplicate "
        "or too hard. They are treated as if not in the pool, in all later rounds of annotation too")
    add("--forget_vetoes", action="store_true", help="do not leave out what --exclude named in earlier rounds")
    add("--control", type=int, default=0, metavar="N",
        help="draw N of the cases at random, to compare the others with; annotators are not told which; 0 by default")
    add("--cases", type=Path, metavar="CSV",
        help="table with a column case, and domain, group (patient) or cost; with costs the budget is their sum. With "
        "--unit slice also slice_from and slice_to, counted from 0 as in the worklist, both included")
    add("--domain_quota", nargs="+", metavar="QUOTA",
        help="share the budget among domains: proportional (to the pool), equal, or NAME=NUMBER for every domain")
    add("--max_per_group", type=int, metavar="M",
        help="at most M cases of a group (patient), or slices with --unit slice, labelled ones included")
    add("--min_distance", type=float, default=0.0, metavar="D",
        help="no pick nearer than this to another one: from 0 (copies, default) to 2 (opposites); 0.1 leaves "
        "near-duplicates out")
    # fmt: on


def _add_strategy(group: Options) -> None:
    add = group.add_argument
    # fmt: off
    add("--strategy", default="xssr",
        help="xssr (default), one objective and shares for every kind; xssr_no_shares, without these; xssr_sum, the "
        "same parts in a weighted sum, and that without one of them: xssr_sum_no_density, xssr_sum_no_novelty, "
        "xssr_sum_no_diversity; or a rival: random, coreset, kmeans, typiclust, probcover, facility_location, "
        "maxherding")
    add("--alpha", default="auto",
        help="of xssr and xssr_sum: weight of novelty, from 0 to 1; calibrated by default (auto)")
    add("--alpha_criterion", default="mean_distance",
        help="the coverage by which alpha is calibrated: mean_distance of the pool to the picks (default, the paper's "
        "coverage), covering_radius, or novel_mean_distance, where cases count in proportion to their novelty")
    add("--density_weight", type=float, default=0.5, help="of xssr_sum: weight of density in the score; 0.5 by default")
    add("--model", nargs="?", type=Path, const=True, default=False, metavar="MODEL_FOLDER",
        help="ask a trained nnU-Net, such as the source's: cases that it is unsure of count more; without a folder the "
        "folds of the target that were trained on the labels of the last round")
    add("--seed", type=int, default=0, help="of every random number; 0 by default")
    # fmt: on


def _add_raters(group: Options) -> None:
    add = group.add_argument
    # fmt: off
    add("--raters", nargs="+", metavar="NAME",
        help="deal the worklist out: a list and a folder of labels per rater; -b counts every case once")
    add("--overlap", metavar="N",
        help="with --raters: how many cases all of them draw, or what part, such as 10%%; none by default")
    # fmt: on


def _select(args: argparse.Namespace, config: dict[str, Any]) -> None:
    from nnunetv2_xssr.commands.next_steps import describe_next
    from nnunetv2_xssr.commands.select_text import describe_forecast, describe_result
    from nnunetv2_xssr.images.case_table import read_names, read_vetoes
    from nnunetv2_xssr.pipeline.dry_run import foresee_selection
    from nnunetv2_xssr.pipeline.repeat import from_anywhere
    from nnunetv2_xssr.pipeline.select_cases import select_cases
    from nnunetv2_xssr.trainer_link.linking import ensure_linked

    vetoes = read_vetoes(args.excluded)
    given = {**vars(args), "labelled": read_names(args.labelled), "excluded": list(vetoes), "veto_reasons": vetoes}
    del given["no_wait"], given["dry_run"], given["config"]
    given |= {"alpha": _alpha(args.alpha), "patient_ids": not given.pop("no_patient_ids")}
    thumbnails = not given.pop("no_thumbnails")
    if args.dry_run:
        print(describe_forecast(foresee_selection(given.pop("target"), **given)))
        return
    record = select_cases(given.pop("target"), **given, thumbnails=thumbnails, config=from_anywhere(config))
    workspace = record.workspace
    print(describe_result(record))
    print(f"wrote {workspace.record}\nwrote {workspace.report}\nwrote {workspace.config}, to repeat this by --config")
    if record.mode == "annotation":
        print(f"wrote {workspace.handover(record.round)}, for the annotator")
    if line := ensure_linked():
        print(line)
    print(describe_next(workspace, device=args.device))


def _alpha(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--alpha must be auto or a number between 0 and 1; got {text!r}") from None
