"""Launch a tuning: search what is missing, report, track; resumable as it is."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import track_live, tune
from bench.engine import Plan, Report
from bench.results import Store
from bench.sweep import Sweep
from bench.tune import Progress, TuneOutcome

if TYPE_CHECKING:
    from bench.hunt import Hunt, Running
    from bench.run import Place

TRACK_EVERY = 30.0  # seconds between two looks at what is to be tracked
LIVE_EVERY = 10.0  # and at the curves of fits that take long


def launch(
    sweep: Sweep,
    place: "Place",
    plan: Plan,
    *,
    progress: Progress,
    tuned_file: Path | None = None,
    track_uri: str | None = None,
    track: bool = True,
    reports: Path | None = None,
    **options: Any,
) -> TuneOutcome:
    """Search the students of a sweep, then report and track.

    Args:
        sweep: has `tune`.
        place: folders.
        plan: processes and threads.
        progress: wraps the finished trials to show how far it is.
        tuned_file: where to write what won.
        track_uri: MLflow store; by default sqlite in the results folder.
        track: whether to track at all.
        reports: folder for the report; None writes none.
        options: further ones of `tune.tune`.
    """
    live = _Tracking(place.store, sweep.name, track_uri) if track else None
    options = {"progress": progress, "tuned_file": tuned_file, **options}
    try:
        outcome = tune.tune(
            sweep,
            place.data,
            place,
            plan,
            on_trials=live.add if live else None,
            on_report=live.hear if live else None,
            **options,
        )
    finally:
        if live:
            live.stop()
    files = _report(sweep.name, place, outcome, reports) if reports and outcome.records else []
    outcome.files += files
    if live and outcome.records:
        live.finish(files)
        outcome.tracked = live.count
        outcome.warnings += [live.trouble] if live.trouble else []
    return outcome


def _report(sweep: str, place: "Place", outcome: TuneOutcome, folder: Path) -> list[Path]:
    from bench.reports import tuning

    if not outcome.trials and (folder / "tuning.md").is_file():
        return []
    return tuning.write(tuning.read(place.results, sweep), folder, title=sweep)


class _Tracking:
    """Tracks finished trials from a thread, now and then, so that nobody waits for it."""

    def __init__(self, store: Store, sweep: str, uri: str | None) -> None:
        from bench.track_store import default_uri

        self.store, self.sweep, self.uri = store, sweep, uri or default_uri(store.root)
        self.tracker: Any = None
        self.trouble = ""
        self.count = 0
        self._fresh: dict[str, dict[str, Any]] = {}  # study id -> its content
        self._fits = track_live.Fits()
        self._trials: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # of cells that run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def add(self, hunt: "Hunt", records: list[dict[str, Any]]) -> None:
        """Take a study with all its finished trials."""
        self._fresh[hunt.id] = hunt.content(records)
        over = {record["number"] for record in records}
        for key, (study, trial) in list(self._trials.items()):
            if study["id"] == hunt.id and trial["number"] in over:
                self._fits.forget(key)
                self._trials.pop(key)

    def hear(self, hunt: "Hunt", running: "Running", report: Report) -> None:
        """Take a score of a trial's first fit."""
        if report.key not in self._trials:
            self._trials[report.key] = hunt.content([]), running.shown()
        self._fits.hear(report)

    def stop(self) -> None:
        """End the thread; runs of trials that are not told yet say that they were left."""
        self._stop.set()
        self._thread.join()
        self._try(lambda: self.tracker and self.tracker.leave_live(self.sweep))

    def finish(self, files: list[Path]) -> None:
        """Track what is not tracked yet, the results and the report."""
        self._try(self._finish, files)

    def _finish(self, files: list[Path]) -> None:
        from bench import track_study

        studies = track_study.needs_tracking(self.store, self.sweep, self.uri)
        if studies or files:
            tracker = self._opened()
            self.count += tracker.log_trials(self.sweep, studies)
            tracker.finish_studies(self.sweep, studies)
            tracker.log_files(self.sweep + track_study.TUNING, files)

    def _opened(self) -> Any:
        from bench import track_study

        self.tracker = self.tracker or track_study.StudyTracker(self.store, self.uri)
        return self.tracker

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(min(TRACK_EVERY, LIVE_EVERY)):
            for key, fit in self._fits.news().items():
                if known := self._trials.get(key):
                    self._try(self._log_live, *known, fit)
            if time.monotonic() - last >= TRACK_EVERY:
                last = time.monotonic()
                studies, self._fresh = self._fresh, {}
                if studies:
                    self._try(self._log, list(studies.values()))

    def _log(self, studies: list[dict[str, Any]]) -> None:
        self.count += self._opened().log_trials(self.sweep, studies)

    def _log_live(self, *known: Any) -> None:
        self._opened().log_live_trial(self.sweep, *known)

    def _try(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Do something with the tracking store, unless that is in trouble."""
        from bench.track_store import TrackingError

        if not self.trouble:
            try:
                action(*arguments)
            except TrackingError as error:
                self.trouble = str(error)
