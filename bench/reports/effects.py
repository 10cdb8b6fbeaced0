"""Effects: what each student is worth against one of them, the baseline, on the same runs.

Every other student of a block is compared with the baseline of the same teacher, paired by seed:
the same split and the same teacher. A student without teacher is compared with every baseline, and
a baseline without teacher with every student.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bench.reports import overhead
from bench.reports.blocks import Block, Line
from bench.reports.notes import title_of
from bench.stats import ALPHA, MIN_PAIRS, Difference, difference, holm, paired_p, rejectable, spread
from bench.tables import DASH, Cell, Column, Row, Table, percent, points

GRID = ("student.num_experts", "student.top_k")  # rows and columns of the heat map
COLUMNS = (
    *("dataset", "split", "setting", "teacher", "student", "variant", "configuration"),
    *("baseline", "baseline_teacher", "metric", "difference", "ci_low", "ci_high"),
    *("n", "wins", "ties", "losses", "p", "p_holm"),
    *overhead.RECORDS,
)
LEGEND = (
    "Effects: a student minus the baseline in the metric that ranks, in points, paired by seed "
    "(same split, same teacher), with the 95 % interval of Student's t, each on its own; wins, "
    "ties and losses count seeds. p: two-sided Wilcoxon signed-rank test on these pairs, after "
    "Holm's correction over the comparisons with one baseline in a table; none below "
    f"{MIN_PAIRS} pairs. Of a student in stages the whole alone, its last number, is tested; its "
    "other forms have a difference and no p. Bold (* in a terminal): p < "
    f"{ALPHA:g}. Forms that stop at a threshold are in effects.csv alone. {overhead.LEGEND}"
)


@dataclass(frozen=True)
class Effect:
    """One student against its baseline: the paired difference, p and Holm's p (NaN: no test)."""

    line: Line
    base: Line
    gap: Difference
    p: float = math.nan
    adjusted: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether the difference is not one of chance, after Holm's correction."""
        return self.adjusted < ALPHA

    @property
    def training(self) -> overhead.Overhead:
        """What training costs on top of the baseline's."""
        return overhead.overhead_of(self.line, self.base, self.gap)


# ---- comparisons ----------------------------------------------------------------------------


def baselines(block: Block, name: str) -> list[Line]:
    """Return the lines of a block that are the baseline: at most one for each teacher.

    Under a label with several variants or configurations none is; `LABEL@VARIANT` names one.
    """
    able = [line for line in block.lines if line.student and line.done]
    exact = [line for line in able if line.name == name]
    found = exact or [line for line in able if line.student == name]
    teachers = [line.teacher for line in found]
    return [line for line in found if teachers.count(line.teacher) == 1]


def effects_of(block: Block, name: str) -> list[Effect]:
    """Compare every student of a block with its baseline, in the order of the block."""
    return [effect for base in baselines(block, name) for effect in _against(block, base)]


def _against(block: Block, base: Line) -> list[Effect]:
    """Compare the lines that meet this baseline; p where a test could reject something.

    Where it could nowhere, all with enough pairs have a p, and a note says so.
    """
    metric = block.headline
    found = {}
    for line in block.lines:
        meet = not base.teacher or line.teacher in ("", base.teacher)
        if not line.student or line.id == base.id or not meet:
            continue
        gap = difference(line.runs[metric], base.runs[metric])
        if gap.n:
            found[line.id] = Effect(line, base, gap)
    sizes = {key: effect.gap.n for key, effect in found.items() if _comparable(block, effect)}
    tested = rejectable(sizes) or tuple(sizes)
    p = {key: paired_p(found[key].line.runs[metric], base.runs[metric]) for key in tested}
    adjusted = holm(p)
    none = math.nan
    return [
        replace(effect, p=p.get(key, none), adjusted=adjusted.get(key, none))
        for key, effect in found.items()
    ]


def _comparable(block: Block, effect: Effect) -> bool:
    return effect.gap.n >= MIN_PAIRS and effect.line.id in block.contenders


# ---- tables ---------------------------------------------------------------------------------


def table_of(block: Block, name: str) -> Table | None:
    """Return the table of a block's effects; None where the block has no such student."""
    bases = baselines(block, name)
    if not bases and not _namesakes(block, name):
        return None
    several = len(bases) > 1
    heads = (Column("difference", "points"), Column("n"), Column("wins/ties/losses", "", 1))
    found = effects_of(block, name)
    timed = any(not math.isnan(effect.training.ratio) for effect in found)
    heads = (*heads, Column("p", "Holm"), *(overhead.COLUMNS if timed else ()))
    columns = (*((Column("against"),) if several else ()), *heads)
    rows = [_row(effect, several, timed) for effect in found]
    title = f"{title_of(block)}: effects against {name}"
    return Table(title, columns, tuple(rows), tuple(_notes(block, name, bases)), lesser=True)


def _row(effect: Effect, several: bool, timed: bool) -> Row:
    gap, line = effect.gap, effect.line
    p = Cell(DASH, faint=True) if math.isnan(effect.adjusted) else Cell(_p(effect.adjusted))
    cells = [
        *([Cell(_told(effect.base))] if several else []),
        Cell(points(gap), best=effect.significant),
        Cell(str(gap.n)),
        Cell(f"{gap.wins}/{gap.ties}/{gap.losses}"),
        p,
        *(overhead.cells_of(effect.training) if timed else []),
    ]
    return Row(_told(line) if several else line.name, tuple(cells), full_label=_told(line))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _told(line: Line) -> str:
    return line.id.replace(" > ", " → ")


def _notes(block: Block, name: str, bases: Sequence[Line]) -> Iterator[str]:
    if not bases:
        names = list(dict.fromkeys(line.name for line in _namesakes(block, name) if line.done))
        able = f"; it could be one of {', '.join(names)}" if names else ""
        yield f"No run is the baseline {name}{able}."
    for base in bases:
        score = percent(spread(base.runs[block.headline]))
        effects = _against(block, base)
        yield f"Baseline {_told(base)}: {score} %. {_power(block, effects)}".rstrip()


def _namesakes(block: Block, name: str) -> list[Line]:
    """The lines under the baseline's label, whatever variant or configuration it names."""
    labels = (name, name.rpartition("@")[0])
    return [line for line in block.lines if line.student and line.student in labels]


def _power(block: Block, effects: Sequence[Effect]) -> str:
    """Say why there can be no significant difference, where there cannot."""
    tested = [effect.gap.n for effect in effects if not math.isnan(effect.p)]
    if not effects:
        return "Nothing to compare it with."
    if not tested:
        return f"No p-values: fewer than {MIN_PAIRS} common seeds."
    if len(tested) * 2.0 ** (1 - max(tested)) >= ALPHA:
        return (
            f"{max(tested)} seeds cannot reach p < {ALPHA:g} after Holm's correction over "
            f"{len(tested)} comparisons."
        )
    left = [e.gap.n for e in effects if math.isnan(e.p) and _comparable(block, e)]
    if left:
        return (
            f"No p-values up to {max(left)} common seeds: they cannot reach p < {ALPHA:g} after "
            "Holm's correction."
        )
    return ""


def write_csv(blocks: Sequence[Block], names: Sequence[str], out: Path) -> Path:
    """Write effects.csv into the folder `out`: `records` of each baseline, one line each."""
    path = out / "effects.csv"
    found = [record for name in names for record in records(blocks, name)]
    pd.DataFrame(found, columns=COLUMNS).to_csv(path, index=False)
    return path


def records(blocks: Iterable[Block], name: str) -> Iterator[dict[str, Any]]:
    """Yield one record for each comparison, with raw numbers: fractions."""
    for block in blocks:
        for effect in effects_of(block, name):
            line, base, gap = effect.line, effect.base, effect.gap
            asked = (line.teacher, line.student, line.variant, line.difference)
            against = (base.name, base.teacher, block.headline)
            interval = (gap.mean, gap.low, gap.high, gap.n)
            counts = (gap.wins, gap.ties, gap.losses, effect.p, effect.adjusted)
            costs = (effect.training.ratio, effect.training.points_per_second)
            values = (*block.protocol, *asked, *against, *interval, *counts, *costs)
            yield dict(zip(COLUMNS, values, strict=True))


# ---- a grid of configurations ---------------------------------------------------------------


def experts_grid(
    frame: pd.DataFrame, block: Block, base: Line
) -> dict[tuple[int, int], Effect | None] | None:
    """Return the effects of the lines that differ from the baseline in nothing but GRID.

    Args:
        frame: tidy rows, for the configurations.
        block: where the baseline is.
        base: the baseline; itself it is None in the grid.

    Returns:
        (num_experts, top_k) -> effect; None where fewer than two values of each were run.
    """
    configs = frame.drop_duplicates("key").set_index("key").filter(regex=r"^student\.")
    own = _config(configs, base)
    if not own.keys() >= set(GRID):
        return None
    found: dict[tuple[int, int], Effect | None] = {_place(own): None}
    for effect in _against(block, base):
        config = _config(configs, effect.line)
        alike = config.keys() == own.keys() and _others(config) == _others(own)
        if alike and effect.line.teacher == base.teacher:
            found[_place(config)] = effect
    values = [{place[axis] for place in found} for axis in (0, 1)]
    return found if min(map(len, values)) > 1 else None


def _config(configs: pd.DataFrame, line: Line) -> dict[str, Any]:
    """The student's configuration, and its variant: what two lines of a method differ in."""
    config = configs.loc[next(iter(line.keys.values()))].dropna()
    return {**{str(name): value for name, value in config.items()}, "variant": line.variant}


def _others(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in GRID}


def _place(config: Mapping[str, Any]) -> tuple[int, int]:
    experts, chosen = (int(config[name]) for name in GRID)
    return experts, min(chosen, experts)  # a top k above the number of experts is all of them
