"""MLflow on a sweep of thousands of cells: milliseconds to write a row, and to find it again.

The rows are made up (sizes, curves of 200 epochs and numbers as real cells have them) and go
through the real tracker into sqlite, in portions as a running sweep hands them over. Run it with

    python -m tests.benchmarks.speed_track [--cells 2000] [--folder DIR] [--uri URI]

`--folder` keeps the store; then `gkdbench ui --results DIR` shows it.
"""

import argparse
import contextlib
import itertools
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import registry, track
from bench.cell import Cell, Choice, Protocol
from bench.results import Row, Store

DATASETS = ("cora", "citeseer", "pubmed", "cpf-cora", "cpf-citeseer", "a-computer", "a-photo")
SETTINGS = ("transductive", "production")
SEEDS = 10
EPOCHS = 200
PORTION = 250
SWEEP = "thousands"
COST = ("macs", "macs_per_node", "latency_ms", "latency_ms_q1", "latency_ms_q3", "node_latency_ms")
QUALITY = (
    "val_accuracy",
    "test_accuracy",
    "test_macro_f1",
    "test_agreement",
    "test_ece",
    "test_nll",
)


def cells_of(count: int) -> list[Cell]:
    """Return so many students of every kind, each on two teachers, ten seeds each."""
    students = [
        Choice(name, name, registry.configure("student", name, {}, {}))
        for name in ("mlp", "glnn", "krd", "nosmog", "moe", "rbm", "progmlp", "ensemble")
    ]
    sage = Choice("sage:glnn", "sage", registry.configure("teacher", "sage:glnn", {}, {}))
    gcn = Choice("gcn", "gcn", registry.configure("teacher", "gcn", {}, {}))
    found = []
    for width in itertools.count():
        for dataset, setting, teacher, student in itertools.product(
            DATASETS, SETTINGS, (sage, gcn), students
        ):
            checksum = f"sha256:{DATASETS.index(dataset):064}"
            protocol = Protocol(dataset, checksum, "random", setting)
            label = f"{student.label}-w{2**width}" if width else student.label
            config = {**student.config, "width_factor": 2**width}
            choice = Choice(label, student.name, config)
            found += [Cell(protocol, teacher, choice, s, s, s) for s in range(SEEDS)]
            if len(found) >= count:
                return found[:count]
    raise AssertionError


def write_row(store: Store, cell: Cell, number: int) -> None:
    """Write a made-up row, ten seconds after the one before."""
    draw = random.Random(number)
    teacher = cell.teacher_cell
    row = Row(cell.key, cell.describe(), "ok", teacher_key=teacher.key if teacher else "")
    row.variants = {"": {name: draw.uniform(0.6, 0.9) for name in QUALITY} | {"params": 2e5}}
    row.cost = {"": {name: draw.uniform(1, 9) for name in COST}}
    phases = ("load", "encode", "teacher", "train", "evaluate", "fit_train", "fit_validate")
    row.seconds = {name: draw.uniform(0, 2) for name in phases}
    row.fit = {"epochs": EPOCHS, "best_epoch": 137, "peak_memory_mib": draw.uniform(200, 300)}
    started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(1.77e9 + 10 * number))
    row.ran = {"started": started, "seconds": 9.0, "git_commit": "c0ffee" * 6, "threads": 1}
    curves = {
        "epoch": list(range(EPOCHS)),
        "loss": [2 * math.exp(-e / 40) for e in range(EPOCHS)],
        "val_accuracy": [0.8 - 0.6 * math.exp(-e / 20) for e in range(EPOCHS)],
    }
    with store.draft(cell.key) as draft:
        (draft / "history.json").write_text(json.dumps(curves))
        store.write(row, draft)


def make_results(store: Store, cells: list[Cell]) -> None:
    """Write all rows and the plan of the sweep."""
    teachers = {cell.teacher_cell.key: cell.teacher_cell for cell in cells if cell.teacher_cell}
    for number, cell in enumerate([*teachers.values(), *cells]):
        if store.read(cell.key) is None:
            write_row(store, cell, number)
    plan = [{"key": cell.key, "cell": cell.describe()} for cell in cells]
    store.write_sweep(SWEEP, {"cells": plan})


def write(store: Store, cells: list[Cell], uri: str | None) -> track.Tracker:
    """Track everything; print the milliseconds of a row at the beginning and at the end."""
    start, count = time.perf_counter(), 0
    tracker = track.Tracker(store, uri)
    _tell(f"open: {time.perf_counter() - start:.1f} s, MLflow's import and tables among them")
    portions = [cells[i : i + PORTION] for i in range(0, len(cells), PORTION)]
    each = []  # CPU of a row: its wall time tells more about who else is busy
    begun = time.perf_counter()
    for portion in portions:
        start = time.process_time()
        wrote = tracker.log_rows(SWEEP, [cell.key for cell in portion])
        each.append(1e3 * (time.process_time() - start) / max(1, wrote))
        count += wrote
    wall = 1e3 * (time.perf_counter() - begun) / max(1, count)
    _tell(f"{count} rows: {wall:.1f} ms each, CPU {sum(each) / len(each):.1f}; CPU of the first "
          f"{PORTION} {each[0]:.1f}, of the last {each[-1]:.1f}")  # fmt: skip
    with said("aggregates of all groups"):
        tracker.finish(SWEEP)
    return tracker


def browse(store: Store, uri: str | None) -> None:
    """Time what the pages of MLflow ask for, and what a resumed sweep does."""
    with said("resume: look at all runs, nothing to write"):
        tracker = track.Tracker(store, uri)
        tracker.log_rows(SWEEP, [])
    with said("resume: finish, nothing to write"):
        tracker.finish(SWEEP)
    client = tracker.client
    home = [client.get_experiment_by_name(SWEEP).experiment_id]
    newest = ["attributes.start_time DESC"]
    groups = "tags.`gkdbench.kind` = 'group'"
    (parent,) = client.search_runs(home, groups, max_results=1)
    child = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    asked: dict[str, Callable[[], Any]] = {
        "newest 100 runs": lambda: client.search_runs(home, "", max_results=100, order_by=newest),
        "parents": lambda: client.search_runs(home, groups, max_results=100, order_by=newest),
        "of one dataset": lambda: client.search_runs(
            home, "tags.`gkdbench.dataset` = 'cora'", max_results=100, order_by=newest
        ),
        "best test accuracy": lambda: client.search_runs(
            home, "", max_results=100, order_by=["metrics.test_accuracy DESC"]
        ),
        "children of a parent": lambda: client.search_runs(home, child, order_by=newest),
    }
    for name, ask in asked.items():
        ask()  # SQLAlchemy compiles it
        with said(f"search: {name}"):
            runs = ask()
        assert runs, name
    with said("a curve"):
        assert len(client.get_metric_history(runs[0].info.run_id, "history/val_accuracy")) > 20
    with said("a run"):
        client.get_run(runs[0].info.run_id)


@contextlib.contextmanager
def said(name: str) -> Iterator[None]:
    """Print the milliseconds in here."""
    start, begun = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - start, time.process_time() - begun
    _tell(f"{name}: {1e3 * wall:.0f} ms (CPU {1e3 * cpu:.0f})")


def main() -> None:
    """Write, then look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--folder", help="results folder to keep")
    parser.add_argument("--uri", help="MLflow store [default: sqlite in the results]")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = options.folder or stack.enter_context(tempfile.TemporaryDirectory())
        store, cells = Store(Path(root)), cells_of(options.cells)
        with said(f"make up {len(cells)} rows"):
            make_results(store, cells)
        write(store, cells, options.uri)
        if not (options.uri or "").startswith("http"):
            database = Path(root) / "mlflow.db"
            size = database.stat().st_size / 2**20 if database.is_file() else math.nan
            _tell(f"size of the sqlite file: {size:.0f} MiB")
        browse(store, options.uri)


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
