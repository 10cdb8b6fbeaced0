"""Accuracy by stratum: on which nodes a student gains, and how much against GLNN.

A stratum is a part of the scored test nodes (by degree, class size, neighbours, distance from the
train nodes); a row has the accuracy on each and how many nodes it has.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.metrics import METRICS
from bench.reports.blocks import SIZES, STRATA, Block, Line
from bench.reports.notes import title_of
from bench.reports.panels import limits_of, tell_outside, whole_forms
from bench.stats import Difference, Spread, difference, spread
from bench.tables import DASH, Cell, Column, Row, Table, percent, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASELINE = "glnn"
ENOUGH = 3  # seeds for an interval: that of two is 13 standard errors wide to either side
FEW = 50  # a part of fewer nodes moves by more than two points with each of them
HEADS = {
    "accuracy_degree_low": Column("degree", "low"),
    "accuracy_degree_middle": Column("degree", "middle"),
    "accuracy_degree_high": Column("degree", "high"),
    "accuracy_class_small": Column("classes", "small"),
    "accuracy_class_large": Column("classes", "large"),
    "accuracy_border": Column("neighbours", "border"),
    "accuracy_interior": Column("neighbours", "interior"),
    "accuracy_train_near": Column("from train", "1 hop"),
    "accuracy_train_middle": Column("from train", "2 hops"),
    "accuracy_train_far": Column("from train", "3+ hops"),
}
LEGEND = (
    "Strata are parts of the scored test nodes, told after the fit from the full graph with all "
    "its labels. degree: terciles of the scored nodes' degrees (equal degrees stay together); "
    "classes: those smaller or larger than the median class of the graph; border: some neighbour "
    "has another label, interior: none has (a node without neighbours is neither); from train: "
    "hops to the nearest train node, 3+ where no path leads to it. A part pools observed and "
    "unseen test nodes.",
    "Bold: the best mean of a column among the students, of one in stages the whole alone. "
    "Differences are paired by seed, with 95 % intervals (Student's t) from three common seeds on, "
    "not corrected for the number of comparisons.",
)
_LOOKS = (("#0173b2", "o"), ("#de8f05", "s"), ("#029e73", "^"))  # safe for the colour-blind


def shown(block: Block) -> list[str]:
    """Return the strata that some line of the block has."""
    return [name for name in STRATA if any(line.runs[name] for line in block.lines)]


def baseline_of(block: Block, line: Line) -> Line | None:
    """Return the line of GLNN with the same teacher; None for itself, or where there is none."""
    able = [x for x in block.lines if _is_baseline(x) and x.teacher == line.teacher and x.done]
    return able[0] if len(able) == 1 and line is not able[0] else None


def _is_baseline(line: Line) -> bool:
    return line.student == BASELINE and not line.variant


def gap_of(block: Block, line: Line, stratum: str) -> Difference | None:
    """Return a line's paired difference from its GLNN on a stratum; None where there is none."""
    other = baseline_of(block, line)
    if other is None:
        return None
    gap = difference(line.runs[stratum], other.runs[stratum])
    if gap.n < ENOUGH:
        gap = replace(gap, low=math.nan, high=math.nan)
    return gap if gap.n else None


# ---- tables ---------------------------------------------------------------------------------


def tables_of(block: Block) -> Iterator[Table]:
    """Yield the table of a block that has strata, and the one of the differences from GLNN."""
    names = shown(block)
    if not names:
        return
    yield _table(block, names)
    rows = [
        _row(line, [_gap(block, line, name) for name in names])
        for line in _measured(block)
        if baseline_of(block, line)
    ]
    if rows:
        title = f"{title_of(block)}: difference from GLNN of the same teacher, points"
        yield Table(title, tuple(HEADS[n] for n in names), tuple(rows), lesser=True)


def _table(block: Block, names: Sequence[str]) -> Table:
    best = {name: _best(block, name) for name in names}
    rows = [
        _row(line, [Cell(percent(spread(line.runs[n])), best=best[n] == line.id) for n in names])
        for line in _measured(block)
    ]
    alone = [i for i, line in enumerate(_measured(block)) if not line.teacher]
    if 0 < len(alone) < len(rows):  # they come last
        rows.insert(alone[0], Row("no teacher", (), heading=True))
    sizes = {name: _size(block, name) for name in names}
    cells = [Cell(f"{sizes[n]:.0f}" if sizes[n] else DASH, faint=True) for n in names]
    rows.append(Row("nodes (mean)", tuple(cells)))
    few = [_told(name) for name in names if 0 < sizes[name] < FEW]
    notes = [f"Fewer than {FEW} nodes, read with care: {', '.join(few)}."] if few else []
    title = f"{title_of(block)}: accuracy by stratum, %"
    return Table(title, tuple(HEADS[n] for n in names), tuple(rows), tuple(notes))


def _measured(block: Block) -> list[Line]:
    return [line for line in block.lines if any(line.runs[name] for name in STRATA)]


def _row(line: Line, cells: Sequence[Cell]) -> Row:
    label = line.name if line.student else f"{line.name} (teacher)"
    full = (line.id if line.student else label).replace(" > ", " → ")
    return Row(label, tuple(cells), heading=not line.student, full_label=full)


def _best(block: Block, name: str) -> str:
    """The id of the contender with the best mean, among those with the most runs."""
    spreads = {key: spread(line.runs[name]) for key, line in block.contenders.items()}
    most = max((s.n for s in spreads.values()), default=0)
    able = {key: s.mean for key, s in spreads.items() if s.n == most and most}
    return max(sorted(able), key=lambda key: able[key], default="")


def _gap(block: Block, line: Line, name: str) -> Cell:
    gap = gap_of(block, line, name)
    return Cell(points(gap)) if gap else Cell(DASH, faint=True)


def _size(block: Block, name: str) -> float:
    values = [v for line in block.lines for v in line.runs[SIZES[name]].values()]
    return sum(values) / len(values) if values else 0.0


def _told(name: str) -> str:
    return METRICS[name].label.removeprefix("accuracy, ")


def records(block: Block) -> Iterator[dict[str, Any]]:
    """Yield one record for each line and stratum, in raw fractions."""
    for line in _measured(block):
        for name in shown(block):
            value, gap = spread(line.runs[name]), gap_of(block, line, name)
            yield {
                **dict(zip(("dataset", "split", "setting"), block.protocol, strict=True)),
                **{"teacher": line.teacher, "student": line.student, "variant": line.variant},
                **{"configuration": line.difference, "metric": name, "mean": value.mean},
                **{"std": value.std, "n": value.n, "nodes": spread(line.runs[SIZES[name]]).mean},
                "difference_from_glnn": gap.mean if gap else math.nan,
                "difference_low": gap.low if gap else math.nan,
                "difference_high": gap.high if gap else math.nan,
                "pairs": gap.n if gap else 0,
            }


# ---- figures --------------------------------------------------------------------------------

Point = Spread | Difference
CAPTIONS = {
    "strata": "Accuracy by stratum: the mean over the seeds and its 95 % interval (from three "
    "seeds on). Of a student in stages: the last one.",
    "strata_difference": "Difference from GLNN of the same teacher by stratum, in points, paired "
    "by seed, with its 95 % interval (from three seeds on). Arrows: outside of the panel.",
}


def figures_of(blocks: Sequence[Block]) -> "dict[str, Figure | None]":
    """Return the figures of the accuracy on strata and of the differences from GLNN, by name."""
    able = whole_forms([block for block in blocks if shown(block)])
    compared = [b for b in able if any(baseline_of(b, line) for line in _measured(b))]
    return {
        "strata": _figure(able, _accuracy, "accuracy, %"),
        "strata_difference": _figure(compared, gap_of, "difference from GLNN, points"),
    }


def _accuracy(block: Block, line: Line, name: str) -> Spread | None:
    s = spread(line.runs[name])
    return (s if s.n >= ENOUGH else replace(s, low=math.nan, high=math.nan)) if s.n else None


def _figure(
    blocks: Sequence[Block], point_of: Callable[[Block, Line, str], Point | None], label: str
) -> "Figure | None":
    """One row of panels for each block, one panel for each family of strata."""
    from matplotlib.figure import Figure

    if not blocks:
        return None
    families = list(dict.fromkeys(METRICS[n].family for block in blocks for n in shown(block)))
    lines = [[x for x in _measured(b) if any(point_of(b, x, n) for n in shown(b))] for b in blocks]
    left = 0.25 + 0.085 * max(len(name) for own in lines for name in _names(own))
    width, height = left + 2.75 * len(families), sum(1.3 + 0.42 * len(own) for own in lines)
    figure, top = Figure(figsize=(width, height)), height
    for block, own in zip(blocks, lines, strict=True):
        tall = 0.42 * len(own)
        place = {"left": left / width, "right": 1 - 0.1 / width, "wspace": 0.1}
        place |= {"top": (top - 0.6) / height, "bottom": (top - 0.6 - tall) / height}
        grid = figure.add_gridspec(1, len(families), **place)
        head: dict[str, Any] = {"weight": "bold", "fontsize": 10, "va": "top"}
        figure.text(0.1 / width, (top - 0.1) / height, "  ·  ".join(block.protocol), **head)
        for i, family in enumerate(families):
            names = [n for n in shown(block) if METRICS[n].family == family]
            ax = figure.add_subplot(grid[i])
            ax.set_visible(bool(names) or i == 0)
            _panel(ax, {n: [point_of(block, line, n) for line in own] for n in names}, label)
            ax.set_title(family, loc="left", weight="normal")
            ax.set(yticks=range(len(own)), yticklabels=[] if i else _names(own))
            ax.set_ylim(len(own) - 0.45, -0.55)
        top -= 1.3 + tall
    return figure


def _panel(ax: "Axes", points: dict[str, list[Point | None]], label: str) -> None:
    import seaborn as sns

    step = 0.66 / max(2, len(points))
    gaps = [p for own in points.values() for p in own if isinstance(p, Difference)]
    if gaps:
        ax.axvline(0.0, color="#555555", linestyle="--", linewidth=1)
        ax.set_xlim(limits_of(gaps))
    for i, (name, values) in enumerate(points.items()):
        colour, marker = _LOOKS[i % len(_LOOKS)]
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5}
        for y, point in enumerate(values):
            at = y + step * (i - (len(points) - 1) / 2)
            if point is None or (gaps and tell_outside(ax, point, at, colour)):
                continue
            half = 0.0 if math.isnan(point.low) else 100 * (point.mean - point.low)
            ax.errorbar(100 * point.mean, at, xerr=half, capsize=2, linewidth=1.2, **look)
        ax.plot([], [], linestyle="", label=HEADS[name].unit, **look)
    ax.set(xlabel=label, ylabel="")
    ax.locator_params(axis="x", nbins=5)
    ax.grid(visible=False, axis="y")
    if any(point for values in points.values() for point in values):  # right of the title
        above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.03, 1.0)}
        above["borderaxespad"] = 0.1
        ax.legend(ncols=3, frameon=False, fontsize=8, handletextpad=0, columnspacing=0.6, **above)
    sns.despine(ax=ax, left=True)


def _names(lines: Sequence[Line]) -> list[str]:
    """Names of lines; with the teacher where there are several."""
    several = len({line.teacher for line in lines if line.teacher}) > 1
    return [
        (line.id.replace(" > ", " → ") if several else line.name)
        if line.student
        else f"{line.name} (teacher)"
        for line in lines
    ]
