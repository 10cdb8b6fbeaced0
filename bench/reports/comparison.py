"""The comparison of a sweep: which student to ship, and what one pays for it.

Students compete with each other across all teachers of a block; teachers are the reference, and
compete only where a block has no student. Published numbers stand beside ours. Everything is
rebuilt from stored rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.reports import compression, effects, robustness, taxonomy
from bench.reports.blocks import COST, QUALITY, Block, Line, blocks
from bench.reports.cells import reported
from bench.reports.notes import (
    LEGEND,
    beside_published,
    closing,
    commits,
    compared,
    notes,
    printed,
    title_of,
)
from bench.reports.panels import without_thresholds
from bench.results import Store
from bench.stats import spread
from bench.tables import (
    DASH,
    Cell,
    Column,
    Row,
    Table,
    compact,
    latex,
    latex_document,
    markdown,
    percent,
    plain,
)

_HEADS = {  # head, unit, dispensable
    "test_accuracy": Column("accuracy", "%"),
    "tran_accuracy": Column("tran", "%", 2),
    "ind_accuracy": Column("ind", "%", 2),
    "prod_accuracy": Column("prod", "%"),
    "macro_f1": Column("macro F1", "%", 8),
    "agreement": Column("agreement", "%", 7),
    "params": Column("params", "", 1),
    "macs": Column("MACs", "graph", 5),
    "latency_ms": Column("ms", "graph", 6),
    "latency_node_ms": Column("ms", "node", 1),
    "train_seconds": Column("fit", "s", 4),
    "seconds_encode": Column("encode", "s", 4),
    "peak_memory_mib": Column("fit", "MiB", 9),
    "energy_joules": Column("energy", "J", 10),
}
_RUNS = Column("n")
_PUBLISHED = (Column("published", "%", 1), Column("difference", "points", 3))


def write(
    frame: pd.DataFrame,
    planned: Iterable[Mapping[str, Any]],
    out: Path,
    *,
    title: str,
    store: Store | None = None,
    baseline: str = "",
    controls: Sequence[str] = (),
) -> list[Path]:
    """Write the report into the folder `out` and return its files.

    Args:
        frame: tidy rows (`results.load` or `results.frame`), any subset; those of tuning, which
            have no test accuracy, are left out.
        planned: every cell that should exist, as {key, dataset, split, setting, teacher, student,
            seed}.
        out: created where it is missing; files of the same name are replaced.
        title: the sweep's name.
        store: where the artefacts of the rows lie, for the figures of experts and for the errors
            that students repeat without a teacher.
        baseline: the student that all others are compared with; without one there are no effects.
        controls: further ones, each with a table of its own; figures are those of the baseline.

    Returns:
        comparison.md, .tex (to include), _standalone.tex (to compile), .csv, .html and the figures;
        effects.csv with a baseline; robustness.csv and its figures where there are levels of one
        axis; compression.csv where students and their teachers have costs; taxonomy.csv where
        kinds of knowledge meet; and the files of `diagnostics.write` where the rows have
        diagnostic numbers.

    Raises:
        ValueError: two rows answer the same question.
    """
    from bench.reports import diagnostics, figures, forest, ladders, page, stages

    out.mkdir(parents=True, exist_ok=True)
    frame = reported(frame)
    found = blocks(frame, list(planned))
    climbed = robustness.ladders(found, store)
    against = [name for name in (baseline, *controls) if name]
    tables, legends = _tables(frame, found, climbed, against)
    told = closing(frame)
    told[-1:-1] = legends
    texts = {
        "comparison.md": _markdown(title, tables, told),
        "comparison.tex": _latex(tables, told),
        "comparison_standalone.tex": latex_document(title, "comparison", told),
    }
    paths = [out / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    summary(found).to_csv(out / "comparison.csv", index=False)
    paths += [out / "comparison.csv", *_further_csv(frame, found, climbed, out)]
    clear = without_thresholds(found, baseline)
    drawn = [*ladders.draw(climbed, out), *figures.draw(clear, out), *stages.draw(found, out)]
    if against:
        paths.append(effects.write_csv(found, against, out))
    if baseline:
        drawn += forest.draw(frame, clear, baseline, out)
    foot = [*commits(frame), told[-1]]
    beside = diagnostics.write(found, out, title=title, store=store, told=foot)
    links = {"diagnostics": "diagnostics.html"} if beside else {}
    captions = {**forest.CAPTIONS, **stages.CAPTIONS, **ladders.CAPTIONS}
    html = page.render(title, tables, told, drawn, captions=captions, links=links)
    (out / "comparison.html").write_text(html, encoding="utf-8")
    return [*paths, out / "comparison.html", *drawn, *beside]


def _tables(
    frame: pd.DataFrame,
    found: Sequence[Block],
    climbed: Sequence[robustness.Ladder],
    against: Sequence[str],
) -> tuple[list[Table], list[str]]:
    """Return all tables of a report in order, and how those beside the comparison are read."""
    tables = robustness.tables_of(climbed)
    ratios = compression.tables_of(frame, without_thresholds(found))
    kinds = taxonomy.tables_of(found)
    for i, block in enumerate(found):
        tables += [*tables_of(block, *against), *(t[i] for t in (ratios, kinds) if i in t)]
    legends = {effects.LEGEND: against, robustness.LEGEND: climbed, compression.LEGEND: ratios}
    legends[taxonomy.LEGEND] = kinds
    return tables, [legend for legend, shown in legends.items() if shown]


def _further_csv(
    frame: pd.DataFrame, found: Sequence[Block], climbed: Sequence[robustness.Ladder], out: Path
) -> list[Path]:
    """Write the raw numbers of robustness, compression and kinds, where there are some."""
    records = {
        "robustness.csv": list(robustness.records(climbed)),
        "compression.csv": list(compression.records(frame, found)),
        "taxonomy.csv": list(taxonomy.records(found)),
    }
    told = {out / name: lines for name, lines in records.items() if lines}
    for path, lines in told.items():
        pd.DataFrame(lines).to_csv(path, index=False)
    return list(told)


def text_table(
    frame: pd.DataFrame,
    planned: Iterable[Mapping[str, Any]],
    width: int = 120,
    *,
    baseline: str = "",
) -> str:
    """Return the comparison for a terminal of `width` columns; narrow ones get fewer columns."""
    tables = []
    for block in blocks(frame, list(planned)):
        tables += [table_of(block, sources=False), *_effects(block, baseline)]
    return "\n".join(plain(table, width) for table in tables) or "no cell yet\n"


def tables_of(block: Block, *baselines: str) -> list[Table]:
    """Return a block's table, and those of its effects and of further published numbers."""
    further = beside_published(block)
    return [table_of(block), *_effects(block, *baselines), *([further] if further.rows else [])]


def _effects(block: Block, *baselines: str) -> list[Table]:
    shown = [(without_thresholds([block], name)[0], name) for name in baselines if name]
    return [table for table in (effects.table_of(*one) for one in shown) if table]


def table_of(block: Block, *, sources: bool = True) -> Table:
    """Return the table of one block, with the columns that have a value."""
    metrics = _shown(block)
    rows, published = [], any(_published(block, line) for line in block.lines)
    for line in block.lines:
        cells = [_quality(block, line), _count(line), *(_number(line, m) for m in metrics)]
        if published:
            cells += _published(block, line) or (Cell(DASH, faint=True),) * 2
        rows.append(_row(line, cells))
    lone = [i for i, line in enumerate(block.lines) if not line.teacher]
    if lone and len(lone) < len(block.lines):
        rows.insert(lone[0], Row("no teacher", (), heading=True))
    columns = (_HEADS[block.headline], _RUNS, *(_HEADS[m] for m in metrics))
    return Table(
        title_of(block),
        columns + (_PUBLISHED if published else ()),
        tuple(rows),
        tuple(notes(block, sources=sources)),
    )


def _shown(block: Block) -> list[str]:
    """The metrics that have a value, without the headline and what merely repeats it."""
    lines = block.lines

    def told(metric: str) -> bool:
        repeats = metric.endswith("accuracy") and all(
            not line.runs[metric] or line.runs[metric] == line.runs[block.headline]
            for line in lines
        )
        measured = any(line.runs.get(metric) for line in lines if metric in QUALITY)
        return not repeats and (measured or any(metric in line.costs for line in lines))

    return [metric for metric in _HEADS if metric != block.headline and told(metric)]


def _row(line: Line, cells: list[Cell]) -> Row:
    label = line.name if line.student else f"{line.name} (teacher)"
    full = line.id if line.student else label
    return Row(label, tuple(cells), heading=not line.student, full_label=full.replace(" > ", " → "))


def _quality(block: Block, line: Line) -> Cell:
    if not line.done:
        why = ", ".join(dict.fromkeys(reason.split(":")[0] for reason in line.gaps))
        return Cell(f"{DASH} (0/{line.planned}) {why}" if line.planned else DASH, faint=True)
    return Cell(
        percent(spread(line.runs[block.headline])),
        best=line.id == block.verdict.best,
        mark=line.id in block.verdict.not_worse,
    )


def _count(line: Line) -> Cell:
    if not line.planned:
        return Cell(DASH, faint=True)
    whole = line.done == line.planned
    return Cell(str(line.done) if whole else f"{line.done}/{line.planned}", faint=not whole)


def _number(line: Line, metric: str) -> Cell:
    if metric in QUALITY:
        text = percent(spread(line.runs[metric]))
    else:
        text = compact(line.costs[metric]) if metric in line.costs else DASH
    return Cell(text, faint=text == DASH)


def _published(block: Block, line: Line) -> tuple[Cell, ...]:
    numbers = printed(block, line, block.headline)
    if not numbers:
        return ()
    return (Cell(compared(numbers[0])[0]), Cell(compared(numbers[0], line.runs[block.headline])[1]))


def summary(found: Iterable[Block]) -> pd.DataFrame:
    """Return one line for each method with raw numbers: fractions, seconds, counts."""
    return pd.DataFrame([_record(block, line) for block in found for line in block.lines])


def _record(block: Block, line: Line) -> dict[str, Any]:
    record: dict[str, Any] = dict(zip(("dataset", "split", "setting"), block.protocol, strict=True))
    record.update(teacher=line.teacher, student=line.student, variant=line.variant)
    record.update(configuration=line.difference, done=line.done, planned=line.planned)
    record["gaps"] = "; ".join(f"{count} {reason}" for reason, count in line.gaps.items())
    for metric in QUALITY:
        value = spread(line.runs[metric])
        record |= {f"{metric}_mean": value.mean, f"{metric}_std": value.std, f"{metric}_n": value.n}
    main = spread(line.runs[block.headline])
    record.update(headline=block.headline, ci_low=main.low, ci_high=main.high)
    record.update({metric: line.costs.get(metric) for metric in COST})
    record.update(best=line.id == block.verdict.best)
    record.update(p_holm=block.verdict.adjusted.get(line.id))
    record.update(not_significantly_worse=line.id in block.verdict.not_worse)
    known = printed(block, line, block.headline)[:1]
    record.update(published_mean=known[0].mean if known else None)
    record.update(published_std=known[0].std if known else None)
    record.update(published_source=known[0].citation if known else "")
    return record


def _markdown(title: str, tables: Iterable[Table], told: Iterable[str]) -> str:
    foot = "\n".join(f"- {sentence}" for sentence in told)
    return "\n".join([f"# {title}", "", *map(markdown, tables), "## How to read", "", foot, ""])


def _latex(tables: Iterable[Table], told: Iterable[str]) -> str:
    body = [
        latex(table, f"tab:comparison-{i}", "" if table.lesser else LEGEND)
        for i, table in enumerate(tables, start=1)
    ]
    comments = [f"% {' '.join(sentence.split())}" for sentence in told]
    head = [r"% \usepackage{booktabs,graphicx} in the preamble, \input{comparison} in the text."]
    return "\n".join([*head, *comments, "", *body])
