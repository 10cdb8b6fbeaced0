"""What each stage adds: accuracy against cost along the forms that one fit ships.

A student with variants `1`, `2`, ... is a curve over its stages; its variants `node0.5`, `node0.9`,
one a threshold, are a second, dashed one; `exit` and `exit0.3` are stars. Students that were fitted
once for each size under labels such as `ensemble-k2`, `ensemble-k4` are a curve, too; all others
are points. Bands are 95 % intervals of the mean over the seeds.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.metrics import METRICS
from bench.reports import figures
from bench.reports.blocks import Block, Line
from bench.reports.panels import GREY, THRESHOLD, floor_of, grid, label_of
from bench.stats import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTIONS = {
    "stages_macs": "Accuracy against multiply-accumulates of the whole graph, stage by stage. "
    "Dashed: every node stops by itself once it is sure. Stars: the exits of the paper. Bands: "
    "95 % intervals over seeds. Grey: the teacher.",
    "stages_latency": "Accuracy against the latency of the whole graph, stage by stage. Dashed: "
    "every node stops by itself once it is sure. Stars: the exits of the paper. Bands: 95 % "
    "intervals over seeds. Grey: the teacher.",
}
_COSTS = {"stages_macs": "macs", "stages_latency": "latency_ms"}
_SIZED = re.compile(r"(.+)-k(\d+)")


@dataclass(frozen=True)
class Curve:
    """The forms of one student, or the sizes of one family: (name, line), in order."""

    family: str
    kind: str  # "stages", "thresholds", "exit" or "point"
    points: tuple[tuple[str, Line], ...]


def curves(block: Block, teacher: str) -> list[Curve]:
    """Return what a panel shows: the students of a teacher, and those without one."""
    lines = [x for x in block.lines if x.student and x.teacher in (teacher, "")]
    groups: dict[tuple[str, str], list[tuple[float, str, Line]]] = {}
    for line in lines:
        if line.runs[block.headline]:
            family, kind, order = _place(line)
            name = line.variant or line.student
            groups.setdefault((family, kind), []).append((order, name, line))
    found = []
    for (family, kind), items in groups.items():
        ordered = sorted(items, key=lambda item: item[0])
        found.append(Curve(family, kind, tuple((name, line) for _, name, line in ordered)))
    return found


def _place(line: Line) -> tuple[str, str, float]:
    """Where a line belongs: its family, the kind of curve, and its place on it."""
    label = line.student + (f" [{line.difference}]" if line.difference else "")
    if line.variant.isdigit():
        return label, "stages", int(line.variant)
    if stops := THRESHOLD.fullmatch(line.variant):
        kind = "exit" if line.variant.startswith("exit") else "thresholds"
        return label, kind, float(stops[1])
    if line.variant:
        return (label, "exit", math.inf) if line.variant == "exit" else (label, "point", 0.0)
    if sized := _SIZED.fullmatch(line.student):
        return sized[1], "stages", int(sized[2])
    return label, "point", 0.0


def staged(block: Block) -> list[str]:
    """The teachers of a block that have a student in stages."""
    some = [x.teacher for x in block.lines if x.student and x.variant.isdigit() and x.done]
    return list(dict.fromkeys(some))


def draw(blocks: Sequence[Block], out: Path) -> list[Path]:
    """Write the figures of the blocks with a staged student, as PNG and SVG; return the files."""
    panels = [(block, teacher) for block in blocks for teacher in staged(block)]
    files: list[Path] = []
    with figures.style():
        for name, cost in _COSTS.items():
            figure = _figure(panels, cost)
            if figure:
                files += figures.save(figure, out / name)
    return files


def _figure(panels: Sequence[tuple[Block, str]], cost: str) -> "Figure | None":
    drawn = [(b, t) for b, t in panels if any(_costed(c, cost) for c in curves(b, t))]
    if not drawn:
        return None
    every = (c.family for b, t in drawn for c in curves(b, t))
    colours = _colours(dict.fromkeys(every))
    titles = [f"{b.dataset}  ·  {b.split}  ·  {b.setting}  ·  {t}" for b, t in drawn]
    figure, axes = grid(titles, height=3.4)
    for ax, (block, teacher) in zip(axes, drawn, strict=True):
        _panel(ax, block, teacher, (cost, colours))
    _legend(figure, colours, columns=4 if len(drawn) == 1 else 6)
    return figure


def _colours(families: dict[str, None]) -> dict[str, str]:
    import seaborn as sns

    palette = sns.color_palette("colorblind", max(1, len(families))).as_hex()
    return dict(zip(families, palette, strict=False))


def _costed(curve: Curve, cost: str) -> list[tuple[str, Line]]:
    """The points of a curve whose cost is known."""
    return [(name, line) for name, line in curve.points if line.costs.get(cost, 0) > 0]


def _panel(ax: "Axes", block: Block, teacher: str, look: tuple[str, dict[str, str]]) -> None:
    import seaborn as sns

    cost, colours = look
    shown = [(c, _costed(c, cost)) for c in curves(block, teacher)]
    floor = 100 * floor_of(block, [line for _, points in shown for _, line in points])
    for curve, points in shown:
        kept = [p for p in points if 100 * spread(p[1].runs[block.headline]).mean >= floor]
        if kept:
            _curve(ax, block, Curve(curve.family, curve.kind, tuple(kept)), (cost, colours))
    for line in (x for x in block.lines if not x.student and x.teacher == teacher):
        if line.runs[block.headline]:
            mean = 100 * spread(line.runs[block.headline]).mean
            ax.axhline(mean, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
    metric = METRICS[cost]
    unit = f" ({metric.unit})" if metric.unit else ""
    ax.set(xlabel=f"{metric.label}{unit}", ylabel=label_of(block))
    ax.set_xlim(left=0)
    ax.margins(y=0.1)
    _ticks(ax)
    sns.despine(ax=ax)


def _curve(ax: "Axes", block: Block, curve: Curve, look: tuple[str, dict[str, str]]) -> None:
    """Draw the means, their band, and the names of the stages."""
    cost, colours = look
    colour = colours[curve.family]
    x = [line.costs[cost] for _, line in curve.points]
    found = [spread(line.runs[block.headline]) for _, line in curve.points]
    y = [100 * s.mean for s in found]
    low, high = (
        [100 * (s.mean if math.isnan(v) else v) for s, v in zip(found, values, strict=True)]
        for values in ([s.low for s in found], [s.high for s in found])
    )
    if curve.kind == "stages" and len(x) > 1:
        ax.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        ax.plot(x, y, color=colour, marker="o", markersize=4.5, linewidth=1.6)
        for (name, _), at in zip(curve.points, zip(x, y, strict=True), strict=True):
            _name(ax, name, at, colour)
    elif curve.kind == "thresholds":
        ax.plot(x, y, color=colour, marker=".", markersize=7, linewidth=1.2, linestyle="--")
    elif curve.kind == "exit":
        star: dict[str, Any] = {"marker": "*", "markersize": 13, "markeredgecolor": "white"}
        ax.plot(x, y, color=colour, linestyle="", zorder=4, **star)
    else:
        ax.vlines(x, low, high, color=colour, linewidth=1.2, alpha=0.5)
        ax.plot(x, y, color=colour, marker="s", markersize=5, linestyle="")


def _name(ax: "Axes", name: str, at: tuple[float, float], colour: str) -> None:
    """Write the number of a stage above its point."""
    short = name.rpartition("-k")[2]
    ax.annotate(
        short,
        at,
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        color=colour,
        fontsize=7.5,
    )


def _ticks(ax: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    from bench.tables import compact

    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def _legend(figure: "Figure", colours: dict[str, str], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", color=c, label=family) for family, c in colours.items()]
    for label, look in _keys():
        handles.append(Line2D([], [], color="#555555", label=label, **look))  # type: ignore[arg-type]
    place: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 8.5}
    figure.legend(handles=handles, ncols=columns, **place)


def _keys() -> Iterator[tuple[str, dict[str, object]]]:
    yield "stages 1, 2, ...", {"marker": "o", "markersize": 4.5}
    yield "a node stops when sure", {"marker": ".", "linestyle": "--"}
    yield "exit", {"marker": "*", "markersize": 11, "linestyle": ""}
    yield "one form", {"marker": "s", "markersize": 5, "linestyle": ""}
    yield "teacher", {"linestyle": ":"}
