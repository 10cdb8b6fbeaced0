"""The tracking store mirrors the results folder: structure, content, and what may go wrong."""

import contextlib
import json
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench import track
from bench.cell import Cell, Choice, Protocol
from bench.results import Row, Store
from bench.track import Tracker, TrackingError, needs_tracking, replay

# mlflow's own models use a loader that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

CORA = Protocol("cora", "sha256:" + "ab" * 32, "random", "transductive")
SAGE = Choice("sage:glnn", "sage", {"hidden_dim": 128, "lr": 0.01})
PLACE = "cora / random / transductive"
ACCURACIES = (0.80, 0.82, 0.87)  # mean 0.83, deviations -3 -1 4, std sqrt(26 / 2) / 100


def make_cell(student: str | None, seed: int, *, teacher: Choice | None = SAGE) -> Cell:
    config = {"lr": 0.01, "dropout": 0.5, "widths": (64, 32)}
    choice = Choice(student, student.split(":")[0], config) if student else None
    return Cell(CORA, teacher, choice, seed, seed, seed)


def make_row(store: Store, cell: Cell, *, accuracy: float = 0.8, **fields: object) -> Row:
    """Write the row of a cell that started `seed` minutes after noon and ran 10 s."""
    teacher = cell.teacher_cell
    row = Row(cell.key, cell.describe(), "ok", teacher_key=teacher.key if teacher else "")
    row.variants = {"": {"test_accuracy": accuracy, "val_accuracy": 0.9, "params": 1000}}
    row.seconds = {"train": 8.0, "load": 0.5}
    row.fit = {"epochs": 250, "best_epoch": 137, "peak_memory_mib": 12.5}
    row.ran = {"started": f"2026-03-04T12:{cell.seed:02}:00+00:00", "seconds": 10.0}
    row.ran["git_commit"] = "c0ffee"
    for name, value in fields.items():
        setattr(row, name, value)
    with store.draft(cell.key) as draft:
        if row.status == "ok":
            epochs = list(range(250))
            losses = [1 / (e + 1) for e in epochs]
            curves = {"epoch": epochs, "loss": losses, "val_accuracy": [e / 250 for e in epochs]}
            (draft / "history.json").write_text(json.dumps(curves))
        return store.write(row, draft)


def make_results(root: Path) -> tuple[Store, dict[str, Cell]]:
    """Write a results folder with rows of every kind, and the sweep "planetoid"."""
    store = Store(root)
    cells = [make_cell(None, seed) for seed in range(3)]
    cells += [make_cell("glnn", seed) for seed in range(3)]
    for cell in cells:
        make_row(store, cell, accuracy=ACCURACIES[cell.seed])
    cells += (progmlp := [make_cell("progmlp", seed) for seed in range(3)])  # the last has no row
    variants = {"1": {"test_accuracy": 0.7}, "exit": {"test_accuracy": 0.75}}
    make_row(store, progmlp[0], variants=variants)
    store.write_cost(progmlp[0].key, {"exit": {"latency_ms": 1.5}})
    broken = {"reason": "out of memory\nTraceback ...", "variants": {}, "fit": {}}
    make_row(store, progmlp[1], status="failed", **broken)
    cells += (others := [make_cell("norm", 0), make_cell("krd", 0)])
    make_row(store, others[0], status="skipped", reason="no hidden states", variants={}, ran={})
    make_row(store, others[1], status="diverged", reason="not finite at epoch 3", variants={})
    cells.append(make_cell("mlp", 0, teacher=None))
    make_row(store, cells[-1])
    plan = {cell.key: cell for cell in cells}
    write_plan(store, plan)
    return store, plan


def taught(student: str) -> str:
    return f"{student} on {PLACE} from sage:glnn"


SAGES, GLNN = f"sage:glnn on {PLACE} (teacher)", taught("glnn")


def write_plan(store: Store, plan: dict[str, Cell]) -> None:
    items = [{"key": key, "cell": cell.describe()} for key, cell in plan.items()]
    store.write_sweep("planetoid", {"cells": items})


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A folder whose sweep was logged as it runs: two students first, then everything."""
    store, cells = make_results(tmp_path_factory.mktemp("a folder") / "results")
    tracker = Tracker(store)
    first = tracker.log_rows("planetoid", list(cells)[3:6], cells=cells)
    assert first == 6  # with their teachers
    assert tracker.log_rows("planetoid", list(cells), cells=cells) == 5
    tracker.finish("planetoid")
    return store, cells, tracker


def runs_of(tracker: Tracker, sweep: str = "planetoid") -> dict:
    """All runs by (name of the parent, name)."""
    experiment = tracker.client.get_experiment_by_name(sweep).experiment_id
    runs = tracker.client.search_runs([experiment])
    names = {run.info.run_id: run.info.run_name for run in runs}
    parents = [names.get(run.data.tags.get("mlflow.parentRunId"), "") for run in runs]
    found = {(p, run.info.run_name): run for p, run in zip(parents, runs, strict=True)}
    assert len(found) == len(runs)
    return found


def content_of(tracker: Tracker) -> dict:
    """All that a store says but its own ids: run ids are replaced by the names of the runs."""
    runs = runs_of(tracker)
    names = {run.info.run_id: "/".join(place) for place, run in runs.items()}
    found = {}
    for place, run in runs.items():
        history = {
            key: [(m.step, m.timestamp, m.value) for m in tracker.client.get_metric_history(*at)]
            for key in run.data.metrics
            for at in [(run.info.run_id, key)]
        }
        tags = json.dumps(run.data.tags, sort_keys=True)
        for run_id, name in names.items():
            tags = tags.replace(run_id, name)
        inputs = [i.to_dictionary() for i in run.inputs.dataset_inputs]
        files = sorted(f.path for f in tracker.client.list_artifacts(run.info.run_id))
        times = run.info.start_time, run.info.end_time
        found[place] = run.info.status, times, run.data.params, tags, history, inputs, files
    return found


def test_every_row_is_a_child_of_its_group(tracked):
    names = sorted(runs_of(tracked[2]))
    groups = {SAGES: 3, f"mlp on {PLACE}": 1, GLNN: 3}
    groups |= {taught(student): n for student, n in (("progmlp", 2), ("norm", 1), ("krd", 1))}
    children = [(g, f"seed {s}: {g}") for g, n in groups.items() for s in range(n)]
    assert names == sorted(children + [("", g) for g in groups])


def test_statuses_are_mlflows_words(tracked):
    status = {name: run.info.status for (_, name), run in runs_of(tracked[2]).items()}
    assert status[f"seed 1: {taught('progmlp')}"] == "FAILED"
    assert status[f"seed 0: {taught('krd')}"] == "FAILED"
    assert status[f"seed 0: {taught('norm')}"] == "KILLED"
    assert status[f"seed 0: {taught('glnn')}"] == "FINISHED"
    assert status[taught("progmlp")] == "FINISHED"  # one seed is good
    assert status[taught("krd")] == "FAILED"
    assert status[taught("norm")] == "KILLED"


def test_a_child_says_what_was_asked_and_what_came_out(tracked):
    store, cells, tracker = tracked
    run = runs_of(tracker)[GLNN, f"seed 1: {GLNN}"]
    params = {"dataset": "cora", "teacher": "sage:glnn", "student": "glnn", "seed": "1"}
    params |= {"teacher.hidden_dim": "128", "student.lr": "0.01", "hidden_rate": "0.2"}
    assert params.items() <= run.data.params.items()
    numbers = {"test_accuracy": 0.82, "params": 1000, "train_seconds": 8.0, "seconds_load": 0.5}
    assert (numbers | {"best_epoch": 137, "peak_memory_mib": 12.5}).items() <= (
        run.data.metrics.items()
    )
    tags = {"gkdbench.key": list(cells)[4], "gkdbench.status": "ok", "gkdbench.seed": "1"}
    tags |= {"gkdbench.sweep": "planetoid", "mlflow.source.git.commit": "c0ffee"}
    assert tags.items() <= run.data.tags.items()
    assert "gkdbench.reason" not in run.data.tags
    noon = 1772625600000  # 2026-03-04T12:00:00Z
    assert (run.info.start_time, run.info.end_time) == (noon + 60_000, noon + 70_000)
    [used] = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("cora", "ab" * 8)
    assert {t.key: t.value for t in used.tags}["mlflow.data.context"] == "training"
    files = [f.path for f in tracker.client.list_artifacts(run.info.run_id)]
    assert files == ["history.json", "row.json"]
    assert run.info.artifact_uri.startswith(store.root.as_uri() + "/mlartifacts/planetoid/")


def test_variants_and_cost_have_their_own_metrics(tracked):
    runs = runs_of(tracked[2])
    group = taught("progmlp")
    child, parent = runs[group, f"seed 0: {group}"], runs["", group]
    numbers = {"test_accuracy.1": 0.7, "test_accuracy.exit": 0.75, "latency_ms.exit": 1.5}
    assert numbers.items() <= child.data.metrics.items()
    assert "test_accuracy" not in child.data.metrics
    assert parent.data.metrics["test_accuracy_mean.exit"] == 0.75


def test_students_lead_to_their_teachers_run(tracked):
    runs = runs_of(tracked[2])
    teacher = runs[SAGES, f"seed 2: {SAGES}"]
    student = runs[GLNN, f"seed 2: {GLNN}"]
    assert student.data.tags["gkdbench.teacher_run_id"] == teacher.info.run_id
    assert student.data.tags["gkdbench.teacher_key"] == teacher.data.tags["gkdbench.key"]
    assert teacher.info.run_id in student.data.tags["mlflow.note.content"]


def test_curves_are_thinned_but_keep_first_best_and_last(tracked):
    tracker = tracked[2]
    run = runs_of(tracker)[GLNN, f"seed 0: {GLNN}"]
    points = tracker.client.get_metric_history(run.info.run_id, "history/loss")
    values = {m.step: m.value for m in points}
    assert sorted(values) == sorted({*range(0, 250, 8), 137, 249})
    assert values[137] == 1 / 138
    assert run.data.metrics["history/val_accuracy"] == 249 / 250
    assert run.data.metrics["val_accuracy"] == 0.9  # the selected state, not the last epoch


def test_a_parent_has_mean_unbiased_std_and_counts(tracked):
    runs = runs_of(tracked[2])
    numbers = runs["", GLNN].data.metrics
    assert numbers["test_accuracy_mean"] == pytest.approx(0.83)
    assert numbers["test_accuracy_std"] == pytest.approx(0.13**0.5 / 10)  # sqrt(13) / 100
    assert (numbers["n_seeds"], numbers["n_missing"], numbers["n_failed"]) == (3, 0, 0)
    assert not any("history" in name for name in numbers)
    parent = runs["", taught("progmlp")]
    numbers = parent.data.metrics
    assert (numbers["n_seeds"], numbers["n_missing"], numbers["n_failed"]) == (1, 1, 1)
    assert "test_accuracy_std.exit" not in numbers  # one seed has no spread
    note = parent.data.tags["mlflow.note.content"]
    assert "1 seed ok, 1 failed, 1 missing" in note
    assert "- seed 1: out of memory" in note
    note = runs["", GLNN].data.tags["mlflow.note.content"]
    assert note.startswith("83.00 ± 3.61 % accuracy, 3 seeds ok\n")
    assert "| val accuracy | 90.00 ± 0.00 % |" in note


def test_replay_into_an_empty_store_equals_the_live_one(tracked, tmp_path):
    store, _, tracker = tracked
    uri = f"sqlite:///{tmp_path}/again.db"
    assert replay(store, uri) == {"planetoid": 11}
    assert content_of(Tracker(store, uri)) == content_of(tracker)


def test_a_tracked_row_is_not_tracked_again(tracked):
    store, cells, tracker = tracked
    before = content_of(tracker)
    assert Tracker(store).log_rows("planetoid", list(cells), cells=cells) == 0
    assert replay(store) == {"planetoid": 0}
    assert content_of(tracker) == before


def test_a_remade_row_replaces_its_run_and_moves_the_links(tmp_path):
    store, cells = make_results(tmp_path / "results")
    replay(store)
    assert needs_tracking(store, "planetoid", list(cells)) == []
    teacher = next(iter(cells))
    make_row(store, cells[teacher], accuracy=0.5)
    assert needs_tracking(store, "planetoid", list(cells)) == [teacher]
    tracker = Tracker(store)
    assert tracker.log_rows("planetoid", [teacher], cells=cells) == 1
    tracker.finish("planetoid")
    assert needs_tracking(store, "planetoid", list(cells)) == []
    runs = runs_of(tracker)  # no run twice
    child, parent = runs[SAGES, f"seed 0: {SAGES}"], runs["", SAGES]
    assert child.data.metrics["test_accuracy"] == 0.5
    assert parent.data.metrics["test_accuracy_mean"] == pytest.approx((0.5 + 0.82 + 0.87) / 3)
    student = runs[GLNN, f"seed 0: {GLNN}"]
    assert student.data.tags["gkdbench.teacher_run_id"] == child.info.run_id

    store.write_cost(list(cells)[3], {"": {"latency_ms": 2.0}})  # measured after it was tracked
    assert replay(store) == {"planetoid": 1}

    mlp = list(cells)[-1]  # another label for the same key: another group, the old one goes
    cells[mlp] = replace(cells[mlp], student=replace(cells[mlp].student, label="mlp:small"))
    write_plan(store, cells)
    assert replay(store) == {"planetoid": 1}
    names = {name for _, name in runs_of(Tracker(store))}
    assert f"mlp:small on {PLACE}" in names
    assert f"mlp on {PLACE}" not in names

    died = runs_of(Tracker(store))[GLNN, f"seed 0: {GLNN}"]
    tracker.client.update_run(died.info.run_id, status="RUNNING")  # as a killed process leaves it
    assert sum(replay(store).values()) == 1

    Path(tmp_path / "results" / "mlflow.db").unlink()
    assert len(needs_tracking(store, "planetoid", list(cells))) == 11
    Tracker(store)  # a new store makes the notes about the old one void
    assert len(needs_tracking(store, "planetoid", list(cells))) == 11


def test_a_finished_sweep_tells_sqlite_how_its_tables_are_filled(tracked):
    with contextlib.closing(sqlite3.connect(tracked[0].root / "mlflow.db")) as database:
        counts = database.execute("SELECT tbl FROM sqlite_stat1").fetchall()
    assert {("runs",), ("latest_metrics",), ("tags",)} <= set(counts)


def test_files_are_attached_to_one_report_run(tracked, tmp_path):
    tracker = tracked[2]
    (tmp_path / "table.md").write_text("| a |\n")
    for _ in range(2):
        tracker.log_files("reports", [tmp_path / "table.md"])
    [run] = runs_of(tracker, "reports").values()
    assert run.info.status == "FINISHED"
    assert [f.path for f in tracker.client.list_artifacts(run.info.run_id)] == ["table.md"]


OPEN = """
import multiprocessing, sys
import mlflow.store.tracking.sqlalchemy_store  # slow: once, before the four are made
from bench.results import Store
from bench.track import Tracker

def open_store(start):
    start.wait()
    Tracker(Store(sys.argv[1])).log_rows(f"sweep {multiprocessing.current_process().name}", [])

fork = multiprocessing.get_context("fork")
start = fork.Event()
some = [fork.Process(target=open_store, args=(start,), name=str(i)) for i in range(4)]
for process in some:
    process.start()
start.set()
for process in some:
    process.join()
sys.exit(sum(process.exitcode != 0 for process in some))
"""


def test_four_processes_may_open_a_fresh_store_at_once(tmp_path):
    done = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], timeout=300)
    assert done.returncode == 0
    experiments = Tracker(Store(tmp_path)).client.search_experiments()
    assert {e.name for e in experiments} == {"Default", *(f"sweep {i}" for i in range(4))}


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_store_that_is_down_is_told_soon(tmp_path, scheme):
    with socket.socket() as taken:  # bound, but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        start = time.perf_counter()
        with pytest.raises(TrackingError, match="the results are kept"):
            Tracker(Store(tmp_path), f"{scheme}://me:secret@127.0.0.1:{taken.getsockname()[1]}/db")
    assert time.perf_counter() - start < 60  # as MLflow comes, it takes minutes


def test_a_broken_store_is_told_in_one_sentence_without_the_password(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, " * 100)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used \(file is not a database"):
        Tracker(Store(tmp_path))
    with pytest.raises(TrackingError) as caught:
        Tracker(Store(tmp_path), "mysql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match="cannot be used"):
        Tracker(Store(tmp_path / "file" / "results"))


def test_the_pages_say_why_they_cannot_be_served(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(TrackingError, match="track --replay"):
        track.ui(store)
    with pytest.raises(TrackingError, match="is a server"):
        track.ui(store, "http://localhost:5000")
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TrackingError, match=r"port \d+ on 127.0.0.1 cannot be used"):
            track.ui(store, port=taken.getsockname()[1])


def test_asking_what_needs_tracking_does_not_import_mlflow(tmp_path):
    code = "import sys; from bench.track import *; from bench.results import Store;"
    code += "needs_tracking(Store(sys.argv[1]), 'x', ['k']); sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0
