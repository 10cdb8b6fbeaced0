"""What a smaller budget would have found: the expected best of n trials, and the real course."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.reports.panels import GREY, grid
from bench.stats import BestOf, best_of
from bench.tuning import WHERE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVEL = 0.8
CAPTION = (
    "Thick: the expected best mean val accuracy of n trials drawn without replacement from those "
    f"of the study, with the band that holds {100 * LEVEL:.0f} % of the draws; thin steps: the "
    "best so far in the order in which the trials ran. Trials of a guided sampler are no "
    "independent draws, and with all trials drawn there is no band. Pruned and failed trials count "
    "as draws, worth the worst complete one."
)

Study = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """What a study found with n = 1 ... N trials; accuracies are fractions."""

    where: Mapping[str, str]
    expected: tuple[BestOf, ...]
    seconds: float  # of a trial, the mean
    course: tuple[tuple[int, float, float], ...]  # trials, seconds and best so far, in order

    @property
    def student(self) -> str:
        """The student's label."""
        return self.where["student"]

    @property
    def best(self) -> float:
        """The best of all trials."""
        return self.expected[-1].mean


def curve_of(study: Study) -> Curve | None:
    """Return the curve of a study; None where no trial was completed."""
    trials = study["trials"]
    complete = [t["val_accuracy"] for t in trials if t["state"] == "complete"]
    if not complete:
        return None
    worst = min(complete)
    values = [t["val_accuracy"] if t["state"] == "complete" else worst for t in trials]
    course, spent, best = [], 0.0, -math.inf
    for i, trial in enumerate(trials, start=1):
        spent += trial["seconds"]
        if trial["state"] == "complete":
            best = max(best, trial["val_accuracy"])
        if math.isfinite(best):
            course.append((i, spent, best))
    where = {name: study["where"][name] for name in WHERE}
    return Curve(where, tuple(best_of(values, LEVEL)), spent / len(trials), tuple(course))


def frame(studies: Sequence[Study]) -> pd.DataFrame:
    """Return the curves as a table, one line for each study and n: fractions and seconds."""
    records = []
    for curve in filter(None, map(curve_of, studies)):
        so_far = {i: best for i, _, best in curve.course}
        records += [
            {
                **curve.where,
                "n": point.n,
                "seconds": point.n * curve.seconds,
                "expected_best": point.mean,
                "low": point.low,
                "high": point.high,
                "best_so_far": so_far.get(point.n),
            }
            for point in curve.expected
        ]
    return pd.DataFrame(records)


# ---- figures --------------------------------------------------------------------------------


def draw(studies: Sequence[Study], out: Path) -> list[Path]:
    """Write the curves against trials and against seconds, as PNG and SVG; return the files."""
    from bench.reports import figures

    curves = [c for c in map(curve_of, studies) if c and len(c.expected) > 1]
    if not curves:
        return []
    paths = []
    with figures.style():
        for name, timed in (("best_of_trials", False), ("best_of_seconds", True)):
            paths += figures.save(_figure(curves, timed), out / name)
    return paths


def panels_of(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Sort curves into panels by title; students without a teacher go with every teacher."""
    places: dict[tuple[str, ...], list[Curve]] = {}
    for curve in curves:
        places.setdefault(tuple(curve.where[name] for name in WHERE[:3]), []).append(curve)
    found = {}
    for place, own in places.items():
        teachers = list(dict.fromkeys(c.where["teacher"] for c in own if c.where["teacher"]))
        for teacher in teachers or [""]:
            title = f"{place[0]}\n" + "  ·  ".join(filter(None, (*place[1:], teacher)))
            found[title] = [c for c in own if c.where["teacher"] in (teacher, "")]
    return found


def _figure(curves: Sequence[Curve], timed: bool) -> Any:
    panels = panels_of(curves)
    colours = _colours(curves)
    figure, axes = grid(list(panels), height=3.1)
    for ax, own in zip(axes, panels.values(), strict=True):
        _panel(ax, own, colours, timed)
    _legend(figure, colours)
    return figure


def _colours(curves: Sequence[Curve]) -> dict[str, str]:
    """One colour for each student; those without a teacher are grey where others have one."""
    import seaborn as sns

    taught = list(dict.fromkeys(c.student for c in curves if c.where["teacher"]))
    others = list(dict.fromkeys(c.student for c in curves if c.student not in taught))
    grey = others if taught and len(others) == 1 else []
    names = [*taught, *(name for name in others if name not in grey)]
    palette = sns.color_palette("colorblind" if len(names) < 11 else "husl", len(names)).as_hex()
    return {**dict(zip(names, palette, strict=True)), **dict.fromkeys(grey, GREY)}


def _panel(ax: "Axes", curves: Sequence[Curve], colours: Mapping[str, str], timed: bool) -> None:
    import seaborn as sns
    from matplotlib.ticker import MaxNLocator

    floor = _floor(curves)
    for curve in curves:
        colour = colours[curve.student]
        scale = curve.seconds if timed else 1
        if curve.best < floor:
            continue
        xs = [scale * point.n for point in curve.expected]
        low, high = ([100 * getattr(p, k) for p in curve.expected] for k in ("low", "high"))
        ax.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0)
        ax.plot(xs, [100 * p.mean for p in curve.expected], color=colour, linewidth=1.9)
        steps = [(spent if timed else i, 100 * best) for i, spent, best in curve.course]
        ax.step(*zip(*steps, strict=True), where="post", color=colour, linewidth=0.8)
    _tell_cut(ax, [c for c in curves if c.best < floor], colours)
    ax.set(xlabel="fit time, s" if timed else "trials", ylabel="best val accuracy, %")
    if timed:
        ax.set_xlim(left=0)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(ax=ax)


def _floor(curves: Sequence[Curve]) -> float:
    """Where to cut a panel: some curves end so far below the others that they would flatten them.

    They do where the widest gap between two neighbouring ends is more than 5 points and twice the
    range above it. -inf: nothing is cut.
    """
    ends = sorted(curve.best for curve in curves)
    gaps = [(high - low, i) for i, (low, high) in enumerate(itertools.pairwise(ends), 1)]
    gap, i = max(gaps, default=(0.0, 0))
    return ends[i] if gap > max(0.05, 2 * (ends[-1] - ends[i])) else -math.inf


def _tell_cut(ax: "Axes", curves: Sequence[Curve], colours: Mapping[str, str]) -> None:
    """Name the students below the panel, with the best of all trials."""
    for i, curve in enumerate(curves):
        text = f"↓ {curve.student} {100 * curve.best:.1f}"
        place: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "fontsize": 8.5}
        ax.annotate(text, (0.99, 0.03 + 0.09 * i), color=colours[curve.student], **place)


def _legend(figure: Any, colours: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    keys: dict[str, dict[str, Any]] = {
        **{name: {"color": colour, "linewidth": 1.9} for name, colour in colours.items()},
        "expected best of n, 80 % band": {"color": "#333333", "linewidth": 1.9},
        "best so far": {"color": "#333333", "linewidth": 0.8, "drawstyle": "steps-post"},
    }
    handles = [Line2D([], [], label=name, **look) for name, look in keys.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
