"""MLflow: a mirror of the results folder, never the truth; the only importer of mlflow.

Experiment = sweep; parent run = (dataset, split, setting, teacher, student) with the aggregates;
child run = one cell. The store is sqlite in the results folder unless another URI is given. What is
missing there, `replay` fills in from the results folder; what a store holds of rows that are gone
is left alone, as others may write to it too.
"""

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from bench import track_content as content
from bench import track_groups, track_live
from bench.cell import Cell
from bench.database import resolved
from bench.results import Store
from bench.track_content import Entry
from bench.track_index import (
    Child,
    Tracked,
    entries,
    look,
    read_row,
    with_teachers,
)
from bench.track_live import Fit
from bench.track_store import (
    TrackingError,
    analyse,
    default_uri,
    forget,
    guarded,
    hasten_sqlite,
    is_remote,
    needs_tracking,
    own_database,
    planned,
    prepared,
    remember,
    ui,
)

__all__ = ["Tracker", "TrackingError", "default_uri", "needs_tracking", "replay", "ui"]

BLOCK = 900  # metrics in a log_batch: MLflow takes 1000 entities, of them 100 params


class Tracker:
    """Writes rows to a tracking store.

    Raises:
        TrackingError: here and in every method, when the store cannot be used.
    """

    def __init__(self, store: Store, uri: str | None = None) -> None:
        self.store = store
        self.uri = uri or default_uri(store.root)
        self._sweeps: dict[str, Tracked] = {}
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
        with guarded(self.uri):
            self._open()

    def _open(self) -> None:
        from mlflow.store.tracking import sqlalchemy_store  # noqa: F401  # slow: not in the lock
        from mlflow.tracking import MlflowClient

        with prepared(self.uri) as fresh:
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            uri = resolved(self.uri)
            hasten_sqlite()
            self.client = MlflowClient(uri, uri)
            self.client.search_experiments(max_results=1)
            if fresh:
                forget(self.store, self.uri)

    def log_rows(
        self, sweep: str, keys: Sequence[str], *, cells: Mapping[str, Cell] | None = None
    ) -> int:
        """Track the rows of `keys` in the experiment `sweep`; what is tracked already stays.

        Args:
            sweep: the experiment.
            keys: cells; those without a row are left out. Their teachers are tracked with them.
            cells: the cells as this sweep labels them; by default as their rows do.

        Returns:
            How many runs were written.
        """
        with guarded(self.uri):
            tracked = self._sweeps.pop(sweep, None) or self._look(sweep)
            new = [e for e in entries(self.store, tracked, keys, cells or {}) if tracked.lacks(e)]
            starts: dict[str, int] = {}
            for entry in new:
                starts[entry.group] = min(starts.get(entry.group, entry.times[0]), entry.times[0])
            for entry in new:
                if entry.group not in tracked.groups:
                    self._create_group(tracked, sweep, entry, starts[entry.group])
                self._log(tracked, sweep, entry)
            self._relink(tracked)
            self._sweeps[sweep] = tracked  # after an error it is looked at anew
        return len(new)

    def log_live(self, sweep: str, cell: Cell, fit: Fit) -> None:
        """Write what a running fit reported; `log_rows` finishes its run."""
        from mlflow.entities import Metric

        with guarded(self.uri):
            tracked = self._sweeps.pop(sweep, None) or self._look(sweep)
            child = self._live(tracked, cell.key)
            if child is None:
                entry = track_live.entry(self.store, cell, fit.start)
                if entry.group not in tracked.groups:
                    self._create_group(tracked, sweep, entry, fit.start)
                parent = tracked.groups[entry.group]
                tags = track_live.tags(entry, sweep, parent)
                run_id = self._create(tracked, entry, fit.start, tags)
                child = Child(run_id, "", entry.row.teacher_key, "", parent, set())
                tracked.cells[cell.key] = child
            points = track_live.points(fit.fresh)
            self.client.log_batch(child.run_id, [Metric(*point) for point in points])
            child.live = {*(child.live or ()), *(point[-1] for point in points)}
            self._sweeps[sweep] = tracked

    def _live(self, tracked: Tracked, key: str) -> Child | None:
        """Return the run of a fit that goes on, unless somebody deleted it."""
        child = tracked.cells.get(key)
        if child is None or child.live is None:
            return None
        stage = self.client.get_run(child.run_id).info.lifecycle_stage
        return child if stage == "active" else None

    def drop_live(self, sweep: str, keep: Collection[str]) -> None:
        """Delete the runs of fits that were ended, but for cells in `keep`: those have rows."""
        with guarded(self.uri):
            tracked = self._sweeps.get(sweep)
            cells = tracked.cells if tracked else {}
            for key in [key for key, child in cells.items() if child.live is not None]:
                if key not in keep:
                    self.client.delete_run(cells.pop(key).run_id)

    def finish(self, sweep: str) -> None:
        """Write the aggregates on the parent runs, end them, and note what is tracked."""
        with guarded(self.uri):
            tracked = self._sweeps.get(sweep) or self._look(sweep)
            asked = with_teachers(planned(self.store, sweep))
            database = own_database(self.store, self.uri)
            track_groups.adopt(self.client, self.store, tracked, asked, database)
            track_groups.write_aggregates(self.client, self.store, tracked, asked)
            self._sweeps[sweep] = tracked
            remember(self.store, sweep, self.uri, tracked.stamps)
            analyse(self.uri)

    def log_files(self, sweep: str, paths: Iterable[str | Path]) -> None:
        """Attach files (tables, figures) to the run "report" of the experiment `sweep`."""
        with guarded(self.uri):
            tracked = self._sweeps.get(sweep) or self._look(sweep)
            if not tracked.report:
                tags = {"gkdbench.kind": "report", "gkdbench.sweep": sweep, **content.SOURCE}
                run = self.client.create_run(tracked.id, tags=tags, run_name="report")
                tracked.report = run.info.run_id
            for path in paths:
                self.client.log_artifact(tracked.report, str(path))
            self.client.set_terminated(tracked.report)
            self._sweeps[sweep] = tracked

    def _look(self, sweep: str) -> Tracked:
        place = (self.store.root.resolve() / "mlartifacts" / sweep).as_uri()
        where = None if is_remote(self.uri) else place  # a server has its own place
        return look(self.client, sweep, where, own_database(self.store, self.uri))

    def _create_group(self, tracked: Tracked, sweep: str, entry: Entry, start: int) -> None:
        from mlflow.entities import Param

        labels = content.group_params(entry.cell)
        tags = {"kind": "group", "group": entry.group, "sweep": sweep, **labels}
        tags = {f"gkdbench.{k}": v for k, v in tags.items()} | content.SOURCE
        run = self.client.create_run(tracked.id, start, tags, run_name=entry.group)
        params = [Param(k, v) for k, v in labels.items()]
        self.client.log_batch(run.info.run_id, params=params)
        self._log_dataset(run.info.run_id, entry.cell)
        tracked.groups[entry.group] = run.info.run_id
        tracked.fresh.add(run.info.run_id)

    def _log(self, tracked: Tracked, sweep: str, entry: Entry) -> None:
        """Write one child run: that of the fit while it ran, else a new one."""
        from mlflow.entities import RunTag

        row, (start, end) = entry.row, entry.times
        parent = tracked.groups[entry.group]
        tags = content.tags(entry, sweep) | {"mlflow.parentRunId": parent}
        teacher = tracked.cells.get(row.teacher_key)
        tags |= tracked.notes(row, teacher)
        live = self._live(tracked, row.key)
        run_id = live.run_id if live else self._create(tracked, entry, start, tags)
        if live:
            self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        self._log_numbers(run_id, entry, live.live or () if live else ())
        self._log_dataset(run_id, entry.cell)
        # row.json has the resolved configurations
        for name in ("row.json", "history.json", "experts.npz"):
            if (entry.folder / name).is_file():
                self._attach(tracked, run_id, entry.folder / name)
        self.client.set_terminated(run_id, content.run_status([row.status]), end)
        taught = teacher.run_id if teacher else ""
        tracked.cells[row.key] = Child(run_id, entry.digest, row.teacher_key, taught, parent)

    def _attach(self, tracked: Tracked, run_id: str, path: Path) -> None:
        """Attach a file to a run; where the files of runs lie here, without asking MLflow where."""
        if not tracked.artifacts.startswith("file:"):
            self.client.log_artifact(run_id, str(path))
            return
        folder = Path(url2pathname(urlsplit(tracked.artifacts).path)) / run_id / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)

    def _create(self, tracked: Tracked, entry: Entry, start: int, tags: dict[str, str]) -> str:
        """Create a child run in place of an older one of the same cell."""
        if older := tracked.cells.pop(entry.row.key, None):
            self.client.delete_run(older.run_id)
        name = content.run_name(entry.cell)
        return str(self.client.create_run(tracked.id, start, tags, run_name=name).info.run_id)

    def _log_numbers(self, run_id: str, entry: Entry, known: Collection[int] = ()) -> None:
        """Write the params, metrics and curves of a row, but for the `known` epochs of val."""
        from mlflow.entities import Metric, Param

        start, end = entry.times
        history = self.store.history(entry.row.key)
        metrics = [Metric(k, v, end, 0) for k, v in content.metrics(entry.row).items()]
        metrics += [
            Metric(name, value, start + round(share * (end - start)), epoch)
            for name, epoch, value, share in content.curves(
                history, entry.row.fit.get("best_epoch"), content.points_each(history)
            )
            if name != track_live.CURVE or epoch not in known
        ]
        params = [Param(k, v) for k, v in content.params(entry.cell).items()]
        while metrics or params:
            self.client.log_batch(run_id, metrics[:BLOCK], params[: 1000 - BLOCK])
            metrics, params = metrics[BLOCK:], params[1000 - BLOCK :]

    def _log_dataset(self, run_id: str, cell: Cell) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        asked = cell.protocol
        source = json.dumps({"name": asked.dataset, "checksum": asked.checksum})
        digest = asked.checksum.removeprefix("sha256:")[:16]  # MLflow takes 36, its table shows 20
        dataset = Dataset(asked.dataset[:500], digest or "unknown", "local", source)
        place = {"split": asked.shown_split, "setting": asked.setting}
        labels = {"mlflow.data.context": "training", **place}
        inputs = DatasetInput(dataset, [InputTag(k, v) for k, v in labels.items()])
        self.client.log_inputs(run_id, [inputs])

    def _relink(self, tracked: Tracked) -> None:
        """Point students at the run of their teacher, where that is new."""
        for key, child in tracked.cells.items():
            teacher = tracked.cells.get(child.teacher_key)
            row = (
                read_row(self.store, key)
                if teacher and teacher.run_id != child.teacher_run_id
                else None
            )
            if teacher and row:
                for name, value in tracked.notes(row, teacher).items():
                    self.client.set_tag(child.run_id, name, value)
                child.teacher_run_id = teacher.run_id


def replay(store: Store, uri: str | None = None) -> dict[str, int]:
    """Fill a tracking store from the results folder; return the runs written for each sweep.

    The studies of a tuning are an experiment of their own, `<sweep> (tuning)`.

    What is there already stays, so an empty and an incomplete store end up the same.
    """
    from bench import track_study

    tracker, counts = Tracker(store, uri), {}
    for sweep in store.sweeps():
        cells = planned(store, sweep)
        counts[sweep] = tracker.log_rows(sweep, list(cells), cells=cells)
        tracker.finish(sweep)
    return counts | track_study.replay(store, tracker.uri)
