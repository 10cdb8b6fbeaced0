"""Where cells run: in this process, or in spawned workers planned from the cores.

Every engine calls the same idempotent `run.run(cell, place)`; a student waits until its teacher's
row is there. A worker that dies or takes too long costs its cell only, and is replaced.
"""

import collections
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from bench.cell import Cell
from bench.results import Row

if TYPE_CHECKING:
    from bench.run import Place

_WARM = "warm"  # what a worker says when it is ready for its first cell
SMALL = 50_000  # nodes up to which one thread is as fast as several


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
        nodes = [p.partition("=")[2] for p in parameters.split(",") if p.startswith("nodes=")]
        return not nodes or float(nodes[0]) <= SMALL
    stats = datasets()[name]["stats"]
    return stats is None or stats[0] <= SMALL


def run_cells(cells: Sequence[Cell], place: "Place", plan: Plan) -> Iterator[Row]:
    """Run cells, teachers first, and yield their rows as they come.

    Closing the iterator (an interrupt does) ends the workers; what is finished stays.
    """
    place = replace(place, threads=plan.threads)
    place.store.sweep_out()
    if plan.jobs == 1 and plan.timeout is None:
        yield from _run_here(cells, place)
    elif cells:
        pool = _Pool(cells, place, replace(plan, jobs=min(plan.jobs, len(cells))))
        try:
            yield from pool.rows()
        finally:
            pool.close()


def _run_here(cells: Sequence[Cell], place: "Place") -> Iterator[Row]:
    from bench import run

    run.warm_up(place)
    for cell in sorted(cells, key=lambda c: c.student is not None):
        yield run.run(cell, place)


# ---- workers --------------------------------------------------------------------------------


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    cell: Cell | None = None
    warm: bool = False  # it has imported and compiled what it needs: its clock may run
    deadline: float = float("inf")
    last: Any = None  # the protocol and split it has in memory


class _Pool:
    """Spawned workers, each with one cell at a time."""

    def __init__(self, cells: Sequence[Cell], place: "Place", plan: Plan) -> None:
        self.place, self.plan = place, plan
        self.total = len(cells)
        waiting_for = {cell.key for cell in cells if cell.student is None}
        self.ready: collections.deque[Cell] = collections.deque()
        self.blocked: dict[str, list[Cell]] = collections.defaultdict(list)
        for cell in cells:
            teacher = cell.teacher_cell
            if teacher is not None and teacher.key in waiting_for:
                self.blocked[teacher.key].append(cell)
            elif teacher is None and cell.student is None:
                self.ready.appendleft(cell)
            else:
                self.ready.append(cell)
        self.workers = [self._spawn() for _ in range(plan.jobs)]

    def _spawn(self) -> _Worker:
        # Forking after a parallel kernel ran would kill the child; spawning is safe everywhere.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.place), daemon=True)
        with _without_interrupts():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def rows(self) -> Iterator[Row]:
        finished = 0
        while finished < self.total:
            for worker in self.workers:
                if worker.cell is None and self.ready:
                    self._give(worker)
            for row in self._collect():
                finished += 1
                self.ready.extend(self.blocked.pop(row.key, ()))
                yield row

    def _give(self, worker: _Worker) -> None:
        """Send the worker a cell, one whose data it has in memory where there is one."""
        near = [c for c in self.ready if (c.protocol, c.split_seed) == worker.last]
        cell = near[0] if near else self.ready[0]
        self.ready.remove(cell)
        if worker.pipe.poll() and worker.warm:  # it died waiting: no cell is to blame
            self._replace(worker)
        worker.cell, worker.last = cell, (cell.protocol, cell.split_seed)
        self._start_clock(worker)
        with contextlib.suppress(OSError):  # it died just now: `_answer` finds out
            worker.pipe.send(cell)

    def _start_clock(self, worker: _Worker) -> None:
        """Count the seconds of a cell, not those of its worker's start."""
        limit = self.plan.timeout if worker.warm else None
        worker.deadline = time.monotonic() + (limit or float("inf"))

    def _collect(self) -> list[Row]:
        """Wait for news; return the rows that came, or that stand for a lost cell."""
        busy = [w for w in self.workers if w.cell is not None]
        first = min((w.deadline for w in busy), default=float("inf")) - time.monotonic()
        wait([w.pipe for w in busy], None if first == float("inf") else max(0.0, first))
        return [row for worker in busy if (row := self._answer(worker)) is not None]

    def _answer(self, worker: _Worker) -> Row | None:
        from bench.run import record_failure

        cell = worker.cell
        assert cell is not None
        if worker.pipe.poll():
            try:
                answer = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                answer = record_failure(cell, self.place, "failed", _death(worker.process.exitcode))
                self._replace(worker)
            if answer == _WARM:
                worker.warm = True
                self._start_clock(worker)
                return None
            if isinstance(answer, BaseException):
                raise answer
            worker.cell, worker.deadline = None, float("inf")
            return answer
        if time.monotonic() < worker.deadline:
            return None
        self._replace(worker)
        worker.cell, worker.deadline = None, float("inf")
        reason = f"took longer than {self.plan.timeout:g} s"
        return record_failure(cell, self.place, "timeout", reason)

    def _replace(self, worker: _Worker) -> None:
        _end(worker)
        fresh = self._spawn()
        worker.process, worker.pipe, worker.warm, worker.last = (
            fresh.process,
            fresh.pipe,
            False,
            None,
        )

    def close(self) -> None:
        for worker in self.workers:
            _end(worker)
        self.place.store.sweep_out()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let what is started in here never get a Ctrl-C, which goes to the whole process group."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_with_driver() -> None:
    """End this worker, in the middle of its cell if need be, when its driver is gone."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        why = ", most likely for want of memory" if name == "SIGKILL" else ""
        return f"its worker was ended by {name}{why}"
    return f"its worker ended with exit code {code}"


def _work(pipe: Connection, place: "Place") -> None:
    """Answer cells until the pipe closes; an interrupt is the driver's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_driver, daemon=True).start()
    from bench import run

    run.warm_up(place)
    pipe.send(_WARM)
    while True:
        try:
            cell = pipe.recv()
        except EOFError:
            return
        try:
            answer: Row | BaseException = run.run(cell, place)
        except Exception as error:  # a full disk, say: the driver tells
            answer = error
        pipe.send(answer)
