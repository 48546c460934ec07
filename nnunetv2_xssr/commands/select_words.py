"""What nnUNetv2_xssr_select tells: plan, picks, alpha and coverage in words."""

from nnunetv2_xssr.commands.select_plan import SelectionPlan
from nnunetv2_xssr.selection.select import N_RANDOM_DRAWS
from nnunetv2_xssr.selection_record import FoldSelection, SelectionRecord

_ROWS = 30  # more picks than a screen shows stand in the record


def describe_plan(plan: SelectionPlan, name: str, sources: list[str]) -> str:
    """One or two sentences: what will be picked from what."""
    first = plan.folds[0]
    if plan.mode == "study":
        text = (
            f"{name}: every case has a label, so this is a study: {first.budget} of {len(first.pool)} training cases "
            f"are picked in each of {len(plan.folds)} folds, whose validation cases stay as they are."
        )
    else:
        text = f"{name}: {first.budget} of {len(first.pool)} cases are picked for annotation"
        text += f"; {len(first.labelled)} have a label already and cost nothing." if first.labelled else "."
    if not sources:
        text += "\nNo source (-s): the autoencoder learns from the pool itself, novelty is off and alpha is 0."
    return text


def picks_table(selection: FoldSelection) -> str:
    """The picks in order with the parts of their score."""
    columns = ["rank", "case", "domain", "density", "novelty", "diversity", "score"]
    rows = [
        [str(p.rank), p.case, p.domain or "-", *(_number(v) for v in (p.density, p.novelty, p.diversity, p.score))]
        for p in selection.picks[:_ROWS]
    ]
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    align = [str.rjust, str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.rjust]
    lines = [
        "  ".join(put(text, width) for put, text, width in zip(align, row, widths, strict=True))
        for row in [columns, *rows]
    ]
    if len(selection.picks) > _ROWS:
        lines.append(f"... and {len(selection.picks) - _ROWS} more in the record")
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def alpha_words(selection: FoldSelection) -> str | None:
    """How sharp the choice of alpha was; None for strategies without alpha."""
    if selection.alpha is None:
        return None
    alphas, mean = selection.alpha_curve["alpha"], selection.alpha_curve["mean_distance"]
    if len(alphas) == 1:
        return f"alpha {alphas[0]:g} (0 is all diversity, 1 all novelty), not calibrated"
    best, worst = min(mean), max(mean)
    if best == 0:
        return f"alpha {selection.alpha:g}: every case, or a copy of it, is chosen"
    near = [a for a, m in zip(alphas, mean, strict=True) if m <= 1.01 * best]
    text = f"alpha {selection.alpha:g} (0 is all diversity, 1 all novelty) covers the pool best"
    if len(near) > 1:
        text += f"; {', '.join(f'{a:g}' for a in near)} come within 1 % of it"
    return text + f"; the worst, {alphas[mean.index(worst)]:g}, leaves cases {_percent(worst / best)} farther away"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):.1f} %"


def coverage_words(selection: FoldSelection) -> str:
    """The coverage of the picks against that of random draws."""
    ours, random = selection.mean_distance, selection.random_mean_distance
    text = (
        f"coverage: a case lies {ours:.3f} from the nearest chosen one on average, {random:.3f} with random picks "
        f"(median of {N_RANDOM_DRAWS} draws of the same size)"
    )
    if ours == 0 or random == 0:
        return text
    return text + f": {_percent(random / ours)} " + ("farther" if random >= ours else "(nearer)")


def describe_result(record: SelectionRecord) -> str:
    """The first selection in full, and a line for each further fold."""
    first = record.selections[0]
    parts = [picks_table(first), alpha_words(first), coverage_words(first)]
    if len(record.selections) > 1:
        parts[0] = f"fold 0:\n{parts[0]}"
        parts += [f"fold {i}: {_fold_line(selection)}" for i, selection in enumerate(record.selections) if i]
    return "\n".join(part for part in parts if part)


def _fold_line(selection: FoldSelection) -> str:
    alpha = "" if selection.alpha is None else f"alpha {selection.alpha:g}, "
    return (
        f"{len(selection.picks)} picks, {alpha}mean distance {selection.mean_distance:.3f} "
        f"(random {selection.random_mean_distance:.3f})"
    )
