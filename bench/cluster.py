"""Cells on the workers of a Dask cluster: the driver's side.

Each thread of a Dask worker has one spawned worker (pool.py) and hands it cell after cell. So time
limits, deaths, threads and memory are those of a local run, a fit cannot keep Dask's own process
from answering its scheduler, and that process never loads torch.

Where the results folder is shared (a worker looks for a file that the driver put there), workers
write rows into it themselves. Else row and artefacts come back as data, the driver writes them, and
the files of a teacher travel to the workers that need them.

A cell answers the same whoever runs it, so a lost worker costs only what it was running: Dask runs
that again elsewhere.
"""

import collections
import contextlib
import functools
import itertools
import logging
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import __version__
from bench.cell import Cell
from bench.cluster_client import connect, translated
from bench.cluster_worker import Answer, Order, answer, pack, release, stop, unpack
from bench.engine import Engine, Job, Plan
from bench.place import Place

_log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks at the workers
LOSSES = 3  # workers that may be lost with the same cell, for that cell to be the reason
TEACHERS_KEPT = 64  # whose files stay on the cluster


@dataclass
class _Sent:
    """A job on its way."""

    job: Job
    future: Any
    worker: str = ""  # address of the one that began it last
    scores: int = 0  # how many were passed on


class DaskEngine(Engine):
    """Hands cells to the workers of a Dask cluster, as many as there are threads."""

    def __init__(self, place: Place, plan: Plan, scheduler: str) -> None:
        super().__init__(place, plan)
        self.scheduler = scheduler
        self.client = connect(scheduler)
        self.name = f"gkdbench-{uuid.uuid4().hex[:12]}"
        self.token = self.place.results / f".{self.name}"
        self.token.parent.mkdir(parents=True, exist_ok=True)
        self.token.touch()
        self._numbers = itertools.count()
        self._sent: dict[str, _Sent] = {}  # by task
        self._begun: collections.Counter[str] = collections.Counter()  # by key: how often
        self._carries = False  # whether workers lack the files of teachers
        self._teachers: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._mail: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._workers: dict[str, int] = {}  # threads by address
        self._next_look = 0.0
        self._warned = False
        self.client.subscribe_topic(self.name, lambda event: self._mail.put(event[1]))

    @property
    def slots(self) -> int:
        """The threads of all workers; 1 while there is none."""
        if time.monotonic() >= self._next_look:
            self._look()
        return max(1, sum(self._workers.values()))

    def close(self) -> None:
        """Leave the cluster free of this engine's cells; what is finished stays."""
        self.token.unlink(missing_ok=True)
        if self.client.status == "running":
            with contextlib.suppress(Exception):  # whatever Dask has to say about it is too late
                self.client.unsubscribe_topic(self.name)
                self.client.cancel([sent.future for sent in self._sent.values()])
                self.client.run(release, self.name, wait=False, on_error="ignore")
        else:
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # we told already
        self._sent.clear()
        self._teachers.clear()
        self.client.close(timeout=5)

    # -- sending ---------------------------------------------------------------------------

    def _send(self, job: Job) -> None:
        cell = job.cell
        task = f"{'student' if cell.student else 'teacher'}-{self.name}-{next(self._numbers)}"
        order = Order(
            task=task,
            engine=self.name,
            version=__version__,
            cell=cell,
            place=self.place,
            timeout=self.plan.timeout,
            heard=job.heard,
            token=self.token,
            data=_data_files(cell, self.place),
        )
        future = self.client.submit(
            answer,
            order,
            self._teacher_files(cell),
            key=task,
            pure=False,
            priority=0 if cell.student else 10,
            resources=self._resources(cell),
        )
        self._sent[task] = _Sent(job, future)
        future.add_done_callback(lambda _: self._mail.put(("done", task)))

    def _resources(self, cell: Cell) -> dict[str, int] | None:
        if cell.device != "cuda":
            return None
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if workers and not any(worker["resources"].get("GPU") for worker in workers):
            raise ValueError(
                "device 'cuda' is asked for, and no worker of the cluster offers a GPU; start one "
                f"with `dask worker {self.scheduler} --nthreads 1 --resources GPU=1`"
            )
        return {"GPU": 1}

    def _teacher_files(self, cell: Cell) -> Any:
        """Return the files of a student's teacher, put on the cluster once; None if not needed."""
        teacher = cell.teacher_cell
        if teacher is None or not self._carries:
            return None
        future = self._teachers.pop(teacher.key, None)
        if future is None or future.status != "finished":
            # as one thing: Dask would take a tuple apart
            (future,) = self.client.scatter([pack(self.place.store, teacher.key)], hash=False)
        self._teachers[teacher.key] = future
        while len(self._teachers) > TEACHERS_KEPT:
            self._teachers.popitem(last=False)
        return future

    # -- receiving -------------------------------------------------------------------------

    def _advance(self, seconds: float) -> None:
        with self._while_connected():
            while self.queue:
                self._send(self.queue.take())
            try:
                self._receive(*self._mail.get(timeout=min(seconds, 1.0)))
            except queue.Empty:
                if time.monotonic() >= self._next_look:
                    self._look()
            while not self._mail.empty():
                self._receive(*self._mail.get())

    def _receive(self, kind: str, task: str, *content: Any) -> None:
        sent = self._sent.get(task)
        if sent is None:  # of a cell that was stopped
            return
        if kind == "begun":
            sent.job.begun, sent.worker = True, content[0]
            self._begun[sent.job.cell.key] += 1
            if sent.job.stopped:
                self._stop_running(sent.job)
        elif kind == "scores":
            self._hear(sent, *content)
        else:
            self._end_task(task, sent)

    def _hear(self, sent: _Sent, first: int, scores: Sequence[tuple[int, float]]) -> None:
        """Pass scores on, once: a fit that runs again on another worker repeats what it said."""
        for epoch, value in scores[max(0, sent.scores - first) :]:
            sent.scores += 1
            self._report(sent.job, epoch, value)

    def _end_task(self, task: str, sent: _Sent) -> None:
        status = sent.future.status
        if status == "finished":
            self._take(task, sent, sent.future.result())
            return
        del self._sent[task]
        if status == "error":
            error = sent.future.exception()
            if type(error).__name__ != "KilledWorker":
                raise translated(error, self.scheduler)
            if self._begun[sent.job.cell.key] >= LOSSES:
                self._give_up(sent)
                return
        if self.client.status != "running":  # it cancels all that it knows of
            raise ConnectionError
        if sent.job.stopped:
            self._stopped(sent.job)
        else:
            self._again(sent.job)

    def _again(self, job: Job) -> None:
        job.begun = False
        self.queue.put(job)

    def _give_up(self, sent: _Sent) -> None:
        from bench.run import record_failure

        times = self._begun[sent.job.cell.key]
        reason = f"its worker was lost {times} times, most likely for want of memory"
        self._finish(sent.job, record_failure(sent.job.cell, self.place, "failed", reason))

    def _take(self, task: str, sent: _Sent, found: Answer) -> None:
        """Take in what a worker answered."""
        self._hear(sent, 0, found.scores)
        del self._sent[task]
        if found.lacks_teacher:
            self._carries = True
            self._again(sent.job)
        elif found.row is None:
            self._stopped(sent.job, found.seconds)
        elif found.files is None:
            self._finish(sent.job, found.row)
        else:
            self._finish(sent.job, unpack(self.place.store, found.row, found.files))

    def _stop_running(self, job: Job) -> None:
        found = next(((t, s) for t, s in self._sent.items() if s.job is job), None)
        if found is None:
            return
        task, sent = found
        if job.begun:
            self.client.run(stop, task, workers=[sent.worker], wait=False, on_error="ignore")
            return
        del self._sent[task]
        sent.future.cancel()
        self.client.run(stop, task, wait=False, on_error="ignore")  # it may have begun just now
        self._stopped(job)

    # -- the cluster -----------------------------------------------------------------------

    def _look(self) -> None:
        """See who is there; say so once where nobody is."""
        self._next_look = time.monotonic() + LOOK_SECONDS
        try:
            self._workers = self.client.nthreads()
        except OSError:  # the scheduler is gone: `_while_connected` tells
            return
        if not self._workers and self.jobs and not self._warned:
            self._warned = True
            _log.warning(
                f"the cluster at {self.scheduler} has no worker yet; cells wait until one comes"
            )

    @contextlib.contextmanager
    def _while_connected(self) -> Iterator[None]:
        """Turn what Dask raises without its scheduler into one sentence."""
        try:
            yield
            lost = self.client.status != "running"
        except Exception:
            if self.client.status == "running":
                raise
            lost = True
        if lost:
            raise ConnectionError(
                f"the Dask scheduler at {self.scheduler} is gone; what is finished is kept: start "
                "it again, and the same command goes on from there"
            )


@functools.lru_cache(maxsize=64)
def _files_of(dataset: str, root: Path) -> tuple[Path, ...]:
    from bench import registry

    return tuple(registry.dataset_module(dataset).files(dataset, root))


def _data_files(cell: Cell, place: Place) -> tuple[Path, ...]:
    """The files that a worker must see."""
    return _files_of(cell.protocol.dataset, place.data)
