"""Students by what they are taught by: labels, the output, hidden states, relations, themselves.

The kinds of knowledge are those of the survey of Liu et al., arXiv 2302.14643; a row tells its own.
There is a table only where some student is taught by hidden states, by relations alone or by
itself: what compares soft labels with soft labels does without.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bench.reports.blocks import Block, Line
from bench.reports.notes import title_of
from bench.stats import spread
from bench.tables import DASH, Cell, Column, Row, Table, compact, percent

KINDS = {  # in the order of the table
    "labels": "labels alone",
    "output": "output: soft labels",
    "middle": "middle: hidden states and local structure",
    "constructed": "constructed: relations among samples",
    "self": "self: no teacher",
}
_QUALITY = {"macro_f1": Column("macro F1", "%"), "agreement": Column("agreement", "%")}
_COSTS = {
    "macs": Column("MACs", "graph"),
    "latency_ms": Column("ms", "graph"),
    "train_seconds": Column("fit", "s"),
}
LEGEND = (
    "kinds of knowledge: what a student is taught by, beside labels where its configuration has "
    "them; a mixture stands under all of its kinds together. Percent as above; MACs, latency and "
    "seconds of the fit are medians."
)


def groups(block: Block) -> dict[tuple[str, ...], list[Line]]:
    """Return the students of a block that ran, by their kinds, in the order of KINDS.

    Kinds stand alone before they stand together. Students whose rows do not tell are left out.
    """
    found: dict[tuple[str, ...], list[Line]] = {}
    for line in block.lines:
        if line.student and line.knowledge and line.runs.get(block.headline):
            found.setdefault(tuple(line.knowledge.split(", ")), []).append(line)
    order = list(KINDS)

    def place(kinds: tuple[str, ...]) -> tuple[bool, int, list[int]]:
        own = [order.index(kind) if kind in order else len(order) for kind in kinds]
        return kinds == ("self",), len(kinds), own

    return dict(sorted(found.items(), key=lambda item: place(item[0])))


def has_any(block: Block) -> bool:
    """Return whether the block compares kinds of knowledge."""
    alone = {"middle", "self"}
    return any(alone & set(kinds) or kinds == ("constructed",) for kinds in groups(block))


def tables_of(blocks: Sequence[Block]) -> dict[int, Table]:
    """Return the tables by the position of their block."""
    return {i: table_of(block) for i, block in enumerate(blocks) if has_any(block)}


def table_of(block: Block) -> Table:
    """Return the table of a block: its teachers, then its students by kind."""
    rows = [
        Row(f"{line.name} (teacher)", _cells(block, line), heading=True)
        for line in block.lines
        if not line.student and line.runs.get(block.headline)
    ]
    several = len({line.teacher for line in block.lines if line.student and line.teacher}) > 1
    for kinds, lines in groups(block).items():
        rows.append(Row(_name(kinds), (Cell(),), heading=True))
        for line in lines:
            full = line.id.replace(" > ", " → ")
            rows.append(Row(full if several else line.name, _cells(block, line), full_label=full))
    columns = (Column("accuracy", "%"), *_QUALITY.values(), *_COSTS.values())
    title = f"{title_of(block)}: kinds of knowledge"
    return Table(title, columns, tuple(rows), lesser=True)


def _name(kinds: Iterable[str]) -> str:
    names = [KINDS.get(kind, kind) for kind in kinds]
    return names[0] if len(names) == 1 else " + ".join(name.partition(":")[0] for name in names)


def _cells(block: Block, line: Line) -> tuple[Cell, ...]:
    """The numbers of a line, in the order of the columns."""
    best = bool(line.student) and line.id == block.verdict.best
    first = Cell(percent(spread(line.runs[block.headline])), best=best)
    quality = [percent(spread(line.runs[name])) for name in _QUALITY]
    costs = [compact(line.costs[name]) if name in line.costs else DASH for name in _COSTS]
    return (first, *(Cell(text, faint=text == DASH) for text in (*quality, *costs)))


def records(blocks: Iterable[Block]) -> Iterator[dict[str, Any]]:
    """Yield one record for each student of a table, with raw numbers: fractions, counts."""
    for block in blocks:
        if not has_any(block):
            continue
        for kinds, lines in groups(block).items():
            for line in lines:
                record: dict[str, Any] = dict(
                    zip(("dataset", "split", "setting"), block.protocol, strict=True)
                )
                record.update(knowledge=", ".join(kinds), teacher=line.teacher)
                record.update(student=line.student, variant=line.variant)
                record.update(configuration=line.difference)
                numbers: dict[str, Any] = {}
                for name in (block.headline, *_QUALITY):
                    value = spread(line.runs[name])
                    short = "accuracy" if name == block.headline else name
                    numbers |= {f"{short}_mean": value.mean, f"{short}_std": value.std}
                numbers["n"] = spread(line.runs[block.headline]).n
                yield {**record, **numbers, **{name: line.costs.get(name) for name in _COSTS}}
