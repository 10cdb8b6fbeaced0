"""Tuning in MLflow: studies and trials, from their files alone, in any number of passes."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from bench import launch_tune, track, track_beside, track_live, tune
from bench.cell import from_data
from bench.engine import Plan, Report
from bench.results import Store
from bench.run import Place
from bench.track_live import Fit
from bench.track_store import default_uri
from bench.track_study import StudyTracker, needs_tracking
from tests.hunts import Instant, asked
from tests.studies import make_study, make_trial, write_row, write_rows, write_studies

# mlflow's own models use a loader that SQLAlchemy 2.1 deprecates
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.usefixtures("hurried"),
]

PLACE = "cora / random / transductive"
GLNN = f"glnn on {PLACE} from sage:glnn"
MLP = f"mlp on {PLACE}"


def make_results(root):
    """Two studies: one with a trial of every kind, one without a teacher whose trials all fail."""
    store = Store(root)
    pruned = {"state": "pruned", "val_accuracy": 0.6, "steps": {"0": 0.4, "5": 0.6}}
    trials = [
        make_trial(0, [0.80, 0.82]),
        make_trial(1, [0.84, 0.88], 0.02, origin="glnn:plus"),  # mean 0.86, std sqrt(8) / 100
        make_trial(2, [], 0.05, **pruned),
        make_trial(3, [0.7], 0.09, state="failed", reason="seed 1001 diverged: at epoch 3\nTrace"),
    ]
    studies = [make_study(trials)]
    failed = [make_trial(0, [], state="failed", reason="seed 1000 failed: no memory")]
    studies.append(make_study(failed, "", "mlp"))
    for study in studies:
        write_rows(store, study)
    write_studies(root, studies)
    return store, studies


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """An empty tracking store to copy: to make one takes seconds."""
    root = tmp_path_factory.mktemp("blank")
    StudyTracker(Store(root))
    return root / "mlflow.db"


@pytest.fixture(scope="module")
def tracked(blank, tmp_path_factory):
    """Tracked while it ran: the first two trials, then the rest."""
    store, studies = make_results(tmp_path_factory.mktemp("hunt") / "results")
    shutil.copy(blank, store.root)
    tracker = StudyTracker(store)
    begun = {**studies[0], "trials": studies[0]["trials"][:2], "chosen": None}
    assert tracker.log_trials("hunt", [begun]) == 2
    assert tracker.log_trials("hunt", studies) == 3
    tracker.finish_studies("hunt", studies)
    return store, studies, tracker


def runs_of(tracker):
    """All runs by their name, with the name of the parent before it."""
    experiment = tracker.client.get_experiment_by_name("hunt (tuning)")
    runs = tracker.client.search_runs([experiment.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    found = {}
    for run in runs:
        parent = names.get(run.data.tags.get("mlflow.parentRunId"), "")
        assert (parent, run.info.run_name) not in found
        found[parent, run.info.run_name] = run
    return found


def content_of(tracker):
    """All that the store says but its own ids."""
    runs = runs_of(tracker)
    found = {}
    for place, run in runs.items():
        tags = json.dumps(run.data.tags, sort_keys=True)
        for (_, name), other in runs.items():
            tags = tags.replace(other.info.run_id, name)
        history = {
            key: [(m.step, m.timestamp, m.value) for m in tracker.client.get_metric_history(*at)]
            for key in run.data.metrics
            for at in [(run.info.run_id, key)]
        }
        files = sorted(f.path for f in tracker.client.list_artifacts(run.info.run_id))
        times = run.info.start_time, run.info.end_time
        inputs = [i.to_dictionary() for i in run.inputs.dataset_inputs]
        found[place] = run.info.status, times, run.data.params, tags, history, files, inputs
    return found


def test_a_study_is_a_parent_its_trials_are_children_and_teachers_are_there(tracked):
    teacher = f"sage:glnn on {PLACE} (teacher)"
    names = [("", GLNN), ("", MLP), ("", teacher), (MLP, f"trial 0: {MLP}")]
    names += [(GLNN, f"trial {i}: {GLNN}") for i in range(4)]
    names += [(teacher, f"seed {seed}: {teacher}") for seed in (1000, 1001)]
    assert sorted(runs_of(tracked[2])) == sorted(names)


def test_states_are_mlflows_words(tracked):
    runs = runs_of(tracked[2])
    status = [runs[GLNN, f"trial {i}: {GLNN}"].info.status for i in range(4)]
    assert status == ["FINISHED", "FINISHED", "KILLED", "FAILED"]
    assert runs["", GLNN].info.status == "FINISHED"
    assert runs["", MLP].info.status == "FAILED"  # none of its trials was completed


def test_a_trial_says_what_was_tried_and_what_came_out(tracked):
    runs = runs_of(tracked[2])
    run = runs[GLNN, f"trial 1: {GLNN}"]
    params = {"student.lr": "0.02", "student.dropout": "0.5", "trial": "1", "origin": "glnn:plus"}
    assert params.items() <= run.data.params.items()
    assert "student.max_epochs" not in run.data.params  # not searched: it is the parent's
    numbers = {"val_accuracy_mean": 0.86, "val_accuracy_std": 8**0.5 / 100, "n_seeds": 2}
    numbers |= {"val_accuracy.seed_1000": 0.84, "params": 1000, "train_seconds": 20.0}
    for name, value in numbers.items():
        assert run.data.metrics[name] == pytest.approx(value)
    tags = {"study": "glnn-sage:gl", "trial": "1", "sweep": "hunt", "student": "glnn"}
    tags |= {"status": "complete", "git_commit": "c0ffee", "dataset": "cora"}
    assert {f"gkdbench.{k}": v for k, v in tags.items()}.items() <= run.data.tags.items()
    assert runs[GLNN, f"trial 2: {GLNN}"].data.tags["gkdbench.origin"] == "sampler"
    assert run.info.end_time - run.info.start_time == 30_000


def test_a_trial_has_the_curves_of_its_first_seed_and_a_pruned_one_what_it_had(tracked):
    tracker = tracked[2]
    runs = runs_of(tracker)

    def steps(number):
        run_id = runs[GLNN, f"trial {number}: {GLNN}"].info.run_id
        points = tracker.client.get_metric_history(run_id, "history/val_accuracy")
        return {point.step: point.value for point in points}

    assert steps(1)[37] == pytest.approx(0.84 * 37 / 50)  # the best epoch is kept
    assert 20 < len(steps(1)) <= 34
    assert steps(2) == {0: 0.4, 5: 0.6}
    assert "val_accuracy_mean" not in runs[GLNN, f"trial 2: {GLNN}"].data.metrics


def test_trials_lead_to_their_teacher_and_say_why_they_failed(tracked):
    runs = runs_of(tracked[2])
    teacher = f"sage:glnn on {PLACE} (teacher)"
    run = runs[GLNN, f"trial 3: {GLNN}"]
    found = runs[teacher, f"seed 1000: {teacher}"].info.run_id
    assert run.data.tags["gkdbench.teacher_run_id"] == found
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("**failed**: seed 1001 diverged: at epoch 3\n")
    assert found in note


def test_a_parent_has_the_winner_its_gain_and_the_budget(tracked):
    tracker = tracked[2]
    run = runs_of(tracker)["", GLNN]
    numbers = {"val_accuracy_mean": 0.86, "val_accuracy_std": 8**0.5 / 100, "n_seeds": 2}
    numbers |= {"default_val_accuracy": 0.81, "gain": 0.05, "best_trial": 1, "n_trials": 4}
    numbers |= {"n_pruned": 1, "n_failed": 1, "fit_seconds": 50.0}
    for name, value in numbers.items():
        assert run.data.metrics[name] == pytest.approx(value)
    params = {"student.lr": "0.02", "student.max_epochs": "200", "tune.sampler": "tpe"}
    assert params.items() <= run.data.params.items()
    points = tracker.client.get_metric_history(run.info.run_id, "best_val_accuracy")
    best = {point.step: point.value for point in points}
    assert best == pytest.approx({0: 0.81, 1: 0.86, 2: 0.86, 3: 0.86})
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("86.00 ± 2.83 % val accuracy, +5.00 points over the default, 4 trials")
    assert "| lr | 0.02 | 0.01 |" in note
    files = [f.path for f in tracker.client.list_artifacts(run.info.run_id)]
    assert files == ["study.json", "trials.csv"]
    [used] = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("cora", "ab" * 8)


def test_replay_into_an_empty_store_equals_the_live_one(tracked, blank, tmp_path):
    store, _, tracker = tracked
    shutil.copy(blank, tmp_path / "again.db")
    uri = f"sqlite:///{tmp_path}/again.db"
    assert track.replay(store, uri) == {"hunt (tuning)": 5}
    assert content_of(StudyTracker(store, uri)) == content_of(tracker)


def test_what_is_tracked_is_not_tracked_again(tracked):
    store, studies, tracker = tracked
    before = content_of(tracker)
    assert needs_tracking(store, "hunt", default_uri(store.root)) == []
    assert StudyTracker(store).log_trials("hunt", studies) == 0
    assert track.replay(store) == {"hunt (tuning)": 0}
    assert content_of(tracker) == before


def test_asking_what_needs_tracking_does_not_import_mlflow(tracked):
    code = "import sys; from bench.track_study import *; from bench.results import Store;"
    code += "needs_tracking(Store(sys.argv[1]), 'hunt', 'x'); sys.exit('mlflow' in sys.modules)"
    root = str(tracked[0].root)
    assert subprocess.run([sys.executable, "-c", code, root]).returncode == 0


def test_a_larger_budget_a_dead_process_and_a_new_teacher_leave_no_run_twice(
    blank, tmp_path, caplog
):
    store, studies = make_results(tmp_path / "results")
    shutil.copy(blank, store.root)
    track.replay(store)
    tracker = StudyTracker(store)
    died = runs_of(tracker)[GLNN, f"trial 0: {GLNN}"]
    tracker.client.update_run(died.info.run_id, status="RUNNING")  # as a killed process leaves it
    trials = [*studies[0]["trials"], make_trial(4, [0.9, 0.9], 0.03)]
    studies[0] = make_study(trials)
    write_rows(store, studies[0])
    write_studies(store.root, studies)
    [stale] = needs_tracking(store, "hunt", default_uri(store.root))
    assert stale["id"] == studies[0]["id"]
    assert track.replay(store) == {"hunt (tuning)": 2}
    runs = runs_of(StudyTracker(store))
    assert len([place for place in runs if place[0] == GLNN]) == 5  # all moved to the new parent
    parent = runs["", GLNN]
    assert parent.data.params["student.lr"] == "0.03"  # MLflow refuses to change a parameter
    assert parent.data.metrics["val_accuracy_mean"] == 0.9
    assert parent.data.metrics["n_trials"] == 5

    teacher = f"sage:glnn on {PLACE} (teacher)"
    row = store.read(runs[teacher, f"seed 1000: {teacher}"].data.tags["gkdbench.key"])
    write_row(store, from_data(row.cell), 0.5)
    track.replay(store)
    runs = runs_of(StudyTracker(store))
    new = runs[teacher, f"seed 1000: {teacher}"]
    assert new.data.metrics["val_accuracy"] == 0.5
    child = runs[GLNN, f"trial 0: {GLNN}"]
    assert child.data.tags["gkdbench.teacher_run_id"] == new.info.run_id

    (store.root / "tuning" / studies[1]["id"] / "study.json").write_text("{")
    assert track.replay(store) == {}
    assert "tuning of hunt is not tracked" in caplog.text


# ---- as part of a tuning ----------------------------------------------------------------------


def launched(folder, monkeypatch, **options):
    monkeypatch.setattr(tune.engines, "open_engine", type("F", (Instant,), {"answered": []}))
    sweep = asked(trials=4, seeds=[100, 101], students=["mlp"], space={"mlp": {"dropout": 0.5}})
    place = Place(folder / "results", folder)
    options = {"progress": lambda items, total, title: items, "plots": False, **options}
    return launch_tune.launch(sweep, place, Plan(1, 1), **options)


def test_a_trial_that_takes_long_is_a_run_with_a_growing_curve(blank, tmp_path):
    shutil.copy(blank, tmp_path)
    store, (study, _) = make_results(tmp_path)
    tracker = StudyTracker(store)
    whole, running = study["trials"][1], {**study["trials"][1], "state": "running", "keys": []}
    other = {**running, "number": 7}
    for epochs in (range(0, 20, 5), range(20, 40, 5)):
        fit = Fit(1_700_000_000_000, {e: (e / 100, 1_700_000_000_000 + e) for e in epochs})
        for trial in (running, other):
            tracker.log_live_trial("hunt", {**study, "trials": []}, trial, fit)
    name = GLNN, f"trial 1: {GLNN}"
    run = runs_of(tracker)[name]
    assert run.info.status == "RUNNING"
    assert run.data.tags["gkdbench.status"] == "running"
    assert run.data.params["student.lr"] == "0.02"
    curve = tracker.client.get_metric_history(run.info.run_id, "history/val_accuracy")
    assert [(point.step, point.value) for point in curve][-1] == (35, 0.35)
    assert len(curve) == 8
    tracker.log_trials("hunt", [{**study, "trials": [whole]}])
    tracker.leave_live("hunt")
    runs = runs_of(tracker)
    assert runs[name].info.status == "FINISHED"
    assert runs[name].data.metrics["val_accuracy_mean"] == pytest.approx(0.86)
    assert runs[GLNN, f"trial 7: {GLNN}"].info.status == "KILLED"
    again = StudyTracker(store)  # after an interrupt: the same trial ends
    again.log_trials("hunt", [{**study, "trials": [whole, {**whole, "number": 7}]}])
    runs = runs_of(again)
    assert runs[GLNN, f"trial 7: {GLNN}"].info.status == "FINISHED"
    assert len([place for place in runs if place[0] == GLNN]) == 2


def test_scores_of_a_search_reach_the_runs_of_its_trials(tmp_path, monkeypatch):
    calls = []

    class Tracker:
        def __init__(self, store, uri):
            pass

        def log_live_trial(self, sweep, study, trial, fit):
            calls.append((study["where"]["student"], trial["number"], list(fit.fresh)))

        def __getattr__(self, name):
            return lambda *_: 0

    class Slow(Instant):
        """Reports, and takes its time."""

        answered = []  # noqa: RUF012

        def submit(self, cell, *, reports=False, decide=None):
            assert reports == (cell.seed == 100)
            super().submit(cell, reports=reports, decide=decide)
            if reports:
                self.queued.insert(0, (Report(cell.key, 4, 0.5), None))

        def answer(self, cell, decide):
            if isinstance(cell, Report):
                return cell
            time.sleep(0.1)
            return super().answer(cell, decide)

    monkeypatch.setattr("bench.track_study.StudyTracker", Tracker)
    monkeypatch.setattr(track_beside, "LIVE_EVERY", 0.01)
    monkeypatch.setattr(track_live, "AFTER", 0.0)
    monkeypatch.setattr(track_live.Fits, "__init__", instant_fits)
    monkeypatch.setattr(tune.engines, "open_engine", Slow)
    sweep = asked(trials=2, seeds=[100, 101], students=["mlp"], space={"mlp": {"dropout": 0.5}})
    place = Place(tmp_path / "results", tmp_path)
    launch_tune.launch(sweep, place, Plan(1, 1), progress=lambda i, t, n: i, plots=False)
    assert sorted(calls) == [("mlp", 0, [4]), ("mlp", 1, [4])]


def instant_fits(self, after=0.0, make=track_live.Fits.__init__):
    make(self, 0.0)


@pytest.mark.slow
def test_a_tuning_is_tracked_while_it_runs_and_reported(blank, tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    shutil.copy(blank, tmp_path / "results")
    monkeypatch.setattr(track_beside, "TRACK_EVERY", 0.01)
    outcome = launched(tmp_path, monkeypatch, reports=tmp_path / "reports")
    assert (outcome.tracked, outcome.warnings) == (4, [])
    assert tmp_path / "reports" / "tuning.html" in outcome.files
    again = launched(tmp_path, monkeypatch, reports=tmp_path / "reports")
    assert (again.trials, again.tracked) == (0, 0)
    assert (tmp_path / "results" / "mlflow.db").is_file()


def test_a_tracking_server_that_is_down_costs_no_result(tmp_path, monkeypatch):
    outcome = launched(tmp_path, monkeypatch, track_uri="http://127.0.0.1:9")
    assert outcome.trials == 4
    (warning,) = outcome.warnings
    assert "`gkdbench track --replay` fills it in later" in warning
    assert launched(tmp_path, monkeypatch, track=False).warnings == []
