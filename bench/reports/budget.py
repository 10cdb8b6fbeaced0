"""What a smaller budget would have found: the expected best of n trials, and the real course."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.reports.panels import log_ticks
from bench.stats import BestOf, best_of
from bench.tuning import WHERE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL = 0.8
COLUMNS = 4  # of panels
CAPTION = (
    "Thick: the expected best mean val accuracy of n trials drawn without replacement from those "
    f"of the study, with the band that holds {100 * LEVEL:.0f} % of the draws; thin steps: the "
    "best so far in the order in which the trials ran. Trials of a guided sampler are no "
    "independent draws, and with all trials drawn there is no band. Pruned and failed trials count "
    "as draws, worth the worst complete one. Grey: the other students; curves run out of a panel "
    "below."
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


def _figure(curves: Sequence[Curve], timed: bool) -> "Figure":
    """One block of small panels for each title of `panels_of`, one panel for each student."""
    from matplotlib.figure import Figure

    found = panels_of(curves)
    rows = [math.ceil(len(own) / COLUMNS) for own in found.values()]
    heights = [0.45 + 1.75 * count for count in rows]
    columns = min(COLUMNS, max(map(len, found.values())))
    figure = Figure(figsize=(2.4 * max(2, columns), sum(heights) + 0.4), layout="constrained")
    parts = figure.subfigures(len(found), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, own), count in zip(parts, found.items(), rows, strict=True):
        part.suptitle(title.replace("\n", "  ·  "), weight="bold", fontsize=10)
        axes = part.subplots(count, columns, sharex=not timed, sharey=True, squeeze=False).flat
        for ax, curve in itertools.zip_longest(axes, own):
            ax.set_visible(curve is not None)
            if curve:
                _panel(ax, curve, own, timed)
        part.supxlabel("fit time, s, log scale" if timed else "trials", fontsize=9)
        part.supylabel("best val accuracy, %", fontsize=9)
    _legend(figure)
    return figure


def _panel(ax: "Axes", curve: Curve, curves: Sequence[Curve], timed: bool) -> None:
    """Draw one student, and the others in grey behind it."""
    import seaborn as sns
    from matplotlib.ticker import MaxNLocator

    low, high = _limits(curves)
    colour = sns.color_palette("colorblind").as_hex()[0] if curve.where["teacher"] else "#333333"
    for other in curves:
        if other is not curve:
            ax.plot(_xs(other, timed), _means(other), color="#cccccc", linewidth=0.8, zorder=1)
    under, over = ([100 * getattr(p, end) for p in curve.expected] for end in ("low", "high"))
    ax.fill_between(_xs(curve, timed), under, over, color=colour, alpha=0.15, linewidth=0)
    ax.plot(_xs(curve, timed), _means(curve), color=colour, linewidth=1.9)
    steps = [(spent if timed else i, 100 * best) for i, spent, best in curve.course]
    ax.step(*zip(*steps, strict=True), where="post", color=colour, linewidth=0.8)
    if 100 * curve.best < low:
        place: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "fontsize": 8}
        ax.annotate(f"↓ {100 * curve.best:.1f}", (0.97, 0.06), color=colour, **place)
    ax.set_title(curve.student, loc="left", fontsize=9, weight="normal")
    ax.set_ylim(low, high)
    if timed:
        ax.set_xscale("log")
        log_ticks(ax, decades=1.0)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.tick_params(labelsize=8)
    sns.despine(ax=ax)


def _xs(curve: Curve, timed: bool) -> list[float]:
    return [(curve.seconds if timed else 1) * point.n for point in curve.expected]


def _means(curve: Curve) -> list[float]:
    return [100 * point.mean for point in curve.expected]


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """The limits of a block, in percent: from the lowest first trial that is not far below.

    What lies below runs out of the panel: a small budget of poor draws, or a whole student.
    """
    floor = _floor(curves)
    shown = [curve for curve in curves if curve.best >= floor]
    first = [best for c in shown for _, _, best in c.course[:1] if best >= floor - 0.05]
    low, high = min([*first, *(c.best for c in shown)]), max(c.best for c in shown)
    edge = 0.08 * max(high - low, 0.01)
    return 100 * (low - edge), 100 * (high + edge)


def _floor(curves: Sequence[Curve]) -> float:
    """Where to cut a block: some curves end so far below the others that they would flatten them.

    They do where the widest gap between two neighbouring ends is more than 5 points and twice the
    range above it. -inf: nothing is cut.
    """
    ends = sorted(curve.best for curve in curves)
    gaps = [(high - low, i) for i, (low, high) in enumerate(itertools.pairwise(ends), 1)]
    gap, i = max(gaps, default=(0.0, 0))
    return ends[i] if gap > max(0.05, 2 * (ends[-1] - ends[i])) else -math.inf


def _legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    keys: dict[str, dict[str, Any]] = {
        "expected best of n, 80 % band": {"color": "#333333", "linewidth": 1.9},
        "best so far": {"color": "#333333", "linewidth": 0.8, "drawstyle": "steps-post"},
        "other students": {"color": "#cccccc", "linewidth": 0.8},
    }
    handles = [Line2D([], [], label=name, **look) for name, look in keys.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
