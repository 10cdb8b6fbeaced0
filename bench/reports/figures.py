"""Figures of a comparison: accuracy by student and teacher, and accuracy against cost.

Drawn with seaborn on figures of their own, so that no global state of matplotlib is touched; the
same blocks give the same SVG, byte for byte.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.metrics import METRICS
from bench.reports.blocks import Block, Line
from bench.stats import spread
from bench.tables import compact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = {"pareto_latency": "latency_node_ms", "pareto_macs": "macs"}
_NONE = "no teacher"
_GREY = "#707070"
_RC = {
    "svg.hashsalt": "gkdbench",
    "axes.edgecolor": "#999999",
    "axes.labelcolor": "#333333",
    "text.color": "#222222",
    "xtick.color": "#555555",
    "ytick.color": "#333333",
    "grid.color": "#e6e6e6",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")


def draw(blocks: Sequence[Block], out: Path) -> list[Path]:
    """Write every figure that has something to show, as PNG and SVG; return the files."""
    import matplotlib as mpl
    import seaborn as sns

    style = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper", 1.1), **_RC}
    with mpl.rc_context(style):
        figures = {"accuracy": _accuracy([b for b in blocks if any(x.done for x in b.lines)])}
        for name, cost in COSTS.items():
            figures[name] = _pareto([b for b in blocks if len(_costed(b, cost)) > 1], cost)
        return [
            path for name, figure in figures.items() if figure for path in _save(figure, out / name)
        ]


def _save(figure: "Figure", stem: Path) -> list[Path]:
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    figure.savefig(paths[0], dpi=160, bbox_inches="tight")
    figure.savefig(paths[1], bbox_inches="tight", metadata={"Date": None})
    return paths


def _panels(blocks: Sequence[Block], height: float) -> tuple["Figure", list["Axes"]]:
    """Make a grid with one panel for each block, at most three in a row."""
    from matplotlib.figure import Figure

    columns = min(len(blocks), 2 if len(blocks) in (2, 4) else 3)
    rows = math.ceil(len(blocks) / columns)
    figure = Figure(figsize=(4.3 * columns, height * rows), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.08)  # type: ignore[union-attr, call-arg]
    grid = [ax for line in figure.subplots(rows, columns, squeeze=False) for ax in line]
    for ax in grid[len(blocks) :]:
        ax.set_visible(False)
    for ax, block in zip(grid, blocks, strict=False):
        ax.set_title(f"{block.dataset}  ·  {block.split}  ·  {block.setting}", loc="left")
    return figure, grid[: len(blocks)]


def _floor(block: Block, lines: Sequence[Line]) -> float:
    """Where to cut a panel: below it lie a few methods so far off that they would flatten the rest.

    They do where the widest gap between two neighbouring means is more than 5 points and twice the
    range above it, with at least two methods above and fewer below. -inf: nothing is cut.
    """
    means = sorted(spread(line.runs[block.headline]).mean for line in lines)
    gaps = [(high - low, i) for i, (low, high) in enumerate(itertools.pairwise(means), start=1)]
    gap, i = max(gaps, default=(0.0, 0))
    above = means[i:]
    if gap <= max(0.05, 2 * (above[-1] - above[0])) or len(above) < max(2, i + 1):
        return -math.inf
    kept = [x.runs[block.headline].values() for x in lines if _mean(block, x) >= above[0]]
    return min(min(values) for values in kept) - 0.01


def _mean(block: Block, line: Line) -> float:
    return spread(line.runs[block.headline]).mean


def _colours(blocks: Sequence[Block]) -> dict[str, str]:
    """Give every teacher one colour over all panels; students without one are grey."""
    import seaborn as sns

    teachers = list(dict.fromkeys(x.teacher for block in blocks for x in block.lines if x.teacher))
    palette = sns.color_palette("colorblind", max(1, len(teachers))).as_hex()
    return {**dict(zip(teachers, palette, strict=False)), _NONE: _GREY}


# ---- accuracy -------------------------------------------------------------------------------


def _accuracy(blocks: Sequence[Block]) -> "Figure | None":
    """Every seed as a dot, mean and 95 % interval above; the teacher as a dashed line."""
    if not blocks:
        return None
    colours = _colours(blocks)
    most = max(len(block.students) for block in blocks)
    figure, panels = _panels(blocks, height=1.2 + 0.36 * most)
    for ax, block in zip(panels, blocks, strict=True):
        _accuracy_panel(ax, block, colours)
    _legend(figure, colours, {"teacher alone (mean)": {"linestyle": "--", "color": "#555555"}})
    return figure


def _accuracy_panel(ax: "Axes", block: Block, colours: dict[str, str]) -> None:
    import seaborn as sns

    lines = [x for x in block.students.values() if x.runs[block.headline]]
    names = list(dict.fromkeys(line.name for line in lines))
    ran = [x for x in block.lines if x.runs[block.headline]]
    floor = _floor(block, ran)
    for line in (x for x in ran if not x.student):
        mean = 100 * _mean(block, line)
        ax.axvline(mean, color=colours[line.teacher], linestyle="--", linewidth=1, alpha=0.8)
    for line in lines:
        y, step = _height(line, lines, names)
        colour = colours[line.teacher or _NONE]
        s = spread(line.runs[block.headline])
        if s.mean < floor:
            at: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "va": "center"}
            ax.annotate(f"← {100 * s.mean:.1f}", (0.01, y), color=colour, fontsize=8.5, **at)
            continue
        values = [100 * value for value in line.runs[block.headline].values()]
        dots = {"color": colour, "s": 14, "alpha": 0.45, "legend": False}
        sns.scatterplot(x=values, y=[y + 0.3 * step] * len(values), ax=ax, **dots)
        half = 0.0 if math.isnan(s.low) else 100 * (s.high - s.mean)
        ax.errorbar(100 * s.mean, y - 0.1 * step, xerr=half, color=colour, capsize=2.5, **_MEAN)
    if floor > -math.inf:
        ax.set_xlim(left=100 * floor)
    ax.set(xlabel=_label(block), ylabel="", yticks=range(len(names)), yticklabels=names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.grid(visible=False, axis="y")
    sns.despine(ax=ax, left=True)


_MEAN: dict[str, Any] = {
    "marker": "o",
    "markersize": 5,
    "linewidth": 1.4,
    "markeredgecolor": "white",
}


def _height(line: Line, lines: Sequence[Line], names: Sequence[str]) -> tuple[float, float]:
    """The place of a line and its share: students of one name share a band, by teacher."""
    bands = {name: [other.id for other in lines if other.name == name] for name in names}
    step = 0.84 / max(2, *map(len, bands.values()))
    own = bands[line.name]
    return names.index(line.name) + step * (own.index(line.id) - (len(own) - 1) / 2), step


def _label(block: Block) -> str:
    """The axis label of the metric that ranks."""
    label = METRICS[block.headline].label
    return f"{label}, %" if "accuracy" in label else f"accuracy ({label}), %"


# ---- cost -----------------------------------------------------------------------------------


def _costed(block: Block, cost: str) -> list[Line]:
    """The lines with both numbers, cheapest first."""
    lines = [x for x in block.lines if x.costs.get(cost, 0) > 0 and x.runs[block.headline]]
    return sorted(lines, key=lambda line: line.costs[cost])


def _pareto(blocks: Sequence[Block], cost: str) -> "Figure | None":
    """Accuracy against cost: colours are teachers, shapes are students, the front is drawn."""
    if not blocks:
        return None
    colours = _colours(blocks)
    students = [line.name for block in blocks for line in _costed(block, cost) if line.student]
    names = list(dict.fromkeys(students))
    shapes = {name: _MARKERS[i % len(_MARKERS)] for i, name in enumerate(names)}
    shapes["teacher"] = "*"  # the same for all: their colours tell them apart
    figure, panels = _panels(blocks, height=3.3)
    for ax, block in zip(panels, blocks, strict=True):
        _pareto_panel(ax, block, cost, (colours, shapes))
    keys: dict[str, dict[str, Any]] = {
        name: {"marker": shape, "linestyle": "", "color": "#555555"}
        for name, shape in shapes.items()
    }
    _legend(figure, colours, {**keys, "Pareto front": {"color": "#bbbbbb"}})
    return figure


def _pareto_panel(
    ax: "Axes", block: Block, cost: str, looks: tuple[dict[str, str], dict[str, str]]
) -> None:
    import seaborn as sns

    colours, shapes = looks
    lines = _costed(block, cost)
    spreads = [spread(line.runs[block.headline]) for line in lines]
    points = pd.DataFrame(
        {
            "cost": [line.costs[cost] for line in lines],
            "accuracy": [100 * s.mean for s in spreads],
            "teacher": [line.teacher or _NONE for line in lines],
            "student": [line.name if line.student else "teacher" for line in lines],
        }
    )
    floor = 100 * _floor(block, lines)
    for point in points[points["accuracy"] < floor].itertuples():
        at: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "ha": "center"}
        text = f"{point.student}\n↓ {point.accuracy:.1f}"
        ax.annotate(text, (point.cost, 0.02), color=colours[str(point.teacher)], fontsize=8.5, **at)
    shown = points["accuracy"] >= floor
    front = _front(points[shown])
    ax.step(front["cost"], front["accuracy"], where="post", color="#bbbbbb", linewidth=1.2)
    for x, s in zip(points["cost"], spreads, strict=True):
        if 100 * s.mean >= floor and not math.isnan(s.low):
            ax.vlines(x, 100 * s.low, 100 * s.high, color="#cccccc", linewidth=1)
    sns.scatterplot(
        points[shown],
        x="cost",
        y="accuracy",
        hue="teacher",
        palette=colours,
        style="student",
        markers=shapes,
        size=points["student"] == "teacher",
        sizes={True: 130, False: 48},
        alpha=0.85,
        legend=False,
        ax=ax,
        zorder=3,
    )
    if math.isfinite(floor):
        ax.set_ylim(bottom=floor)
    metric = METRICS[cost]
    unit = f" ({metric.unit})" if metric.unit else ""
    ax.set(xscale="log", xlabel=f"{metric.label}{unit}, log scale", ylabel=_label(block))
    ax.margins(x=0.12)
    _log_ticks(ax)
    sns.despine(ax=ax)


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


def _legend(figure: "Figure", colours: dict[str, str], others: dict[str, dict[str, Any]]) -> None:
    """Put one legend below all panels."""
    from matplotlib.lines import Line2D

    keys: dict[str, dict[str, Any]] = {
        name: {"marker": "o", "linestyle": "", "color": colour} for name, colour in colours.items()
    }
    handles = [Line2D([], [], label=k, **look) for k, look in {**keys, **others}.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
