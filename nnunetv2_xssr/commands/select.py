"""nnUNetv2_xssr_select: pick the cases of a target pool that are worth annotating."""

import argparse
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from nnunetv2_xssr.commands.options import add_dim
from nnunetv2_xssr.commands.running import add_device, resolve_device, run
from nnunetv2_xssr.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_xssr_select",
        description="Pick the few cases of a target dataset that are worth annotating, and write the split that "
        "nnUNetv2_train -tr XSSRTrainer trains on.",
    )
    add = parser.add_argument
    # fmt: off
    add("-d", required=True, metavar="TARGET",
        help="nnU-Net raw dataset to pick from, by name or number; with -i a new one, such as 123_Name")
    add("-i", type=Path, metavar="FOLDER",
        help="plain folder of unlabelled images to make the dataset of; needs --channel_names and --labels")
    add("--channel_names", nargs="+", metavar="NAME", help="with -i: of every channel, as in nnU-Net")
    add("--labels", nargs="+", metavar="NAME", help="with -i: what is to be drawn, as values 1, 2, ...")
    add("-s", nargs="+", default=[], metavar="SOURCE",
        help="datasets or folders of unlabelled images from the place where a model or an archive exists; without it "
        "the autoencoder learns from the pool itself and novelty is off")
    add("-b", "--budget", required=True, metavar="BUDGET",
        help="how many cases to pick: a number, a percentage such as 5%%, or auto for the knee of the coverage")
    add("--encoder", type=Path, metavar="FILE", help="checkpoint_final.pth of nnUNetv2_xssr_pretrain to embed with")
    add("--embedding", default="auto", choices=("auto", "grid", "average", "gap"),
        help="compare cases by what lies where (grid), or only by what there is (average, or gap: the last stage of "
        "the encoder, as in the paper); auto (default): grid where the pool's anatomy is aligned, else average")
    add("--unit", default="case",
        help="case (default), or slice: choose slices of volumes, of which only these are drawn; -b counts slices")
    add("--max_per_volume", type=int, metavar="M", help="with --unit slice: at most M slices of a volume; 1 by default")
    add("--strategy", default="xssr",
        help="xssr (default); without one of its parts: xssr_no_density, xssr_no_novelty, xssr_no_diversity; or a "
        "rival: random, coreset, kmeans, typiclust, probcover, facility_location, maxherding")
    add("--alpha", default="auto", help="trade-off between diversity (0) and novelty (1); calibrated by default (auto)")
    add("--alpha_criterion", default="mean_distance",
        help="what the calibrated alpha minimises: mean_distance of the pool to the picks (default, the paper's "
        "coverage), covering_radius, or novel_mean_distance, where cases count in proportion to their novelty")
    add("--density_weight", type=float, default=0.5, help="weight of density in the score; 0.5 by default")
    add("--seed", type=int, default=0, help="of every random number; 0 by default")
    add("--labelled", type=Path, metavar="FILE",
        help="text file, one case a line: labelled already, they count as picked and cost nothing; by default the "
        "cases that have a label, unless all have one")
    add("--exclude", type=Path, metavar="FILE", help="text file, one case a line: treated as if not in the pool")
    add("--cases", type=Path, metavar="CSV",
        help="table with a column case, and domain, group (patient) or cost; with costs the budget is their sum")
    add("--domain_quota", nargs="+", metavar="QUOTA",
        help="share the budget among domains: proportional (to the pool), equal, or NAME=NUMBER for every domain")
    add("--max_per_group", type=int, metavar="M", help="at most M cases of a group (patient), labelled ones included")
    add("--min_distance", type=float, default=0.0, metavar="D",
        help="no pick nearer than this to another one: from 0 (copies, default) to 2 (opposites); 0.1 leaves "
        "near-duplicates out")
    add("--scheduler", metavar="ADDRESS",
        help="select on the workers of this Dask scheduler (tcp://host:8786), or on this machine's cores (local); for "
        "pools that do not fit into memory")
    add("--overwrite", action="store_true", help="replace a selection that was made with other settings")
    add("--skip-broken", action="store_true", help="set cases aside that cannot be read, and name them")
    # fmt: on
    add_dim(parser)
    add_device(parser)
    args = parser.parse_args(argv)
    return run(parser.prog, lambda: _select(args))


def _select(args: argparse.Namespace) -> None:
    from nnunetv2_xssr.annotation.handover import check_no_labels, first_round, handover_folder, write_handover
    from nnunetv2_xssr.annotation.label_check import label_values
    from nnunetv2_xssr.annotation.sparse_labels import with_ignore
    from nnunetv2_xssr.commands.next_steps import describe_next
    from nnunetv2_xssr.commands.select_words import describe_plan, describe_result
    from nnunetv2_xssr.images.case_table import with_case_table
    from nnunetv2_xssr.images.pools import dataset_pool, open_pools
    from nnunetv2_xssr.images.slices import volume_of
    from nnunetv2_xssr.images.views import pool_folder
    from nnunetv2_xssr.pipeline.plan import Choice, make_plan, read_names
    from nnunetv2_xssr.pipeline.scheduler import selector
    from nnunetv2_xssr.pipeline.slice_plan import make_slice_plan
    from nnunetv2_xssr.records.rounds import begins_round, keep_round, last_round, slices_of_rounds
    from nnunetv2_xssr.records.selection import FILE_NAME as RECORD_FILE
    from nnunetv2_xssr.records.selection import check_replaceable
    from nnunetv2_xssr.records.split import FILE_NAME as SPLIT_FILE
    from nnunetv2_xssr.records.split import write_split
    from nnunetv2_xssr.records.workspace import check_environment, find_dataset
    from nnunetv2_xssr.report.page import write_report
    from nnunetv2_xssr.trainer_link.linking import ensure_linked

    # Everything that can be wrong with the call is found here, before any long work and before anything is written.
    check_environment()
    target = dataset_pool(_new_dataset(args) if args.i else find_dataset(args.d))
    if args.cases:
        target = with_case_table(target, args.cases)
    sources = open_pools(args.s)
    if target.name in [pool.name for pool in sources]:
        raise UserError(f"the source {target.name} is the target itself; leave -s out to learn from the pool alone")
    choice = Choice(
        args.budget,
        args.strategy,
        _alpha(args.alpha),
        args.density_weight,
        args.seed,
        read_names(args.labelled),
        tuple(read_names(args.exclude) or ()),
        args.alpha_criterion,
        args.domain_quota,
        args.max_per_group,
        args.min_distance,
        args.unit,
        args.max_per_volume,
    )
    last = last_round(pool_folder(target), args.overwrite)
    plan_for = make_plan
    if choice.unit == "slice":
        plan_for = partial(make_slice_plan, picked=slices_of_rounds(pool_folder(target)) if last else {})
        target = replace(target, dataset_json=with_ignore(target.dataset_json))
    plan = plan_for(target, choice)
    select = selector(args.scheduler, choice.strategy, plan.folds[0], pool_folder(target))
    device = resolve_device(args.device)
    record_path = pool_folder(target) / RECORD_FILE
    labelled = set(map(volume_of, plan.folds[0].labelled)) if plan.mode == "annotation" else target.identifiers
    new_round = begins_round(last, plan.mode, labelled, args.overwrite)
    number = last.round + new_round if last else first_round(target.name)
    handover = handover_folder(target.name, number)
    settings = {
        "source": [pool.name for pool in sources],
        "encoder": str(args.encoder) if args.encoder else None,
        **vars(choice),
        "excluded": list(choice.excluded),
        "dim": args.dim,
        "embedding": args.embedding,
        "scheduler": True if args.scheduler else None,  # whether, not which: that does not change the picks
    }
    same_round = not args.overwrite and not new_round
    if same_round:
        check_replaceable(record_path, "settings", settings)
    elif plan.mode == "annotation":
        check_no_labels(handover)
    if plan.mode == "annotation":
        label_values(target.dataset_json)  # of which the annotator is told
        handover.parent.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is found now
    print(describe_plan(plan, target.name, [pool.name for pool in sources]))

    embedded = _embed_all(target, sources, args, device)
    plan = plan_for(target, choice, left_out=embedded.left_out)
    if same_round:
        check_replaceable(record_path, "provenance", embedded.provenance)
    record = _record(target, plan, choice, settings, embedded, select, number)
    if new_round:
        keep_round(pool_folder(target), last)
    record.write(record_path)
    split = plan.split([[pick.case for pick in selection.picks] for selection in record.selections])
    write_split(pool_folder(target).parent / SPLIT_FILE, split)
    if plan.mode == "annotation" and record.picked:
        write_handover(handover, target, record.selections[0].picks)

    print(describe_result(record, plan.folds[0].budget))
    print(f"wrote {record_path}")
    print(f"wrote {pool_folder(target).parent / SPLIT_FILE}")
    print(f"wrote {write_report(target.name)}")
    if plan.mode == "annotation":
        print(f"wrote {handover}, for the annotator")
    if line := ensure_linked():
        print(line)
    print(describe_next(target, args.device))


def _new_dataset(args: argparse.Namespace) -> str:
    from nnunetv2_xssr.images.new_dataset import make_dataset

    for option in ("channel_names", "labels"):
        if not getattr(args, option):
            raise UserError(
                f"-i needs --{option}, of which dataset.json is made; nnUNetv2_xssr_select --help tells more"
            )
    return make_dataset(args.i, args.d, args.channel_names, args.labels)


def _alpha(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--alpha must be auto or a number between 0 and 1; got {text!r}") from None


@dataclass(frozen=True)
class _Embedded:
    """The target's cases (or slices) and the sources in the same feature space, and what they were made from."""

    identifiers: list[str]
    pool: object  # array of shape (n, d)
    source: object  # array of shape (m, d) or None
    provenance: dict
    set_aside: list[str]
    left_out: set[str]  # cases or slices without a row, or with that of another slice of their volume


def _embed_all(target, sources, args: argparse.Namespace, device: str) -> _Embedded:
    import numpy as np

    from nnunetv2_xssr.images.slices import row_per_slice, slice_names
    from nnunetv2_xssr.images.views import prepare_views
    from nnunetv2_xssr.pipeline.slice_plan import unlike_slices
    from nnunetv2_xssr.pretrain.embedding import check_encoder_fits, embed, load_encoder
    from nnunetv2_xssr.pretrain.pooling import COMPONENTS, choose_embedding, features
    from nnunetv2_xssr.pretrain.processes import start
    from nnunetv2_xssr.pretrain.task import Settings
    from nnunetv2_xssr.pretrain.training import check_same_channels, checkpoint_folder, pretrain
    from nnunetv2_xssr.records.files import sha256, sha256_json
    from nnunetv2_xssr.selection.standardise import blocks

    # All images are read before the encoder is trained: a broken one is found after minutes and not after hours.
    target_views = prepare_views(target, None, args.skip_broken, args.dim)
    source_views = [prepare_views(pool, target.channel_names, args.skip_broken, args.dim) for pool in sources]
    check_same_channels([target_views, *source_views])
    n_views = target_views.rows.shape[1]
    if args.unit == "slice" and args.dim == 3:
        raise UserError("--unit slice needs slices, which --dim 3 does not see; leave --dim out")
    if args.unit == "slice" and n_views == 1:
        raise UserError(f"--unit slice needs volumes; the images of {target.name} are flat: leave it out")
    learn_from = source_views or [target_views]
    final = checkpoint_folder([views.pool.name for views in learn_from], args.dim) / "checkpoint_final.pth"
    if args.encoder:
        final = args.encoder
    elif not final.is_file():
        print(f"no encoder {final} yet: pretraining on {', '.join(views.pool.name for views in learn_from)}")
        pretrain(learn_from, Settings(seed=args.seed), start(device), resume=True)
        print(f"wrote {final}")
    encoder = load_encoder(final, device)
    check_encoder_fits(encoder, target_views)
    if not args.encoder and encoder.sources != {views.pool.name: sha256_json(views.hashes) for views in learn_from}:
        print(f"the images have changed since {final} learned from them; delete it to pretrain anew")
    by_slice = args.unit == "slice"
    kept = [embed(encoder, views).rows for views in (target_views, *source_views)]
    if by_slice:
        kept = [row_per_slice(rows) for rows in kept]
    embedding = choose_embedding(args.embedding, kept[0], encoder.layout)
    pool, *source = [features(rows, encoder.layout, embedding) for rows in kept]
    identifiers, left_out = target_views.pool.identifiers, set(target.identifiers) - set(target_views.pool.identifiers)
    if by_slice:
        identifiers = [name for volume in identifiers for name in slice_names(volume)]
        copies = np.array(identifiers)[~unlike_slices(identifiers, pool, n_views)]
        left_out = {name for volume in left_out for name in slice_names(volume)} | set(copies.tolist())
    provenance = {
        "pool": sha256_json(target_views.hashes),
        "source": {views.pool.name: sha256_json(views.hashes) for views in source_views},
        "encoder": encoder.identity,
        "embedding": embedding,
        "components": COMPONENTS[embedding],
        "embeddings": sha256(block.tobytes() for rows in [pool, *source] for block in blocks(rows)),
        "cases": sha256_json([[case.identifier, case.domain, case.group, case.cost] for case in target.cases]),
    }
    set_aside = [sentence for views in [target_views, *source_views] for sentence in views.broken]
    for sentence in set_aside:
        print(f"set aside: {sentence}")
    return _Embedded(identifiers, pool, np.concatenate(source) if source else None, provenance, set_aside, left_out)


def _record(target, plan, choice, settings: dict, embedded: _Embedded, select, number: int):
    from nnunetv2_xssr.pipeline.slice_plan import slice_finder
    from nnunetv2_xssr.records.selection import SelectionRecord

    row = {identifier: i for i, identifier in enumerate(embedded.identifiers)}
    cases = {case.identifier: case for case in target.cases}
    place_of = slice_finder(target) if plan.unit == "slice" else lambda name: (None, None)
    selections = [_select_fold(fold, choice, embedded, row, cases, select, place_of) for fold in plan.folds]
    chosen = {case for one in selections for case in [*one.labelled, *(pick.case for pick in one.picks)]}
    return SelectionRecord(
        dataset=target.name,
        mode=plan.mode,
        settings=settings,
        provenance=embedded.provenance,
        versions={name: version(name) for name in ("nnunetv2_xssr", "nnunetv2", "torch", "numpy", "scikit-learn")},
        selections=selections,
        set_aside=embedded.set_aside,
        round=number,
        groups={case: group for case, group in plan.groups.items() if case in chosen},
    )


def _select_fold(fold, choice, embedded: _Embedded, row: dict[str, int], cases: dict, select, place_of):
    import numpy as np

    from nnunetv2_xssr.images.slices import volume_of
    from nnunetv2_xssr.pipeline.budget import pick
    from nnunetv2_xssr.records.selection import FoldSelection, Pick

    place = {identifier: i for i, identifier in enumerate(fold.pool)}
    rows = [row[identifier] for identifier in fold.pool]
    whole = rows == list(range(len(embedded.pool)))
    chosen = pick(
        select,
        choice,
        fold,
        embedded.pool if whole else embedded.pool[rows],  # a whole pool stays on disk
        embedded.source,
        np.array([place[identifier] for identifier in fold.labelled], int),
        embedded.provenance["components"],
    )
    picks = []
    for rank, i in enumerate(chosen.picks):
        case = cases[volume_of(fold.pool[i])]
        parts = (float(part[rank]) for part in (chosen.density, chosen.novelty, chosen.diversity))
        score = None if chosen.score is None else float(chosen.score[rank])
        stands_for = int(chosen.stands_for[rank])
        about = case.identifier, case.domain, case.group, case.cost
        picks.append(Pick(rank + 1, *about, *parts, score, stands_for, *place_of(fold.pool[i])))
    left_out = [name for name in row if name not in place] if choice.unit == "slice" else []
    curve, by_budget = (None if each is None else asdict(each) for each in (chosen.curve, chosen.by_budget))
    return FoldSelection(
        len(fold.pool),
        sorted(set(map(volume_of, fold.labelled))),
        picks,
        chosen.alpha,
        curve,
        chosen.mean_distance,
        chosen.covering_radius,
        chosen.random_mean_distance,
        by_budget,
        *(_counts(getattr(cases[volume_of(case)], name) for case in fold.pool) for name in ("domain", "group")),
        left_out,
    )


def _counts(names) -> dict[str, int] | None:
    """How often each name comes, the most frequent first; cases without one count as ""."""
    counts = Counter(name or "" for name in names)
    return dict(counts.most_common()) if set(counts) != {""} else None
