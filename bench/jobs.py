"""What an engine keeps of its cells, and what it tells of them."""

import collections
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.cell import Cell
from bench.results import Row


@dataclass(frozen=True)
class Report:
    """One validation score of a running fit: every fifth epoch has one."""

    key: str  # of the cell
    epoch: int
    value: float  # val accuracy of this epoch


@dataclass(frozen=True)
class Stopped:
    """The cell was told to stop and did; no row was written."""

    key: str
    seconds: float = field(default=0.0, compare=False)  # of training until then


Event = Row | Report | Stopped
Decide = Callable[[Report], bool]  # whether the fit goes on


@dataclass(eq=False)
class Job:
    """A cell that is not finished, and who wants to know what of it."""

    cell: Cell
    reports: bool = False
    decide: Decide | None = None
    submitted: bool = True  # else it is a teacher that the engine runs of its own accord
    begun: bool = False
    stopped: bool = False

    @property
    def heard(self) -> bool:
        """Whether anybody listens to the scores of its fit."""
        return self.reports or self.decide is not None

    @property
    def data(self) -> Any:
        """What of its data a worker keeps in memory."""
        return self.cell.protocol, self.cell.split_seed


class Queue:
    """Jobs that may begin: teachers before students, near ones first, else in their order."""

    def __init__(self) -> None:
        self._teachers: dict[Any, collections.deque[Job]] = {}  # by Job.data
        self._students: dict[Any, collections.deque[Job]] = {}

    def __bool__(self) -> bool:
        return bool(self._teachers or self._students)

    def _home(self, job: Job) -> dict[Any, collections.deque[Job]]:
        return self._students if job.cell.student else self._teachers

    def put(self, job: Job) -> None:
        """Add a job."""
        self._home(job).setdefault(job.data, collections.deque()).append(job)

    def take(self, near: Any = None) -> Job:
        """Remove and return a job, one with the data `near` where there is one."""
        homes = [self._teachers, self._students]
        home = next((h for h in homes if near in h), None)
        data = near
        if home is None:
            home = homes[0] or homes[1]
            data = next(iter(home))
        job = home[data].popleft()
        if not home[data]:
            del home[data]
        return job

    def remove(self, job: Job) -> bool:
        """Remove this job; return whether it was here."""
        home = self._home(job)
        if not any(job is other for other in home.get(job.data, ())):
            return False
        kept = collections.deque(other for other in home[job.data] if other is not job)
        home[job.data] = kept
        if not kept:
            del home[job.data]
        return True
