"""The geometry of the report's charts: values in, coordinates of an SVG of fixed size out."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 480, 300  # of the viewBox; a phone shows it at two thirds, so its text is 15 units high
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 16, 52


@dataclass(frozen=True)
class Axis:
    """One axis: its range in values and in SVG units, and its ticks."""

    low: float
    high: float
    start: float
    stop: float
    ticks: list[float]

    def at(self, value: float) -> float:
        """The coordinate of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start), 2)


def ticks(low: float, high: float, *, most: int = 6, whole: bool = False) -> list[float]:
    """Round values between two others; ``whole`` keeps them to whole numbers."""
    marks = MaxNLocator(most, steps=[1, 2, 5, 10], integer=whole).tick_values(low, high)
    return [round(float(mark), 10) for mark in marks if low <= mark <= high]


def x_axis(low: float, high: float, whole: bool = False) -> Axis:
    """The horizontal axis; ``whole`` keeps its ticks to whole numbers."""
    high = high if high > low else low + 1
    return Axis(low, high, LEFT, WIDTH - RIGHT, ticks(low, high, whole=whole))


def y_axis(values: Sequence[float]) -> Axis:
    """The vertical axis from 0 to a little above the largest value."""
    high = 1.05 * max(*values, 1e-9)
    return Axis(0.0, high, HEIGHT - BOTTOM, TOP, ticks(0, high, most=5))


def line(xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis) -> str:
    """The ``points`` of a polyline."""
    return " ".join(f"{x.at(a)},{y.at(b)}" for a, b in zip(xs, ys, strict=True))


def band(xs: Sequence[float], low: Sequence[float], high: Sequence[float], x: Axis, y: Axis) -> str:
    """The ``points`` of the polygon between two curves."""
    return line([*xs, *reversed(xs)], [*low, *reversed(high)], x, y)


def budget_chart(budget: dict) -> dict:
    """Coverage over the budget with the band of random draws."""
    xs = budget["budget"]
    x = x_axis(0, xs[-1], whole=True)
    y = y_axis([*budget["mean_distance"], *budget["random_most"]])
    at = dict(zip(xs, budget["mean_distance"], strict=True))
    return {
        "x": x,
        "y": y,
        "ours": line(xs, budget["mean_distance"], x, y),
        "median": line(xs, budget["random_median"], x, y),
        "band": band(xs, budget["random_least"], budget["random_most"], x, y),
        "marks": {
            name: (x.at(budget[name]), y.at(at[budget[name]])) for name in ("picked", "knee") if budget[name] in at
        },
    }


def alpha_chart(alpha: dict) -> dict:
    """The calibrated criterion over alpha."""
    values = alpha[alpha["criterion"]]
    x, y = x_axis(0, 1), y_axis(values)
    points = [(x.at(a), y.at(v), a, v) for a, v in zip(alpha["alpha"], values, strict=True)]
    return {"x": x, "y": y, "line": line(alpha["alpha"], values, x, y), "points": points}
