"""Tuning in MLflow: a parent run for each study, a child run for each trial.

The experiment is `<sweep> (tuning)`. The studies' own files are the truth: what a store lacks is
written from them, whether the tuning goes on, is over or was tracked elsewhere.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from bench import track_live
from bench import track_trials as content
from bench.cell import Cell, Protocol
from bench.results import Row, Store
from bench.track import BLOCK, Tracker
from bench.track_index import TUNING, Child, Tracked, read_row
from bench.track_live import Fit
from bench.track_store import TrackingError, guarded, noted
from bench.tuning import best_trial, read_studies, tuned_sweeps

__all__ = ["TUNING", "StudyTracker", "TrackingError", "needs_tracking", "replay"]

Studies = Sequence[content.Study]


class StudyTracker(Tracker):
    """Writes studies to a tracking store; errors are those of `Tracker`."""

    def __init__(self, store: Store, uri: str | None = None) -> None:
        super().__init__(store, uri)
        self._going: set[str] = set()  # runs of trials that go on

    def log_trials(self, sweep: str, studies: Studies) -> int:
        """Track the trials that are not tracked as they are now; return how many runs.

        Their teachers are tracked with them, in the same experiment.
        """
        experiment = sweep + TUNING
        with guarded(self.uri):
            tracked = self._sweeps.get(experiment) or self._look(experiment)
            todo = [(s, t) for s in studies for t in s["trials"] if _lacks(tracked, s, t)]
        rows = self._rows(content.keys_of(todo))
        self._sweeps[experiment] = tracked
        teachers = {content.teacher_key(row) for row in rows.values()} - {"", *tracked.cells}
        if teachers:
            self.log_rows(experiment, sorted(teachers))
        with guarded(self.uri):
            tracked = self._sweeps.pop(experiment)
            for study, trial in todo:
                if study["id"] not in tracked.studies:
                    self._create_study(tracked, sweep, study)
                row = rows.get(content.first_key(study, trial))
                self._log_trial(tracked, sweep, (study, trial), row)
            for study in studies:
                if fresh := {t["number"] for other, t in todo if other is study}:
                    self._log_progress(tracked, study, fresh)
            self._sweeps[experiment] = tracked  # after an error it is looked at anew
        return len(todo)

    def log_live_trial(
        self, sweep: str, study: content.Study, trial: content.Trial, fit: Fit
    ) -> None:
        """Write what the first fit of a running trial reported; `log_trials` replaces its run."""
        from mlflow.entities import Metric, Param

        experiment, place = sweep + TUNING, (study["id"], trial["number"])
        with guarded(self.uri):
            tracked = self._sweeps.pop(experiment, None) or self._look(experiment)
            if study["id"] not in tracked.studies:
                self._create_study(tracked, sweep, study)
            child = tracked.trials.get(place)
            if child is None:
                tags = content.trial_tags(study, trial, sweep, None)
                tags |= {"mlflow.parentRunId": tracked.studies[study["id"]].run_id}
                name = content.trial_name(study, trial)
                run = self.client.create_run(tracked.id, fit.start, tags, run_name=name)
                child = tracked.trials[place] = Child(run.info.run_id, content.digest(trial))
                params = content.trial_params(study, trial).items()
                self.client.log_batch(child.run_id, params=[Param(k, v) for k, v in params])
                self._going.add(child.run_id)
            points = [Metric(*point) for point in track_live.points(fit.fresh)]
            self.client.log_batch(child.run_id, points)
            self._sweeps[experiment] = tracked

    def leave_live(self, sweep: str) -> None:
        """End the runs of trials that nobody ended: the same command goes on with these trials."""
        experiment = sweep + TUNING
        with guarded(self.uri):
            tracked = self._sweeps.get(experiment)
            left = {child.run_id for child in tracked.trials.values()} if tracked else set()
            for run_id in sorted(left & self._going):
                self.client.set_terminated(run_id, "KILLED")

    def finish_studies(self, sweep: str, studies: Studies) -> None:
        """Write what won on the parent runs, attach the studies' files, and note what is tracked.

        Args:
            sweep: that was tuned.
            studies: as their files have them; their trials are tracked.
        """
        experiment = sweep + TUNING
        with guarded(self.uri):
            tracked = self._sweeps.get(experiment) or self._look(experiment)
        self.log_rows(experiment, list(tracked.cells))  # teachers that were trained anew
        with guarded(self.uri):
            tracked = self._sweeps[experiment]
            for study in studies:
                digest = content.digest(study)
                if study["id"] not in tracked.studies:  # a study without a trial
                    self._create_study(tracked, sweep, study)
                if tracked.studies[study["id"]].row != digest:
                    self._finish_study(tracked, sweep, study)
                tracked.studies[study["id"]].row = digest
                tracked.stamps[_mark(study)] = digest
            self._relink_trials(tracked, studies)
            self._sweeps[experiment] = tracked
        self.finish(experiment)  # the teachers' groups

    def _rows(self, keys: Iterable[str]) -> dict[str, Row]:
        """The rows of these keys, as far as they can be read."""
        rows = {key: read_row(self.store, key) for key in keys if key}
        return {key: row for key, row in rows.items() if row is not None}

    # -- a trial ---------------------------------------------------------------------------

    def _log_trial(
        self,
        tracked: Tracked,
        sweep: str,
        asked: tuple[content.Study, content.Trial],
        row: Row | None,
    ) -> None:
        """Write one child run, in place of an older one of the same trial."""
        study, trial = asked
        if older := tracked.trials.pop((study["id"], trial["number"]), None):
            self.client.delete_run(older.run_id)
            self._going.discard(older.run_id)
        start, end = content.times(trial)
        key = content.teacher_key(row)
        teacher = tracked.cells.get(key)
        tags = content.trial_tags(study, trial, sweep, row)
        tags |= {"mlflow.parentRunId": tracked.studies[study["id"]].run_id}
        tags |= _notes(tracked, trial, teacher)
        name = content.trial_name(study, trial)
        run_id = self.client.create_run(tracked.id, start, tags, run_name=name).info.run_id
        history = self.store.history(row.key) if row else {}
        curves = content.trial_curves(trial, history, row.fit.get("best_epoch") if row else None)
        numbers = content.trial_metrics(study, trial)
        self._log_batch(run_id, content.trial_params(study, trial), numbers, curves, (start, end))
        self.client.set_terminated(run_id, content.STATUS[trial["state"]], end)
        child = Child(run_id, content.digest(trial), key, teacher.run_id if teacher else "")
        tracked.trials[study["id"], trial["number"]] = child

    def _log_batch(
        self,
        run_id: str,
        params: Mapping[str, str],
        numbers: Mapping[str, float],
        curves: Iterable[tuple[str, int, float, float]],
        times: tuple[int, int],
    ) -> None:
        from mlflow.entities import Metric, Param

        start, end = times
        metrics = [Metric(k, v, end, 0) for k, v in numbers.items()]
        metrics += [
            Metric(name, value, start + round(share * (end - start)), epoch)
            for name, epoch, value, share in curves
        ]
        told = [Param(k, v) for k, v in params.items()]
        self.client.log_batch(run_id, metrics[:BLOCK], told[: 1000 - BLOCK])

    def _relink_trials(self, tracked: Tracked, studies: Studies) -> None:
        """Point trials at the run of their teacher, where that is new."""
        known = {(s["id"], t["number"]): t for s in studies for t in s["trials"]}
        for place, trial in known.items():
            child = tracked.trials.get(place)
            teacher = tracked.cells.get(child.teacher_key) if child else None
            if child and teacher and teacher.run_id != child.teacher_run_id:
                for name, value in _notes(tracked, trial, teacher).items():
                    self.client.set_tag(child.run_id, name, value)
                child.teacher_run_id = teacher.run_id

    # -- the study -------------------------------------------------------------------------

    def _create_study(self, tracked: Tracked, sweep: str, study: content.Study) -> None:
        from mlflow.entities import Param

        found = content.labels(study)
        tags = {"kind": "study", "study": study["id"], "optuna_study": study["name"]}
        named = {f"gkdbench.{k}": v for k, v in {**tags, "sweep": sweep, **found}.items()}
        begun = [content.times(trial)[0] for trial in study["trials"]]
        start = min(begun, default=round(time.time() * 1000))
        name = content.study_name(study)
        run = self.client.create_run(tracked.id, start, named | content.SOURCE, run_name=name)
        params = [Param(k, v) for k, v in found.items()]
        self.client.log_batch(run.info.run_id, params=params)
        self._log_dataset(run.info.run_id, _cell(study))
        tracked.studies[study["id"]] = Child(run.info.run_id)

    def _log_progress(self, tracked: Tracked, study: content.Study, fresh: set[int]) -> None:
        """Add the points of these trials to the best accuracy so far."""
        from mlflow.entities import Metric

        points = [
            Metric(content.BEST, value, content.times(trial)[1], trial["number"])
            for trial, value in content.best_so_far(study)
            if trial["number"] in fresh
        ]
        for i in range(0, len(points), BLOCK):
            self.client.log_batch(tracked.studies[study["id"]].run_id, points[i : i + BLOCK])

    def _finish_study(self, tracked: Tracked, sweep: str, study: content.Study) -> None:
        """Write the result on the parent; a new one where the parameters of the old do not fit.

        MLflow never changes a parameter, and a larger budget may find another winner.
        """
        from mlflow.entities import Metric, Param, RunTag

        params = content.study_params(study)
        parent = self.client.get_run(tracked.studies[study["id"]].run_id)
        if any(params.get(k, v) != v for k, v in parent.data.params.items()):
            self._replace_study(tracked, sweep, study)
            parent = self.client.get_run(tracked.studies[study["id"]].run_id)
        run_id = parent.info.run_id
        end = max((content.times(t)[1] for t in study["trials"]), default=parent.info.start_time)
        numbers = content.study_metrics(study)
        metrics = [
            Metric(k, v, end, 0) for k, v in numbers.items() if parent.data.metrics.get(k) != v
        ]
        tags = {"mlflow.note.content": content.study_note(study)}
        tags |= self._provenance(study) | {"gkdbench.record": content.digest(study)}
        for path in sorted((self.store.root / "tuning" / study["id"]).glob("[!.]*")):
            if path.suffix in (".json", ".csv", ".log", ".png"):
                self.client.log_artifact(run_id, str(path))
        told = [Param(k, v) for k, v in params.items() if k not in parent.data.params]
        self._log_progress(tracked, study, {trial["number"] for trial in study["trials"]})
        self.client.log_batch(run_id, metrics, told, [RunTag(k, v) for k, v in tags.items()])
        won = best_trial(study) is not None
        self.client.set_terminated(run_id, "FINISHED" if won else "FAILED", end)

    def _replace_study(self, tracked: Tracked, sweep: str, study: content.Study) -> None:
        """Make a new parent run, and move the trials to it."""
        old = tracked.studies.pop(study["id"])
        self._create_study(tracked, sweep, study)
        new = tracked.studies[study["id"]].run_id
        for (owner, _), child in tracked.trials.items():
            if owner == study["id"]:
                self.client.set_tag(child.run_id, "mlflow.parentRunId", new)
        self.client.delete_run(old.run_id)

    def _provenance(self, study: content.Study) -> dict[str, str]:
        """The commit that made the first trial."""
        keys = [key for trial in study["trials"] for key in trial["keys"]]
        commits = (row.ran.get("git_commit") for row in self._rows(keys[:1]).values())
        commit = str(next(commits, "") or "")
        names = ("gkdbench.git_commit", "mlflow.source.git.commit")
        return dict.fromkeys(names, commit) if commit else {}


def _lacks(tracked: Tracked, study: content.Study, trial: content.Trial) -> bool:
    known = tracked.trials.get((study["id"], trial["number"]))
    return known is None or known.row != content.digest(trial)


def _notes(tracked: Tracked, trial: content.Trial, teacher: Child | None) -> dict[str, str]:
    """The tags of a trial that lead to its teacher's run, and say why it failed."""
    taught = {"gkdbench.teacher_run_id": teacher.run_id} if teacher else {}
    link = f"#/experiments/{tracked.id}/runs/{teacher.run_id}" if teacher else ""
    note = content.trial_note(trial, link)
    return taught | ({"mlflow.note.content": note} if note else {})


def _cell(study: content.Study) -> Cell:
    """A cell on the data of a study."""
    return Cell(Protocol(**study["protocol"]), None, None, 0, 0, 0)


# ---- what is tracked already ------------------------------------------------------------------


def needs_tracking(store: Store, sweep: str, uri: str) -> list[content.Study]:
    """Return the studies of a tuned sweep that the store does not hold as they are now."""
    known = noted(store, sweep + TUNING, uri)
    studies = read_studies(store.root, sweep)
    return [study for study in studies if known.get(_mark(study)) != content.digest(study)]


def _mark(study: content.Study) -> str:
    return f"study {study['id']}"


def replay(store: Store, uri: str) -> dict[str, int]:
    """Fill a tracking store from the files of all tunings; return the runs written for each."""
    counts = {}
    for sweep in tuned_sweeps(store.root):
        try:
            studies = read_studies(store.root, sweep)
        except ValueError as error:
            logging.getLogger(__name__).warning("tuning of %s is not tracked: %s", sweep, error)
            continue
        tracker = StudyTracker(store, uri)
        counts[sweep + TUNING] = tracker.log_trials(sweep, studies)
        tracker.finish_studies(sweep, studies)
    return counts
