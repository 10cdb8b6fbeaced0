"""The page beside a comparison: where students gain, and what their experts do.

It is written only where rows have such numbers; the comparison itself does without them.
"""

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from bench.reports import experts, strata
from bench.reports.blocks import DIAGNOSTICS, Block, Line
from bench.reports.experts import Routing
from bench.reports.notes import title_of
from bench.results import Store
from bench.tables import Table, markdown

NAME = "diagnostics"
FIGURES = 12  # of experts: the first lines that have some; the others are named
Read = Mapping[tuple[int, str], Mapping[Hashable, Routing]]  # (block, line id) -> by seed


def has_any(blocks: Sequence[Block]) -> bool:
    """Return whether some row has a diagnostic number."""
    return any(line.runs[name] for block in blocks for line in block.lines for name in DIAGNOSTICS)


def write(
    blocks: Sequence[Block], out: Path, *, title: str, store: Store | None, told: Sequence[str]
) -> list[Path]:
    """Write diagnostics.md, .csv, .html and their figures into `out`; nothing without numbers.

    Args:
        blocks: the blocks of the comparison.
        out: a folder that exists.
        title: the sweep's name.
        store: where the artefacts of the rows lie; without it no layer and no figure of experts.
        told: sentences for the foot, such as what the rows were made from.
    """
    from bench.reports import page

    if not has_any(blocks):
        return []
    found, troubles = _read(blocks, store)
    tables = [table for i, block in enumerate(blocks) for table in _tables(i, block, found)]
    drawn, captions, untold = _draw(blocks, out, found)
    foot = [*strata.LEGEND, experts.LEGEND, *troubles, *untold, *told]
    head = f"{title}: diagnostics"
    paths = [out / f"{NAME}.{kind}" for kind in ("md", "csv", "html")]
    sentences = "\n".join(f"- {sentence}" for sentence in foot)
    text = "\n".join([f"# {head}", "", *map(markdown, tables), "## How to read", "", sentences, ""])
    paths[0].write_text(text, encoding="utf-8")
    records = [r for block in blocks for part in (strata, experts) for r in part.records(block)]
    pd.DataFrame(records).to_csv(paths[1], index=False)
    links = {"comparison": "comparison.html"}
    html = page.render(head, tables, foot, drawn, captions=captions, links=links)
    paths[2].write_text(html, encoding="utf-8")
    return [*paths, *drawn]


def _read(blocks: Sequence[Block], store: Store | None) -> tuple[Read, list[str]]:
    found, troubles = {}, []
    for i, block in enumerate(blocks):
        for line in experts.routed(block):
            found[i, line.id], why = experts.routings(store, line)
            troubles += why
    return found, troubles


def _tables(i: int, block: Block, found: Read) -> Iterator[Table]:
    yield from strata.tables_of(block)
    own = {name: routings for (j, name), routings in found.items() if j == i}
    table = experts.table_of(block, own)
    if table is not None:
        yield table


def _draw(
    blocks: Sequence[Block], out: Path, found: Read
) -> tuple[list[Path], dict[str, str], list[str]]:
    """Write the figures; return the files, their captions by stem, and what was left out."""
    from bench.reports import figures, routing

    runs = list(_first_runs(blocks, found))
    captions, paths = dict(strata.CAPTIONS), []
    with figures.style():
        for name, figure in strata.figures_of(blocks).items():
            paths += figures.save(figure, out / name, cut=None) if figure else []
        for number, (block, line, unit, run) in enumerate(runs[:FIGURES], start=1):
            stem = f"experts_{number}_{re.sub(r'[^0-9A-Za-z]+', '-', line.name)[:40]}"
            who = f"{line.id.replace(' > ', ' → ')} on {title_of(block)}; seed {unit}"
            paths += figures.save(routing.figure_of(run, who), out / stem, cut=None)
            captions[stem] = f"Experts of {who}; observed nodes. {routing.CAPTION}"
    left = [f"{line.id} on {title_of(block)}" for block, line, *_ in runs[FIGURES:]]
    more = f"Experts are drawn for the first {FIGURES} methods; not for {'; '.join(left)}."
    return paths, captions, [more] if left else []


def _first_runs(
    blocks: Sequence[Block], found: Read
) -> Iterator[tuple[Block, Line, Hashable, Routing]]:
    """The routing of the first seed of every line that has one."""
    for i, block in enumerate(blocks):
        for line in experts.routed(block):
            for unit, run in list(found.get((i, line.id), {}).items())[:1]:
                yield block, line, unit, run
