"""Accuracy against cost: what one pays for a point, block by block.

Colours are teachers; a student is a dot with its name beside it. Of a student in stages the whole
is named, and a line leads through its stages.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.metrics import METRICS
from bench.reports import names
from bench.reports.blocks import Block, Line, whole_of
from bench.reports.panels import (
    NONE,
    colours_of,
    floor_of,
    grid_of,
    label_of,
    legend,
    log_ticks,
)
from bench.stats import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

MANY = 12  # students; for more of them panels are larger
_LOOKS = {"teacher": ("*", 130), "whole": ("o", 40), "part": ("o", 14)}


def costed(block: Block, cost: str) -> list[Line]:
    """The lines with both numbers, cheapest first."""
    lines = [x for x in block.lines if x.costs.get(cost, 0) > 0 and x.runs[block.headline]]
    return sorted(lines, key=lambda line: line.costs[cost])


def figure_of(blocks: Sequence[Block], cost: str) -> "Figure | None":
    """Accuracy against cost, a panel for each block."""
    return _figure([(block, cost) for block in blocks], columns=0)


def figure_of_several(blocks: Sequence[Block], costs: Sequence[str]) -> "Figure | None":
    """Accuracy against each of some costs, side by side."""
    return _figure([(block, cost) for block in blocks for cost in costs], columns=len(costs))


def _figure(shown: Sequence[tuple[Block, str]], columns: int) -> "Figure | None":
    """Draw a panel for each block and cost, and one legend for all of them."""
    if not shown:
        return None
    blocks = [block for block, _ in shown]
    colours, most = colours_of(blocks), max(len(block.contenders) for block in blocks)
    size = {"height": 5.2, "width": 7.4} if most > MANY else {"height": 3.6, "width": 4.9}
    figure, panels = grid_of(blocks, columns=columns or min(2, len(blocks)), **size)
    cut = [
        _panel(ax, _points(block, cost), 100 * floor_of(block, costed(block, cost)), colours)
        for ax, (block, cost) in zip(panels, shown, strict=True)
    ]
    for ax, (block, cost) in zip(panels, shown, strict=True):
        metric = METRICS[cost]
        unit = f" ({metric.unit})" if metric.unit else ""
        ax.set(xlabel=f"{metric.label}{unit}, log scale", ylabel=label_of(block))
    present = {line.teacher or NONE for block, cost in shown for line in costed(block, cost)}
    others = {"teacher": {"marker": "*", "linestyle": "", "color": "#555555"}}
    told = {teacher: colour for teacher, colour in colours.items() if teacher in present}
    legend(figure, told, {**others, "Pareto front": {"color": "#bbbbbb"}})
    figure.draw_without_rendering()  # names are placed where the layout puts the panels
    for ax, (block, cost), texts in zip(panels, shown, cut, strict=True):
        _name(ax, _points(block, cost), colours, texts)
    return figure


def _panel(
    ax: "Axes", points: pd.DataFrame, floor: float, colours: dict[str, str]
) -> "list[Annotation]":
    """Draw the dots, their intervals and the front; return what tells of methods below."""
    import seaborn as sns

    cut = _tell_cut(ax, points[points["accuracy"] < floor], colours)
    # Invisible marks keep the cut methods, named at their cost, inside the axis.
    ax.plot(points["cost"], [points["accuracy"].max()] * len(points), linestyle="", marker="")
    points = points[points["accuracy"] >= floor]
    front = _front(points)
    ax.step(front["cost"], front["accuracy"], where="post", color="#bbbbbb", linewidth=1.2)
    ax.vlines(points["cost"], points["low"], points["high"], color="#cccccc", linewidth=1)
    _join_stages(ax, points, colours)
    sns.scatterplot(
        points,
        x="cost",
        y="accuracy",
        hue="teacher",
        palette=colours,
        style="kind",
        markers={kind: marker for kind, (marker, _) in _LOOKS.items()},
        size="kind",
        sizes={kind: size for kind, (_, size) in _LOOKS.items()},
        legend=False,
        alpha=0.85,
        ax=ax,
        zorder=3,
    )
    if cut:  # room for their names
        low = float(points[["low", "accuracy"]].min().min())
        high = float(points[["high", "accuracy"]].max().max())
        ax.set_ylim(bottom=low - 0.18 * (high - low))
    ax.set_xscale("log")
    ax.margins(x=0.12)
    log_ticks(ax)
    sns.despine(ax=ax)
    return cut


def _points(block: Block, cost: str) -> pd.DataFrame:
    """One point for each line: its cost, its accuracy in percent, and the interval of that."""
    lines = costed(block, cost)
    whole = {line.id for line in whole_of(lines)}
    records = []
    for line in lines:
        s = spread(line.runs[block.headline])
        part = "whole" if line.id in whole else "part"
        records.append(
            {
                "cost": line.costs[cost],
                "accuracy": 100 * s.mean,
                "low": 100 * s.low,
                "high": 100 * s.high,
                "teacher": line.teacher or NONE,
                "student": line.name if line.student else "teacher",
                "kind": part if line.student else "teacher",
                "fit": f"{line.teacher} > {line.student} [{line.difference}]",
                "stage": int(line.variant) if line.variant.isdigit() else 0,
            }
        )
    return pd.DataFrame(records)


def _join_stages(ax: "Axes", points: pd.DataFrame, colours: dict[str, str]) -> None:
    """Draw a line along the stages of each student."""
    for _, stages in points[points["stage"] > 0].sort_values("stage").groupby("fit", sort=False):
        colour = colours[str(stages["teacher"].iloc[0])]
        ax.plot(stages["cost"], stages["accuracy"], color=colour, linewidth=0.8, alpha=0.6)


def _tell_cut(ax: "Axes", points: pd.DataFrame, colours: dict[str, str]) -> "list[Annotation]":
    """Name the methods below the panel, with their accuracy."""
    texts = []
    for point in points.itertuples():
        at: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "ha": "center"}
        at["parse_math"] = False
        text = f"{point.student}\n↓ {point.accuracy:.1f}"
        colour = colours[str(point.teacher)]
        texts.append(ax.annotate(text, (point.cost, 0.02), color=colour, fontsize=8.5, **at))
    return texts


def _name(
    ax: "Axes", points: pd.DataFrame, colours: dict[str, str], taken: "Sequence[Annotation]"
) -> None:
    """Write the names of whole students beside their dots."""
    points = points[points["accuracy"] >= ax.get_ylim()[0]]
    records: list[dict[str, Any]] = points.to_dict("records")  # type: ignore[assignment]
    whole = [p for p in records if p["kind"] == "whole"]
    named = [((p["cost"], p["accuracy"]), p["student"], colours[p["teacher"]]) for p in whole]
    others = [(p["cost"], p["accuracy"]) for p in records if p["kind"] != "whole"]
    names.write(ax, named, others, [text.get_window_extent() for text in taken])


def _front(points: pd.DataFrame) -> pd.DataFrame:
    """The points that no other one beats: nothing as cheap is more accurate (cheapest first)."""
    ordered = points.sort_values(["cost", "accuracy"], ascending=[True, False])
    before = ordered["accuracy"].cummax().shift(fill_value=-math.inf)
    return ordered[ordered["accuracy"] > before]
