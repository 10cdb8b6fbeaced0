import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas
import pytest

import bench
from bench import engine, launch, launch_track, run, track_beside
from bench.engine import Plan
from bench.expand import expand
from bench.launch import stored_rows
from bench.results import Row, Store
from bench.run import Place
from bench.sweep import from_overrides
from bench.track_store import TrackingError

pytestmark = pytest.mark.usefixtures("hurried")

DATA = "synthetic:nodes=300,degree=6,classes=3"
EPOCHS = [f"{name}.max_epochs=3" for name in ("gcn", "mlp", "glnn")]


def passing(items, total, title):
    return items


@pytest.fixture(scope="module")
def sweep():
    texts = ["teachers=gcn", "students=mlp,glnn", "seeds=0-1", "cost_seeds=1", *EPOCHS]
    return from_overrides([f"datasets={DATA}", "splits=random", "name=small", *texts])


@pytest.fixture(scope="module")
def place(sweep, tmp_path_factory):
    """A finished sweep; the tests below damage it and let the next run mend it."""
    folder = tmp_path_factory.mktemp("small")
    place = Place(folder / "results", folder)
    outcome = start(sweep, place)
    assert (outcome.ran, outcome.measured, outcome.unfinished()) == (6, 3, [])  # timed: one seed
    return place


def start(sweep, place, **options):
    options = {"progress": passing, "track": False, **options}
    return launch.launch(sweep, expand(sweep, place.data), place, Plan(1, 1), **options)


def numbers(place):
    return {key: place.store.read(key).variants for key in place.store.keys()}  # noqa: SIM118


def test_a_finished_sweep_runs_nothing(sweep, place):
    outcome = start(sweep, place)
    assert (outcome.ran, outcome.measured) == (0, 0)
    assert len(outcome.rows) == len(outcome.cells) == 6


def test_the_plan_is_kept_beside_the_rows(sweep, place):
    plan = place.store.read_sweep("small")
    assert [item["key"] for item in plan["cells"]] == [c.key for c in expand(sweep, place.data)]
    assert plan["sweep"] == json.loads(json.dumps(sweep.model_dump()))


def test_latency_is_measured_for_the_first_seeds_only_and_macs_for_all(sweep, place):
    for cell in expand(sweep, place.data):
        cost = place.store.read(cell.key).cost[""]
        assert cost["macs"] > cost["macs_node"] > 0
        assert ("latency_ms" in cost) == (cell.seed == 0)


HARM = {
    "row.json": lambda text: text[:-30],
    "logits.npy": lambda text: text[:-8] + b"\0" * 8,
    "predictions.npz": lambda text: text[:-30],
    "weights.pt": lambda text: text[:-1],
    "history.json": lambda text: text.replace(b"0", b"1"),
}


@pytest.mark.parametrize("name", HARM)
def test_what_was_damaged_is_set_aside_and_made_again(name, sweep, place, caplog):
    before = numbers(place)
    teacher = next(c for c in expand(sweep, place.data) if c.group[4] == "")
    path = place.store.folder(teacher.key) / name
    path.write_bytes(HARM[name](path.read_bytes()))
    aside = len(list((place.results / "corrupt").glob("*")))
    outcome = start(sweep, place)
    assert (outcome.ran, outcome.unfinished()) == (1, [])
    assert name in caplog.text
    assert len(list((place.results / "corrupt").iterdir())) == aside + 1
    assert numbers(place) == before


def test_what_is_timed_is_timed_again_on_request_and_nothing_else_changes(
    sweep, place, monkeypatch
):
    before = {key: row.cost for key, row in start(sweep, place).rows.items()}
    timed = {key for key, cost in before.items() if "latency_ms" in cost[""]}
    latency = {"latency_ms": 7.0, "latency_node_ms": 3.0}
    with monkeypatch.context() as patch:
        patch.setattr("bench.cost.latency", lambda model, graph: latency)
        outcome = start(sweep, place, time_again=True)
    assert (outcome.ran, outcome.measured) == (0, len(timed))
    for key, row in stored_rows(place.store, outcome.cells).items():
        assert row.cost[""] == before[key][""] | (latency if key in timed else {})
    start(sweep, place, time_again=True)


def test_a_damaged_cost_is_measured_again_alone(sweep, place, caplog):
    path = place.store.folder(expand(sweep, place.data)[0].key) / "cost.json"
    path.write_text(path.read_text().replace("latency_ms", "latency_mms"))
    outcome = start(sweep, place)
    assert (outcome.ran, outcome.measured) == (0, 1)
    assert "cost.json" in caplog.text


def test_weights_found_damaged_while_timing_are_set_aside(sweep, place, monkeypatch):
    monkeypatch.setattr(Store, "_check_touched", lambda *_: None)  # as if the disk had rotted
    cell = expand(sweep, place.data)[0]
    folder = place.store.folder(cell.key)
    (folder / "cost.json").unlink()
    (folder / "weights.pt").write_bytes(b"?")
    outcome = start(sweep, place)
    assert [cell.key for cell, _ in outcome.unfinished()] == [cell.key]
    assert start(sweep, place).ran == 1


def test_a_cost_that_cannot_be_measured_is_a_warning(sweep, place, monkeypatch):
    def broken(*_, timed):
        raise RuntimeError("no clock")

    (place.store.folder(expand(sweep, place.data)[0].key) / "cost.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(run, "measure", broken)
        outcome = start(sweep, place)
    assert outcome.unfinished() == []
    assert outcome.warnings[0].startswith("the cost of ")
    assert outcome.warnings[0].endswith("could not be measured: RuntimeError: no clock")
    assert start(sweep, place).measured == 1


def test_only_the_holes_are_filled(sweep, place):
    cells = expand(sweep, place.data)
    with contextlib.suppress(FileNotFoundError):
        place.store.set_aside(cells[2].key, "test")
    run.record_failure(cells[3], place, "timeout", "test")
    kept = place.store.read(cells[4].key).ran
    outcome = start(sweep, place)
    assert outcome.ran == 2
    assert outcome.unfinished() == []
    assert place.store.read(cells[4].key).ran == kept


def test_a_report_is_written_anew_when_another_matrix_takes_the_name(sweep, place, tmp_path):
    start(sweep, place, reports=tmp_path)
    narrow = sweep.model_copy(update={"seeds": [0]})
    assert start(narrow, place, reports=tmp_path).files
    assert not start(narrow, place, reports=tmp_path).files
    assert set(pandas.read_csv(tmp_path / "comparison.csv")["planned"]) == {1}
    assert start(sweep, place, reports=tmp_path).files


@pytest.mark.slow
def test_nothing_is_tracked_while_costs_are_measured(sweep, place, monkeypatch):
    threads = []
    monkeypatch.setattr(track_beside, "TRACK_EVERY", 0.01)
    monkeypatch.setattr(
        launch, "_measure", lambda *_: threads.extend(t.name for t in threading.enumerate())
    )
    before = {thread.name for thread in threading.enumerate()}
    start(sweep, place, track=True)
    assert set(threads) <= before


def test_rows_carry_the_labels_of_the_sweep_that_asks(place):
    texts = [f"datasets={DATA}", "splits=random", "name=other", EPOCHS[0]]
    sweep = from_overrides([*texts, "teachers=[{name: gcn, label: mine}]"])
    outcome = start(sweep, place)
    assert outcome.ran == 0
    (row,) = outcome.rows.values()
    assert row.cell["teacher"]["label"] == "mine"


def test_an_interrupt_keeps_what_is_finished(sweep, place, tmp_path):
    def impatient(items, total, title):
        for count, item in enumerate(items):
            yield item
            if count == 1:
                raise KeyboardInterrupt

    fresh = Place(tmp_path / "results", place.data)
    with pytest.raises(KeyboardInterrupt):
        start(sweep, fresh, progress=impatient)
    assert len(list((fresh.results / "cells").iterdir())) == len(fresh.store.keys()) == 2
    assert start(sweep, fresh).ran == 4
    assert numbers(fresh) == numbers(place)


@pytest.mark.slow
def test_a_tracking_server_that_is_down_costs_no_result(sweep, place):
    outcome = start(sweep, place, track=True, track_uri="http://127.0.0.1:9")
    assert outcome.unfinished() == []
    (warning,) = outcome.warnings
    assert warning.startswith("the tracking store http://127.0.0.1:9 cannot be used")
    assert "the results are kept" in warning


def test_a_thousand_finished_cells_are_passed_in_no_time(tmp_path):
    """In a process of its own: what it imports counts."""
    texts = [f"datasets={DATA}", "splits=random", "settings=transductive,production", "name=big"]
    texts += ["teachers=gcn,sage", "students=mlp,glnn", "seeds=0-99", "cost_seeds=0"]
    cells = expand(from_overrides(texts), tmp_path)
    assert len(cells) == 1000
    store = Store(tmp_path / "results")
    for cell in cells:
        with store.draft(cell.key) as draft:
            (draft / "weights.pt").touch()
            store.write(Row(cell.key, cell.describe(), "ok", variants={"": {}}), draft)
        store.write_cost(cell.key, {"": {"macs": 1.0}})
    (tmp_path / "reports" / "big").mkdir(parents=True)
    (tmp_path / "reports" / "big" / "comparison.md").touch()
    program = (
        "import sys, time, torch, bench.sweep\n"
        "from bench.cli import main\n"
        "def yardstick():\n"
        "    start = time.process_time()\n"
        "    sum(i * i % 7 for i in range(1_000_000))\n"
        "    return time.process_time() - start\n"
        "before = yardstick()\n"
        "start = time.process_time()\n"
        "try:\n"
        f"    main(['run', *{texts!r}, '--no-track'], standalone_mode=False)\n"
        "finally:\n"
        "    seconds = time.process_time() - start\n"
        "    heavy = {'pandas', 'mlflow', 'torch_geometric', 'matplotlib', 'ogb'}\n"
        "    print(2 * seconds / (before + yardstick()), sorted(heavy & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program]
    env = {**os.environ, "PYTHONPATH": str(Path(bench.__file__).parent.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=env, stdout=-1, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "big: 0 cells run, 1,000 done before"
    loops, _, heavy = lines[-1].partition(" ")
    assert heavy == "[]"
    # A million turns of a loop are the unit: neither a slow nor a busy machine changes the ratio.
    assert float(loops) < 25  # it is about 10


def test_fits_that_take_long_are_shown_while_they_run_and_taken_back_if_nobody_ends_them(
    sweep, place, monkeypatch
):
    calls = []

    class Tracker:
        def __init__(self, store, uri):
            pass

        def log_live(self, sweep, cell, fit):
            calls.append(("live", cell.key, list(fit.fresh)))

        def drop_live(self, sweep, keep):
            calls.append(("drop", sorted(keep)))

    monkeypatch.setattr("bench.track.Tracker", Tracker)
    monkeypatch.setattr(track_beside, "LIVE_EVERY", 0.01)
    cells = expand(sweep, place.data)[:2]
    live = launch_track.Tracking(place.store, sweep.name, None, cells)
    live.fits.after = 0.0
    for cell in cells:
        live.hear(engine.Report(cell.key, 4, 0.5))
    live.hear(engine.Report("of a teacher outside of the sweep", 4, 0.5))
    deadline = time.monotonic() + 10
    while len(calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    live.add(cells[0].key)
    live.stop()
    assert sorted(calls[:2]) == sorted(("live", cell.key, [4]) for cell in cells)
    assert calls[2:] == [("drop", [cells[0].key])]


def test_a_store_that_comes_back_gets_all_and_leaves_no_warning(sweep, place, monkeypatch):
    calls = []

    class Tracker:
        def __init__(self, store, uri):
            pass

        def log_rows(self, sweep, keys, cells=None):
            calls.append(list(keys))
            if len(calls) == 1:
                raise TrackingError("the store is away")
            return len(keys)

        def finish(self, sweep):
            pass

        def log_files(self, sweep, files):
            pass

        def drop_live(self, sweep, keep):
            calls.append("drop")

    monkeypatch.setattr("bench.track.Tracker", Tracker)
    monkeypatch.setattr("bench.track.needs_tracking", lambda store, sweep, keys, uri: keys)
    monkeypatch.setattr(track_beside, "TRACK_EVERY", 0.01)
    live = launch_track.Tracking(place.store, sweep.name, None, [])
    live.add("a")
    deadline = time.monotonic() + 10
    while not live.trouble and time.monotonic() < deadline:
        time.sleep(0.01)
    assert live.trouble == "the store is away"
    live.add("b")
    time.sleep(0.05)
    live.stop()
    assert calls == [["a"]]  # not asked again while it is in trouble
    live.finish(["a", "b"], [])
    assert (calls[1:], live.count, live.trouble) == ([["a", "b"]], 2, "")
