"""Accuracy against cost: what one pays for a point, block by block."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.metrics import METRICS
from bench.reports.blocks import Block, Line
from bench.reports.panels import NONE, colours_of, floor_of, grid_of, label_of, legend
from bench.stats import spread
from bench.tables import compact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SYMBOLS: dict[str, Any] = {"sizes": {True: 130, False: 48}, "alpha": 0.85}
_NUMBERS: dict[str, Any] = {"sizes": {True: 130, False: 80}, "alpha": 1.0, "linewidth": 0}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")


def costed(block: Block, cost: str) -> list[Line]:
    """The lines with both numbers, cheapest first."""
    lines = [x for x in block.lines if x.costs.get(cost, 0) > 0 and x.runs[block.headline]]
    return sorted(lines, key=lambda line: line.costs[cost])


def figure_of(blocks: Sequence[Block], cost: str) -> "Figure | None":
    """Accuracy against cost: colours are teachers, shapes are students, the front is drawn."""
    if not blocks:
        return None
    students = [line.name for block in blocks for line in costed(block, cost) if line.student]
    figure, panels = grid_of(blocks, height=3.3)
    return _drawn(figure, [(*pair, cost) for pair in zip(panels, blocks, strict=True)], students)


def figure_of_several(blocks: Sequence[Block], costs: Sequence[str]) -> "Figure | None":
    """Accuracy against each of some costs, side by side; shapes are students, as they are asked."""
    if not blocks:
        return None
    students = [line.name for block in blocks for line in block.lines if line.student]
    shown = [(block, cost) for block in blocks for cost in costs]
    figure, panels = grid_of([block for block, _ in shown], height=3.3, columns=len(costs))
    return _drawn(figure, [(ax, *pair) for ax, pair in zip(panels, shown, strict=True)], students)


def _drawn(
    figure: "Figure", panels: Sequence[tuple["Axes", Block, str]], students: Sequence[str]
) -> "Figure":
    """Draw the panels of a figure, and one legend for all of them."""
    colours = colours_of([block for _, block, _ in panels])
    names = list(dict.fromkeys(students))
    shapes = dict(zip(names, _shapes(len(names)), strict=True))
    shapes["teacher"] = "*"  # the same for all: their colours tell them apart
    for ax, block, cost in panels:
        _pareto_panel(ax, block, cost, (colours, shapes))
    thin: dict[str, Any] = {"markeredgewidth": 0} if len(names) > len(_MARKERS) else {}
    keys: dict[str, dict[str, Any]] = {
        name: {"marker": shape, "linestyle": "", "color": "#555555", **thin}
        for name, shape in shapes.items()
    }
    legend(figure, colours, {**keys, "Pareto front": {"color": "#bbbbbb"}})
    return figure


def _shapes(count: int) -> Sequence[str]:
    """One marker for each of some students; their numbers where there are more than shapes."""
    return _MARKERS[:count] if count <= len(_MARKERS) else [f"${i + 1}$" for i in range(count)]


def _pareto_panel(
    ax: "Axes", block: Block, cost: str, looks: tuple[dict[str, str], dict[str, str]]
) -> None:
    import seaborn as sns

    colours, shapes = looks
    points = _points(block, cost)
    floor = 100 * floor_of(block, costed(block, cost))
    _tell_cut(ax, points[points["accuracy"] < floor], colours)
    # Invisible marks keep the cut methods, named at their cost, inside the axis.
    ax.plot(points["cost"], [points["accuracy"].max()] * len(points), linestyle="", marker="")
    points = points[points["accuracy"] >= floor]
    front = _front(points)
    ax.step(front["cost"], front["accuracy"], where="post", color="#bbbbbb", linewidth=1.2)
    ax.vlines(points["cost"], points["low"], points["high"], color="#cccccc", linewidth=1)
    sns.scatterplot(
        points,
        x="cost",
        y="accuracy",
        hue="teacher",
        palette=colours,
        style="student",
        markers=shapes,
        size=points["student"] == "teacher",
        legend=False,
        ax=ax,
        zorder=3,
        **(_SYMBOLS if len(shapes) <= len(_MARKERS) + 1 else _NUMBERS),
    )
    if math.isfinite(floor):
        ax.set_ylim(bottom=floor)
    metric = METRICS[cost]
    unit = f" ({metric.unit})" if metric.unit else ""
    ax.set(xscale="log", xlabel=f"{metric.label}{unit}, log scale", ylabel=label_of(block))
    ax.margins(x=0.12)
    _log_ticks(ax)
    sns.despine(ax=ax)


def _points(block: Block, cost: str) -> pd.DataFrame:
    """One point for each line: its cost, its accuracy in percent, and the interval of that."""
    records = []
    for line in costed(block, cost):
        s = spread(line.runs[block.headline])
        records.append(
            {
                "cost": line.costs[cost],
                "accuracy": 100 * s.mean,
                "low": 100 * s.low,
                "high": 100 * s.high,
                "teacher": line.teacher or NONE,
                "student": line.name if line.student else "teacher",
            }
        )
    return pd.DataFrame(records)


def _tell_cut(ax: "Axes", points: pd.DataFrame, colours: dict[str, str]) -> None:
    """Name the methods below the panel, with their accuracy."""
    for point in points.itertuples():
        at: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "ha": "center"}
        text = f"{point.student}\n↓ {point.accuracy:.1f}"
        ax.annotate(text, (point.cost, 0.02), color=colours[str(point.teacher)], fontsize=8.5, **at)


def _front(points: pd.DataFrame) -> pd.DataFrame:
    """The points that no other one beats: nothing as cheap is more accurate (cheapest first)."""
    ordered = points.sort_values(["cost", "accuracy"], ascending=[True, False])
    before = ordered["accuracy"].cummax().shift(fill_value=-math.inf)
    return ordered[ordered["accuracy"] > before]


def _log_ticks(ax: "Axes") -> None:
    """Plain numbers at 1, 2, 5 of every decade, or at the decades of a long axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
