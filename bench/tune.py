"""Tuning: search every student of a sweep with the same budget, and keep what won.

The driver alone talks to Optuna. It asks for a batch of trials of every study, gives their cells
(one for each tuning seed) to an engine, and tells the batch when all of it is done. Cells of tuning
compute no test metric, and their keys say so. Everything is resumable: a trial that was running
when the driver died goes on, and cells that were finished are found by their keys.

    results/tuning/<study id>/   journal.log (Optuna's), study.json, trials.csv, plots
    results/tuning/<sweep>.json  the studies of a sweep
    sweeps/tuned/<sweep>.yaml    what won
"""

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import engine as engines
from bench.cell import Cell
from bench.expand import Search, searches
from bench.hunt import Hunt, Running
from bench.results import Store
from bench.storage import Storage
from bench.sweep import Sweep
from bench.tuning import Tuned, Tuning, replace_text, write_tuned

if TYPE_CHECKING:
    from bench.run import Place

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
OnTrials = Callable[[Hunt, list[dict[str, Any]]], None]
OnReport = Callable[[Hunt, Running, engines.Report], None]
Waiting = dict[str, list[tuple[Hunt, Running, int]]]  # by key of the cell


@dataclass
class TuneOutcome:
    """What a tuning left behind."""

    found: list[Tuned] = field(default_factory=list)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # study id -> trials
    skipped: dict[str, str] = field(default_factory=dict)  # study -> why it cannot be
    files: list[Path] = field(default_factory=list)
    driver: dict[str, float] = field(default_factory=dict)  # seconds of all trials of this call
    trials: int = 0  # of this call
    tracked: int = 0  # runs written to MLflow
    warnings: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def timing(self, phase: str) -> Iterator[None]:
        """Add the seconds in here to the driver's: "ask", "take" (what cells say) or "tell"."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.driver[phase] = self.driver.get(phase, 0.0) + time.perf_counter() - start

    @property
    def driver_seconds(self) -> float:
        """What the driver took, all phases; the import of Optuna is not among them."""
        return sum(self.driver.values())


def require(sweep: Sweep) -> Tuning:
    """Return what a sweep says of tuning.

    Raises:
        ValueError: it says nothing, or has no students.
    """
    if sweep.tune is None:
        raise ValueError(f"sweep '{sweep.name}' has no `tune`; add `tune: {{trials: 32}}` to it")
    if not sweep.students:
        raise ValueError(f"sweep '{sweep.name}' has no students to tune")
    return sweep.tune


def sample_cells(sweep: Sweep, asked: Iterable[Search]) -> list[Cell]:
    """Return cells like those of a tuning, as many as a batch of each study, to plan with."""
    tuning = require(sweep)
    return [
        Cell(a.protocol, a.teacher, a.student, seed, seed, seed, sweep.device, False)
        for a in asked
        for seed in tuning.seeds
        for _ in range(tuning.batch)
    ]


# ---- the driver -----------------------------------------------------------------------------


def tune(
    sweep: Sweep,
    data_root: Path,
    place: "Place",
    plan: engines.Plan,
    *,
    progress: Progress,
    storage: str | None = None,
    tuned_file: Path | None = None,
    on_trials: OnTrials | None = None,
    on_report: OnReport | None = None,
    plots: bool = True,
    **engine: Any,
) -> TuneOutcome:
    """Search all students of a sweep; what was done before is not done again.

    Args:
        sweep: has `tune`.
        data_root: where datasets are.
        place: folders.
        plan: processes and threads.
        progress: wraps the finished trials to show how far it is.
        storage: URL of a database for the studies; by default a journal file for each.
        tuned_file: where to write what won.
        on_trials: called with a study and all its finished trials after each batch.
        on_report: called with the scores of the fits of each trial's first seed.
        plots: whether to draw Optuna's plots of finished studies.
        engine: arguments of `engine.open_engine`.

    Raises:
        ValueError: the sweep has no `tune`, another process tunes it, or the database is away.
    """
    tuning = require(sweep)
    place = replace(place, macs="macs" in tuning.objectives)
    outcome = TuneOutcome()
    with _alone(place.store, sweep.name), Storage(storage) as kept, kept.guarded():
        hunts = [Hunt(asked, sweep, place, kept) for asked in searches(sweep, data_root)]
        trials = sum(max(h.study.budget - h.study.finished, 0) for h in hunts)
        try:
            fits = _search(hunts, place, plan, outcome, engine, on_trials, on_report)
            with contextlib.closing(fits):  # an interrupt ends the workers now
                if trials:
                    deque(progress(fits, trials * len(tuning.seeds), "fits"), maxlen=0)
        finally:
            _conclude(hunts, sweep, place, outcome, tuned_file)
        if plots:
            for hunt in hunts:
                if hunt.id in outcome.records:
                    outcome.files += hunt.plot(anew=bool(outcome.trials))
    return outcome


def _search(
    hunts: list[Hunt],
    place: "Place",
    plan: engines.Plan,
    outcome: TuneOutcome,
    engine_options: dict[str, Any],
    on_trials: OnTrials | None,
    on_report: OnReport | None,
) -> Generator[None, None, None]:
    """Run trials until all budgets are spent; yield for each fit that came, or is not needed."""
    waiting: Waiting = {}
    with engines.open_engine(place, plan, **engine_options) as engine:
        while True:
            with outcome.timing("tell"):
                told = _tell(hunts, waiting, on_trials)
            hold = any(hunt.batch_ended for hunt in hunts)  # it waits to be timed alone
            with outcome.timing("ask"):
                for hunt in hunts if not hold else ():
                    _ask(hunt, engine, waiting, reports=on_report is not None)
            outcome.trials += len(told)
            spared = sum(len(hunts[0].tuning.seeds) - running.heard for running in told)
            yield from [None] * spared
            if not waiting and not hold:
                if any(hunt.batch_ended for hunt in hunts):
                    continue
                return
            for event in engine.events() if waiting else ():
                with outcome.timing("take"):
                    came = _route(event, waiting, on_report)
                yield from [None] * came


def _tell(hunts: list[Hunt], waiting: Waiting, on_trials: OnTrials | None) -> list[Running]:
    """Tell the batches that are over; return their trials."""
    told: list[Running] = []
    for hunt in hunts:
        if hunt.batch_ended and (not waiting or not _needs_quiet(hunt)):
            told += hunt.tell()
            if on_trials:
                on_trials(hunt, hunt.study.records())
    return told


def _ask(hunt: Hunt, engine: engines.Engine, waiting: Waiting, *, reports: bool) -> None:
    """Submit the cells that a study wants now, those of several trials once."""
    hunt.refill()
    for cell, running, seed in hunt.cells():
        others = waiting.setdefault(cell.key, [])
        others.append((hunt, running, seed))
        if len(others) == 1:
            decide = _decider(others) if hunt.listens(seed) else None
            shown = reports and seed == hunt.tuning.seeds[0]
            engine.submit(cell, reports=shown, decide=decide)


def _needs_quiet(hunt: Hunt) -> bool:
    return "latency_ms" in hunt.tuning.objectives


def _decider(waiters: list[tuple[Hunt, Running, int]]) -> Callable[[engines.Report], bool]:
    """Go on while one of the trials that want this cell does."""

    def decide(report: engines.Report) -> bool:
        return any([hunt.hear(running, report.epoch, report.value) for hunt, running, _ in waiters])

    return decide


def _route(event: engines.Event, waiting: Waiting, on_report: OnReport | None) -> int:
    """Hand a fit to the trials that wait for it; return how many do."""
    if isinstance(event, engines.Report):  # `decide` has heard it
        for hunt, running, _ in waiting.get(event.key, ()) if on_report else ():
            on_report(hunt, running, event)  # type: ignore[misc]
        return 0
    waiters = waiting.pop(event.key, [])
    return sum([hunt.take(running, seed, event) for hunt, running, seed in waiters])


def _conclude(
    hunts: list[Hunt], sweep: Sweep, place: "Place", outcome: TuneOutcome, tuned_file: Path | None
) -> None:
    """Write the studies and what won, as far as they are."""
    for hunt in hunts:
        if hunt.skipped:
            outcome.skipped[hunt.name] = hunt.skipped
            continue
        if hunt.broken:
            outcome.warnings.append(f"{hunt.name} waits: {hunt.broken}; the same command goes on")
        records = hunt.study.records()
        chosen = hunt.chosen(records)
        outcome.records[hunt.id] = records
        outcome.files += hunt.write(records, chosen)
        if chosen and len(records) >= hunt.study.budget:  # else its budget was not that of others
            outcome.found.append(chosen)
    path = place.results / "tuning" / f"{sweep.name}.json"
    content = {"sweep": sweep.name, "studies": list(outcome.records)}
    replace_text(path, json.dumps(content, indent=1) + "\n")
    if tuned_file and outcome.found:
        write_tuned(tuned_file, outcome.found)
        outcome.files.append(tuned_file)


@contextlib.contextmanager
def _alone(store: Store, sweep: str) -> Iterator[None]:
    """One driver a sweep: the system frees the lock when a driver dies."""
    import filelock

    folder = store.root / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f".{sweep}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ValueError(
            f"sweep '{sweep}' is being tuned in {store.root} by another process; wait for it, or "
            "use other --results"
        ) from error
    try:
        yield
    finally:
        lock.release()
