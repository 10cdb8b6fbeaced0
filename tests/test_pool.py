import contextlib
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import bench
from bench import pool
from bench.engine import Plan, Report, Stopped, open_engine, run_cells
from bench.run import Place
from tests import outside
from tests.cells import cell_of, cells_of, drained, result


@pytest.fixture(scope="module", autouse=True)
def _outsiders(tmp_path_factory):
    with outside.installed(tmp_path_factory.mktemp("outside")):
        yield


def workers():
    """The worker processes of this one."""
    kids = psutil.Process().children(recursive=True)
    return [kid for kid in kids if "--multiprocessing-fork" in kid.cmdline()]


@pytest.fixture(scope="module")
def mixed(_outsiders, tmp_path_factory):
    """A sweep in two workers in which cells die, hang and fail: (cells, rows, place)."""
    folder = tmp_path_factory.mktemp("mixed")
    cells = cells_of("students=die,sleep")
    cells += cells_of("teachers=gcn", "students=mlp,glnn,fail", "seeds=0-1")
    place = Place(folder / "results", folder)
    stale = place.store.root / "cells" / f".{'0' * 32}-999999999"
    stale.mkdir(parents=True)
    os.environ.update(SLEEP_SECONDS="60", SLEEP_MARK=str(folder / "mark"))
    try:
        rows = list(run_cells(cells, place, Plan(2, 1, timeout=6.0)))
    finally:
        os.environ.pop("SLEEP_SECONDS")
    return cells, rows, place


@pytest.mark.slow
def test_a_worker_that_dies_or_hangs_costs_its_cell_only(mixed):
    cells, rows, _ = mixed
    assert {row.key for row in rows} == {cell.key for cell in cells}
    assert len(rows) == len(cells)
    label = {cell.key: cell.group[4] or cell.group[3] for cell in cells}
    found = {(label[row.key], row.status, row.reason) for row in rows}
    assert found == {
        ("gcn", "ok", ""),
        ("mlp", "ok", ""),
        ("glnn", "ok", ""),
        ("fail", "failed", "RuntimeError: the fuse\nburnt"),
        ("die", "failed", "its worker was ended by SIGKILL, most likely for want of memory"),
        ("sleep", "timeout", "took longer than 6 s"),
    }


@pytest.mark.slow
def test_afterwards_no_worker_and_no_draft_is_left(mixed):
    _, _, place = mixed
    assert [p.name for p in (place.store.root / "cells").iterdir() if p.name[0] == "."] == []
    assert not workers()


@pytest.mark.slow
def test_one_process_gives_the_same_rows_as_two(mixed, tmp_path):
    cells, rows, _ = mixed
    alone = [cell for cell in cells if cell.group[4] not in ("die", "sleep")]
    here = result(run_cells(alone, Place(tmp_path, tmp_path), Plan(1, 1)))
    there = result(rows)
    assert here == {key: there[key] for key in here}


@pytest.mark.slow
def test_a_running_fit_reports_stops_and_never_waits_for_the_driver(tmp_path):
    """One worker does all of it: its start is what takes time."""
    place = Place(tmp_path / "results", tmp_path)
    long = ["mlp.max_epochs=100000", "mlp.patience=100000"]
    many = cell_of("students=mlp", "mlp.max_epochs=200", "mlp.patience=200", "seeds=1")
    ended, refused, queued = (cell_of("students=mlp", *long, f"seeds={s}") for s in (2, 3, 4))
    with open_engine(place, Plan(1, 1, timeout=600.0)) as runner:
        # scores that a driver does not like, at once
        runner.submit(refused, decide=lambda report: report.epoch < 50)
        (stop,) = drained(runner)
        assert stop == Stopped(refused.key)
        assert 0 < stop.seconds < 60
        assert len(workers()) == 1
        # a stop from outside, while another cell waits
        runner.submit(ended, reports=True)
        runner.submit(queued)
        first = runner.events()[0]
        assert first == Report(ended.key, 4, first.value)
        assert runner.waiting == 1
        runner.stop(queued.key)
        runner.stop(ended.key)
        over = [e for e in drained(runner) if not isinstance(e, Report)]
        assert over == [Stopped(queued.key), Stopped(ended.key)]
        assert over[0].seconds == 0 < over[1].seconds
        assert runner.events(timeout=0.0) == []
        # scores that nobody fetches while the fit runs
        runner.submit(many, reports=True)
        runner.events(timeout=0.0)
        deadline = time.monotonic() + 60
        while place.store.read(many.key) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        *reports, row = drained(runner)
    assert row.fit["epochs"] == 200
    curve = place.store.history(many.key)["val_accuracy"]
    assert reports == [Report(many.key, e, curve[e]) for e in range(4, 200, 5)]
    assert place.store.keys() == [many.key]


def test_what_a_worker_says_is_on_its_way_at_once_however_slow_the_driver_is():
    ours, theirs = multiprocessing.Pipe()
    answers = queue.SimpleQueue()
    threading.Thread(target=pool._write, args=(theirs, answers), daemon=True).start()
    for i in range(3000):  # 3 MB: far more than a pipe holds
        answers.put((i, "x" * 1000))
    assert [ours.recv()[0] for _ in range(3000)] == list(range(3000))


def test_a_stop_concerns_the_cell_that_runs_now_and_not_the_same_one_sent_later(
    monkeypatch,
):
    # When the driver hangs up, the reader ends its process: here it must only be the thread.
    monkeypatch.setattr(os, "_exit", sys.exit)
    ours, theirs = multiprocessing.Pipe()
    cell, cells, stopped = cell_of("students=mlp"), queue.SimpleQueue(), set()

    def read():
        with contextlib.suppress(SystemExit):
            pool._read(theirs, cells, stopped)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    ours.send(cell.key)
    ours.send((cell, True))
    assert cells.get(timeout=60) == (cell, True)
    assert not stopped
    ours.send(cell.key)
    ours.send((cell_of("students=mlp", "seeds=1"), False))
    cells.get(timeout=60)
    assert stopped == {cell.key}
    ours.close()
    reader.join(timeout=60)
    assert not reader.is_alive()


def test_a_process_started_sheltered_gets_no_interrupt():
    program = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with pool._without_interrupts():
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert done.stdout == "True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.slow
def test_a_script_that_guards_nothing_may_use_several_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from bench.engine import Plan, run_cells\n"
        "from bench.place import Place\n"
        "from pathlib import Path\n"
        "from tests.cells import cells_of\n"
        "place = Place(Path('results'), Path())\n"
        "rows = run_cells(cells_of('students=mlp'), place, Plan(1, 1, timeout=600.0))\n"
        "print([row.status for row in rows])\n"
    )
    home = os.pathsep.join([str(Path(bench.__file__).parent.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": home},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == "once\n['ok']\n"
