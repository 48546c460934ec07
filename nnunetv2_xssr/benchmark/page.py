"""The results as one self-contained HTML file: the sentence, the figures and the tables."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_xssr.benchmark.arms import RANDOM
from nnunetv2_xssr.benchmark.results import Results, tables
from nnunetv2_xssr.benchmark.statistics import mean_dice
from nnunetv2_xssr.records.files import atomic

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ target }}: selecting against random draws</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: .9rem; display: block; overflow-x: auto; margin-bottom: 1rem; }
td, th { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: left; }
img { max-width: 100%; }
.sentence { font-size: 1.15rem; font-weight: bold; }
</style>
</head>
<body>
<h1>{{ target }}: does selecting beat random draws?</h1>
<p class="sentence">{{ sentence }}</p>
<p>Pool {{ pool }} cases, test set {{ test }}, {{ draws }} random draws per budget, {{ seeds }} encoder seeds.
{{ cautions }}</p>
<h2>Gain over random draws</h2>
{% for budget, figure in gains %}
<h3>{{ budget }} cases</h3>
<img src="{{ figure }}" alt="gain over random draws of {{ budget }} cases, with 95 % intervals">
{% endfor %}
<h2>Dice over the budget</h2>
<img src="{{ curve }}" alt="mean Dice over the budget, with the range of the random draws">
<h2>All numbers</h2>
{% for header, rows in tables %}
<table>
<tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endfor %}
</body>
</html>
"""


def write_page(path: Path, results: Results) -> None:
    """Write the page, which asks nothing of a network."""
    settings = results.benchmark.settings
    text = (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(_PAGE)
        .render(
            target=settings.target,
            sentence=results.conclusion(),
            pool=results.benchmark.pool_size,
            test=len(results.benchmark.test),
            draws=settings.draws,
            seeds=settings.seeds,
            gains=[(budget, _gains(results, budget)) for budget in results.budgets],
            curve=_curve(results),
            cautions=" ".join(results.cautions),
            tables=tables(results),
        )
    )
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _gains(results: Results, budget: int) -> str:
    """Mean Dice and 5th percentile of every strategy against random draws, with intervals."""
    shown = [one for one in results.comparisons if one.budget == budget and one.gain is not None]
    figure = Figure(figsize=(8, 0.6 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, title, name in ((axes[0], "mean Dice", "gain"), (axes[1], "5th percentile of case Dice", "gain_worst")):
        axis.axvline(0, color="0.5", linewidth=1)
        for place, one in enumerate(shown):
            found = getattr(one, name)
            axis.plot([found.low, found.high], [place, place], color="tab:blue", linewidth=2)
            axis.plot(found.mean, place, "o", color="tab:blue")
        axis.set_title(f"{title}, points", fontsize=10)
        axis.set_ylim(len(shown) - 0.5, -0.5)
    axes[0].set_yticks(range(len(shown)), [one.strategy for one in shown])
    return _data_uri(figure)


def _curve(results: Results) -> str:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis: Axes = figure.subplots()
    random = mean_dice(results.values(RANDOM))
    axis.fill_between(results.budgets, random.min(axis=0), random.max(axis=0), color="0.85", label="random: range")
    axis.plot(results.budgets, random.mean(axis=0), color="0.4", label="random: mean")
    for strategy in results.strategies:
        axis.plot(results.budgets, mean_dice(results.values(strategy)).mean(axis=0), marker="o", label=strategy)
    axis.axhline(results.ceiling, color="0.4", linestyle=":", label="whole pool")
    axis.set(xscale="log", xlabel="cases", ylabel="mean Dice, points")
    axis.set_xticks(results.budgets, list(map(str, results.budgets)))
    axis.set_xticks([], minor=True)
    axis.legend(fontsize=8)
    return _data_uri(figure)


def _data_uri(figure: Figure) -> str:
    drawn = io.BytesIO()
    with rc_context({"svg.hashsalt": "xssr"}):  # the same page for the same results
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode("ascii")
