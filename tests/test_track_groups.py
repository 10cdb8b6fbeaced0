"""Parents have the aggregates of their children, whoever wrote these, and at what cost."""

import contextlib
import shutil
import sqlite3

import pytest

from bench import track_groups, track_index
from bench.results import Store
from bench.track import Tracker, TrackingError, replay
from bench.track_store import own_database, tags_of_runs
from tests.test_track import (
    GLNN,
    PLACE,
    content_of,
    make_cell,
    make_results,
    make_row,
    runs_of,
    write_plan,
)

# mlflow's own models use a loader that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

MLP = f"mlp on {PLACE}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A results folder all of which is tracked, to copy: to make one takes seconds."""
    store, cells = make_results(tmp_path_factory.mktemp("made") / "results")
    replay(store)
    return store, cells


@pytest.fixture
def tracked(made, tmp_path):
    store, cells = made
    shutil.copytree(store.root, tmp_path / "results")
    return Store(tmp_path / "results"), dict(cells)


class Counting:
    """MLflow's client, with a list of what is asked of it about runs."""

    def __init__(self, client):
        self.client, self.asked = client, []

    def __getattr__(self, name):
        if "experiment" not in name:
            self.asked.append(name)
        return getattr(self.client, name)


def counted(store):
    tracker = Tracker(store)
    tracker.client = Counting(tracker.client)
    return tracker, tracker.client.asked


def test_where_nothing_changed_no_run_is_read_or_written(tracked, monkeypatch):
    store, cells = tracked
    tracker, asked = counted(store)
    assert tracker.log_rows("planetoid", list(cells), cells=cells) == 0
    monkeypatch.setattr(track_groups, "read_row", None)  # nor a row a second time
    tracker.finish("planetoid")
    assert asked == []


def test_a_new_row_is_paid_for_by_its_own_group_alone(tracked):
    store, cells = tracked
    make_row(store, make_cell("glnn", 0), accuracy=0.77)
    tracker, asked = counted(store)
    assert tracker.log_rows("planetoid", list(cells), cells=cells) == 1
    asked.clear()
    tracker.finish("planetoid")
    assert asked == ["get_run", "log_batch"]  # of the parent, whose end is the same
    numbers = runs_of(tracker)["", GLNN].data.metrics
    assert numbers["test_accuracy_mean"] == pytest.approx(0.82)  # 0.77, 0.82, 0.87
    assert numbers["test_accuracy_std"] == pytest.approx(0.05)


def test_the_database_says_what_the_client_says(tracked):
    store, cells = tracked
    tracker = Tracker(store)
    runs = runs_of(tracker)
    tracker.client.delete_run(runs[GLNN, f"seed 1: {GLNN}"].info.run_id)
    tracker.client.update_run(runs["", MLP].info.run_id, status="RUNNING")
    tracker.client.create_run(tracker.client.create_experiment("other"))
    tracker.client.create_run(tracker.client.get_experiment_by_name("planetoid").experiment_id)
    home = own_database(store, tracker.uri)
    assert home == store.root / "mlflow.db"
    quick = track_index.look(tracker.client, "planetoid", None, home)
    assert quick == track_index.look(tracker.client, "planetoid", None)
    assert set(quick.cells) == set(runs_keys(tracker)) == set(cells) - set(list(cells)[4:9:4])
    unfinished = quick.groups[MLP]
    assert [run for run, record in quick.records.items() if not record] == [unfinished]


def runs_keys(tracker):
    return [
        run.data.tags["gkdbench.key"]
        for run in runs_of(tracker).values()
        if run.data.tags.get("gkdbench.kind") == "cell"
    ]


def test_a_database_of_another_make_is_left_to_the_client(tracked):
    store = tracked[0]
    home = store.root / "mlflow.db"
    assert tags_of_runs(home.with_name("none.db"), "1", ["gkdbench.kind"]) is None
    assert not home.with_name("none.db").exists()
    assert tags_of_runs(home, "name", ["gkdbench.kind"]) is None
    experiment = Tracker(store).client.get_experiment_by_name("planetoid").experiment_id
    before = tags_of_runs(home, experiment, ["gkdbench.kind"])
    assert {tuple(tags.values()) for _, _, tags in before} == {("cell",), ("group",)}
    with contextlib.closing(sqlite3.connect(home)) as database:
        database.execute("ALTER TABLE tags RENAME TO labels")
    assert tags_of_runs(home, experiment, ["gkdbench.kind"]) is None


def test_only_the_database_in_the_results_folder_is_read(tmp_path):
    store = Store(tmp_path)
    for uri in ("http://localhost:5000", f"sqlite:///{tmp_path}/other.db", "postgresql://h/db"):
        assert own_database(store, uri) is None


def test_a_run_whose_row_is_gone_or_another_one_still_counts_as_it_was_tracked(tracked):
    store, cells = tracked
    shutil.rmtree(store.folder(make_cell("glnn", 0).key))  # 0.80
    make_row(store, make_cell("glnn", 1), accuracy=0.1)  # tracked with 0.82
    fourth = make_cell("glnn", 3)
    cells[fourth.key] = fourth
    make_row(store, fourth, accuracy=0.91)
    write_plan(store, cells)
    tracker = Tracker(store)
    tracker.log_rows("planetoid", [fourth.key], cells=cells)
    tracker.finish("planetoid")
    numbers = runs_of(tracker)["", GLNN].data.metrics
    assert numbers["test_accuracy_mean"] == pytest.approx((0.80 + 0.82 + 0.87 + 0.91) / 4)
    assert (numbers["n_seeds"], numbers["n_missing"]) == (4, 0)


def test_a_parent_tells_the_commit_of_its_children_where_it_is_one(tracked):
    store, cells = tracked
    names = ("gkdbench.git_commit", "mlflow.source.git.commit")
    tags = runs_of(Tracker(store))["", GLNN].data.tags
    assert [tags[name] for name in names] == ["c0ffee", "c0ffee"]
    fourth = make_cell("glnn", 3)
    cells[fourth.key] = fourth
    make_row(store, fourth, ran={**make_row(store, fourth).ran, "git_commit": "decaf"})
    write_plan(store, cells)
    replay(store)
    tags = runs_of(Tracker(store))["", GLNN].data.tags
    assert [tags[name] for name in names] == ["several", "several"]


def test_a_larger_plan_is_missing_what_it_has_no_rows_of(tracked):
    store, cells = tracked
    fourth = make_cell("glnn", 3)
    cells[fourth.key] = fourth
    write_plan(store, cells)
    assert replay(store) == {"planetoid": 0}
    assert runs_of(Tracker(store))["", GLNN].data.metrics["n_missing"] == 1


def test_a_process_that_dies_while_it_writes_aggregates_is_made_up_for(made, tracked):
    store, cells = tracked
    (store.root / "mlflow.db").unlink()
    tracker = Tracker(store)
    tracker.log_rows("planetoid", list(cells), cells=cells)
    write, left = tracker.client.log_batch, [1, 1]

    def dying(*arguments, **options):
        if not left:
            raise OSError("killed")
        left.pop()
        return write(*arguments, **options)

    tracker.client.log_batch = dying
    with pytest.raises(TrackingError, match="killed"):
        tracker.finish("planetoid")
    assert replay(store) == {"planetoid": 0}
    assert content_of(Tracker(store)) == content_of(Tracker(made[0]))


def test_runs_that_another_process_wrote_meanwhile_count(tracked):
    store, cells = tracked
    first, second = Tracker(store), Tracker(store)
    first.log_rows("planetoid", [])
    fourth = make_cell("glnn", 3)
    cells[fourth.key] = fourth
    make_row(store, fourth, accuracy=0.91)
    write_plan(store, cells)
    second.log_rows("planetoid", list(cells), cells=cells)
    first.finish("planetoid")
    numbers = runs_of(first)["", GLNN].data.metrics
    assert (numbers["n_seeds"], numbers["n_missing"]) == (4, 0)


def test_a_parent_that_only_looks_empty_stays(tracked):
    store, cells = tracked
    tracker = Tracker(store)
    known = tracker._look("planetoid")
    del known.cells[make_cell("mlp", 0, teacher=None).key]  # somebody else writes it just now
    track_groups.write_aggregates(tracker.client, store, known, cells)
    assert ("", MLP) in runs_of(tracker)
