"""What an experiment holds, and the rows to compare it with; nothing here imports mlflow."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.cell import Cell, from_data
from bench.results import CorruptError, Row, Store
from bench.track_content import Entry, child_note, group_name
from bench.track_store import stamp

TUNING = " (tuning)"  # ends the name of an experiment; no sweep can be called so
UI_TAGS = {  # the columns and charts for models, not those for language-model traces
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
}


@dataclass
class Child:
    """A child run; the fields are its `gkdbench.` tags."""

    run_id: str
    row: str = ""  # Entry.digest
    teacher_key: str = ""
    teacher_run_id: str = ""
    live: set[int] | None = None  # of a fit that goes on: the epochs written


@dataclass
class Tracked:
    """The runs of an experiment, each kind by its own name."""

    id: str
    cells: dict[str, Child] = field(default_factory=dict)  # by key
    groups: dict[str, str] = field(default_factory=dict)  # parent run id by Entry.group
    report: str = ""
    artifacts: str = ""  # URI of the folder of all runs' files
    stamps: dict[str, str] = field(default_factory=dict)  # of the rows seen by this process
    studies: dict[str, Child] = field(default_factory=dict)  # of a tuning, by id
    trials: dict[tuple[str, int], Child] = field(default_factory=dict)  # by study and number

    def lacks(self, entry: Entry) -> bool:
        """Whether this row, as it is now, has no run."""
        known = self.cells.get(entry.row.key)
        return known is None or known.row != entry.digest

    def notes(self, row: Row, teacher: Child | None) -> dict[str, str]:
        """Return the tags of a child that name its teacher's run, one of them with a link."""
        taught = {"gkdbench.teacher_run_id": teacher.run_id} if teacher else {}
        link = f"#/experiments/{self.id}/runs/{teacher.run_id}" if teacher else ""
        note = child_note(row, link)
        return taught | ({"mlflow.note.content": note} if note else {})


def look(client: Any, sweep: str, artifacts: str | None) -> Tracked:
    """Find or create the experiment of a sweep, and list its runs in one search."""
    found = client.get_experiment_by_name(sweep)
    if found is None:
        first = "val_accuracy_mean" if sweep.endswith(TUNING) else "test_accuracy"
        tags = {**UI_TAGS, "mlflow.experiment.primaryMetric.name": first}
        made = client.create_experiment(sweep, artifacts, tags)
        return Tracked(made, artifacts=artifacts or "")
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    tracked = Tracked(found.experiment_id, artifacts=found.artifact_location)
    for run in all_runs(client, tracked.id):
        tags, run_id = run.data.tags, run.info.run_id
        kind = tags.get("gkdbench.kind")
        if kind == "cell" and run.info.status == "RUNNING":
            client.delete_run(run_id)  # the process that wrote it died
        elif kind == "cell":
            names = ("row", "teacher_key", "teacher_run_id")
            known = (tags.get(f"gkdbench.{name}", "") for name in names)
            tracked.cells[tags["gkdbench.key"]] = Child(run_id, *known)
        elif kind == "trial" and run.info.status == "RUNNING":
            client.delete_run(run_id)
        elif kind in ("study", "trial"):
            known = (tags.get(f"gkdbench.{name}", "") for name in ("record", "teacher_key"))
            child, study = Child(run_id, *known), tags["gkdbench.study"]
            if kind == "study":
                tracked.studies[study] = child
            else:
                tracked.trials[study, int(tags["gkdbench.trial"])] = child
        elif kind == "group":
            tracked.groups[tags["gkdbench.group"]] = run_id
        elif kind == "report":
            tracked.report = run_id
    return tracked


def all_runs(client: Any, experiment: str) -> Iterator[Any]:
    """Yield the runs of an experiment, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def groups_asked(cells: Mapping[str, Cell]) -> dict[str, str]:
    """Return the group of these cells and of their teachers, by key."""
    teachers = (cell.teacher_cell for cell in cells.values())
    cells = {cell.key: cell for cell in teachers if cell} | dict(cells)
    return {key: group_name(cell) for key, cell in cells.items()}


def children_of(runs: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Sort child runs by parent run id, then by key."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        parent, key = (run.data.tags.get(k) for k in ("mlflow.parentRunId", "gkdbench.key"))
        if parent and key:
            found.setdefault(parent, {})[key] = run
    return found


def entries(
    store: Store, tracked: Tracked, keys: Sequence[str], cells: Mapping[str, Cell]
) -> Iterator[Entry]:
    """Read the rows of `keys` and of their teachers, the teachers first, and note their stamps."""
    rows: dict[str, tuple[Row, Cell]] = {}
    wanted, labelled = list(keys), dict(cells)
    for key in wanted:  # grows by the teachers of its students
        if key in rows:
            continue
        before = stamp(store, key)
        row = read_row(store, key)
        if row is None:
            continue
        tracked.stamps[key] = before
        cell = labelled.get(key) or from_data(row.cell)
        rows[key] = row, cell
        if row.teacher_key:
            wanted.append(row.teacher_key)
            if cell.teacher_cell:
                labelled.setdefault(row.teacher_key, cell.teacher_cell)
    for row, cell in sorted(rows.values(), key=lambda pair: pair[1].student is not None):
        yield Entry(row, cell, store.folder(row.key))


def read_row(store: Store, key: str) -> Row | None:
    """Return a row; None where there is none, or none that can be read."""
    try:
        return store.read(key)
    except (CorruptError, TypeError) as error:  # TypeError: fields of another version
        logging.getLogger(__name__).warning("row %s is not tracked: %s", key, error)
        return None
