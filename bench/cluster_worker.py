"""What runs inside the workers of a Dask cluster; without torch, since the spawned workers have it.

The two directions beside Dask's own: what a fit has to say goes out as Dask events under the name
of the engine, without waiting for anybody; what is to stop comes in as a call that leaves a note.
"""

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import __version__
from bench.cell import Cell
from bench.engine import Plan, Report, Stopped
from bench.place import Place
from bench.pool import Pool
from bench.results import CorruptError, Row, Store

POLL_SECONDS = 0.25  # between two looks at the notes

Files = dict[str, bytes]  # the artefacts of a row by name


@dataclass(frozen=True)
class Order:
    """A cell to answer, and how."""

    task: str
    engine: str  # topic of its events
    version: str  # of this package at the driver
    cell: Cell
    place: Place
    timeout: float | None
    heard: bool  # whether anybody listens to the fit
    token: Path  # there if the results folder is shared
    data: tuple[Path, ...]  # files of the dataset


@dataclass(frozen=True)
class Answer:
    """What became of a cell; without a row it was stopped."""

    row: Row | None = None
    files: Files | None = None  # of the row, where the results folder is not shared
    scores: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0  # of training, where it was stopped
    lacks_teacher: bool = False  # nothing was run: send the files of the teacher as well


class _Single(Pool):
    """One spawned worker; the driver sees to the teachers."""

    def _must_run(self, teacher: Cell) -> bool:
        return False


@dataclass
class _Seat:
    """The spawned worker of a thread."""

    key: Any
    pool: _Single
    busy: bool = True


_lock = threading.Lock()  # of the seats
_keeping = threading.Lock()  # a thread that writes a teacher makes the others wait
_seats: dict[int, _Seat] = {}  # by thread
_stopped: set[str] = set()  # tasks
_released: set[str] = set()  # engines


def answer(order: Order, teacher: tuple[Row, Files] | None) -> Answer:
    """Answer an order; called by Dask, in a thread of a worker.

    Raises:
        ValueError: this worker has another version of this package.
        FileNotFoundError: it does not see the data.
    """
    from distributed import get_worker

    _check(order)
    worker = get_worker()
    shared = order.token.is_file()
    place = order.place
    if not shared:
        place = replace(place, results=Path(worker.local_directory) / "gkdbench")
        if teacher is not None:
            _keep(place.store, *teacher)
        taught_by = order.cell.teacher_cell
        if taught_by and teacher is None and not _is_here(place.store, taught_by.key):
            return Answer(lacks_teacher=True)
    worker.log_event(order.engine, ("begun", order.task, worker.address))
    scores: list[tuple[int, float]] = []
    told = 0

    def take(report: Report) -> bool:
        scores.append((report.epoch, report.value))
        return True

    def tell() -> None:
        nonlocal told
        if told < len(scores):
            worker.log_event(order.engine, ("scores", order.task, told, scores[told:]))
            told = len(scores)

    with _seated(order, place) as pool:
        pool.submit(order.cell, decide=take if order.heard else None)
        event = _outcome(pool, order, tell)
    if isinstance(event, Stopped):
        return Answer(scores=scores, seconds=event.seconds)
    row = event if isinstance(event, Row) else None
    if shared or row is None:
        return Answer(row, None, scores)
    files = pack(place.store, row.key)[1]
    if order.cell.student:  # nobody here needs it
        shutil.rmtree(place.store.folder(row.key))
    return Answer(row, files, scores)


def _check(order: Order) -> None:
    host = socket.gethostname()
    if order.version != __version__:
        raise ValueError(
            f"the worker on {host} has gkdbench {__version__}, and this is {order.version}; "
            "install the same version there"
        )
    missing = [path for path in order.data if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"the worker on {host} does not see {missing[0]}; give --data a folder that all "
            "workers see under the same path"
        )


def _outcome(pool: Pool, order: Order, tell: Callable[[], None]) -> Any:
    """Wait for the end of a cell; meanwhile pass scores on and look whether it should stop."""
    while True:
        events = pool.events(timeout=POLL_SECONDS)
        if events:
            return events[0]
        tell()
        if order.engine in _released:
            return None
        if order.task in _stopped:
            pool.stop(order.cell.key)


@contextlib.contextmanager
def _seated(order: Order, place: Place) -> Iterator[Pool]:
    """Lend this thread's spawned worker, a new one where the folders are others."""
    me, key = threading.get_ident(), (order.engine, place, order.timeout)
    with _lock:
        seat = _seats.pop(me, None)
    if seat is None or seat.key != key:
        if seat is not None:
            seat.pool.close()
        seat = _Seat(key, _Single(place, Plan(1, place.threads, order.timeout)))
    with _lock:
        seat.busy = True
        _seats[me] = seat
    try:
        yield seat.pool
        good = True
    except BaseException:
        good = False
        raise
    finally:
        with _lock:
            seat.busy = False
            keep = good and order.engine not in _released
            gone = None if keep else _seats.pop(me)
        if gone:
            gone.pool.close()


async def stop(task: str) -> None:
    """Leave the note that a task should end; Dask calls this beside the threads."""
    _stopped.add(task)


async def release(engine: str) -> None:
    """End what runs or waits here for an engine; Dask calls this beside the threads."""
    _released.add(engine)
    with _lock:
        idle = [me for me, seat in _seats.items() if seat.key[0] == engine and not seat.busy]
        seats = [_seats.pop(me) for me in idle]
    for seat in seats:
        seat.pool.close()


# ---- files ----------------------------------------------------------------------------------


def pack(store: Store, key: str) -> tuple[Row, Files]:
    """Read a row with its artefacts.

    Raises:
        CorruptError: one of them is missing or changed.
    """
    row = store.read(key)
    if row is None:
        raise CorruptError(f"{store.folder(key)} is missing")
    return row, {name: store.artefact(row, name).read_bytes() for name in row.artefacts}


def unpack(store: Store, row: Row, files: Files) -> Row:
    """Write what `pack` read.

    Raises:
        CorruptError: an artefact changed on its way.
    """
    expected = dict(row.artefacts)
    with store.draft(row.key) as draft:
        for name, content in files.items():
            (draft / name).write_bytes(content)
        written = store.write(row, draft)
    if written.artefacts != expected:
        store.set_aside(row.key, "its artefacts changed on their way")
        raise CorruptError(f"the artefacts of {row.key} changed on their way here")
    return written


def _keep(store: Store, row: Row, files: Files) -> None:
    """Write a teacher that came along, unless it is here."""
    with _keeping:
        if not _is_here(store, row.key):
            unpack(store, row, files)


def _is_here(store: Store, key: str) -> bool:
    """Whether a teacher was finished here; one that failed here may be fine elsewhere."""
    row = store.read_or_set_aside(key)
    return row is not None and row.done
