"""Spawned workers, each with one cell at a time.

A worker that dies or takes too long costs its cell only, and is replaced. In a worker one thread
reads the pipe and one writes it, so a fit never waits for the driver, neither to report a score nor
to learn that it should stop.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from bench.cell import Cell
from bench.engine import Engine, Job, Plan
from bench.jobs import Stopped
from bench.place import Place
from bench.results import Row

TELL_SECONDS = 0.05  # between two messages with scores: a fit of fast epochs pays for few
_WARM = "warm"  # what a worker says when it is ready for its first cell


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None
    warm: bool = False  # it has imported and compiled what it needs: its clock may run
    deadline: float = float("inf")
    last: Any = None  # Job.data it has in memory


class Pool(Engine):
    """At most `plan.jobs` workers, started when there is work for them."""

    def __init__(self, place: Place, plan: Plan) -> None:
        super().__init__(place, plan)
        self.workers: list[_Worker] = []

    def close(self) -> None:
        """End all workers, in the middle of their cells if need be."""
        for worker in self.workers:
            _end(worker)
        self.workers.clear()
        self.place.store.sweep_out()

    def _advance(self, seconds: float) -> None:
        while len(self.workers) < min(self.plan.jobs, len(self.jobs)):
            self.workers.append(_Worker(*_spawn(self.place)))
        for worker in self.workers:
            if worker.job is None and self.queue:
                self._give(worker)
        busy = [w for w in self.workers if w.job is not None]
        first = min((w.deadline for w in busy), default=float("inf")) - time.monotonic()
        seconds = min(seconds, max(0.0, first))
        wait([w.pipe for w in busy], None if seconds == float("inf") else seconds)
        for worker in busy:
            self._hear(worker)

    def _give(self, worker: _Worker) -> None:
        """Send the worker a cell, one whose data it has in memory where there is one."""
        try:
            if worker.pipe.poll():  # it is warm now, or it died waiting: no cell is to blame
                worker.warm = worker.pipe.recv() == _WARM
        except (EOFError, OSError):
            self._replace(worker)
        job = self.queue.take(worker.last)
        job.begun = True
        worker.job, worker.last = job, job.data
        self._start_clock(worker)
        with contextlib.suppress(OSError):  # it died just now: `_hear` finds out
            worker.pipe.send((job.cell, job.heard))

    def _start_clock(self, worker: _Worker) -> None:
        """Count the seconds of a cell, not those of its worker's start."""
        limit = self.plan.timeout if worker.warm else None
        worker.deadline = time.monotonic() + (limit or float("inf"))

    def _stop_running(self, job: Job) -> None:
        worker = next((w for w in self.workers if w.job is job), None)
        if worker is not None:
            with contextlib.suppress(OSError):  # it died just now
                worker.pipe.send(job.cell.key)

    def _hear(self, worker: _Worker) -> None:
        """Take in all that a busy worker has to say, and see to one that died or takes too long."""
        while (job := worker.job) is not None and worker.pipe.poll():
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                self._lose(worker, "failed", _death(worker.process.exitcode))
                return
            if message == _WARM:
                worker.warm = True
                self._start_clock(worker)
            elif isinstance(message, list):
                for epoch, value in message:
                    self._report(job, epoch, value)
            else:
                worker.job, worker.deadline = None, float("inf")
                self._end_job(job, message)
        if worker.job is not None and time.monotonic() >= worker.deadline:
            self._lose(worker, "timeout", f"took longer than {self.plan.timeout:g} s")

    def _end_job(self, job: Job, message: Any) -> None:
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, Stopped):
            self._stopped(job, message.seconds)
        else:
            self._finish(job, message)

    def _lose(self, worker: _Worker, status: str, reason: str) -> None:
        """Replace a worker, and store a row for the cell that it did not finish."""
        from bench.run import record_failure

        job = worker.job
        assert job is not None
        self._replace(worker)
        self._finish(job, record_failure(job.cell, self.place, status, reason))

    def _replace(self, worker: _Worker) -> None:
        _end(worker)
        worker.process, worker.pipe = _spawn(self.place)
        worker.job, worker.last, worker.warm, worker.deadline = None, None, False, float("inf")


def _spawn(place: Place) -> tuple[Any, Connection]:
    # Forking after a parallel kernel ran would kill the child; spawning is safe everywhere.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, place), daemon=True)
    with _without_interrupts(), _with_children(), _without_main():
        process.start()
    theirs.close()
    return process, ours


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


@contextlib.contextmanager
def _with_children() -> Iterator[None]:
    """Let a daemonic process (such as a worker of Dask) have workers: they end with it anyway."""
    config = getattr(multiprocessing.current_process(), "_config", {})
    before = config.get("daemon")
    config["daemon"] = False
    try:
        yield
    finally:
        config["daemon"] = before


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep what is spawned in here from importing this process's script: it needs nothing of it."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = before


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


# ---- in the worker --------------------------------------------------------------------------


def _work(pipe: Connection, place: Place) -> None:
    """Answer cells until the driver is gone; an interrupt is the driver's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cells: queue.SimpleQueue[tuple[Cell, bool]] = queue.SimpleQueue()
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped: set[str] = set()
    threading.Thread(target=_read, args=(pipe, cells, stopped), daemon=True).start()
    threading.Thread(target=_write, args=(pipe, answers), daemon=True).start()
    from bench import run

    run.warm_up(place)
    answers.put(_WARM)
    while True:
        cell, heard = cells.get()
        try:
            answers.put(_answer(cell, place, answers if heard else None, stopped))
        except Exception as error:  # a full disk, say: the driver tells
            answers.put(error)


def _answer(
    cell: Cell, place: Place, scores: "queue.SimpleQueue[Any] | None", stopped: set[str]
) -> Row | Stopped:
    from bench import run

    batch: list[tuple[int, float]] = []
    told = time.monotonic()

    def listener(epoch: int, value: float) -> bool:
        nonlocal batch, told
        if scores is not None:
            batch.append((epoch, value))
            if (now := time.monotonic()) - told >= TELL_SECONDS:
                scores.put(batch)
                batch, told = [], now
        return cell.key not in stopped

    try:
        if cell.key in stopped:
            return Stopped(cell.key)
        return run.run(cell, place, listener)
    except run.StoppedError as stop:
        return Stopped(cell.key, stop.seconds)
    finally:
        if scores is not None and batch:
            scores.put(batch)


def _read(pipe: Connection, cells: "queue.SimpleQueue[Any]", stopped: set[str]) -> None:
    """Sort what the driver says: a cell, or the key of one to stop."""
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)  # the driver is gone: end in the middle of the cell, if need be
        if isinstance(message, str):
            stopped.add(message)
        else:
            stopped.discard(message[0].key)
            cells.put(message)


def _write(pipe: Connection, answers: "queue.SimpleQueue[Any]") -> None:
    while True:
        with contextlib.suppress(OSError):  # the driver is gone: `_read` finds out
            pipe.send(answers.get())
