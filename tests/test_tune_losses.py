"""Searches that lose a worker, a teacher or their driver; and grids, which end by themselves."""

import pytest
import yaml

from bench import tune
from bench.cell import from_data
from bench.engine import InProcess, Plan
from bench.results import Row, Store
from bench.run import Place, record_failure
from bench.study import Study
from bench.tuning import read_tuned
from tests import hunts
from tests.cells import cell_of, drained
from tests.hunts import Instant, asked, essence, hunt, trials


@pytest.fixture
def instant(monkeypatch):
    kind = type("Fresh", (Instant,), {"answered": []})
    monkeypatch.setattr(tune.engines, "open_engine", kind)
    return kind


# ---- workers and teachers that are lost -----------------------------------------------------


def losing(monkeypatch, instant, lost):
    """Let `lost(cell, how often it was asked for)` say which answers never come."""
    asked_for = {}
    answer = instant.answer

    def answer_or_not(self, cell, decide):
        asked_for[cell.key] = asked_for.get(cell.key, 0) + 1
        if lost(cell, asked_for[cell.key]):
            return Row(cell.key, cell.describe(), "failed", "its worker was ended by SIGKILL")
        return answer(self, cell, decide)

    monkeypatch.setattr(instant, "answer", answer_or_not)


@pytest.mark.parametrize("pruner", ["none", "median", "wilcoxon"])
def test_a_worker_that_dies_once_costs_no_trial(tmp_path, instant, monkeypatch, pruner):
    sweep = asked(pruner=pruner, seeds=list(range(100, 105)))
    whole = essence(hunt(tmp_path / "whole", sweep))
    instant.answered.clear()
    losing(monkeypatch, instant, lambda cell, times: times == 1 and cell.seed == 100)
    assert essence(hunt(tmp_path / "lost", sweep)) == whole


def test_a_cell_that_kills_its_worker_twice_fails_its_trial(tmp_path, instant, monkeypatch):
    losing(monkeypatch, instant, lambda cell, _: cell.student.config["lr"] > 0.03)
    found = trials(hunt(tmp_path))
    failed = [r for r in found if r["config"]["lr"] > 0.03]
    assert failed
    assert {r["state"] for r in failed} == {"failed"}
    assert all("ended by SIGKILL" in r["reason"] for r in failed)
    assert "failed" not in {r["state"] for r in found if r["config"]["lr"] <= 0.03}


def teacher_that(status, monkeypatch, instant, store, while_):
    """Answer students as cells do whose teacher has this status, while `while_()`."""
    answer = instant.answer

    def answer_or_not(self, cell, decide):
        if not while_(cell):
            return answer(self, cell, decide)
        teacher = cell.teacher_cell
        with store.draft(teacher.key) as draft:
            store.write(Row(teacher.key, teacher.describe(), status, "boom"), draft)
        reason = f"its teacher gcn {status}: boom"
        row = Row(cell.key, cell.describe(), "failed", reason, teacher_key=teacher.key)
        row.seconds = {"load": 0.1}
        return row

    monkeypatch.setattr(instant, "answer", answer_or_not)


def test_a_teacher_that_fails_costs_no_trial_and_the_same_command_goes_on(
    tmp_path, instant, monkeypatch
):
    whole = essence(hunt(tmp_path / "whole"))
    store = Store(tmp_path / "lost" / "results")
    with monkeypatch.context() as patch:
        teacher_that("failed", patch, instant, store, lambda cell: cell.seed == 101)
        outcome = hunt(tmp_path / "lost")
    assert trials(outcome) == []
    assert outcome.found == []
    (warning,) = outcome.warnings
    assert warning.endswith("waits: its teacher gcn failed: boom; the same command goes on")
    assert not (tmp_path / "lost" / "tuned").exists()
    assert essence(hunt(tmp_path / "lost")) == whole


def test_a_teacher_that_diverges_ends_its_study(tmp_path, instant, monkeypatch):
    store = Store(tmp_path / "results")
    teacher_that("diverged", monkeypatch, instant, store, lambda _: True)
    outcome = hunt(tmp_path)
    assert outcome.records == {}
    assert list(outcome.skipped.values()) == ["its teacher gcn diverged: boom"]


def test_a_teacher_that_failed_is_fitted_again_for_the_next_student(tmp_path):
    cell = cell_of("teachers=gcn", "students=mlp,glnn", "seeds=0")
    place = Place(tmp_path, tmp_path)
    record_failure(cell.teacher_cell, place, "failed", "its worker was ended by SIGKILL")
    with InProcess(place, Plan(1, 1)) as engine:
        engine.submit(cell)
        rows = drained(engine)
    assert [(from_data(r.cell).student is None, r.status) for r in rows] == [
        (True, "ok"),
        (False, "ok"),
    ]


# ---- drivers that die -----------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "grid"])
@pytest.mark.parametrize("pruner", ["none", "median"])
@pytest.mark.parametrize("name", ["_asked", "tell"])
def test_a_driver_that_dies_between_two_words_to_the_study_goes_on_to_the_same_trials(
    tmp_path, instant, monkeypatch, name, pruner, sampler
):
    sweep = asked(pruner=pruner, sampler=sampler)
    whole = essence(hunt(tmp_path / "whole", sweep))
    spoken = getattr(Study, name)
    for dies_after in (2, 6, 9):
        count = 0

        def speak(self, *arguments, last=dies_after):
            nonlocal count
            count += 1
            if count > last:
                raise KeyboardInterrupt
            return spoken(self, *arguments)

        folder = tmp_path / str(dies_after)
        with monkeypatch.context() as patch:
            patch.setattr(Study, name, speak)
            with pytest.raises(KeyboardInterrupt):
                hunt(folder, sweep)
        assert essence(hunt(folder, sweep)) == whole


def test_an_interrupted_search_leaves_the_tuned_file_as_it_is(tmp_path, instant):
    hunt(tmp_path)
    path = tmp_path / "tuned" / "hunt.yaml"
    before = path.read_text()
    (tmp_path / "results").rename(tmp_path / "elsewhere")  # as in a fresh clone
    instant.answered.clear()
    instant.dies_after = 20  # four trials are told by then
    with pytest.raises(KeyboardInterrupt):
        hunt(tmp_path)
    assert path.read_text() == before
    instant.dies_after = 10**9
    hunt(tmp_path)
    assert path.read_text() == before


# ---- what is chosen -------------------------------------------------------------------------


def test_means_that_differ_by_a_rounding_are_a_tie(tmp_path, instant, monkeypatch):
    one, two = (0.8428571428571429, 0.8666666666666667), (0.8571428571428571, 0.8523809523809524)
    assert sum(one) / 2 > sum(two) / 2 > sum(one) / 2 - 1e-12  # as many right nodes

    def accuracy(cell):
        return (one if cell.student.config["lr"] == 0.02 else two)[cell.seed - 100]

    monkeypatch.setattr(hunts, "accuracy", accuracy)
    sweep = asked(trials=6, seeds=[100, 101], space={"glnn": {**hunts.ONE, "lr": [0.01, 0.02]}})
    outcome = hunt(tmp_path, sweep)
    assert {r["config"]["lr"] for r in trials(outcome)} == {0.01, 0.02}
    assert outcome.found[0].trial == 0
    assert len({r["val_accuracy"] for r in trials(outcome)}) == 1


def test_a_tuned_file_tells_its_seeds_and_where_it_started(tmp_path, instant):
    hunt(tmp_path)
    (entry,) = read_tuned(tmp_path / "tuned" / "hunt.yaml")
    assert entry.seeds == [100, 101, 102]
    assert len(entry.start) == 8
    text = (tmp_path / "tuned" / "hunt.yaml").read_text()
    old = yaml.safe_load(text)
    for key in ("seeds", "start"):
        del old["tuned"][0][key]
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(old))
    assert read_tuned(tmp_path / "old.yaml")[0].seeds == []  # those of earlier versions


# ---- grids ----------------------------------------------------------------------------------

POINTS = {"glnn": {**hunts.ONE, "lr": [0.02, 0.01], "dropout": [0.0, 0.25, 0.5]}}


def test_a_grid_is_walked_once_and_then_the_search_is_over(tmp_path, instant):
    outcome = hunt(tmp_path, asked(sampler="grid", trials=50, space=POINTS))
    found = [
        (r["config"]["lr"], r["config"]["dropout"]) for r in trials(outcome) if not r["origin"]
    ]
    assert len(found) == len(set(found)) == 8  # with the dropout of a preset
    assert outcome.found[0].trials == len(trials(outcome)) == 8 + 2  # the default and a preset
    again = hunt(tmp_path, asked(sampler="grid", trials=50, space=POINTS))
    assert (again.trials, len(again.found)) == (0, 1)


def test_the_order_of_a_grid_is_drawn_and_each_point_is_as_likely_first(tmp_path, instant):
    firsts = set()
    for seed in range(12):
        sweep = asked(sampler="grid", trials=3, seed=seed, space=POINTS)
        last = trials(hunt(tmp_path / str(seed), sweep))[-1]
        firsts.add((last["config"]["lr"], last["config"]["dropout"]))
    assert len(firsts) > 3
