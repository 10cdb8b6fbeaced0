"""What an experiment holds, and the rows to compare it with; nothing here imports mlflow."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.cell import Cell, from_data
from bench.results import CorruptError, Row, Store
from bench.track_content import Entry, child_note
from bench.track_store import stamp, tags_of_runs

TUNING = " (tuning)"  # ends the name of an experiment; no sweep can be called so
READ = {  # the tags that tell what a run is
    f"gkdbench.{name}": name
    for name in ("kind", "key", "row", "teacher_key", "teacher_run_id", "group", "record")
} | {"gkdbench.study": "study", "gkdbench.trial": "trial", "mlflow.parentRunId": "parent"}
UI_TAGS = {  # the columns and charts for models, not those for language-model traces
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
}


class Listed(NamedTuple):
    """A run of an experiment, with the tags of `READ` by their short names."""

    id: str
    status: str
    tags: dict[str, str]

    @property
    def kind(self) -> str:
        """Tell cell, group, trial, study and report apart; "" for what is not ours."""
        return self.tags.get("kind", "")


@dataclass
class Child:
    """A child run; the fields are its `gkdbench.` tags."""

    run_id: str
    row: str = ""  # Entry.digest
    teacher_key: str = ""
    teacher_run_id: str = ""
    parent: str = ""  # its run id
    live: set[int] | None = None  # of a fit that goes on: the epochs written


@dataclass
class Tracked:
    """The runs of an experiment, each kind by its own name."""

    id: str
    cells: dict[str, Child] = field(default_factory=dict)  # by key
    groups: dict[str, str] = field(default_factory=dict)  # parent run id by Entry.group
    records: dict[str, str] = field(default_factory=dict)  # content.record by parent run id
    fresh: set[str] = field(default_factory=set)  # parents that this process made and left empty
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


def look(client: Any, sweep: str, artifacts: str | None, database: Path | None = None) -> Tracked:
    """Find or create the experiment of a sweep, and list its runs at once.

    Args:
        client: of MLflow.
        sweep: the experiment.
        artifacts: where a new experiment keeps files; None leaves it to the server.
        database: the tracking store, if it is the results folder's own.
    """
    found = client.get_experiment_by_name(sweep)
    if found is None:
        first = "val_accuracy_mean" if sweep.endswith(TUNING) else "test_accuracy"
        tags = {**UI_TAGS, "mlflow.experiment.primaryMetric.name": first}
        made = client.create_experiment(sweep, artifacts, tags)
        return Tracked(made, artifacts=artifacts or "")
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    tracked = Tracked(found.experiment_id, artifacts=found.artifact_location)
    for run in list(listed(client, tracked.id, database)):  # pages shift as runs are deleted
        if run.kind in ("cell", "trial") and run.status == "RUNNING":
            client.delete_run(run.id)  # the process that wrote it died
        else:
            _add(tracked, run)
    return tracked


def _add(tracked: Tracked, run: Listed) -> None:
    tags = run.tags
    if run.kind == "cell":
        tracked.cells[tags["key"]] = child_of(run)
    elif run.kind in ("study", "trial"):
        child = Child(run.id, tags.get("record", ""), tags.get("teacher_key", ""))
        if run.kind == "study":
            tracked.studies[tags["study"]] = child
        else:
            tracked.trials[tags["study"], int(tags["trial"])] = child
    elif run.kind == "group":
        tracked.groups[tags["group"]] = run.id
        # one that was not ended may lack a part of what it says it has
        tracked.records[run.id] = tags.get("record", "") if run.status != "RUNNING" else ""
    elif run.kind == "report":
        tracked.report = run.id


def child_of(run: Listed) -> Child:
    """Return the run of a cell."""
    names = ("row", "teacher_key", "teacher_run_id", "parent")
    row, teacher_key, teacher, parent = (run.tags.get(name, "") for name in names)
    return Child(run.id, row, teacher_key, teacher, parent)


def listed(client: Any, experiment: str, database: Path | None) -> Iterator[Listed]:
    """Yield the runs of an experiment, from the results folder's own `database` or the client."""
    found: Iterable[tuple[str, str, Mapping[str, str]]] | None = None
    if database:
        found = tags_of_runs(database, experiment, list(READ))
    if found is None:
        runs = all_runs(client, experiment)
        found = ((run.info.run_id, run.info.status, run.data.tags) for run in runs)
    for run_id, status, tags in found:
        yield Listed(run_id, status, {n: tags[tag] for tag, n in READ.items() if tag in tags})


def all_runs(client: Any, experiment: str) -> Iterator[Any]:
    """Yield the runs of an experiment, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def with_teachers(cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return these cells and their teachers, by key."""
    teachers = (cell.teacher_cell for cell in cells.values())
    return {cell.key: cell for cell in teachers if cell} | dict(cells)


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
