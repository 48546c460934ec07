"""Pictures of cases and of predictions, for reports and the demo."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from nnunetv2_xssr.records.files import atomic

COLUMNS = 6  # of a contact sheet
DPI = 100
CELL = 2.0  # width and height of one thumbnail, in inches
CAPTION = 0.25  # height of a caption's line, in inches
TRUTH, PREDICTION = "#E69F00", "#56B4E9"  # Okabe and Ito's orange and sky blue: distinct to colour-blind readers


def contact_sheet(path: str | Path, rows: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]]) -> None:
    """Write thumbnails in titled rows; a row with more than six images goes on in the next line.

    Parameters
    ----------
    path : path
        Its ending gives the format, for example `.png`.
    rows : list of (title, list of (image, caption))
        Each image is grey (H, W) or colour (H, W, 3).
    """
    lines = [line for title, cells in rows for line in _wrap(title, cells)]
    if not lines:
        raise ValueError("a contact sheet needs at least one row")
    columns = max(1, max(len(cells) for _, cells in lines))
    figure, axes = _grid(len(lines), columns, cell_height=CELL + 2 * CAPTION)
    for row, (title, cells) in zip(axes, lines, strict=True):
        for axis, (image, caption) in zip(row, cells, strict=False):
            _show(axis, image, caption)
        row[0].text(0, 1 + CAPTION / CELL, title, transform=row[0].transAxes, va="bottom", weight="bold", fontsize=10)
    _save(figure, path)


def prediction_sheet(
    path: str | Path, cases: Sequence[tuple[str, np.ndarray, np.ndarray, Mapping[str, np.ndarray]]]
) -> None:
    """Write one row per case: the image with the true contour, then each method's prediction over it with its Dice.

    Parameters
    ----------
    path : path
        Its ending gives the format, for example `.png`.
    cases : list of (caption, image, truth, predictions)
        The image is (H, W) or (H, W, 3); the truth and each method's prediction are masks (H, W), nonzero inside.
        All cases have the same methods.
    """
    if not cases:
        raise ValueError("a prediction sheet needs at least one case")
    methods = list(cases[0][3])
    figure, axes = _grid(len(cases), 1 + len(methods), cell_height=CELL + CAPTION)
    for row, (caption, image, truth, predictions) in zip(axes, cases, strict=True):
        if set(predictions) != set(methods):
            raise ValueError(f"case {caption!r} has predictions of {sorted(predictions)}, not of {sorted(methods)}")
        _show(row[0], image, caption)
        _outline(row[0], truth)
        for axis, method in zip(row[1:], methods, strict=True):
            predicted = np.asarray(predictions[method]) != 0
            _show(axis, image, f"{method}: Dice {dice(truth, predicted):.3f}")
            axis.imshow(np.where(predicted[..., None], to_rgba(PREDICTION, alpha=0.45), 0.0))
            _outline(axis, truth)
    _save(figure, path)


def dice(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Dice overlap of two masks (H, W), nonzero inside; 1 when both are empty."""
    truth, predicted = np.asarray(truth) != 0, np.asarray(predicted) != 0
    total = truth.sum() + predicted.sum()
    return float(2 * (truth & predicted).sum() / total) if total else 1.0


def _wrap(title, cells):
    """One row as lines of at most `COLUMNS` cells; only the first carries the title."""
    cells = iter(cells)
    yield title, list(islice(cells, COLUMNS))
    while line := list(islice(cells, COLUMNS)):
        yield "", line


def _grid(n_rows, n_columns, cell_height):
    """A white figure with a grid (rows, columns) of empty axes, each with room above for its captions."""
    figure = Figure(figsize=(CELL * n_columns, cell_height * n_rows), dpi=DPI, facecolor="white")
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    side, room = 0.96 * CELL, cell_height - CELL
    for (row, column), axis in np.ndenumerate(axes):
        axis.set_position(
            (
                (column + 0.02) / n_columns,
                1 - (row * cell_height + room + side) / (cell_height * n_rows),
                side / (CELL * n_columns),
                side / (cell_height * n_rows),
            )
        )
    return figure, axes


def _show(axis, image, caption):
    """Draw a grey image in its robust window, or a colour image as it is, under its caption."""
    image = np.asarray(image)
    if image.ndim == 2:
        low, high = np.percentile(image, (0.5, 99.5))
        axis.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    else:
        axis.imshow(image, interpolation="nearest")
    axis.set_title(_fit(caption), fontsize=8, pad=3)


def _fit(caption, limit=30):
    """A caption that does not run into its neighbour; the end of a long name tells more than its middle."""
    return caption if len(caption) <= limit else f"{caption[:12]}…{caption[-(limit - 13) :]}"


def _outline(axis, mask):
    """Draw a mask's contour; a mask that is empty or full has none."""
    mask = np.asarray(mask) != 0
    if mask.any() and not mask.all():
        axis.contour(mask, levels=[0.5], colors=TRUTH, linewidths=1.2)


def _save(figure, path):
    with atomic(Path(path)) as unfinished:
        figure.savefig(unfinished)
