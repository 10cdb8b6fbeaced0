"""Launch a sweep: run what is missing, measure cost alone, track, report.

Everything is resumable: what is done is skipped, and an interrupt leaves only finished cells.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import engine, track_live
from bench.cell import Cell, from_data
from bench.results import CorruptError, Row, Store
from bench.sweep import Sweep

if TYPE_CHECKING:
    from bench.run import Place

_log = logging.getLogger(__name__)
TRACK_EVERY = 30.0  # seconds between two looks at what is to be tracked
LIVE_EVERY = 10.0  # and at the curves of fits that take long

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
    """
    store = place.store
    outcome = Outcome(cells, stored_rows(store, cells, heal=True))
    content = {"cells": [{"key": c.key, "cell": c.describe()} for c in cells]}
    replanned = store.write_sweep(sweep.name, {**content, "sweep": sweep.model_dump()})
    pending = [c for c in cells if c.key not in outcome.rows or not outcome.rows[c.key].done]
    live = _Tracking(store, sweep.name, track_uri, cells) if track else None
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
    _measure(sweep, place, plan, progress, outcome)
    if energy:
        from bench import launch_energy

        launch_energy.measure(outcome, place, plan.threads, progress, energy)
    stale = pending or outcome.measured or replanned
    if reports and (stale or not (reports / "comparison.md").is_file()):
        outcome.files = report(outcome, sweep.name, reports, store, sweep.baseline)
    if live:
        _finish_tracking(live, outcome)
    return outcome


def _collect(
    rows: Iterator[Row],
    pending: list[Cell],
    progress: Progress,
    outcome: Outcome,
    live: "_Tracking | None",
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
    sweep: Sweep, place: "Place", plan: engine.Plan, progress: Progress, outcome: Outcome
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
        if not row.cost or (timed and not any("latency_ms" in v for v in row.cost.values())):
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


def report(
    outcome: Outcome, title: str, folder: Path, store: Store | None = None, baseline: str = ""
) -> list[Path]:
    """Write the comparison of an outcome into a folder; figures of experts need its store."""
    from bench import results
    from bench.reports import comparison

    frame = results.frame(outcome.rows.values())
    options: dict[str, Any] = {"title": title, "store": store, "baseline": baseline}
    return comparison.write(frame, planned(outcome.cells), folder, **options)


def _finish_tracking(live: "_Tracking", outcome: Outcome) -> None:
    from bench import track

    cells = {c.key: c for c in outcome.cells}
    try:
        keys = track.needs_tracking(live.store, live.sweep, list(outcome.rows), live.uri)
        if keys or outcome.files:
            tracker = live.tracker or track.Tracker(live.store, live.uri)
            live.count += tracker.log_rows(live.sweep, keys, cells=cells)
            tracker.finish(live.sweep)
            tracker.log_files(live.sweep, outcome.files)
    except track.TrackingError as error:
        live.trouble = str(error)
    outcome.tracked = live.count
    if live.trouble:
        outcome.warnings.append(live.trouble)


class _Tracking:
    """Tracks finished rows from a thread, now and then, so that no worker waits for it."""

    def __init__(self, store: Store, sweep: str, uri: str | None, cells: list[Cell]) -> None:
        self.store, self.sweep, self.uri = store, sweep, uri
        self.cells = {cell.key: cell for cell in cells}
        self.tracker: Any = None
        self.trouble = ""
        self.count = 0
        self._fits = track_live.Fits()
        self._fresh: list[str] = []
        self._done: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def hear(self, report: engine.Report) -> None:
        if report.key in self.cells:
            self._fits.hear(report)

    def add(self, key: str) -> None:
        self._fits.forget(key)
        self._done.add(key)
        self._fresh.append(key)

    def stop(self) -> None:
        """End the thread; what it began of fits that nobody finishes is taken back."""
        self._stop.set()
        self._thread.join()
        self._try(self._drop_live)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(min(TRACK_EVERY, LIVE_EVERY)):
            for key, fit in self._fits.news().items():
                self._try(self._log_live, key, fit)
            if time.monotonic() - last >= TRACK_EVERY:
                last = time.monotonic()
                keys, self._fresh = self._fresh, []
                if keys:
                    self._try(self._log, keys)

    def _open(self) -> Any:
        from bench import track

        self.tracker = self.tracker or track.Tracker(self.store, self.uri)
        return self.tracker

    def _log(self, keys: list[str]) -> None:
        self.count += self._open().log_rows(self.sweep, keys)

    def _log_live(self, key: str, fit: track_live.Fit) -> None:
        self._open().log_live(self.sweep, self.cells[key], fit)

    def _drop_live(self) -> None:
        if self.tracker:
            self.tracker.drop_live(self.sweep, self._done)

    def _try(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something with the tracking store, unless that is in trouble."""
        from bench.track_store import TrackingError

        if not self.trouble:
            try:
                action(*arguments)
            except TrackingError as error:
                self.trouble = str(error)
