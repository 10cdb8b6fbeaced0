"""Grids of panels, one for each block, and what all figures share: colours, cuts, the legend."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.metrics import METRICS
from bench.reports.blocks import Block, Line, whole_of
from bench.stats import Difference, Spread, spread
from bench.tables import compact, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NONE = "no teacher"
GREY = "#707070"
WIDTH = 4.3  # of a panel, in inches
WIDE = 46  # characters of a title that a panel has room for
THRESHOLD = re.compile(r"([a-z]+)(\d*\.?\d+)")  # a variant with one: node0.9, exit0.3


def without_thresholds(blocks: Sequence[Block], baseline: str = "") -> list[Block]:
    """Leave out variants with a threshold: they are points of a curve, in the figures of stages."""

    def shown(line: Line) -> bool:
        return line.name == baseline or not THRESHOLD.fullmatch(line.variant)

    return [dataclasses.replace(b, lines=tuple(filter(shown, b.lines))) for b in blocks]


def grid_of(
    blocks: Sequence[Block], height: float, columns: int = 0, width: float = WIDTH
) -> tuple["Figure", list["Axes"]]:
    """Make a grid with one panel for each block, `columns` (0: at most three) in a row."""
    titles = [f"{block.dataset}  ·  {block.split}  ·  {block.setting}" for block in blocks]
    return grid(titles, height, columns, width)


def grid(
    titles: Sequence[str], height: float, columns: int = 0, width: float = WIDTH
) -> tuple["Figure", list["Axes"]]:
    """Make a grid with one panel for each title, `columns` (0: at most three) in a row."""
    from matplotlib.figure import Figure

    columns = columns or min(len(titles), 2 if len(titles) in (2, 4) else 3)
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.08)  # type: ignore[union-attr, call-arg]
    places = [ax for line in figure.subplots(rows, columns, squeeze=False) for ax in line]
    for ax in places[len(titles) :]:
        ax.set_visible(False)
    for ax, title in zip(places, titles, strict=False):
        ax.set_title(title if len(title) <= WIDE else title.replace("  ·  ", "\n", 1), loc="left")
    return figure, places[: len(titles)]


def whole_forms(blocks: Sequence[Block]) -> list[Block]:
    """Keep one form of a student in stages: all of them together, its last number."""
    return [dataclasses.replace(b, lines=tuple(whole_of(b.lines))) for b in blocks]


def floor_of(block: Block, lines: Sequence[Line]) -> float:
    """Where to cut a panel: below it lie a few methods so far off that they would flatten the rest.

    They do where the widest gap between two neighbouring means is more than 5 points and twice the
    range above it, with at least two methods above and fewer below. -inf: nothing is cut.
    """
    means = sorted(spread(line.runs[block.headline]).mean for line in lines)
    gaps = [(high - low, i) for i, (low, high) in enumerate(itertools.pairwise(means), start=1)]
    gap, i = max(gaps, default=(0.0, 0))
    above = means[i:]
    if len(above) < max(2, i + 1) or gap <= max(0.05, 2 * (above[-1] - above[0])):
        return -math.inf
    kept = [x.runs[block.headline].values() for x in lines if mean_of(block, x) >= above[0]]
    return min(min(values) for values in kept) - 0.01


def limits_of(gaps: Sequence[Difference], others: Iterable[float] = ()) -> tuple[float, float]:
    """The limits of a panel of differences, in points: zero, all intervals, all others.

    Where some intervals reach far beyond most of them, the panel ends at three times the median of
    what they reach, so that a few do not flatten the rest.
    """
    ends = [end for gap in gaps for end in _ends(gap)]
    reach = 3 * median([max(map(abs, _ends(gap))) for gap in gaps]) if gaps else 0.0
    reach = max(0.01, reach)
    low = max(-reach, min([0.0, *ends, *others]))
    high = min(reach, max([0.0, *ends, *others]))
    edge = 0.06 * (high - low or reach)
    return 100 * (low - edge), 100 * (high + edge)


def _ends(gap: Difference) -> tuple[float, float]:
    return (gap.mean, gap.mean) if math.isnan(gap.low) else (gap.low, gap.high)


def tell_outside(ax: "Axes", gap: Difference | Spread, y: float, colour: str) -> bool:
    """Write a difference whose mean is outside of its panel at the edge; return whether it is."""
    low, high = ax.get_xlim()
    if low <= 100 * gap.mean <= high:
        return False
    side, text = (0.01, f"← {points(gap)}") if 100 * gap.mean < low else (0.99, f"{points(gap)} →")
    place: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "va": "center"}
    place |= {"ha": "left" if side < 0.5 else "right", "fontsize": 8, "color": colour}
    place |= {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.0}}  # over the zero line
    ax.annotate(text, (side, y), **place)
    return True


def mean_of(block: Block, line: Line) -> float:
    """The mean of a line's runs in the metric that ranks."""
    return spread(line.runs[block.headline]).mean


def colours_of(blocks: Sequence[Block]) -> dict[str, str]:
    """Give every teacher one colour over all panels; students without one are grey."""
    teachers = list(dict.fromkeys(x.teacher for block in blocks for x in block.lines if x.teacher))
    return {**dict(zip(teachers, palette_of(len(teachers)), strict=True)), NONE: GREY}


def palette_of(count: int) -> list[str]:
    """Return so many different colours: the ten that can be told apart best, then darker ones."""
    import seaborn as sns
    from matplotlib.colors import to_hex

    colours = sns.color_palette("colorblind")
    tones = [(colours[i % len(colours)], 0.6 ** (i // len(colours))) for i in range(count)]
    return [to_hex((tone * r, tone * g, tone * b)) for (r, g, b), tone in tones]


def label_of(block: Block) -> str:
    """The axis label of the metric that ranks."""
    label = METRICS[block.headline].label
    return f"{label}, %" if "accuracy" in label else f"accuracy ({label}), %"


def log_ticks(ax: "Axes", decades: float = 2.5) -> None:
    """Plain numbers at 1, 2, 5 of every decade, or at the decades of an axis longer than that."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    steps = (1.0, 2.0, 5.0) if high / low < 10**decades else (1.0,)
    ax.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())


def legend(figure: "Figure", colours: dict[str, str], others: dict[str, dict[str, Any]]) -> None:
    """Put one legend below all panels."""
    from matplotlib.lines import Line2D

    keys: dict[str, dict[str, Any]] = {
        name: {"marker": "o", "linestyle": "", "color": colour} for name, colour in colours.items()
    }
    handles = [Line2D([], [], label=k, **look) for k, look in {**keys, **others}.items()]
    below(figure, handles)


def below(figure: "Figure", handles: list[Any]) -> None:
    """Put a legend below all panels, in as many columns as the figure has room for, or 8 inches."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    width = 0.6 + 0.065 * longest  # inches of a column: the key, then letters of 8.5 points
    columns = max(1, min(6, len(handles), int(max(figure.get_figwidth(), 8.0) / width)))
    place: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 8.5}
    figure.legend(handles=handles, ncols=columns, **place)
