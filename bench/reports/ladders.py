"""Figures of robustness: a curve for every student over the levels of an axis."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.metrics import METRICS
from bench.reports import figures
from bench.reports.blocks import Line
from bench.reports.panels import GREY, below, grid, label_of, palette_of
from bench.reports.robustness import AXES, FAITHFUL, Ladder, Rung, shown_as
from bench.stats import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTIONS = {
    "robustness": "Accuracy over the levels of each axis; bands: 95 % intervals over seeds, from "
    "three on. Grey: the teacher.",
    "robustness_f1": "Macro F1 over the imbalance of the train nodes; bands: 95 % intervals over "
    "seeds. Grey: the teacher.",
    "robustness_errors": "Of the test nodes that the teacher gets wrong, the share on which a "
    "student gives the same wrong class; dotted: one that never saw the teacher. Bands: 95 % "
    "intervals over seeds.",
}
ENOUGH = 3  # seeds for a band: the interval of two is 13 standard errors wide to either side
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_METRICS = {"robustness": "", "robustness_f1": "macro_f1", "robustness_errors": FAITHFUL}


def draw(found: Sequence[Ladder], out: Path) -> list[Path]:
    """Write the figures of some ladders that have something to show; return the files."""
    files: list[Path] = []
    with figures.style():
        for stem, metric in _METRICS.items():
            shown = [ladder for ladder in found if _shows(ladder, metric)]
            if shown:
                files += figures.save(_figure(shown, metric), out / stem)
    return files


def _shows(ladder: Ladder, metric: str) -> bool:
    if metric == "macro_f1" and ladder.axis != "imbalance":
        return False
    return not metric or ladder.has(metric)


def _figure(shown: Sequence[Ladder], metric: str) -> "Figure":
    """One panel for each ladder; a student has one colour and marker in all of them."""
    looks = _looks(list(dict.fromkeys(name for ladder in shown for name in ladder.students)))
    several = len({ladder.title for ladder in shown}) > 1
    titles = [ladder.title.replace(", ", "  ·  ") if several else "" for ladder in shown]
    figure, panels = grid(titles, height=3.4)
    if not several:
        figure.suptitle(shown[0].title.replace(", ", "  ·  "), fontsize=10, fontweight="bold")
    for ax, ladder in zip(panels, shown, strict=True):
        _panel(ax, ladder, metric, looks)
    keys = {
        shown_as(ladder, name, metric): _look(ladder, name, metric, looks)
        for name in looks
        for ladder in shown
        if name in ladder.students and _has(ladder, name, metric)
    }
    _legend(figure, keys, teacher=metric != FAITHFUL)
    return figure


def _has(ladder: Ladder, name: str, metric: str) -> bool:
    lines = [(rung, rung.students[name]) for rung in ladder.rungs if name in rung.students]
    return any(line.runs.get(metric or rung.block.headline) for rung, line in lines)


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give every student a colour and a marker; where colours begin again, markers are shifted."""
    count = len(_MARKERS)
    places = [(i + i // count) % count for i in range(len(names))]
    return {
        name: {"color": colour, "marker": _MARKERS[place]}
        for name, colour, place in zip(names, palette_of(len(names)), places, strict=True)
    }


def _look(ladder: Ladder, name: str, metric: str, looks: dict[str, Any]) -> dict[str, Any]:
    """The colour and marker of a student; dotted where it is a reference."""
    apart = shown_as(ladder, name, metric) != name
    return {**looks[name], **({"linestyle": ":"} if apart else {})}


def _panel(ax: "Axes", ladder: Ladder, metric: str, looks: dict[str, dict[str, Any]]) -> None:
    import seaborn as sns

    axis = AXES[ladder.axis]
    for name in ladder.students:
        lines = [(rung, rung.students[name]) for rung in ladder.rungs if name in rung.students]
        look = _look(ladder, name, metric, looks)
        _curve(ax, lines, metric, {**look, "markersize": 4.5, "linewidth": 1.6})
    if metric != FAITHFUL:
        lines = [(rung, rung.teacher) for rung in ladder.rungs if rung.teacher]
        _curve(ax, lines, metric, {"color": GREY, "linestyle": "--", "linewidth": 1.4})
    if axis.log:
        ax.set_xscale("log")
    levels = [rung.level for rung in ladder.rungs]
    ax.set_xticks(levels, [f"{level:g}" for level in levels])
    ax.set_xticks([], minor=True)
    block = ladder.rungs[0].block
    ax.set(xlabel=axis.label, ylabel=f"{METRICS[metric].label}, %" if metric else label_of(block))
    sns.despine(ax=ax)


def _curve(
    ax: "Axes", lines: Sequence[tuple[Rung, Line]], metric: str, look: dict[str, Any]
) -> None:
    """The means of one method and their band."""
    found = [
        (rung.level, spread(runs))
        for rung, line in lines
        if (runs := line.runs.get(metric or rung.block.headline))
    ]
    if not found:
        return
    x = [level for level, _ in found]
    if all(s.n >= ENOUGH for _, s in found):
        low, high = [100 * s.low for _, s in found], [100 * s.high for _, s in found]
        ax.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
    ax.plot(x, [100 * s.mean for _, s in found], **look)


def _legend(figure: "Figure", looks: dict[str, dict[str, Any]], *, teacher: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    if teacher:
        handles.append(Line2D([], [], label="teacher", color=GREY, linestyle="--"))
    below(figure, handles)
