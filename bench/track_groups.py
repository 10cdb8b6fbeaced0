"""The aggregates on parent runs, from the rows of their children.

A parent carries `gkdbench.record`, which identifies the children it has the aggregates of. So an
unchanged parent costs nothing, and the runs of children, which bring 4 ms of MLflow each, are not
read at all: their rows say the same.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench import track_content as content
from bench.cell import Cell, from_data
from bench.results import Store
from bench.track_content import Entry
from bench.track_index import Child, Tracked, child_of, listed, read_row
from bench.track_store import stamp


class Told(NamedTuple):
    """What a child run says, as far as its parent repeats it."""

    name: str
    status: str
    reason: str
    end: int  # milliseconds
    numbers: Mapping[str, float]
    commit: str


def adopt(
    client: Any, store: Store, tracked: Tracked, keys: Mapping[str, Any], database: Path | None
) -> None:
    """Take in runs of `keys` that another process wrote since the experiment was looked at."""
    if not any(key not in tracked.cells and stamp(store, key) for key in keys):
        return
    for run in list(listed(client, tracked.id, database)):
        if run.kind == "cell" and run.status != "RUNNING":
            tracked.cells.setdefault(run.tags["key"], child_of(run))


def write_aggregates(
    client: Any, store: Store, tracked: Tracked, asked: Mapping[str, Cell]
) -> None:
    """Write the aggregates of all groups whose children changed, and drop parents without any.

    Args:
        client: of MLflow.
        store: the results folder.
        tracked: the experiment.
        asked: the cells of the sweep and their teachers, by key; none: all that is there counts.
    """
    wanted: dict[str, set[str]] = {}
    for key, cell in asked.items():
        wanted.setdefault(content.group_name(cell), set()).add(key)
    families: dict[str, dict[str, Child]] = {}
    for key, child in tracked.cells.items():
        families.setdefault(child.parent, {})[key] = child
    for name, parent in list(tracked.groups.items()):
        family, keys = families.get(parent, {}), wanted.get(name, set())
        present = {
            key: child
            for key, child in family.items()
            if child.live is None and (key in keys or not asked)
        }
        if present:  # else its cells belong to older plans
            _finish(client, store, tracked, (parent, present), (asked, keys))
        elif not family and not _has_children(client, tracked.id, parent):
            client.delete_run(tracked.groups.pop(name))  # all of them were labelled anew


def _has_children(client: Any, experiment: str, parent: str) -> bool:
    """Whether somebody else gave a parent a child."""
    query = f"tags.`mlflow.parentRunId` = '{parent}'"
    return bool(client.search_runs([experiment], query, max_results=1))


def _finish(
    client: Any,
    store: Store,
    tracked: Tracked,
    group: tuple[str, Mapping[str, Child]],
    plan: tuple[Mapping[str, Cell], set[str]],
) -> None:
    """Write what changed of a parent's aggregates, note, status and end."""
    from mlflow.entities import Metric, RunTag

    (run_id, children), (cells, keys) = group, plan
    missing = len(keys - children.keys())
    record = content.record({key: child.row for key, child in children.items()}, missing)
    if tracked.records.get(run_id) == record:
        return
    told = [_told(client, store, key, child, cells) for key, child in children.items()]
    told.sort(key=lambda child: child.name)
    numbers = content.aggregates(((child.status, child.numbers) for child in told), missing)
    reasons = [f"{t.name.partition(':')[0]}: {content.first_line(t.reason)}" for t in told]
    note = content.note(numbers, [r for r, t in zip(reasons, told, strict=True) if t.reason])
    status, end = content.run_status([t.status for t in told]), max(t.end for t in told)
    parent = None if run_id in tracked.fresh else client.get_run(run_id)
    tracked.fresh.discard(run_id)
    before = parent.data.metrics if parent else {}
    # a later value must win over the one it corrects, whatever the age of the rows
    at = int(time.time() * 1000) if before else end
    metrics = [Metric(k, v, at, 0) for k, v in numbers.items() if before.get(k) != v]
    tags = [RunTag("mlflow.note.content", note), RunTag("gkdbench.record", record)]
    commits = sorted({t.commit for t in told if t.commit})
    if commits:
        one = commits[0] if len(commits) == 1 else "several"
        tags += [RunTag(name, one) for name in ("gkdbench.git_commit", "mlflow.source.git.commit")]
    if parent is None or (parent.info.status, parent.info.end_time) != (status, end):
        client.set_terminated(run_id, status, end)
    client.log_batch(run_id, metrics, tags=tags)  # MLflow writes the tags last: all is there then
    tracked.records[run_id] = record


def _told(client: Any, store: Store, key: str, child: Child, cells: Mapping[str, Cell]) -> Told:
    """Read a child's row; ask for its run where the row is gone, or another one by now."""
    row = read_row(store, key)
    if row is not None:
        entry = Entry(row, cells.get(key) or from_data(row.cell), store.folder(key))
        if entry.digest == child.row:
            name, end = content.run_name(entry.cell), entry.times[1]
            commit = str(row.ran.get("git_commit") or "")
            return Told(name, row.status, row.reason, end, content.metrics(row), commit)
    run = client.get_run(child.run_id)
    tags, info = run.data.tags, run.info
    told = (tags["gkdbench.status"], tags.get("gkdbench.reason", ""), info.end_time)
    return Told(info.run_name, *told, run.data.metrics, tags.get("gkdbench.git_commit", ""))
