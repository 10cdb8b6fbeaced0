"""From tidy rows and a plan to blocks of lines: what a comparison shows, before any formatting.

A block is one (dataset, split, setting). A line is one method in it: a teacher, or a student of a
teacher, with its label; a student with several variants gives several lines, and two configurations
under one label are two lines, told apart by the keys in which they differ.

Of a student that ships stages `1`, `2`, ... and forms that stop early only the whole competes, its
last number: its parts are no methods of their own, and each would weaken the correction of all.
"""

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import pandas as pd

from bench.metrics import METRICS
from bench.reports.cells import (
    BLOCK,
    configurations,
    differing,
    given,
    joined,
    options_of,
    refuse_repeated,
    units,
)
from bench.stats import Verdict, against_best

QUALITY = [name for name, m in METRICS.items() if m.unit == "%" and not m.family]
COST = [name for name, m in METRICS.items() if m.unit != "%" and not m.family]
OF_TEACHER = [name for name, m in METRICS.items() if m.family == "teacher"]
_APART = ("teacher", "modelled")  # families that have their tables elsewhere
DIAGNOSTICS = [name for name, m in METRICS.items() if m.family and m.family not in _APART]
STRATA = [name for name in DIAGNOSTICS if name.startswith("accuracy_")]
SIZES = {name: name.replace("accuracy_", "nodes_", 1) for name in STRATA}  # scored nodes in each
_READ = [*QUALITY, *DIAGNOSTICS, *OF_TEACHER, *SIZES.values()]
UNTAUGHT = "repeated_errors."  # and a teacher's label: what a student without one repeats of it
FIXED_SPLITS = ("public", "official")


@dataclass(frozen=True)
class Line:
    """One method of a block: its runs and costs by metric and seed, the costs' medians, its gaps.

    `gaps` counts planned cells without a result by their reason ("missing", "failed: ...").
    """

    teacher: str
    student: str
    variant: str = ""
    difference: str = ""  # "dropout=0.3": only where one label has several configurations
    runs: Mapping[str, Mapping[Hashable, float]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    paid: Mapping[str, Mapping[Hashable, float]] = field(default_factory=dict)  # costs by seed
    changed: str = ""  # "student: lr": hyper-parameters that differ from the preset's
    knowledge: str = ""  # "output, middle": what the student is taught by; "": not told
    done: int = 0
    planned: int = 0
    gaps: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[Hashable, str] = field(default_factory=dict)  # unit -> the row's key
    untaught: Mapping[str, Mapping[Hashable, float]] = field(default_factory=dict)  # by teacher

    @property
    def name(self) -> str:
        """The method without its teacher: "glnn", "progmlp@2", "glnn [dropout=0.3]"."""
        label = self.student or self.teacher
        at = f"@{self.variant}" if self.variant else ""
        return f"{label}{at}" + (f" [{self.difference}]" if self.difference else "")

    @property
    def id(self) -> str:
        """The method with its teacher: "sage:glnn > glnn"."""
        return f"{self.teacher} > {self.name}" if self.teacher and self.student else self.name


@dataclass(frozen=True)
class Block:
    """The lines of one (dataset, split, setting), and which one is the best."""

    dataset: str
    split: str
    setting: str
    lines: tuple[Line, ...]
    headline: str  # the metric that ranks
    verdict: Verdict
    options: Mapping[str, str] = field(default_factory=dict)  # features, self_loops, ... checksum

    @property
    def protocol(self) -> tuple[str, str, str]:
        """(dataset, split, setting)."""
        return self.dataset, self.split, self.setting

    @property
    def entries(self) -> dict[str, Line]:
        """The lines in question, by id: the students; the teachers of a block of teachers."""
        return _entries(self.lines)

    @property
    def contenders(self) -> dict[str, Line]:
        """The entries that are ranked: of a student in stages the whole alone."""
        return _entries(whole_of(self.lines))

    def teacher_of(self, line: Line) -> Line | None:
        """The line of a student's teacher, where there is exactly one that ran."""
        own = [t for t in self.lines if not t.student and t.teacher == line.teacher and t.done]
        return own[0] if line.student and line.teacher and len(own) == 1 else None


def blocks(frame: pd.DataFrame, planned: Iterable[Mapping[str, Any]]) -> list[Block]:
    """Group tidy rows into blocks, in the order of the plan.

    Args:
        frame: tidy rows (`results.frame`), any subset; rows outside of the plan come after it,
            and those of tuning, which have no test accuracy, are left out.
        planned: every cell that should exist, as {key, dataset, split, setting, teacher, student,
            seed}; the labels given here win over those a row was recorded under.

    Raises:
        ValueError: two rows answer the same question, such as the rows of two folders.
    """
    cells = joined(frame, planned)
    if cells.empty:
        return []
    return [
        _block(tuple(map(str, protocol)), group)  # type: ignore[arg-type]
        for protocol, group in cells.groupby(BLOCK, sort=False)
    ]


def _block(protocol: tuple[str, str, str], group: pd.DataFrame) -> Block:
    group = group.assign(unit=units(group))
    lines = tuple(_lines(group))
    headline = _headline(protocol[2], lines)
    verdict = against_best({k: x.runs[headline] for k, x in _entries(whole_of(lines)).items()})
    return Block(*protocol, lines, headline, verdict, options_of(group))


def _entries(lines: Iterable[Line]) -> dict[str, Line]:
    every = {line.id: line for line in lines}
    return {name: line for name, line in every.items() if line.student} or every


def whole_of(lines: Iterable[Line]) -> list[Line]:
    """Keep one form of each student in stages: all of them together, its last number."""
    last: dict[tuple[str, ...], int] = {}
    lines = list(lines)
    for line in lines:
        if line.variant.isdigit():
            last[_fit(line)] = max(int(line.variant), last.get(_fit(line), 0))
    return [x for x in lines if x.variant == str(last.get(_fit(x), x.variant))]


def _fit(line: Line) -> tuple[str, str, str]:
    """What the variants of one student share."""
    return line.teacher, line.student, line.difference


def _lines(group: pd.DataFrame) -> Iterator[Line]:
    """Teachers with their students, as planned; the students without a teacher at the end."""
    teachers = [t for t in group["teacher"].unique() if t] + [""]
    for teacher in teachers:
        own = group[group["teacher"] == teacher]
        if teacher and not (own["student"] == "").any():
            yield Line(teacher, "", runs={name: {} for name in _READ})
        students = list(own["student"].unique())
        for student in sorted(students, key=lambda s: s != ""):  # the teacher's own line first
            if teacher or student:
                yield from _methods(teacher, student, own[own["student"] == student])


def _methods(teacher: str, student: str, cells: pd.DataFrame) -> Iterator[Line]:
    """The lines under one label: one for each configuration and variant."""
    ran = cells[cells["status"] != "missing"]
    absent = cells[cells["status"] == "missing"]
    configured = list(ran.groupby(configurations(ran), sort=False)) if len(ran) else []
    if len(configured) < 2:
        yield from _variants(Line(teacher, student), cells)
        return
    settings = [json.loads(str(text)) for text, _ in configured]
    keys = {k for s in settings for k in s if any(s.get(k) != other.get(k) for other in settings)}
    for config, (_, part) in zip(settings, configured, strict=True):
        yield from _variants(Line(teacher, student, difference=differing(config, keys)), part)
    if len(absent):
        yield from _variants(Line(teacher, student, difference="not run"), absent)


def _variants(line: Line, cells: pd.DataFrame) -> Iterator[Line]:
    """Fill a line for each variant; cells without a result count for all of them."""
    done = cells[cells["status"] == "ok"]
    failed = cells[cells["status"] != "ok"]
    reasons = Counter(
        f"{status}: {_first_line(reason)}" if _first_line(reason) else str(status)
        for status, reason in zip(failed["status"], failed["reason"], strict=True)
    )
    for variant in list(done["variant"].unique()) or [""]:
        mine = done[done["variant"] == variant]
        refuse_repeated(replace(line, variant=str(variant)).id, mine)
        paid = {name: _runs(mine, name) for name in COST}
        yield Line(
            line.teacher,
            line.student,
            str(variant),
            line.difference,
            runs={name: _runs(mine, name) for name in _READ},
            costs={
                name: v
                for name, runs in paid.items()
                if runs and ((v := median(runs.values())) > 0 or name != "seconds_encode")
            },
            paid=paid,
            changed=next(iter(_told_of(mine, "changed")), ""),
            knowledge=next(iter(_told_of(mine, "knowledge")), ""),
            done=len(mine),
            planned=cells["key"].nunique(),
            gaps=dict(reasons),
            keys=dict(zip(mine["unit"], mine["key"].astype(str), strict=True)),
            untaught={
                str(name).removeprefix(UNTAUGHT): _runs(mine, name)
                for name in mine
                if str(name).startswith(UNTAUGHT) and not line.teacher
            },
        )


def _runs(cells: pd.DataFrame, metric: str) -> dict[Hashable, float]:
    values = pd.to_numeric(_column(cells, metric), errors="coerce")
    return {u: float(v) for u, v in zip(cells["unit"], values, strict=True) if pd.notna(v)}


def _column(cells: pd.DataFrame, name: str) -> pd.Series:
    return cells[name] if name in cells else pd.Series([None] * len(cells), index=cells.index)


def _headline(setting: str, lines: Iterable[Line]) -> str:
    """The metric that ranks: the test accuracy, which production calls by its own name."""
    mixed = setting == "production" and any(line.runs["prod_accuracy"] for line in lines)
    return "prod_accuracy" if mixed else "test_accuracy"


def _told_of(cells: pd.DataFrame, name: str) -> list[str]:
    """The different texts of a column, without the empty one."""
    return sorted({str(v) for v in cells[name] if given(v)} - {""}) if name in cells else []


def _first_line(reason: Any) -> str:
    lines = str(reason).strip().splitlines() if isinstance(reason, str) else []
    return lines[-1] if lines and lines[0].startswith("Traceback") else lines[0] if lines else ""
