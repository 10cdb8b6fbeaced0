"""Tracking beside a sweep that runs: rows as they finish, and the curves of fits that take long."""

from pathlib import Path
from typing import Any

from bench.cell import Cell
from bench.engine import Report
from bench.results import Store
from bench.track_beside import Beside
from bench.track_live import Fit


class Tracking(Beside):
    """Tracks the rows of a sweep."""

    def __init__(self, store: Store, sweep: str, uri: str | None, cells: list[Cell]) -> None:
        super().__init__()
        self.store, self.sweep, self.uri = store, sweep, uri
        self.cells = {cell.key: cell for cell in cells}
        self.tracker: Any = None
        self._fresh: list[str] = []
        self._done: set[str] = set()
        self.start()

    def hear(self, report: Report) -> None:
        """Take the score of a fit that runs."""
        if report.key in self.cells:
            self.fits.hear(report)

    def add(self, key: str) -> None:
        """Take a finished row."""
        self.fits.forget(key)
        self._done.add(key)
        self._fresh.append(key)

    def _open(self) -> Any:
        from bench import track

        self.tracker = self.tracker or track.Tracker(self.store, self.uri)
        return self.tracker

    def log_fresh(self) -> None:
        """Write the rows that came."""
        keys, self._fresh = self._fresh, []
        if keys:
            self.count += self._open().log_rows(self.sweep, keys)

    def log_live(self, key: str, fit: Fit) -> None:
        """Write the new scores of a cell."""
        self._open().log_live(self.sweep, self.cells[key], fit)

    def close(self) -> None:
        """Take back what was begun of cells that nobody finishes."""
        if self.tracker:
            self.tracker.drop_live(self.sweep, self._done)

    def log_rest(self, keys: list[str], files: list[Path]) -> None:
        """Write what is not tracked yet of these rows, and the report."""
        from bench import track

        keys = track.needs_tracking(self.store, self.sweep, keys, self.uri)
        if keys or files:
            tracker = self._open()
            self.count += tracker.log_rows(self.sweep, keys, cells=self.cells)
            tracker.finish(self.sweep)
            tracker.log_files(self.sweep, files)
