import json

import pytest

from bench import track_live
from bench.engine import Report
from bench.results import Row, Store
from bench.track import Tracker
from bench.track_live import Fit, Fits
from tests.cells import cell_of, cells_of


class Clock:
    """The time of `track_live`, set by hand."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(track_live.time, "time", lambda: self.now)


def test_a_fit_is_shown_once_it_is_long_and_each_score_once(monkeypatch):
    clock, fits = Clock(monkeypatch), Fits(after=30.0)
    fits.hear(Report("a", 4, 0.5))
    clock.now += 29
    fits.hear(Report("a", 9, 0.6))
    fits.hear(Report("b", 4, 0.1))
    assert fits.news() == {}
    clock.now += 1
    scores = {4: (0.5, 1_000_000), 9: (0.6, 1_029_000)}
    assert fits.news() == {"a": Fit(1_000_000, scores)}
    assert fits.news() == {}
    fits.hear(Report("a", 14, 0.7))
    fits.forget("b")
    clock.now += 60
    assert fits.news() == {"a": Fit(1_000_000, {14: (0.7, 1_030_000)})}


def test_of_many_scores_some_are_written_the_last_one_among_them():
    points = track_live.points({epoch: (0.1, 7) for epoch in range(4, 1000, 5)})
    epochs = [epoch for _, _, _, epoch in points]
    assert len(epochs) == 6
    assert epochs == sorted(epochs)
    assert epochs[-1] == 999
    assert track_live.points({}) == []


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    return Tracker(Store(tmp_path_factory.mktemp("live")))


def test_a_running_fit_has_a_run_that_its_row_finishes(tracker):
    store, cell = tracker.store, cell_of("students=mlp")
    other, never = cells_of("students=mlp", "seeds=1-2")
    for scores in ({4: (0.4, 5_000)}, {9: (0.5, 9_000), 14: (0.6, 14_000)}):
        for shown in (cell, never):
            tracker.log_live("adhoc", shown, Fit(1_000, scores))
    assert {run.info.status for run in children(tracker)} == {"RUNNING"}
    assert [m.step for m in curve(tracker, children(tracker)[0])] == [4, 9, 14]

    write(store, cell)
    write(store, other)
    first = next(run for run in children(tracker) if run.data.tags["gkdbench.key"] == cell.key)
    tracker.drop_live("adhoc", keep={cell.key})
    tracker.log_rows("adhoc", [cell.key, other.key])
    tracker.finish("adhoc")
    found = {run.data.tags["gkdbench.key"]: run for run in children(tracker)}
    assert set(found) == {cell.key, other.key}
    finished = found[cell.key]
    assert (finished.info.run_id, finished.info.status) == (first.info.run_id, "FINISHED")
    assert finished.data.tags["gkdbench.status"] == "ok"
    assert [m.step for m in curve(tracker, finished)] == list(range(20))
    assert finished.data.params == {**found[other.key].data.params, "seed": "0", "split_seed": "0",
                                    "teacher_seed": "0"}  # fmt: skip
    assert Tracker(store).log_rows("adhoc", [cell.key, other.key]) == 0


def test_a_run_that_somebody_deleted_is_begun_anew(tracker):
    cell = cell_of("students=mlp")
    for epoch in (4, 9):
        tracker.log_live("deleted", cell, Fit(1_000, {epoch: (0.4, 5_000)}))
        (run,) = children(tracker, "deleted")
        tracker.client.delete_run(run.info.run_id)
    write(tracker.store, cell)
    assert tracker.log_rows("deleted", [cell.key]) == 1
    assert [run.info.status for run in children(tracker, "deleted")] == ["FINISHED"]


def children(tracker, sweep="adhoc"):
    """The runs of cells."""
    experiment = tracker.client.get_experiment_by_name(sweep).experiment_id
    runs = tracker.client.search_runs([experiment])
    return [run for run in runs if run.data.tags["gkdbench.kind"] == "cell"]


def curve(tracker, run):
    found = tracker.client.get_metric_history(run.info.run_id, track_live.CURVE)
    return sorted(found, key=lambda metric: metric.step)


def write(store, cell):
    """The row of a fit of 20 epochs."""
    row = Row(cell.key, cell.describe(), "ok", variants={"": {"val_accuracy": 0.9}})
    row.ran = {"started": "2026-03-04T12:00:00+00:00", "seconds": 40.0}
    with store.draft(cell.key) as draft:
        epochs = list(range(20))
        content = {"epoch": epochs, "val_accuracy": [e / 20 for e in epochs]}
        (draft / "history.json").write_text(json.dumps(content))
        store.write(row, draft)
