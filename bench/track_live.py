"""Runs of cells that are not finished: RUNNING, with the curve so far; nothing here imports mlflow.

The run that a cell gets while it runs is finished as the run of its row (`Tracker.log_rows`). One
whose process died is dropped by the next look at its experiment.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench import track_content as content
from bench.cell import Cell
from bench.jobs import Report
from bench.results import Row, Store
from bench.track_content import Entry

AFTER = 30.0  # seconds of a fit before it gets a run: most are over by then
POINTS = 6  # in one go; the row brings the whole curve
CURVE = "history/val_accuracy"


@dataclass
class Fit:
    """The scores of a running fit."""

    start: int  # milliseconds
    fresh: dict[int, tuple[float, int]] = field(default_factory=dict)  # epoch -> value, ms


class Fits:
    """Gathers what fits report, from any thread."""

    def __init__(self, after: float = AFTER) -> None:
        self.after = after
        self._fits: dict[str, Fit] = {}
        self._lock = threading.Lock()

    def hear(self, report: Report) -> None:
        """Take in a score."""
        now = int(time.time() * 1000)
        with self._lock:
            self._fits.setdefault(report.key, Fit(now)).fresh[report.epoch] = report.value, now

    def forget(self, key: str) -> None:
        """Drop a fit that is over."""
        with self._lock:
            self._fits.pop(key, None)

    def news(self) -> dict[str, Fit]:
        """Return the fits that run for a while now, each with the scores not returned before."""
        old = int((time.time() - self.after) * 1000)
        found = {}
        with self._lock:
            for key, fit in self._fits.items():
                if fit.start <= old and fit.fresh:
                    found[key] = Fit(fit.start, fit.fresh)
                    fit.fresh = {}
        return found


def entry(store: Store, cell: Cell, start: int) -> Entry:
    """Return what stands for the row that is not there yet."""
    started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(start / 1000))
    row = Row(cell.key, cell.describe(), "running", ran={"started": started, "seconds": 1e-9})
    teacher = cell.teacher_cell
    row.teacher_key = teacher.key if teacher else ""
    return Entry(row, cell, store.folder(cell.key))


def tags(found: Entry, sweep: str, parent: str) -> dict[str, str]:
    """Return the tags of a run that goes on."""
    return content.tags(found, sweep) | {"mlflow.parentRunId": parent, "gkdbench.row": ""}


def points(scores: Mapping[int, tuple[float, int]]) -> list[tuple[str, float, int, int]]:
    """Return the arguments of MLflow's `Metric` for scores, for some of them if they are many."""
    stride = -(-len(scores) // POINTS) or 1
    chosen = sorted(scores.items())[::-1][::stride][::-1]  # the last one is among them
    return [(CURVE, value, at, epoch) for epoch, (value, at) in chosen]
