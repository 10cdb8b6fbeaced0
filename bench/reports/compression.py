"""Compression: how much smaller, cheaper and faster each student is than its own teacher.

Every ratio is of one student's run and the run of the very teacher it was distilled from, found by
its key; shown is their median over the runs where both were measured.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from bench.metrics import METRICS
from bench.reports.blocks import Block, Line
from bench.reports.notes import title_of
from bench.stats import difference
from bench.tables import DASH, Cell, Column, Row, Table, compact, points

TIMES = "\N{MULTIPLICATION SIGN}"
_COLUMNS = {
    "params": Column("params", TIMES),
    "macs": Column("MACs", f"graph {TIMES}"),
    "macs_node": Column("MACs", f"node {TIMES}", 4),
    "latency_ms": Column("time", f"graph {TIMES}"),
    "latency_node_ms": Column("time", f"node {TIMES}"),
    "inference_memory_mib": Column("memory", f"graph {TIMES}", 3),
    "energy_joules": Column("energy", f"graph {TIMES}", 2),
    "energy_modelled_joules": Column("energy", f"modelled {TIMES}", 2),
}
MEASURED = ("latency_ms", "latency_node_ms", "inference_memory_mib", "energy_joules")
LEGEND = (
    f"Compression: a student's teacher over the student ({TIMES}; above 1 the student is the "
    "smaller one), each with the very teacher it was distilled from, median over the runs where "
    "both were measured; in brackets the lowest and the highest, where there are several and they "
    "differ. accuracy: student minus teacher. memory: the model's parameters and what an inference "
    "of the whole graph adds at its peak, the graph itself apart (that of the fit is in the "
    "comparison). Modelled energy is the processor's nominal power times its load times the time: "
    "it follows latency, and nothing is ranked by it. Forms that stop at a threshold are in "
    "compression.csv alone."
)
Costs = Mapping[tuple[str, str], Mapping[str, float]]  # (key, variant) -> metric -> number


def costs_of(frame: pd.DataFrame) -> tuple[Costs, Mapping[str, str]]:
    """Return the costs of all rows by (key, variant), and the key of each row's teacher."""
    names = [name for name in _COLUMNS if name in frame]
    if frame.empty or not names or "teacher_key" not in frame:
        return {}, {}
    numbers = frame[names].apply(pd.to_numeric, errors="coerce").to_dict("records")
    places = zip(frame["key"], frame["variant"].fillna(""), strict=True)
    costs = dict(zip(places, numbers, strict=True))
    teachers = dict(zip(frame["key"], frame["teacher_key"], strict=True))
    return costs, {key: str(teacher) for key, teacher in teachers.items() if teacher}


def ratios(line: Line, costs: Costs, teachers: Mapping[str, str]) -> dict[str, list[float]]:
    """Return the ratios teacher over student of a line's runs, by metric, without the unknown."""
    found: dict[str, list[float]] = {}
    for key in line.keys.values():
        own = costs.get((key, line.variant), {})
        other = costs.get((teachers.get(key, ""), ""), {})
        for name in _COLUMNS:
            above, below = other.get(name, math.nan), own.get(name, math.nan)
            if above > 0 and below > 0:  # false for NaN
                found.setdefault(name, []).append(above / below)
    return found


def tables_of(frame: pd.DataFrame, blocks: Sequence[Block]) -> dict[int, Table]:
    """Return the tables of those blocks that have a student with a measured teacher, by place."""
    costs, teachers = costs_of(frame)
    found = ((i, _table(block, costs, teachers)) for i, block in enumerate(blocks))
    return {i: table for i, table in found if table is not None}


def _table(block: Block, costs: Costs, teachers: Mapping[str, str]) -> Table | None:
    lines = {line.id: (line, ratios(line, costs, teachers)) for line in block.lines}
    shown = [(line, found) for line, found in lines.values() if line.student and found]
    names = [name for name in _COLUMNS if any(name in found for _, found in shown)]
    if not names:
        return None
    rows = [
        Row(
            line.name,
            (_accuracy(block, line), *(_cell(name, found.get(name, [])) for name in names)),
            full_label=line.id.replace(" > ", " → "),
        )
        for line, found in shown
    ]
    columns = (Column("accuracy", "points"), *(_COLUMNS[name] for name in names))
    title = f"{title_of(block)}: compression"
    return Table(title, columns, tuple(rows), tuple(_caution(shown)), lesser=True)


def _accuracy(block: Block, line: Line) -> Cell:
    """The student minus its teacher, paired by seed."""
    teacher = block.teacher_of(line)
    runs: Mapping[Hashable, float] = teacher.runs[block.headline] if teacher else {}
    text = points(difference(line.runs[block.headline], runs))
    return Cell(text, faint=text == DASH)


def _cell(name: str, values: Sequence[float]) -> Cell:
    if not values:
        return Cell(DASH, faint=True)
    ends = [_short(v) for v in (min(values), max(values))]
    spread = f" [{ends[0]}, {ends[1]}]" if name in MEASURED and ends[0] != ends[1] else ""
    return Cell(_short(median(values)) + spread)


def _short(ratio: float) -> str:
    """Two digits are what a ratio of timings is good for."""
    return compact(float(f"{ratio:.2g}"))


def _caution(shown: Sequence[tuple[Line, dict[str, list[float]]]]) -> Iterator[str]:
    counts = {len(found[name]) for _, found in shown for name in found if name == "latency_ms"}
    if counts:
        told = " or ".join(map(str, sorted(counts)))
        yield f"Timed on {told} seed{'' if counts == {1} else 's'} of each student and its teacher."


def records(frame: pd.DataFrame, blocks: Sequence[Block]) -> Iterator[dict[str, Any]]:
    """Yield one record for each student and metric: the median, the ends and their number."""
    costs, teachers = costs_of(frame)
    for block in blocks:
        for line in block.lines:
            for name, values in ratios(line, costs, teachers).items():
                yield {
                    **dict(zip(("dataset", "split", "setting"), block.protocol, strict=True)),
                    **{"teacher": line.teacher, "student": line.student, "variant": line.variant},
                    **{"configuration": line.difference, "metric": name},
                    **{"label": METRICS[name].label, "teacher_over_student": median(values)},
                    **{"low": min(values), "high": max(values), "n": len(values)},
                }
