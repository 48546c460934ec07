"""What nnUNetv2_xssr_select tells: plan, picks, alpha and coverage in words."""

from pathlib import Path

from nnunetv2_xssr.pipeline.dry_run import Forecast
from nnunetv2_xssr.records.logs import duration
from nnunetv2_xssr.records.selection import LEAST_CORRELATION, DoubtFacts, FoldSelection, SelectionRecord
from nnunetv2_xssr.report.budget_text import knee_words, next_words
from nnunetv2_xssr.report.coverage_text import alpha_words, coverage_words
from nnunetv2_xssr.report.kinds_text import kinds_words

_ROWS = 30  # more picks than a screen shows stand in the record


def picks_table(selection: FoldSelection) -> str:
    """The picks in order with what speaks for them."""
    columns = [
        name
        for name in (
            *("rank", "case", "slice", "domain", "group", "cost"),
            *("density", "novelty", "diversity", "doubt", "stands_for", "score"),
        )
        if any(getattr(p, name) is not None for p in selection.picks)
    ]
    rows = [[_cell(getattr(pick, name)) for name in columns] for pick in selection.picks[:_ROWS]]
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    align = [str.ljust if name in ("case", "domain", "group") else str.rjust for name in columns]
    lines = [
        "  ".join(put(text, width) for put, text, width in zip(align, row, widths, strict=True))
        for row in [columns, *rows]
    ]
    if len(selection.picks) > _ROWS:
        lines.append(f"... and {len(selection.picks) - _ROWS} more in the record")
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def spent_words(selection: FoldSelection, unit: str) -> str | None:
    """What the picks cost, how many are missing because the limits left no other, or what -b auto took; else None."""
    count, budget = len(selection.picks), selection.budget
    if budget is None:
        return f"-b auto: {count} {unit}{'s' * (count != 1)} picked, the knee of the coverage"
    if count and selection.picks[0].cost is not None:
        return f"{count} picks with a cost of {sum(pick.cost or 0 for pick in selection.picks):g} in all, of {budget:g}"
    if count < budget:
        volumes = "--max_per_volume, " if unit == "slice" else ""
        return f"only {count} of {budget} {unit}s picked: {volumes}groups, quotas or the least distance leave no other"
    return None


def how_many_words(selection: FoldSelection, unit: str) -> str | None:
    """Whether fewer or more cases, or slices, would have been worth it; None where the record has no curve."""
    curve, picked = selection.by_budget, len(selection.picks)
    if curve is None:
        return None
    return f"how many: {knee_words(curve, picked, unit)}; {next_words(curve, picked, unit)}"


def doubt_words(doubt: DoubtFacts | None) -> str | None:
    """Which model was asked, and whether its doubt tells where it is wrong; None without a model."""
    if doubt is None:
        return None
    asked = f"fold{'s' * (len(doubt['folds']) > 1)} {', '.join(doubt['folds'])} of {Path(doubt['model']).name}"
    asked += " and its mirrored predictions" if doubt["compared"] == "mirrored" else ""
    cases = f"{doubt['validation_cases']} validation case{'s' * (doubt['validation_cases'] != 1)}"
    if doubt["correlation"] is None:
        return f"doubt: of {asked}; {cases} cannot tell whether it is larger where the model is wrong"
    told = f"doubt: of {asked}; its rank correlation with 1 - Dice on {cases} is {doubt['correlation']:.2f}"
    return told if doubt["weighted"] else f"{told}, below {LEAST_CORRELATION:g}: it is taken out"


def describe_forecast(forecast: Forecast) -> str:
    """What a select would do and how long it would take."""
    budgets = [f"fold {i}: {'the knee' if b is None else f'{b:g}'}" for i, b in enumerate(forecast.budgets)]
    lines = ["what this select would do:", forecast.plan]
    if len(set(forecast.budgets)) > 1:
        lines.append(f"budget: {', '.join(budgets)}")
    if forecast.round:
        lines.append(f"round {forecast.round}")
    for pool in forecast.pools:
        cached = "" if pool.to_read == pool.to_embed == pool.cases else "; the caches hold the others"
        lines.append(
            f"{pool.name}: {pool.cases} cases, of which {pool.to_read} are to be read ({_size(pool.n_bytes)}) and "
            f"{pool.to_embed} to be embedded{cached}"
        )
    lines += [f"encoder: {forecast.encoder}", "would write:", *(f"  {file}" for file in forecast.files)]
    total = sum(forecast.seconds.values())
    lines += [f"about {duration(total)}, by a few images and batches on this machine as busy as it is now:"]
    lines += [f"  {stage:<12}{duration(seconds):>10}" for stage, seconds in forecast.seconds.items()]
    if forecast.asks_model:
        lines.append("  and what the trained model takes to predict, which was not tried")
    return "\n".join([*lines, "dry run: nothing was written"])


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def describe_result(record: SelectionRecord) -> str:
    """The first selection in full, and a line for each further fold."""
    first = record.selections[0]
    unit, criterion = record.settings["unit"], record.settings["alpha_criterion"]
    parts = [
        picks_table(first),
        spent_words(first, unit),
        doubt_words(record.doubt),
        alpha_words(first.alpha, curve=first.alpha_curve, criterion=criterion, unit=unit),
        kinds_words(first.kinds, picked=len(first.picks), unit=unit),
        coverage_words(first.mean_distance, random=first.random_mean_distance),
        how_many_words(first, unit),
    ]
    if len(record.selections) > 1:
        parts[0] = f"fold 0:\n{parts[0]}"
        parts += [f"fold {i}: {_fold_line(selection)}" for i, selection in enumerate(record.selections) if i]
    return "\n".join(part for part in parts if part)


def _fold_line(selection: FoldSelection) -> str:
    alpha = "" if selection.alpha is None else f"alpha {selection.alpha:g}, "
    count = len(selection.picks)
    return (
        f"{count} pick{'s' * (count != 1)}, {alpha}mean distance {selection.mean_distance:.3f} "
        f"(random {selection.random_mean_distance:.3f})"
    )
