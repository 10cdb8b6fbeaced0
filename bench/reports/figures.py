"""Figures of a comparison: accuracy by student and teacher, and accuracy against cost.

Drawn with seaborn on figures of their own, so that no global state of matplotlib is touched; the
same blocks give the same SVG, byte for byte.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.reports import pareto
from bench.reports.blocks import Block, Line
from bench.reports.panels import NONE, colours_of, floor_of, grid_of, label_of, legend, mean_of
from bench.stats import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = {"pareto_latency": "latency_node_ms", "pareto_macs": "macs"}
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


def draw(blocks: Sequence[Block], out: Path) -> list[Path]:
    """Write every figure that has something to show, as PNG and SVG; return the files."""
    with style():
        figures = {"accuracy": _accuracy([b for b in blocks if any(x.done for x in b.lines)])}
        for name, cost in COSTS.items():
            several = [b for b in blocks if len(pareto.costed(b, cost)) > 1]
            figures[name] = pareto.figure_of(several, cost)
        return [
            path for name, figure in figures.items() if figure for path in save(figure, out / name)
        ]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the style of all figures, which is not that of anybody else's."""
    import matplotlib as mpl
    import seaborn as sns

    look = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper", 1.1), **_RC}
    with mpl.rc_context(look):
        yield


def save(figure: "Figure", stem: Path, *, cut: str | None = "tight") -> list[Path]:
    """Write a figure as PNG and SVG without the date; `cut` None keeps its edges: faster."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    figure.savefig(paths[0], dpi=160, bbox_inches=cut)
    figure.savefig(paths[1], bbox_inches=cut, metadata={"Date": None})
    return paths


# ---- accuracy -------------------------------------------------------------------------------


def _accuracy(blocks: Sequence[Block]) -> "Figure | None":
    """Every seed as a dot, mean and 95 % interval above; the teacher as a dashed line."""
    if not blocks:
        return None
    colours = colours_of(blocks)
    most = max(len(block.entries) for block in blocks)
    figure, panels = grid_of(blocks, height=1.2 + 0.36 * most)
    for ax, block in zip(panels, blocks, strict=True):
        _accuracy_panel(ax, block, colours)
    legend(figure, colours, {"teacher alone (mean)": {"linestyle": "--", "color": "#555555"}})
    return figure


def _accuracy_panel(ax: "Axes", block: Block, colours: dict[str, str]) -> None:
    import seaborn as sns

    lines = [x for x in block.entries.values() if x.runs[block.headline]]
    names = list(dict.fromkeys(line.name for line in lines))
    ran = [x for x in block.lines if x.runs[block.headline]]
    floor = floor_of(block, ran)
    for line in (x for x in ran if x.id not in block.entries):
        mean = 100 * mean_of(block, line)
        ax.axvline(mean, color=colours[line.teacher], linestyle="--", linewidth=1, alpha=0.8)
    for line in lines:
        y, step = _height(line, lines, names)
        colour = colours[line.teacher or NONE]
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
    ax.set(xlabel=label_of(block), ylabel="", yticks=range(len(names)), yticklabels=names)
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
