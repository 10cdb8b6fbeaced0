"""Launch a tuning: search what is missing, report, track; resumable as it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import tune
from bench.engine import Plan, Report
from bench.results import Store
from bench.sweep import Sweep
from bench.track_beside import Beside
from bench.track_live import Fit
from bench.tune import Progress, TuneOutcome

if TYPE_CHECKING:
    from bench.hunt import Hunt, Running
    from bench.run import Place


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


class _Tracking(Beside):
    """Tracks the trials of a tuning."""

    def __init__(self, store: Store, sweep: str, uri: str | None) -> None:
        from bench.track_store import default_uri

        super().__init__()
        self.store, self.sweep, self.uri = store, sweep, uri or default_uri(store.root)
        self.tracker: Any = None
        self._fresh: dict[str, dict[str, Any]] = {}  # study id -> its content
        self._trials: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # of cells that run
        self.start()

    def add(self, hunt: "Hunt", records: list[dict[str, Any]]) -> None:
        """Take a study with all its finished trials."""
        self._fresh[hunt.id] = hunt.content(records)
        over = {record["number"] for record in records}
        for key, (study, trial) in list(self._trials.items()):
            if study["id"] == hunt.id and trial["number"] in over:
                self.fits.forget(key)
                self._trials.pop(key)

    def hear(self, hunt: "Hunt", running: "Running", report: Report) -> None:
        """Take a score of a trial's first fit."""
        if report.key not in self._trials:
            self._trials[report.key] = hunt.content([]), running.shown()
        self.fits.hear(report)

    def _open(self) -> Any:
        from bench import track_study

        self.tracker = self.tracker or track_study.StudyTracker(self.store, self.uri)
        return self.tracker

    def log_fresh(self) -> None:
        """Write the studies that have new trials."""
        studies, self._fresh = self._fresh, {}
        if studies:
            self.count += self._open().log_trials(self.sweep, list(studies.values()))

    def log_live(self, key: str, fit: Fit) -> None:
        """Write the new scores of a trial's first fit."""
        if known := self._trials.get(key):
            self._open().log_live_trial(self.sweep, *known, fit)

    def close(self) -> None:
        """Let the runs of trials that are not told yet say that they were left."""
        if self.tracker:
            self.tracker.leave_live(self.sweep)

    def log_rest(self, files: list[Path]) -> None:
        """Write the trials that are not tracked yet, the results and the report."""
        from bench import track_study

        studies = track_study.needs_tracking(self.store, self.sweep, self.uri)
        if studies or files:
            tracker = self._open()
            self.count += tracker.log_trials(self.sweep, studies)
            tracker.finish_studies(self.sweep, studies)
            tracker.log_files(self.sweep + track_study.TUNING, files)
