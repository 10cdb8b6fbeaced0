"""Where cells run: in this process, in spawned workers (`pool`), or on a Dask cluster (`cluster`).

Every engine calls the same idempotent `run.run(cell, place)`. A teacher runs before its students,
and once, whether it was submitted or not. What an engine has to tell comes as events.
"""

import collections
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.cell import Cell
from bench.jobs import Decide, Event, Job, Queue, Report, Stopped
from bench.place import Place
from bench.results import Row

SMALL = 50_000  # nodes up to which one thread is as fast as several
KINDS = ("local", "dask")


@dataclass(frozen=True)
class Plan:
    """Workers and the threads of each; `jobs` x `threads` never exceeds the cores unless asked."""

    jobs: int
    threads: int
    timeout: float | None = None  # seconds a cell may take


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan(
    cells: Sequence[Cell],
    jobs: int | None = None,
    threads: int | None = None,
    timeout: float | None = None,
) -> Plan:
    """Plan processes and threads.

    Small graphs get one thread a cell, whatever the number of jobs, so that results do not depend
    on it; a large graph gets all cores and runs alone.
    """
    if threads is None:
        threads = 1 if all(_is_small(cell) for cell in cells) else cores()
    if jobs is None:
        jobs = max(1, cores() // threads)
    return Plan(max(1, min(jobs, len(cells))), threads, timeout)


def _is_small(cell: Cell) -> bool:
    from bench.registry import datasets

    name, _, parameters = cell.protocol.dataset.partition(":")
    if name == "synthetic":
        given = {key.strip(): v for key, _, v in (p.partition("=") for p in parameters.split(","))}
        return float(given.get("nodes", 0)) <= SMALL
    stats = datasets()[name]["stats"]
    return stats is None or stats[0] <= SMALL


class Engine:
    """Runs cells as they are submitted; a context manager.

    Subclasses begin jobs of `queue` in `_advance`, and say what became of them with `_report`,
    `_finish` or `_stopped`.
    """

    def __init__(self, place: Place, plan: Plan) -> None:
        self.plan, self.place = plan, replace(place, threads=plan.threads)
        self.jobs: dict[str, Job] = {}  # by key: all that are not finished
        self.queue = Queue()
        self._blocked: dict[str, list[Job]] = collections.defaultdict(list)  # by teacher's key
        self._settled: set[str] = set()  # teachers whose rows answer for good
        self._news: list[Event] = []
        self.place.store.sweep_out()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def slots(self) -> int:
        """How many cells can run at the same time."""
        return self.plan.jobs

    @property
    def waiting(self) -> int:
        """How many submitted cells no worker has begun."""
        return sum(job.submitted and not job.begun for job in self.jobs.values())

    def submit(self, cell: Cell, *, reports: bool = False, decide: Decide | None = None) -> None:
        """Queue a cell; a cell that is queued or running already is not queued twice.

        A teacher whose row is not there is run first, without being submitted.

        Args:
            cell: what to run.
            reports: whether the validation scores of its fit come as events.
            decide: asked for each of these scores whether the fit goes on; in this process at
                once, else when the report arrives (the fit may be some epochs further by then).
        """
        job = self.jobs.get(cell.key)
        if job is not None:  # such as a teacher that a student had to wait for
            job.submitted, job.reports = True, job.reports or reports
            job.decide = job.decide or decide
            return
        job = self.jobs[cell.key] = Job(cell, reports, decide)
        teacher = cell.teacher_cell
        if teacher is None or not self._must_run(teacher):
            self.queue.put(job)
            return
        self._blocked[teacher.key].append(job)
        if teacher.key not in self.jobs:
            self.jobs[teacher.key] = Job(teacher, submitted=False)
            self.queue.put(self.jobs[teacher.key])

    def _must_run(self, teacher: Cell) -> bool:
        """Whether a teacher is on its way, or has to be sent there."""
        if teacher.key in self.jobs:
            return True
        if teacher.key not in self._settled:
            row = self.place.store.read_or_set_aside(teacher.key)
            if row is None or not row.done:
                return True
            self._settled.add(teacher.key)
        return False

    def stop(self, key: str) -> None:
        """Ask a cell to end early: `Stopped` comes, or its row if that was faster."""
        job = self.jobs.get(key)
        if job is None or job.stopped:
            return
        job.stopped = True
        if self.queue.remove(job) or self._unblock(job):
            self._stopped(job)
        else:
            self._stop_running(job)

    def _unblock(self, job: Job) -> bool:
        teacher = job.cell.teacher_cell
        waiting = self._blocked.get(teacher.key, []) if teacher else []
        if job in waiting:
            waiting.remove(job)
            return True
        return False

    def events(self, timeout: float | None = None) -> list[Event]:
        """Wait until something happens, and return it; [] where nothing is queued or running.

        Rows of teachers that the engine ran of its own accord are among them.

        Args:
            timeout: seconds after which to return with nothing; None waits for ever.
        """
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while not self._news and self.jobs:
            self._advance(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                break
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """End all workers; what is finished stays."""

    # -- for subclasses --------------------------------------------------------------------

    def _advance(self, seconds: float) -> None:
        """Begin what can begin, and wait (at most so many seconds, maybe inf) for news."""
        raise NotImplementedError

    def _stop_running(self, job: Job) -> None:
        """Tell a job that was taken from the queue to stop."""

    def _report(self, job: Job, epoch: int, value: float) -> None:
        report = Report(job.cell.key, epoch, value)
        if job.reports:
            self._news.append(report)
        if job.decide is not None and not job.stopped and not job.decide(report):
            self.stop(job.cell.key)

    def _finish(self, job: Job, row: Row) -> None:
        self._news.append(row)
        if row.done:
            self._settled.add(row.key)
        self._release(job)  # of a teacher that failed, too: its students tell so

    def _stopped(self, job: Job, seconds: float = 0.0) -> None:
        self._news.append(Stopped(job.cell.key, seconds))
        self._release(job)

    def _release(self, job: Job) -> None:
        """Forget a job that is over, and queue the students that waited for it."""
        del self.jobs[job.cell.key]
        for student in self._blocked.pop(job.cell.key, ()):
            self.queue.put(student)


# ---- this process ---------------------------------------------------------------------------


class InProcess(Engine):
    """Runs one cell after another, here: `events` returns when a cell is over."""

    _warm = False

    @property
    def slots(self) -> int:
        """One."""
        return 1

    def _advance(self, seconds: float) -> None:
        from bench import run

        if not self._warm:
            run.warm_up(self.place)
            self._warm = True
        job = self.queue.take()
        job.begun = True

        def listener(epoch: int, value: float) -> bool:
            self._report(job, epoch, value)
            return not job.stopped

        try:
            row = run.run(job.cell, self.place, listener if job.heard else None)
        except run.StoppedError as stop:
            self._stopped(job, stop.seconds)
        else:
            self._finish(job, row)


# ---- any engine -----------------------------------------------------------------------------


def open_engine(
    place: Place, plan: Plan, *, kind: str = "local", scheduler: str | None = None
) -> Engine:
    """Open an engine; it closes as a context manager.

    Args:
        place: folders.
        plan: processes, threads of each, and the seconds that a cell may take.
        kind: "local" (this process for one job without a time limit, else spawned workers), or
            "dask".
        scheduler: of a Dask cluster: its address, or the path of its scheduler file.

    Raises:
        ValueError: an unknown kind, or a scheduler with the wrong kind.
    """
    from bench.hparams import unknown

    if kind not in KINDS:
        raise unknown("engine", kind, KINDS)
    if kind == "dask":
        if not scheduler:
            raise ValueError(
                "engine 'dask' needs the address of its scheduler; give --scheduler tcp://HOST:8786"
            )
        from bench.cluster import DaskEngine

        return DaskEngine(place, plan, scheduler)
    if scheduler:
        raise ValueError(
            "a scheduler is given, and the engine is 'local'; give --engine dask as well"
        )
    if plan.jobs == 1 and plan.timeout is None:
        return InProcess(place, plan)
    from bench.pool import Pool

    return Pool(place, plan)


def run_cells(
    cells: Sequence[Cell],
    place: Place,
    plan: Plan,
    *,
    on_report: Callable[[Report], None] | None = None,
    kind: str = "local",
    scheduler: str | None = None,
) -> Iterator[Row]:
    """Run cells, teachers first, and yield their rows as they come.

    Closing the iterator (an interrupt does) ends the workers; what is finished stays.

    Args:
        cells: what to run.
        place: folders.
        plan: processes, threads of each, and the seconds that a cell may take.
        on_report: called with the validation scores of running fits.
        kind: as in `open_engine`.
        scheduler: as in `open_engine`.
    """
    if not cells:
        return

    def pass_on(report: Report) -> bool:
        assert on_report is not None
        on_report(report)
        return True

    plan = replace(plan, jobs=min(plan.jobs, len(cells)))
    wanted = {cell.key for cell in cells}
    with open_engine(place, plan, kind=kind, scheduler=scheduler) as engine:
        for cell in sorted(cells, key=lambda c: c.student is not None):
            engine.submit(cell, decide=pass_on if on_report else None)
        while events := engine.events():
            rows = (event for event in events if isinstance(event, Row))
            yield from (row for row in rows if row.key in wanted)
