"""Launch a sweep: run what is missing, measure cost alone, track, report.

Everything is resumable: what is done is skipped, and an interrupt leaves only finished cells.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import engine
from bench.cell import Cell, from_data
from bench.launch_track import Tracking
from bench.results import CorruptError, Row, Store
from bench.sweep import Sweep

if TYPE_CHECKING:
    from bench.run import Place

_log = logging.getLogger(__name__)

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, total, title) -> items


@dataclass
class Outcome:
    """What a launch left behind."""

    cells: list[Cell]
    rows: dict[str, Row] = field(default_factory=dict)
    ran: int = 0
    measured: int = 0
    tracked: int = 0
    files: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def unfinished(self) -> list[tuple[Cell, str]]:
        """List the cells without a good row, with the reason."""
        found = []
        for cell in self.cells:
            row = self.rows.get(cell.key)
            if row is None or not row.done:
                found.append((cell, f"{row.status}: {row.reason}" if row else "missing"))
        return found


def planned(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Describe the cells that should exist, for reports."""
    names = ("dataset", "split", "setting", "teacher", "student")
    return [{"key": c.key, "seed": c.seed, **dict(zip(names, c.group, strict=True))} for c in cells]


def stored_rows(store: Store, cells: Sequence[Cell], *, heal: bool = False) -> dict[str, Row]:
    """Read the rows of cells, relabelled as these cells are; `heal` sets aside what is corrupt."""
    rows = {}
    for cell in cells:
        try:
            row = store.heal(cell.key) if heal else store.read(cell.key)
        except CorruptError as error:
            _log.warning(f"{error}; it counts as missing")
            row = None
        if row is not None:
            rows[cell.key] = relabelled(row, cell)
    return rows


def relabelled(row: Row, cell: Cell) -> Row:
    """Give a row the names that a cell with the same key goes by in this sweep."""
    row.cell["protocol"]["dataset"] = cell.protocol.dataset
    for role, choice in (("teacher", cell.teacher), ("student", cell.student)):
        if choice:
            row.cell[role].update(label=choice.label, changed=choice.changed)
            if choice.knowledge:
                row.cell[role]["knowledge"] = choice.knowledge
    return row


def launch(
    sweep: Sweep,
    cells: list[Cell],
    place: "Place",
    plan: engine.Plan,
    *,
    progress: Progress,
    track_uri: str | None = None,
    track: bool = True,
    reports: Path | None = None,
    engine_options: dict[str, Any] | None = None,
    energy: str = "",
    time_again: bool = False,
) -> Outcome:
    """Run a sweep's missing cells, then measure, track and report.

    Args:
        sweep: names the experiment and says how many seeds are timed.
        cells: `expand(sweep, ...)`, or a part of it.
        place: folders.
        plan: processes and threads.
        progress: wraps an iterable to show how far it is.
        track_uri: MLflow store; by default sqlite in the results folder.
        track: whether to track at all.
        reports: folder for the report; None writes none.
        engine_options: where cells run: arguments of `engine.open_engine`.
        energy: a country's code or "none": model the energy of what is timed; "" does not.
        time_again: time what was timed before, too: something else may have used the processor.
    """
    store = place.store
    outcome = Outcome(cells, stored_rows(store, cells, heal=True))
    content = {"cells": [{"key": c.key, "cell": c.describe()} for c in cells]}
    replanned = store.write_sweep(sweep.name, {**content, "sweep": sweep.model_dump()})
    pending = [c for c in cells if c.key not in outcome.rows or not outcome.rows[c.key].done]
    live = Tracking(store, sweep.name, track_uri, cells) if track else None
    try:
        if pending:
            rows = engine.run_cells(
                pending,
                place,
                plan,
                on_report=live.hear if live else None,
                **(engine_options or {}),
            )
            _collect(rows, pending, progress, outcome, live)
    finally:
        if live:
            live.stop()  # before anything is timed: it would share the processor
    _measure(sweep, place, plan, progress, outcome, time_again)
    if energy:
        from bench import launch_energy

        launch_energy.measure(outcome, place, plan.threads, progress, energy)
    stale = pending or outcome.measured or replanned
    if reports and (stale or not (reports / "comparison.md").is_file()):
        against = {"baseline": sweep.baseline, "controls": sweep.controls}
        outcome.files = report(outcome, sweep.name, reports, store=store, **against)
    if live:
        live.finish(list(outcome.rows), outcome.files)
        outcome.tracked = live.count
        outcome.warnings += [live.trouble] if live.trouble else []
    return outcome


def _collect(
    rows: Iterator[Row],
    pending: list[Cell],
    progress: Progress,
    outcome: Outcome,
    live: Tracking | None,
) -> None:
    by_key = {c.key: c for c in pending}
    try:
        for row in progress(rows, len(pending), "cells"):
            outcome.rows[row.key] = relabelled(row, by_key[row.key])
            outcome.ran += 1
            if live:
                live.add(row.key)
    finally:
        rows.close()  # type: ignore[attr-defined]


def _measure(
    sweep: Sweep,
    place: "Place",
    plan: engine.Plan,
    progress: Progress,
    outcome: Outcome,
    again: bool,
) -> None:
    """Time the first seeds of every group with nothing else running; count MACs not yet counted."""
    seen: dict[Any, int] = {}
    todo: dict[str, bool] = {}  # key -> whether to time it
    for cell in outcome.cells:
        row = outcome.rows.get(cell.key)
        if row is None or row.status != "ok":
            continue
        seen[cell.group] = seen.get(cell.group, 0) + 1
        timed = seen[cell.group] <= sweep.cost_seeds
        known = not again and any("latency_ms" in v for v in row.cost.values())
        if not row.cost or (timed and not known):
            todo[row.key] = timed
    _leave_out_gpu(todo, outcome)
    if not todo:
        return
    from dataclasses import replace

    from bench import run

    alone = replace(place, threads=plan.threads)
    run.warm_up(alone)
    for key in progress(todo, len(todo), "cost"):
        row = outcome.rows[key]
        try:
            row.cost = run.measure(row, alone, timed=todo[key])
            outcome.measured += 1
        except CorruptError as error:
            place.store.set_aside(row.key, str(error))
            del outcome.rows[row.key]
        except Exception as error:  # of a plug-in, say; the row is good without its cost
            what = " / ".join(filter(None, from_data(row.cell).group))
            why = f"{type(error).__name__}: {error}"
            outcome.warnings.append(f"the cost of {what} could not be measured: {why}")


def _leave_out_gpu(todo: dict[str, bool], outcome: Outcome) -> None:
    """Measure nothing of a GPU where there is none: the cells ran elsewhere, on a cluster."""
    on_gpu = [key for key in todo if outcome.rows[key].cell["device"] == "cuda"]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        outcome.warnings.append(
            f"the cost of {len(on_gpu)} cells is not measured: they ran on a GPU, and there is "
            "none here; run the same command where there is one"
        )
        for key in on_gpu:
            del todo[key]


def report(outcome: Outcome, title: str, folder: Path, **options: Any) -> list[Path]:
    """Write the comparison of an outcome into a folder; options: those of `comparison.write`."""
    from bench import results
    from bench.reports import comparison

    frame = results.frame(outcome.rows.values())
    return comparison.write(frame, planned(outcome.cells), folder, title=title, **options)
