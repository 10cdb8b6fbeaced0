"""Figures of effects: a forest plot, and a heat map where configurations form a grid."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.reports import pareto
from bench.reports.blocks import Block, Line
from bench.reports.effects import Effect, baselines, effects_of, experts_grid
from bench.reports.figures import save, style
from bench.reports.panels import (
    NONE,
    colours_of,
    grid_of,
    label_of,
    legend,
    limits_of,
    tell_outside,
    whole_forms,
)
from bench.stats import Difference, paired
from bench.tables import MINUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BUDGETS = ("params", "macs")
MANY = 40  # lines of a panel
CAPTIONS = {
    "effects": "Each student minus the baseline: every seed, the mean and its 95 % interval. "
    "Dashed: no difference. Arrows: outside of the panel. Hollow: no teacher.",
    "effects_grid": "Mean difference from the baseline by number of experts and top k, in points, "
    "with its 95 % interval; nothing else in the configuration differs. Coloured where that "
    "interval is off zero.",
    "effects_budget": "Accuracy against the number of parameters and against multiply-accumulates "
    "of the whole graph, those of experts that are chosen. Grey line: nothing cheaper is more "
    "accurate. Bars: 95 % intervals.",
}


def draw(frame: pd.DataFrame, blocks: Sequence[Block], baseline: str, out: Path) -> list[Path]:
    """Write every figure that has something to show, as PNG and SVG; return the files."""
    with style():
        found = list(figures_of(frame, blocks, baseline))
        return [path for name, figure in found for path in save(figure, out / name)]


def figures_of(
    frame: pd.DataFrame, blocks: Sequence[Block], baseline: str
) -> Iterator[tuple[str, "Figure"]]:
    """Yield the figures that have something to show, by stem: those of CAPTIONS."""
    compared = [block for block in blocks if effects_of(block, baseline)]
    if compared:
        yield "effects", _forest(compared, baseline)
    grids = [
        (block, base, found)
        for block in compared
        for base in baselines(block, baseline)
        if (found := experts_grid(frame, block, base))
    ]
    if grids:
        yield "effects_grid", _grids(grids)
    sized = [b for b in compared if all(len(pareto.costed(b, cost)) > 1 for cost in BUDGETS)]
    figure = pareto.figure_of_several(sized, BUDGETS)
    if figure:
        yield "effects_budget", figure


# ---- forest ---------------------------------------------------------------------------------


def _forest(blocks: Sequence[Block], baseline: str) -> "Figure":
    """One panel a block, students from above as in the sweep, colours by teacher.

    Where there are more than `MANY` lines, a student in stages has one: the whole.
    """
    whole = whole_forms(blocks)
    if _most(blocks, baseline) > MANY and all(effects_of(block, baseline) for block in whole):
        blocks = whole
    colours, most = colours_of(blocks), _most(blocks, baseline)
    figure, panels = grid_of(blocks, height=1.2 + 0.3 * most)
    for ax, block in zip(panels, blocks, strict=True):
        _forest_panel(ax, block, baseline, colours)
    shown = {_teacher(effect) for block in blocks for effect in effects_of(block, baseline)}
    legend(figure, {name: colour for name, colour in colours.items() if name in shown}, {})
    return figure


def _most(blocks: Sequence[Block], baseline: str) -> int:
    """The most lines of a panel."""
    return max(len(_names(effects_of(block, baseline))) for block in blocks)


def _names(effects: Sequence[Effect]) -> list[str]:
    return list(dict.fromkeys(effect.line.name for effect in effects))


def _teacher(effect: Effect) -> str:
    return effect.line.teacher or effect.base.teacher or NONE


def _forest_panel(ax: "Axes", block: Block, baseline: str, colours: Mapping[str, str]) -> None:
    import seaborn as sns

    effects = effects_of(block, baseline)
    names = _names(effects)
    bands = {name: sum(e.line.name == name for e in effects) for name in names}
    step = 0.8 / max(2, *bands.values())
    drawn: dict[str, int] = dict.fromkeys(names, 0)
    dots = [gap for effect in effects for gap in _gaps(block, effect)]
    ax.set_xlim(limits_of([effect.gap for effect in effects], dots))
    ax.axvline(0.0, color="#555555", linestyle="--", linewidth=1)
    for effect in effects:
        name, colour = effect.line.name, colours[_teacher(effect)]
        y = names.index(name) + step * (drawn[name] - (bands[name] - 1) / 2)
        drawn[name] += 1
        if not tell_outside(ax, effect.gap, y, colour):
            _bar(ax, block, effect, (y, step), colour)
    metric = label_of(block).replace(", %", "")
    ax.set(xlabel=f"{metric}: difference from {baseline}, points", ylabel="")
    ax.set(yticks=range(len(names)), yticklabels=names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.grid(visible=False, axis="y")
    sns.despine(ax=ax, left=True)


def _bar(ax: "Axes", block: Block, effect: Effect, place: tuple[float, float], colour: str) -> None:
    """Every seed as a faint dot, the mean and its interval above them."""
    y, step = place
    gaps = 100 * _gaps(block, effect)
    ax.scatter(gaps, [y + 0.28 * step] * len(gaps), color=colour, s=11, alpha=0.4, linewidths=0)
    gap = effect.gap
    half = 0.0 if math.isnan(gap.low) else 100 * (gap.high - gap.mean)
    look: dict[str, Any] = {"marker": "o", "markersize": 5, "linewidth": 1.4, "capsize": 2.5}
    hollow = {"markerfacecolor": "white", "markeredgecolor": colour}
    look |= {"markeredgecolor": "white"} if effect.line.teacher else hollow
    ax.errorbar(100 * gap.mean, y - 0.1 * step, xerr=half, color=colour, **look)


def _gaps(block: Block, effect: Effect) -> np.ndarray:
    return paired(effect.line.runs[block.headline], effect.base.runs[block.headline])


# ---- heat map -------------------------------------------------------------------------------

Grid = Mapping[tuple[int, int], Effect | None]


def _grids(grids: Sequence[tuple[Block, Line, Grid]]) -> "Figure":
    """One panel a grid: rows are numbers of experts, columns top k; one scale of colours."""
    rows = max(len({experts for experts, _ in found}) for *_, found in grids)
    figure, panels = grid_of([block for block, *_ in grids], height=1.3 + 0.52 * rows)
    means = [effect.gap.mean for *_, found in grids for effect in found.values() if effect]
    limit = 100 * max(map(abs, means), default=0.0) or 1.0
    shown = [block for block, *_ in grids]
    for ax, (block, base, found) in zip(panels, grids, strict=True):
        _grid_panel(ax, found, limit)
        if shown.count(block) > 1:
            ax.set_title(f"{block.dataset}  ·  {block.setting}  ·  {base.teacher}", loc="left")
    return figure


def _grid_panel(ax: "Axes", found: Grid, limit: float) -> None:
    import seaborn as sns

    columns = [*sorted({k for experts, k in found if k < experts}), math.inf]
    rows = sorted({experts for experts, _ in found})
    values = pd.DataFrame(math.nan, rows, columns)
    texts = pd.DataFrame("", rows, columns)
    for (experts, k), effect in found.items():
        colour = 100 * effect.gap.mean if effect and _off_zero(effect) else 0.0
        for column in {k, math.inf if k == experts else k} & set(columns):
            values.loc[experts, column] = colour
            texts.loc[experts, column] = _told(effect.gap) if effect else "baseline"
    ax.set_facecolor("#eeeeee")
    ax.grid(visible=False)
    sns.heatmap(
        values,
        annot=texts,
        fmt="",
        cmap="vlag_r",
        vmin=-limit,
        vmax=limit,
        annot_kws={"fontsize": 7.5},
        cbar_kws={"label": "difference, points"},
        linewidths=1,
        ax=ax,
    )
    ax.set(xlabel="top k", ylabel="experts")
    ax.set_xticklabels(["all" if k == math.inf else f"{k:.0f}" for k in columns])
    ax.tick_params(axis="y", rotation=0)


def _off_zero(effect: Effect) -> bool:
    return effect.gap.low > 0 or effect.gap.high < 0


def _told(gap: Difference) -> str:
    """The mean and the half width of the interval, in points, on two lines."""
    mean = f"{100 * gap.mean:+.2f}".replace("-", MINUS)
    return mean if math.isnan(gap.low) else f"{mean}\n±{100 * (gap.high - gap.mean):.2f}"
