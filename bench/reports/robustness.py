"""Robustness: how teachers and students hold up along an axis, and whether their order does.

A ladder is one dataset, setting and teacher at two levels or more of one axis: noise, labels per
class or imbalance, told from the names of the splits, or epochs of the teacher, told from labels
such as `sage-e5`, `sage-e100`. All else on it is equal, and runs are paired by seed. Of a student
that ships several stages the last one is shown.
"""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bench import axes
from bench.metrics import METRICS
from bench.reports import untaught
from bench.reports.blocks import Block, Line, whole_of
from bench.results import Store
from bench.stats import difference, order_agreement, spread
from bench.tables import DASH, Cell, Column, Row, Table, percent, points

FAITHFUL = "repeated_errors"
LEGEND = (
    "Robustness: levels from the easiest to the hardest. change: the hardest minus the easiest one "
    "in points, paired by seed, with its 95 % interval. order kept: Kendall's tau-b of the "
    "students' means in the table's metric with those at the easiest level (1: the same order, -1: "
    "the reverse); none below three students. errors repeated: the share of the scored test nodes "
    "that the teacher gets wrong on which a student gives the same wrong class; one that never saw "
    "the teacher shows how many that are without it."
)
_EPOCHS = re.compile(r"(.+)-e(\d+)")


@dataclass(frozen=True)
class Axis:
    """How an axis is told: its label, whether a high level is the easy one, and its scale."""

    label: str
    high_is_easy: bool = False
    log: bool = False


AXES = {
    "features": Axis("share of the features that is noise"),
    "edges": Axis("share of the edges that is random"),
    "teacher_labels": Axis("share of the teacher's train labels that is wrong"),
    "train": Axis("train nodes of each class", high_is_easy=True, log=True),
    "imbalance": Axis("train nodes, largest over smallest class", log=True),
    "epochs": Axis("epochs of the teacher", high_is_easy=True, log=True),
}


@dataclass(frozen=True)
class Rung:
    """One level: the teacher's line (None: no teacher, or it did not run), the students by name."""

    level: float
    block: Block
    teacher: Line | None
    students: Mapping[str, Line]


@dataclass(frozen=True)
class Ladder:
    """The levels of one axis, in rising order, with all else equal."""

    axis: str
    title: str  # "cpf-cora, random split, transductive, sage:glnn"
    rungs: tuple[Rung, ...]

    @property
    def by_difficulty(self) -> tuple[Rung, ...]:
        """The rungs, the easiest one first."""
        return self.rungs[::-1] if AXES[self.axis].high_is_easy else self.rungs

    @property
    def students(self) -> list[str]:
        """The names of all students on it."""
        return list(dict.fromkeys(name for rung in self.rungs for name in rung.students))

    def untaught(self, name: str) -> bool:
        """Whether a student has no teacher."""
        lines = [rung.students[name] for rung in self.rungs if name in rung.students]
        return not any(line.teacher for line in lines)

    def has(self, metric: str) -> bool:
        """Whether some student has the metric."""
        return any(x.runs.get(metric) for rung in self.rungs for x in rung.students.values())


# ---- ladders --------------------------------------------------------------------------------


def ladders(blocks: Sequence[Block], store: Store | None = None) -> list[Ladder]:
    """Return the ladders among some blocks, by axis.

    Students without a teacher get the share of each teacher's errors that they repeat all the same,
    the level with which that of its students is compared: from a store, or as the rows have it.
    """
    found = [
        ladder
        for axis in AXES
        for ladder in (_of_epochs(blocks) if axis == "epochs" else _of_splits(blocks, axis))
    ]
    found = [ladder for ladder in found if len(ladder.rungs) > 1]
    return [_with_reference(x, store) if x.has(FAITHFUL) else x for x in found]


def _with_reference(ladder: Ladder, store: Store | None) -> Ladder:
    return replace(ladder, rungs=tuple(_rung_with_reference(r, store) for r in ladder.rungs))


def _rung_with_reference(rung: Rung, store: Store | None) -> Rung:
    """Tell what students without a teacher repeat of this rung's teacher."""
    students = dict(rung.students)
    for name, line in students.items():
        if rung.teacher and not line.teacher:
            errors = line.untaught.get(rung.teacher.teacher, {})
            if store:
                errors = untaught.repeated(store, line, rung.teacher)
            students[name] = replace(line, runs={**line.runs, FAITHFUL: errors})
    return replace(rung, students=students)


def _of_splits(blocks: Sequence[Block], axis: str) -> Iterator[Ladder]:
    groups: dict[tuple[str, str, str], list[tuple[float, Block]]] = {}
    for block in blocks:
        level, rest = _apart(block.split, axis)
        if level is not None:
            groups.setdefault((block.dataset, rest, block.setting), []).append((level, block))
    for (dataset, rest, setting), members in groups.items():
        members.sort(key=lambda member: member[0])
        named = [x.teacher for _, block in members for x in block.lines if x.teacher]
        for teacher in dict.fromkeys(named) or [""]:
            rungs = [_rung(level, block, teacher) for level, block in members]
            where = ", ".join(filter(None, (dataset, f"{rest} split", setting, teacher)))
            yield Ladder(axis, where, tuple(r for r in rungs if r.teacher or r.students))


def _apart(split: str, axis: str) -> tuple[float | None, str]:
    """Take the level of an axis out of a split's name; None where it has no such axis."""
    try:
        name, levels = axes.levels_of(split)
    except ValueError:
        return None, split
    level = levels.pop(axis, None)
    # Not by `canonical_split`: without its level the rest need not be a split (imbalance above 20).
    usual = axes.USUAL
    told = [f"{k}={v:.10g}" for k, v in levels.items() if k in usual and v != usual[k]]
    noise = "+".join(f"{k}={v:g}" for k, v in levels.items() if k in axes.NOISE)
    plain = f"{name}:{','.join(told)}" if told else name
    return level, axes.shown(plain, axes.canonical_noise(noise))


def _of_epochs(blocks: Sequence[Block]) -> Iterator[Ladder]:
    for block in blocks:
        families: dict[str, list[Rung]] = {}
        for teacher in dict.fromkeys(line.teacher for line in block.lines):
            if match := _EPOCHS.fullmatch(teacher):
                rung = _rung(float(match[2]), block, teacher)
                families.setdefault(match[1], []).append(rung)
        for family, rungs in families.items():
            where = ", ".join((block.dataset, f"{block.split} split", block.setting, family))
            yield Ladder("epochs", where, tuple(sorted(rungs, key=lambda rung: rung.level)))


def _rung(level: float, block: Block, teacher: str) -> Rung:
    """One level of a teacher's ladder; students without a teacher are on all of them."""
    ran = [x for x in block.lines if x.runs[block.headline]]
    own = [x for x in ran if not x.student and x.teacher == teacher]
    mine = [x for x in ran if x.student and x.teacher in (teacher, "")]
    whole = {line.name: line for line in whole_of(mine)}
    return Rung(level, block, own[0] if own else None, whole)


# ---- tables ---------------------------------------------------------------------------------


def tables_of(found: Sequence[Ladder]) -> list[Table]:
    """Return the tables of all ladders: quality, then what of the teacher's errors is repeated."""
    tables = []
    for ladder in found:
        tables.append(_table(ladder))
        if ladder.axis == "imbalance" and ladder.has("macro_f1"):
            tables.append(_further(ladder, "macro_f1", "macro F1"))
        if ladder.has(FAITHFUL):
            tables.append(_further(ladder, FAITHFUL, "errors repeated"))
    return tables


def _table(ladder: Ladder) -> Table:
    """The metric that ranks, by level; below it how far the order of the students is kept."""
    rungs, base = ladder.by_difficulty, ladder.by_difficulty[0]
    rows = []
    teacher = [rung.teacher for rung in rungs]
    if any(teacher):
        label = next(x.teacher for x in teacher if x)
        name = "teacher" if ladder.axis == "epochs" else f"{label} (teacher)"
        rows.append(Row(name, tuple(_cells(ladder, teacher, "")), heading=True))
    for student in ladder.students:
        lines = [rung.students.get(student) for rung in rungs]
        rows.append(Row(student, tuple(_cells(ladder, lines, "", bold=True))))
    rows.append(_order(ladder))
    unit = METRICS[base.block.headline].label
    title = f"{ladder.title}: {AXES[ladder.axis].label}"
    return Table(title, _columns(rungs), tuple(rows), (f"In each cell: {unit}, %.",))


def _order(ladder: Ladder, metric: str = "") -> Row:
    """How far the order of the students is kept, by level."""
    kept = [Cell(f"{v:.2f}" if v == v else DASH, faint=v != v) for v in orders(ladder, metric)]
    return Row("order kept", (*kept, Cell("")), heading=True)


def _further(ladder: Ladder, metric: str, head: str) -> Table:
    """Another metric by level, of the teacher too where it has it."""
    rungs = ladder.by_difficulty
    rows = []
    teacher = [rung.teacher for rung in rungs]
    if any(line and line.runs.get(metric) for line in teacher):
        rows.append(Row("teacher", tuple(_cells(ladder, teacher, metric)), heading=True))
    for student in ladder.students:
        lines = [rung.students.get(student) for rung in rungs]
        if any(line and line.runs.get(metric) for line in lines):
            name = shown_as(ladder, student, metric)
            rows.append(Row(name, tuple(_cells(ladder, lines, metric))))
    if metric != FAITHFUL:
        rows.append(_order(ladder, metric))
    title = f"{ladder.title}, {AXES[ladder.axis].label}: {head}"
    return Table(title, _columns(rungs), tuple(rows), (f"In each cell: {head}, %.",), lesser=True)


def shown_as(ladder: Ladder, student: str, metric: str) -> str:
    """Return the name of a student beside a metric; among repeated errors some are a reference."""
    apart = metric == FAITHFUL and ladder.untaught(student)
    return f"{student}, never saw the teacher" if apart else student


def _columns(rungs: Sequence[Rung]) -> tuple[Column, ...]:
    levels = (Column(f"{rung.level:g}") for rung in rungs)  # a unit would read as the level's
    return (*levels, Column("change", "points"))


def _cells(
    ladder: Ladder, lines: Sequence[Line | None], metric: str, *, bold: bool = False
) -> Iterator[Cell]:
    """The means of one method by level, then the change; `metric` "": the one that ranks."""
    rungs = ladder.by_difficulty
    runs = [_runs(rung, line, metric) for rung, line in zip(rungs, lines, strict=True)]
    for rung, own, line in zip(rungs, runs, lines, strict=True):
        best = bold and line is not None and line is _best(rung)
        yield Cell(percent(spread(own)), best=best, faint=not own)
    text = points(difference(runs[-1], runs[0]))
    yield Cell(text, faint=text == DASH)


def _runs(rung: Rung, line: Line | None, metric: str) -> Mapping[Hashable, float]:
    return line.runs.get(metric or rung.block.headline, {}) if line else {}


def _best(rung: Rung) -> Line | None:
    """The student of the highest mean on a rung."""
    means = mean_of_students(rung)
    return rung.students[max(means, key=lambda name: means[name])] if means else None


def mean_of_students(rung: Rung, metric: str = "") -> dict[str, float]:
    """The means of the students that have a metric ("": the one that ranks), by name."""
    runs = {name: _runs(rung, line, metric) for name, line in rung.students.items()}
    return {name: spread(own).mean for name, own in runs.items() if own}


def orders(ladder: Ladder, metric: str = "") -> list[float]:
    """Kendall's tau of the students' order with that of the easiest level, the easiest first.

    The order is that of a metric, "" the one that ranks.
    """
    means = [mean_of_students(rung, metric) for rung in ladder.by_difficulty]
    return [order_agreement(means[0], other) for other in means]


def records(found: Sequence[Ladder]) -> Iterator[dict[str, object]]:
    """Yield one record for each ladder, level, method and metric, with raw numbers: fractions.

    `order_kept` is that of the record's own metric; repeated errors rank nobody.
    """
    for ladder in found:
        levels = [rung.level for rung in ladder.by_difficulty]
        tau = {m: dict(zip(levels, orders(ladder, m), strict=True)) for m in ("", "macro_f1")}
        for rung in ladder.rungs:
            teacher = {"": rung.teacher} if rung.teacher else {}
            for name, line in {**teacher, **rung.students}.items():
                for metric in (rung.block.headline, "macro_f1", FAITHFUL):
                    order = tau.get("" if metric == rung.block.headline else metric, {})
                    value = spread(line.runs.get(metric, {}))
                    if value.n:
                        where = {"axis": ladder.axis, "level": rung.level, "ladder": ladder.title}
                        told = {"method": name or "teacher", "metric": metric, "mean": value.mean}
                        ends = {"std": value.std, "ci_low": value.low, "ci_high": value.high}
                        kept = {"n": value.n, "order_kept": order.get(rung.level)}
                        yield {**where, **told, **ends, **kept}
