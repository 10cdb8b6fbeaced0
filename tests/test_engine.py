import pytest

from bench import engine
from bench.engine import Plan, Report, Stopped, open_engine, plan, run_cells
from bench.expand import expand
from bench.jobs import Job, Queue
from bench.results import Row
from bench.run import Place
from bench.sweep import from_overrides, make
from bench.train import REPORT_EVERY
from tests import outside
from tests.cells import cell_of, cells_of, drained, result


@pytest.fixture
def outsiders(tmp_path):
    with outside.installed(tmp_path):
        yield


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "results", tmp_path)


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


@pytest.mark.parametrize(
    ("parameters", "threads"),
    [("", 1), (":degree=4", 1), (":degree=4,nodes=50000", 1), (": nodes = 50001", 6),
     (":degree=4, nodes=2e5", 6)],
)  # fmt: skip
def test_the_size_of_a_synthetic_graph_is_read_as_the_graph_is(parameters, threads, monkeypatch):
    monkeypatch.setattr(engine, "cores", lambda: 6)
    asked = {"name": "x", "datasets": [f"synthetic{parameters}"], "teachers": "gcn"}
    assert plan(expand(make(asked), None)).threads == threads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "dusk"}, "unknown engine 'dusk'; did you mean 'dask'? known: dask, local"),
        ({"kind": "dask"}, "engine 'dask' needs the address of its scheduler"),
        ({"scheduler": "tcp://a:1"}, "a scheduler is given, and the engine is 'local'"),
    ],
)
def test_an_engine_that_cannot_be_opened_says_why(place, options, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        open_engine(place, Plan(1, 1), **options)
    assert message in str(caught.value)


# ---- the order ------------------------------------------------------------------------------


def test_teachers_come_first_and_near_cells_before_far_ones():
    cells = cells_of("teachers=gcn", "students=mlp", "seeds=0-1")
    jobs = {(c.seed, c.group[4]): Job(c) for c in cells}
    queue = Queue()
    for at in [(0, "mlp"), (1, "mlp"), (0, ""), (1, "")]:
        queue.put(jobs[at])
    taken = [queue.take(jobs[1, ""].data) for _ in range(2)]
    taken += [queue.take() for _ in range(2)]
    assert taken == [jobs[1, ""], jobs[1, "mlp"], jobs[0, ""], jobs[0, "mlp"]]
    assert not queue


def test_a_job_leaves_the_queue_once():
    jobs = [Job(cell) for cell in cells_of("students=mlp", "seeds=0-1")]
    queue = Queue()
    for job in jobs:
        queue.put(job)
    assert queue.remove(jobs[0])
    assert not queue.remove(jobs[0])
    assert queue.take() is jobs[1]


def test_a_teacher_runs_first_and_once_without_being_submitted(place):
    cells = cells_of("teachers=gcn", "students=glnn", "seeds=0-1")
    teachers = [c for c in cells if c.student is None]
    students = [c for c in cells if c.student is not None]
    with open_engine(place, Plan(1, 1)) as runner:
        for cell in students:
            runner.submit(cell)
        runner.submit(teachers[0])  # it is on its way already
        assert runner.waiting == 3
        order = [event.key for event in drained(runner)]
        assert runner.waiting == 0
        assert set(order[:2]) == {c.key for c in teachers}
        assert set(order[2:]) == {c.key for c in students}
        runner.submit(students[0])  # its row is there now, and so is its teacher's
        assert [event.key for event in drained(runner)] == [students[0].key]


def test_a_teacher_that_failed_before_runs_again_but_once(place, outsiders):
    cells = cells_of("teachers=chalkless", "students=glnn", "seeds=0-1")
    for _ in range(2):
        with open_engine(place, Plan(1, 1)) as runner:
            for cell in cells:
                if cell.student:
                    runner.submit(cell)
            rows = drained(runner)
        reasons = [row.reason for row in rows]
        assert reasons.count("RuntimeError: no chalk") == 2
        assert len(reasons) == 4


# ---- events ---------------------------------------------------------------------------------


def test_nothing_to_run_is_no_event(place):
    with open_engine(place, Plan(1, 1)) as runner:
        assert runner.events() == []
        assert runner.events(timeout=0.0) == []
        assert runner.slots == 1


def test_reports_are_the_curve_at_every_fifth_epoch(place):
    cell = cell_of("students=mlp", "mlp.max_epochs=23")
    with open_engine(place, Plan(1, 1)) as runner:
        runner.submit(cell, reports=True)
        *reports, row = drained(runner)
    curve = place.store.history(cell.key)["val_accuracy"]
    assert REPORT_EVERY == 5
    assert reports == [Report(cell.key, epoch, curve[epoch]) for epoch in (4, 9, 14, 19)]
    assert row.fit["epochs"] == 23


def test_a_listener_changes_no_result(place, tmp_path):
    cells = cells_of("teachers=gcn", "students=glnn")
    other = Place(tmp_path / "other", tmp_path)
    heard = []
    listened = list(run_cells(cells, place, Plan(1, 1), on_report=heard.append))
    assert result(listened) == result(run_cells(cells, other, Plan(1, 1)))
    assert heard == []  # four epochs each


def test_a_fit_whose_score_is_not_good_enough_ends_and_leaves_nothing(place):
    cell = cell_of("teachers=gcn", "students=glnn", "glnn.max_epochs=400")
    asked = []

    def decide(report):
        asked.append(report.epoch)
        return report.epoch < 12

    with open_engine(place, Plan(1, 1)) as runner:
        runner.submit(cell, decide=decide)
        teacher, stopped = drained(runner)
    assert isinstance(teacher, Row)
    assert stopped == Stopped(cell.key)
    assert 0 < stopped.seconds < 60
    assert asked == [4, 9, 14]
    assert place.store.keys() == [teacher.key]
    assert len(list((place.results / "cells").iterdir())) == 1


def test_only_the_cell_itself_reports_and_not_its_teacher(place):
    cell = cell_of("teachers=gcn", "students=glnn", "gcn.max_epochs=10", "glnn.max_epochs=10")
    with open_engine(place, Plan(1, 1)) as runner:
        runner.submit(cell, reports=True)
        events = drained(runner)
    assert [e.epoch for e in events if isinstance(e, Report)] == [4, 9]


def test_a_cell_in_the_queue_is_stopped_at_once(place):
    cells = cells_of("teachers=gcn", "students=glnn", "seeds=0-1")
    with open_engine(place, Plan(1, 1)) as runner:
        for cell in cells:
            runner.submit(cell)
        student = next(c for c in cells if c.student)  # it waits for its teacher
        runner.stop(student.key)
        assert runner.events() == [Stopped(student.key)]
        runner.stop(student.key)  # which is over
        assert {event.key for event in drained(runner)} == {c.key for c in cells} - {student.key}
        runner.submit(student)
        (row,) = drained(runner)
    assert row.status == "ok"


# ---- rows -----------------------------------------------------------------------------------


def test_no_cell_needs_no_worker(place):
    assert list(run_cells([], place, Plan(2, 1))) == []


def test_rows_that_were_not_asked_for_are_not_yielded(place):
    cell = cell_of("teachers=gcn", "students=glnn")
    assert [row.key for row in run_cells([cell], place, Plan(1, 1))] == [cell.key]
    assert len(place.store.keys()) == 2


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
