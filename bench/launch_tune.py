"""Launch a tuning: search what is missing, report, track; resumable as it is."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import tune
from bench.engine import Plan
from bench.results import Store
from bench.sweep import Sweep
from bench.tune import Progress, TuneOutcome

if TYPE_CHECKING:
    from bench.hunt import Hunt
    from bench.run import Place

TRACK_EVERY = 30.0  # seconds between two looks at what is to be tracked


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
            sweep, place.data, place, plan, on_trials=live.add if live else None, **options
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
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def add(self, hunt: "Hunt", records: list[dict[str, Any]]) -> None:
        """Take a study with all its finished trials."""
        self._fresh[hunt.id] = hunt.content(records)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def finish(self, files: list[Path]) -> None:
        """Track what is not tracked yet, the results and the report."""
        from bench import track_study

        try:
            studies = track_study.needs_tracking(self.store, self.sweep, self.uri)
            if studies or files:
                tracker = self._opened()
                self.count += tracker.log_trials(self.sweep, studies)
                tracker.finish_studies(self.sweep, studies)
                tracker.log_files(self.sweep + track_study.TUNING, files)
        except track_study.TrackingError as error:
            self.trouble = str(error)

    def _opened(self) -> Any:
        from bench import track_study

        self.tracker = self.tracker or track_study.StudyTracker(self.store, self.uri)
        return self.tracker

    def _watch(self) -> None:
        while not self._stop.wait(TRACK_EVERY):
            studies, self._fresh = self._fresh, {}
            if not studies or self.trouble:
                continue
            from bench import track_study

            try:
                self.count += self._opened().log_trials(self.sweep, list(studies.values()))
            except track_study.TrackingError as error:
                self.trouble = str(error)
