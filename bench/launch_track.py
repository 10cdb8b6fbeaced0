"""Tracking beside a sweep that runs: rows as they finish, and the curves of fits that take long."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import track_live
from bench.cell import Cell
from bench.engine import Report
from bench.results import Store

TRACK_EVERY = 30.0  # seconds between two looks at what is to be tracked
LIVE_EVERY = 10.0  # and at the curves of fits that take long


class Tracking:
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

    def hear(self, report: Report) -> None:
        """Take the score of a fit that runs."""
        if report.key in self.cells:
            self._fits.hear(report)

    def add(self, key: str) -> None:
        """Take a finished row."""
        self._fits.forget(key)
        self._done.add(key)
        self._fresh.append(key)

    def stop(self) -> None:
        """End the thread; what it began of fits that nobody finishes is taken back."""
        self._stop.set()
        self._thread.join()
        self._try(self._drop_live)

    def finish(self, keys: list[str], files: list[Path]) -> None:
        """Track what is not tracked yet of these rows, and the report."""
        from bench import track

        try:
            keys = track.needs_tracking(self.store, self.sweep, keys, self.uri)
            if keys or files:
                tracker = self._open()
                self.count += tracker.log_rows(self.sweep, keys, cells=self.cells)
                tracker.finish(self.sweep)
                tracker.log_files(self.sweep, files)
        except track.TrackingError as error:
            self.trouble = str(error)

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
