"""Coverage and alpha in words, as select and status tell them."""

from collections.abc import Mapping
from typing import Any

_BEST = {
    "mean_distance": "best coverage",
    "covering_radius": "smallest covering radius",
    "novel_mean_distance": "best coverage of what is new",
}

DIGITS = 3  # of distances: copies whose features differ by rounding count as copies


def coverage_words(mean_distance: float, *, random: float) -> str:
    """The mean distance of the pool to the picks, and that to random draws.

    Parameters
    ----------
    mean_distance : float
        Of the cases of the pool to their nearest pick.
    random : float
        The same of random draws.
    """
    text = f"mean distance to the nearest pick: {mean_distance:.{DIGITS}f} (random picks: {random:.{DIGITS}f}"
    if round(mean_distance, DIGITS) and random:
        percent = round(100 * (random / mean_distance - 1))
        text += f", {abs(percent)} % {'better' if percent < 0 else 'worse'}" if percent else ", as good"
    return text + ")"


def alpha_words(alpha: float | None, *, curve: Mapping[str, Any] | None, criterion: str, unit: str) -> str | None:
    """The trade-off taken, and which others would have covered the pool as well; None for strategies without alpha.

    Parameters
    ----------
    alpha : float or None
    curve : mapping or None
        The lists of an `AlphaCurve`: see `nnunetv2_xssr.selection.alpha`.
    criterion : str
        What alpha minimises: one of the curve's lists.
    unit : {"case", "slice"}
    """
    if alpha is None or curve is None:
        return None
    alphas, loss = curve["alpha"], curve[criterion]
    if len(alphas) == 1:
        why = "not calibrated"
    elif min(loss) == 0:
        which = f"{unit} that is new at all" if criterion == "novel_mean_distance" else unit
        why = f"every {which}, or a copy of it, is picked"
    else:
        near = [f"{a:g}" for a, value in zip(alphas, loss, strict=True) if a != alpha and value <= 1.01 * min(loss)]
        others = f"; alpha = {', '.join(near)} {'are' if len(near) > 1 else 'is'} within 1 %" if near else ""
        why = _BEST[criterion] + others
    return f"alpha = {alpha:g} ({why})"
