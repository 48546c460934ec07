"""What nnUNetv2_xssr_collect tells of several raters: what was taken of shared cases, and how far they agree."""

from nnunetv2_xssr.annotation.agreement import Agreement
from nnunetv2_xssr.annotation.rater_labels import RaterLabels

_COLUMNS = ("label", "raters", "cases", "Dice", "kappa")


def rater_lines(labels: RaterLabels) -> list[str]:
    """Lines to print; none where there is no shared case."""
    lines = [f"shared: {sentence}" for sentence in labels.fused]
    if labels.agreement:
        lines += ["agreement on the cases that several raters drew:", *_table(labels.agreement)]
    return lines


def _table(agreement: list[Agreement]) -> list[str]:
    rows = [_COLUMNS] + [
        (one.label, ", ".join(one.raters), str(one.cases), _number(one.dice), _number(one.kappa)) for one in agreement
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    return [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
