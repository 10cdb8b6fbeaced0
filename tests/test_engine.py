import os
import signal
import subprocess
import sys

import psutil
import pytest

from bench import engine
from bench.engine import Plan, plan, run_cells
from bench.expand import expand
from bench.results import tidy
from bench.run import Place
from bench.sweep import from_overrides
from tests import outside

SMALL = "synthetic:nodes=300,degree=6,classes=3"
MEASURED = ("train_seconds", "peak_memory_mib", "seconds_", "ran.")  # may differ between runs


@pytest.fixture(scope="module", autouse=True)
def _outsiders(tmp_path_factory):
    with outside.installed(tmp_path_factory.mktemp("outside")):
        yield


def cells_of(*texts: str):
    fixed = [f"datasets={SMALL}", "splits=random"]
    names = "gcn,mlp,glnn,die,sleep,fail"
    given = [part for text in texts if "s=" in text for part in text.partition("=")[2].split(",")]
    epochs = [f"{name}.max_epochs=4" for name in names.split(",") if name in given]
    return expand(from_overrides([*fixed, *texts, *epochs]), None)


def result(rows):
    """Rows by key, without what is measured and provenance."""
    return {
        record["key"]: {k: v for k, v in record.items() if not k.startswith(MEASURED)}
        for record in tidy(rows)
    }


# ---- planning -------------------------------------------------------------------------------


def test_a_plan_never_takes_more_than_the_cores(monkeypatch):
    monkeypatch.setattr(engine, "cores", lambda: 6)
    small, large = cells_of("teachers=gcn", "seeds=0-9"), cells_of("teachers=gcn")
    big = expand(
        from_overrides(["datasets=synthetic:nodes=1e6", "teachers=gcn", "seeds=0-9"]), None
    )
    assert plan(small) == Plan(6, 1)
    assert plan(small, threads=4) == Plan(1, 4)
    assert plan(small, jobs=3) == Plan(3, 1)
    assert plan(large) == Plan(1, 1)  # one cell: one process
    assert plan(big) == Plan(1, 6)  # a large graph gets all cores
    assert plan(small, timeout=3.0).timeout == 3.0


# ---- workers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(_outsiders, tmp_path_factory):
    """A sweep in two workers in which cells die, hang and fail: (cells, rows, place, notes)."""
    folder = tmp_path_factory.mktemp("mixed")
    cells = cells_of("students=die,sleep")
    cells += cells_of("teachers=gcn", "students=mlp,glnn,fail", "seeds=0-1")
    place = Place(folder / "results", folder)
    stale = place.store.root / "cells" / f".{'0' * 32}-999999999"
    stale.mkdir(parents=True)
    os.environ.update(SLEEP_SECONDS="60", SLEEP_MARK=str(folder / "mark"))
    try:
        rows = list(run_cells(cells, place, Plan(2, 1, timeout=3.0)))
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
        ("sleep", "timeout", "took longer than 3 s"),
    }


@pytest.mark.slow
def test_afterwards_no_worker_and_no_draft_is_left(mixed):
    _, _, place = mixed
    assert [p.name for p in (place.store.root / "cells").iterdir() if p.name[0] == "."] == []
    kids = psutil.Process().children(recursive=True)
    assert not [kid for kid in kids if "--multiprocessing-fork" in kid.cmdline()]


@pytest.mark.slow
def test_one_process_gives_the_same_rows_as_two(mixed, tmp_path):
    cells, rows, _ = mixed
    alone = [cell for cell in cells if cell.group[4] not in ("die", "sleep")]
    here = result(run_cells(alone, Place(tmp_path, tmp_path), Plan(1, 1)))
    there = result(rows)
    assert here == {key: there[key] for key in here}


def test_no_cell_needs_no_worker(tmp_path):
    assert list(run_cells([], Place(tmp_path, tmp_path), Plan(2, 1))) == []


def test_an_error_outside_of_the_cells_ends_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.results.Store.write", full)
    rows = run_cells(cells_of("students=mlp"), Place(tmp_path, tmp_path), Plan(1, 1))
    with pytest.raises(OSError, match="No space left"):
        list(rows)
    assert list((tmp_path / "cells").iterdir()) == []


def test_an_interrupt_in_this_process_leaves_what_is_finished(tmp_path):
    cells = cells_of("teachers=gcn", "students=mlp,glnn")
    rows = run_cells(cells, Place(tmp_path, tmp_path), Plan(1, 1))
    first = next(rows)
    rows.close()
    assert [p.name for p in (tmp_path / "cells").iterdir()] == [first.key]
    started = first.ran["started"]
    again = {row.key: row for row in run_cells(cells, Place(tmp_path, tmp_path), Plan(1, 1))}
    assert len(again) == 3
    assert again[first.key].ran["started"] == started


def test_a_process_started_sheltered_gets_no_interrupt():
    program = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with engine._without_interrupts():
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert done.stdout == "True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
