"""What each stage adds: accuracy against cost along the forms that one fit ships.

Accuracy is told as the difference from the teacher of the same seed, so that what splits differ by
is not in the bands; where the teacher has no rows, as it is.

A student with variants `1`, `2`, ... is a curve over its stages. Its variants with a threshold in
their name are curves of their own: each node stops by itself (`node0.9`), or the whole batch does
(`exit0.3`); `exit` is a star. Students that were fitted once for each size under labels such as
`ensemble-k2`, `ensemble-k4` are a curve, too; all others are points.

A point is a mean over seeds on both axes, over those whose cost is known: early exits run other
stages on other seeds, so that a cost goes with the accuracy of the same seeds. Bands are 95 %
intervals of that mean.
"""

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.metrics import METRICS
from bench.reports import figures
from bench.reports.blocks import Block, Line
from bench.reports.panels import GREY, THRESHOLD, floor_of, grid, label_of, log_ticks
from bench.stats import Spread, spread
from bench.tables import MINUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CAPTION = (
    "Accuracy against {cost}, stage by stage. Dashed: every node stops by itself once it is sure. "
    "Dash-dotted: the whole batch stops. Star: the exit of the paper. Both axes are means over the "
    "same seeds, {seeds}; accuracy is the difference from the teacher, paired by seed; bands: 95 % "
    "intervals of it; a star's bar to both sides: its costs over the seeds. Arrows: far below, "
    "with the means of the forms."
)
CAPTIONS = {
    "stages_macs": _CAPTION.format(
        cost="multiply-accumulates of the whole graph", seeds="those whose MACs were counted"
    ),
    "stages_latency": _CAPTION.format(
        cost="the latency of the whole graph", seeds="those that were timed"
    ),
}
OTHERS = "#a8a8a8"  # of students in one form, where colours run out
_COSTS = {"stages_macs": "macs", "stages_latency": "latency_ms"}
_SIZED = re.compile(r"(.+)-k(\d+)")


@dataclass(frozen=True)
class Curve:
    """The forms of one student, or the sizes of one family: (name, line), in order."""

    family: str
    kind: str  # "stages", "thresholds" (of a node), "batch" (thresholds), "exit" or "point"
    points: tuple[tuple[str, Line], ...]


@dataclass(frozen=True)
class Point:
    """A form on a panel: its mean cost and accuracy over the same seeds.

    `accuracy` is the difference from the teacher's, where that is known.
    """

    name: str
    cost: Spread
    costs: tuple[float, float]  # the lowest and the highest
    accuracy: Spread
    seeds: frozenset[Hashable]


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
        return label, "batch" if stops[1] == "exit" else "thresholds", float(stops[2])
    if line.variant:
        return label, line.variant if line.variant == "exit" else "point", 0.0
    if sized := _SIZED.fullmatch(line.student):
        return label.replace(line.student, sized[1], 1), "stages", int(sized[2])
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
    drawn = [(b, t) for b, t in panels if any(points_of(b, c, cost, t) for c in curves(b, t))]
    if not drawn:
        return None
    every = [c for b, t in drawn for c in curves(b, t)]
    colours = _colours(every)
    titles = [f"{b.dataset}  ·  {b.split}  ·  {b.setting}  ·  {t}" for b, t in drawn]
    figure, axes = grid(titles, height=4.0, width=5.6, columns=min(2, len(drawn)))
    for ax, (block, teacher) in zip(axes, drawn, strict=True):
        _panel(ax, block, teacher, (cost, colours))
    _legend(figure, colours, {c.kind for c in every}, columns=4 if len(drawn) == 1 else 6)
    return figure


def _colours(every: Sequence[Curve]) -> dict[str, str]:
    """Give families colours; where there are more of them, those of one form share a grey."""
    import seaborn as sns

    palette = sns.color_palette("colorblind").as_hex()  # as many as can be told apart
    families = list(dict.fromkeys(c.family for c in every))
    if len(families) > len(palette):
        families = list(dict.fromkeys(c.family for c in every if c.kind != "point"))
    own = dict(zip(families, palette * (1 + len(families) // len(palette)), strict=False))
    return {c.family: own.get(c.family, OTHERS) for c in every}


def points_of(block: Block, curve: Curve, cost: str, teacher: str = "") -> list[Point]:
    """Return the points of a curve whose cost is known on some seed, in order.

    Both means of a point are over the seeds that have the cost and the accuracy, and the teacher's,
    if one is given.
    """
    found = []
    base = _teacher_runs(block, teacher)
    for name, line in curve.points:
        runs = {u: v for u, v in line.runs[block.headline].items() if not base or u in base}
        paid = {u: v for u, v in line.paid.get(cost, {}).items() if v > 0 and u in runs}
        if paid:
            accuracy = spread({u: runs[u] - base.get(u, 0.0) for u in paid})
            reach = min(paid.values()), max(paid.values())
            found.append(Point(name, spread(paid), reach, accuracy, frozenset(paid)))
    return found


def _teacher_runs(block: Block, teacher: str) -> Mapping[Hashable, float]:
    """The accuracies of a teacher by seed; none where it has no line of its own, or several."""
    own = [x for x in block.lines if not x.student and x.teacher == teacher]
    return own[0].runs[block.headline] if len(own) == 1 else {}


def _panel(ax: "Axes", block: Block, teacher: str, look: tuple[str, dict[str, str]]) -> None:
    import seaborn as sns

    cost, colours = look
    drawn = [(c, points_of(block, c, cost, teacher)) for c in curves(block, teacher)]
    found = [(curve, points) for curve, points in drawn if points]
    every = [(c, point) for c, points in found for point in points]
    floor = 100 * floor_of(block, [line for c, _ in found for _, line in c.points])
    label, base = label_of(block), _teacher_runs(block, teacher)
    if base:
        mean = 100 * spread(base).mean
        floor -= mean
        label = f"{label.removesuffix(', %')} over teacher ({mean:.1f} %), points"
        ax.axhline(0.0, color=GREY, linestyle=":", linewidth=1.2, zorder=1)
    for curve, points in found:
        _curve(ax, curve.kind, points, colours[curve.family])
    ax.set(xlabel=f"{METRICS[cost].label} ({_unit(cost, every)}), log scale", ylabel=label)
    ax.set_xscale("log")
    ax.margins(x=0.08, y=0.1)
    if math.isfinite(floor):
        _cut(ax, floor, [(c, p, colours[c.family]) for c, p in every])
    log_ticks(ax)
    sns.despine(ax=ax)


def _unit(cost: str, every: Sequence[tuple[Curve, Point]]) -> str:
    """The unit of a cost, and over how many seeds its means are."""
    counts = sorted({len(point.seeds) for _, point in every})
    told = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    seeds = f"{told} seed{'' if counts == [1] else 's'}"
    return f"{METRICS[cost].unit}; {seeds}" if METRICS[cost].unit else seeds


_LOOKS: dict[str, tuple[str, dict[str, Any]]] = {  # kind of curve -> how it is told and drawn
    "stages": ("stages 1, 2, ...", {"marker": "o", "markersize": 4.5, "linewidth": 1.6}),
    "thresholds": (
        "a node stops when sure",
        {"marker": ".", "markersize": 7, "linewidth": 1.2, "linestyle": "--"},
    ),
    "batch": (
        "the batch stops when sure",
        {"marker": "^", "markersize": 5, "linewidth": 1.2, "linestyle": "-."},
    ),
    "exit": (
        "exit",
        {"marker": "*", "markersize": 13, "linestyle": "", "markeredgecolor": "white", "zorder": 4},
    ),
    "point": ("one form", {"marker": "s", "markersize": 5, "linestyle": ""}),
}


def _curve(ax: "Axes", kind: str, points: Sequence[Point], colour: str) -> None:
    """Draw the means, their band, and the names of the stages."""
    x, y = [p.cost.mean for p in points], [100 * p.accuracy.mean for p in points]
    ends = [_interval(p.accuracy) for p in points]
    low, high = [100 * a for a, _ in ends], [100 * b for _, b in ends]
    _, look = _LOOKS[kind]
    if look.get("linestyle") == "" or len(points) == 1:
        ax.vlines(x, low, high, color=colour, linewidth=1.2, alpha=0.5)
    else:
        order = sorted(range(len(x)), key=x.__getitem__)  # timed costs need not rise as thresholds
        at, bottom, top = ([values[i] for i in order] for values in (x, low, high))
        shade = 0.13 if kind == "stages" else 0.08
        ax.fill_between(at, bottom, top, color=colour, alpha=shade, linewidth=0)
    if kind == "exit":  # its stages, and so its cost, vary with the seed
        ax.hlines(
            y, *zip(*(p.costs for p in points), strict=True), color=colour, linewidth=1.2, alpha=0.5
        )
    ax.plot(x, y, color=colour, **look)
    if kind == "stages" and len(points) > 1:
        for point, place in zip(points, zip(x, y, strict=True), strict=True):
            _name(ax, point.name, place, colour)


def _interval(value: Spread) -> tuple[float, float]:
    """The ends of the interval; the mean twice where one seed has none."""
    return (value.mean, value.mean) if math.isnan(value.low) else (value.low, value.high)


def _cut(ax: "Axes", floor: float, every: Sequence[tuple[Curve, Point, str]]) -> None:
    """End the panel above what is far below it, and name that: curves run out of the panel."""
    top = ax.dataLim.ymax
    ax.set_ylim(floor, top + 0.1 * (top - floor))
    below: dict[tuple[str, str, str], list[tuple[str, float]]] = {}
    for curve, point, colour in every:
        mean = 100 * point.accuracy.mean
        if mean < floor:
            name = "" if curve.kind == "point" else _short(point.name)
            below.setdefault((curve.family, curve.kind, colour), []).append((name, mean))
    for row, ((family, _, colour), forms) in enumerate(reversed(below.items())):
        names, means = zip(*forms, strict=True)
        told = f"{family} {_ends(names)}".rstrip(), _ends([f"{m:.1f}" for m in sorted(means)])
        text = "↓ " + ": ".join(told).replace("-", MINUS)
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        ax.annotate(text, (0.02, 0), xytext=(0, 4 + 10 * row), color=colour, fontsize=7.5, **place)


def _ends(items: Sequence[str]) -> str:
    """The first and the last: "1 to 4"; one where they are the same."""
    return items[0] if items[0] == items[-1] else f"{items[0]} to {items[-1]}"


def _short(name: str) -> str:
    return name.rpartition("-k")[2]


def _name(ax: "Axes", name: str, at: tuple[float, float], colour: str) -> None:
    """Write the number of a stage above its point."""
    ax.annotate(
        _short(name),
        at,
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        color=colour,
        fontsize=7.5,
    )


def _legend(
    figure: "Figure",
    colours: dict[str, str],
    kinds: set[str],
    columns: int,
) -> None:
    """Tell the families by colour, then the kinds of curves that are there, then the teacher."""
    from matplotlib.lines import Line2D

    named = {family: colour for family, colour in colours.items() if colour != OTHERS}
    named |= {"other students": OTHERS} if OTHERS in colours.values() else {}
    handles = [Line2D([], [], marker="o", color=c, label=family) for family, c in named.items()]
    for label, look in (told for kind, told in _LOOKS.items() if kind in kinds):
        handles.append(Line2D([], [], color="#555555", label=label, **look))
    handles.append(Line2D([], [], color="#555555", label="teacher", linestyle=":"))
    place: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 8.5}
    figure.legend(handles=handles, ncols=columns, handlelength=2.8, **place)
