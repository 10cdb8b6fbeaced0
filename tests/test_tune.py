"""Laws of tuning, with an engine that answers at once; the real one has its turn at the end."""

import json
import math

import pytest

from bench import run, score, tune
from bench.results import Store
from bench.tuning import read_tuned
from tests import hunts
from tests.hunts import ONE, Instant, Late, asked, essence, hunt, trials


@pytest.fixture
def instant(monkeypatch):
    kind = type("Fresh", (Instant,), {"answered": []})
    monkeypatch.setattr(tune.engines, "open_engine", kind)
    return kind


# ---- a search -------------------------------------------------------------------------------


def test_the_defaults_come_first_then_the_presets_and_the_budget_is_kept(tmp_path, instant):
    found = trials(hunt(tmp_path))
    assert [r["number"] for r in found] == list(range(12))
    assert [r["origin"] for r in found[:3]] == ["default", "glnn:plus", ""]
    assert found[0]["config"]["lr"] == 0.01
    assert {r["config"]["dropout"] for r in found} == {0.5}  # pinned
    assert all(0.001 <= r["config"]["lr"] <= 0.1 for r in found)


@pytest.mark.parametrize("pruner", ["none", "median", "wilcoxon"])
def test_progress_moves_with_every_fit_and_ends_at_its_total(tmp_path, instant, pruner):
    seen = []

    def watch(items, total, title):
        for count, _ in enumerate(items, 1):
            seen.append((title, total, count, len(instant.answered)))
            yield

    seeds = list(range(100, 106 if pruner == "wilcoxon" else 103))
    outcome = hunt(tmp_path, asked(pruner=pruner, trials=6, seeds=seeds), progress=watch)
    assert outcome.trials == 6
    assert seen[-1][:3] == ("fits", 6 * len(seeds), 6 * len(seeds))
    assert len({answered for *_, answered in seen}) > 6  # not a batch of trials at once


def test_the_value_of_a_trial_is_the_mean_over_seeds_and_the_best_is_chosen(tmp_path, instant):
    outcome = hunt(tmp_path)
    found = trials(outcome)
    for r in found:
        if r["state"] == "complete":
            assert r["val_accuracy"] == pytest.approx(sum(r["seeds"].values()) / 3)
    best = max(r["val_accuracy"] or 0.0 for r in found)
    (chosen,) = read_tuned(tmp_path / "tuned" / "hunt.yaml")
    assert chosen == outcome.found[0]
    assert chosen.val_accuracy == pytest.approx(best, abs=1e-6)
    assert chosen.val_accuracy > chosen.default_val_accuracy
    assert chosen.study in outcome.records


def test_ties_go_to_fewer_parameters_then_to_the_earlier_trial(tmp_path, instant, monkeypatch):
    monkeypatch.setattr(instant, "size", lambda self, cell: -cell.student.config["num_layers"])
    monkeypatch.setattr(hunts, "accuracy", lambda cell: 0.5)
    sweep = asked(space={"glnn": {"num_layers": [2, 3], "lr": 0.01}})
    outcome = hunt(tmp_path, sweep)
    small = [r["number"] for r in trials(outcome) if r["config"]["num_layers"] == 3]
    assert outcome.found[0].trial == min(small)


def test_every_student_gets_the_same_budget_and_a_study_of_its_own(tmp_path, instant):
    outcome = hunt(tmp_path, asked(students=["glnn", "mlp", "krd"], trials=6, space={}))
    assert [len(records) for records in outcome.records.values()] == [6, 6, 6]
    assert [t.student for t in outcome.found] == ["glnn", "mlp", "krd"]
    assert [t.teacher for t in outcome.found] == ["gcn", "", "gcn"]


def test_no_cell_of_a_search_evaluates_test_and_its_seeds_are_not_reported(tmp_path, instant):
    hunt(tmp_path)
    assert instant.answered
    for cell in instant.answered:
        assert not cell.evaluate_test
        assert not cell.teacher_cell.evaluate_test
        assert cell.seed in (100, 101, 102)
    with pytest.raises(ValueError, match="seed 1 is tuned on and reported"):
        asked(seeds=[1, 2])


def test_trials_of_a_batch_with_the_same_configuration_share_their_cells(tmp_path, instant):
    found = trials(hunt(tmp_path, asked(space={"glnn": ONE}, presets=False)))
    assert len(found) == 12
    assert len(instant.answered) < 12 * 3


def test_a_failed_trial_counts_says_why_and_is_never_chosen(tmp_path, instant):
    outcome = hunt(tmp_path, asked(space={"glnn": {"lr": [0.095, 0.02]}}, seed=1))
    failed = [r for r in trials(outcome) if r["state"] == "failed"]
    assert failed, [(r["config"]["lr"], r["state"]) for r in trials(outcome)]
    assert all("diverged" in r["reason"] for r in failed)
    assert outcome.found[0].failed == len(failed)
    assert outcome.found[0].config["lr"] == 0.02


# ---- the same trials, whatever happens ------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "qmc", "random", "grid"])
def test_the_trials_do_not_depend_on_the_number_of_workers(tmp_path, instant, sampler):
    one = essence(hunt(tmp_path / "one", asked(sampler=sampler, trials=14)))
    instant.width = 7
    many = essence(hunt(tmp_path / "many", asked(sampler=sampler, trials=14)))
    assert one == many
    assert len({json.dumps(config) for _, config, *_ in one}) > 10


@pytest.mark.parametrize("pruner", ["none", "median", "wilcoxon"])
def test_a_search_that_dies_anywhere_goes_on_to_the_same_trials(tmp_path, instant, pruner):
    sweep = asked(pruner=pruner, seeds=list(range(100, 105)))
    whole = essence(hunt(tmp_path / "whole", sweep))
    total = len(instant.answered)
    for dies_after in (1, 7, total - 2):
        folder = tmp_path / str(dies_after)
        instant.answered.clear()
        instant.dies_after = dies_after
        with pytest.raises(KeyboardInterrupt):
            hunt(folder, sweep)
        instant.dies_after = 10**9
        assert essence(hunt(folder, sweep)) == whole


def test_a_finished_search_asks_for_nothing_and_a_larger_budget_goes_on(tmp_path, instant):
    first = essence(hunt(tmp_path))
    ran = len(instant.answered)
    again = hunt(tmp_path)
    assert (essence(again), again.trials, len(instant.answered)) == (first, 0, ran)
    more = hunt(tmp_path, asked(trials=16))
    assert essence(more)[:12] == first
    assert (more.trials, len(trials(more))) == (4, 16)


def test_a_journal_cut_in_the_middle_of_a_line_and_a_dead_lock_are_mended(tmp_path, instant):
    first = essence(hunt(tmp_path))
    (journal,) = (tmp_path / "results").glob("tuning/*/journal.log")
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    journal.with_name("journal.log.lock").symlink_to("nobody")
    assert essence(hunt(tmp_path, asked(trials=13)))[:12] == first


def test_two_drivers_of_one_sweep_are_one_too_many(tmp_path, instant):
    with (
        tune._alone(Store(tmp_path / "results"), "hunt"),
        pytest.raises(ValueError, match=r"is being tuned in .* by another process"),
    ):
        hunt(tmp_path)


def test_the_same_search_under_another_name_tries_the_same(tmp_path, instant):
    first = hunt(tmp_path)
    other = hunt(tmp_path, asked().model_copy(update={"name": "other"}))
    assert essence(other) == essence(first)
    assert set(other.records).isdisjoint(first.records)


# ---- pruning --------------------------------------------------------------------------------


def test_a_bad_curve_ends_its_trial_after_the_first_seed(tmp_path, instant):
    found = trials(hunt(tmp_path, asked(pruner="median", trials=24)))
    pruned = [r for r in found if r["state"] == "pruned"]
    assert pruned
    assert all(r["seeds"] == {} for r in pruned)
    middle = sorted(r["val_accuracy"] for r in found if r["state"] == "complete")
    assert max(accuracy_of(r) for r in pruned) < middle[-1]


def test_a_pruned_trial_costs_the_seconds_until_it_was_stopped(tmp_path, instant):
    for r in trials(hunt(tmp_path, asked(pruner="median", trials=24))):
        if r["state"] == "pruned":
            assert 0 < r["seconds"] < 2
        else:
            assert r["seconds"] == (6 if r["state"] == "complete" else 2)


def test_a_trial_is_told_when_its_stopped_fit_has_come(tmp_path, instant, monkeypatch):
    sweep = asked(pruner="median", trials=24)
    at_once = trials(hunt(tmp_path / "at_once", sweep))
    assert sum(r["state"] == "pruned" for r in at_once) > 3
    monkeypatch.setattr(tune.engines, "open_engine", type("Fresh", (Late,), {"answered": []}))
    later = trials(hunt(tmp_path / "later", sweep))
    when = ("started", "ended", "keys")
    assert [{k: v for k, v in r.items() if k not in when} for r in later] == [
        {k: v for k, v in r.items() if k not in when} for r in at_once
    ]


@pytest.mark.parametrize("pruner", ["median", "wilcoxon"])
def test_seconds_are_counted_once_whatever_became_of_the_driver(tmp_path, instant, pruner):
    sweep = asked(pruner=pruner, seeds=list(range(100, 105)))
    whole = [r["seconds"] for r in trials(hunt(tmp_path / "whole", sweep))]
    for dies_after in range(len(instant.answered) - 8, len(instant.answered), 3):
        folder = tmp_path / str(dies_after)
        instant.answered.clear()
        instant.dies_after = dies_after
        with pytest.raises(KeyboardInterrupt):
            hunt(folder, sweep)
        instant.dies_after = 10**9
        assert [r["seconds"] for r in trials(hunt(folder, sweep))] == whole


def accuracy_of(record):
    return 0.9 - 0.1 * abs(math.log(record["config"]["lr"] / 0.02))


def test_hyperband_ends_trials_early_and_keeps_the_budget(tmp_path, instant):
    found = trials(hunt(tmp_path, asked(pruner="hyperband", trials=24)))
    states = [r["state"] for r in found]
    assert len(states) == 24
    assert states.count("pruned") >= 1
    assert states.count("complete") >= 1


def test_wilcoxon_ends_a_trial_that_is_worse_on_every_seed_so_far(tmp_path, instant):
    sweep = asked(pruner="wilcoxon", seeds=list(range(100, 108)), trials=16)
    found = trials(hunt(tmp_path, sweep))
    pruned = [r for r in found if r["state"] == "pruned"]
    assert pruned
    # Three losses in a row have p = 1/8, the first below 0.2.
    assert {len(r["seeds"]) for r in pruned} == {3}


# ---- two objectives -------------------------------------------------------------------------


def test_two_objectives_store_the_trials_that_no_other_beats(tmp_path, instant, monkeypatch):
    monkeypatch.setattr(instant, "size", lambda self, cell: 1e6 * cell.student.config["lr"])
    outcome = hunt(tmp_path, asked(objectives=["val_accuracy", "params"], trials=16))
    (study,) = (tmp_path / "results").glob("tuning/*/study.json")
    content = json.loads(study.read_text())
    points = {r["number"]: (r["val_accuracy"], r["params_mean"]) for r in sized(trials(outcome))}
    best = {
        n for n, (acc, size) in points.items()
        if not any(a >= acc and s <= size and (a, s) != (acc, size) for a, s in points.values())
    }  # fmt: skip
    assert set(content["front"]) == best
    assert 1 < len(best) < 16


def sized(records):
    return [{**r, "params_mean": r["size"]} for r in records if r["state"] == "complete"]


# ---- with the real engine -------------------------------------------------------------------


def test_a_search_trains_real_students_and_reads_no_test_label(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("tuning looked at the test nodes")

    monkeypatch.setattr(score, "test_scores", forbidden)
    space = {"glnn": {"max_epochs": 8, "num_layers": 2, "lr": [0.01, 0.03]}}
    sweep = asked(trials=5, seeds=[100], pruner="median", space=space)
    outcome = hunt(tmp_path, sweep, plots=True)
    assert {"history.png", "slice.png"} <= {path.name for path in outcome.files}
    assert [r["state"] for r in trials(outcome)] == ["complete"] * 5
    store = Store(tmp_path / "results")
    keys = store.keys()
    rows = [store.read(key) for key in keys]
    assert [row.status for row in rows] == ["ok"] * len(rows)
    for row in rows:
        assert not [name for name in row.variants[""] if "test" in name or "tran" in name]
        assert "predictions.npz" not in row.artefacts
        if row.cell["student"]:  # weights are gone, and the row says so
            assert "weights.pt" not in row.artefacts
            assert store.heal(row.key) is not None
    assert sum(row.cell["student"] is None for row in rows) == 1  # one teacher for all trials


def test_cells_that_trials_share_are_measured_though_their_weights_are_gone(tmp_path):
    first = asked(trials=2, seeds=[100], space={"glnn": {**ONE, "max_epochs": 2}})
    hunt(tmp_path, first)  # one objective: nothing is measured, and the weights go
    again = asked(trials=9, seeds=[100], objectives=["val_accuracy", "macs"],
                  space={"glnn": {**ONE, "max_epochs": 2}})  # fmt: skip
    found = trials(hunt(tmp_path, again))
    assert len({r["keys"][0] for r in found}) < len(found) == 9
    assert {r["state"] for r in found} == {"complete"}
    assert all(r["macs"] > 0 for r in found)


def test_macs_as_an_objective_are_counted_where_the_fit_is(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("the driver measured a model")

    monkeypatch.setattr(run, "measure", forbidden)
    space = {"glnn": {"max_epochs": 2, "hidden_dim": [8, 16]}}
    sweep = asked(trials=6, seeds=[100], objectives=["val_accuracy", "macs"], space=space)
    outcome = hunt(tmp_path, sweep, plots=True)
    plots = {"history.png", "slice.png", "parallel_coordinate.png", "pareto.png"}
    assert plots <= {path.name for path in outcome.files}
    (records,) = outcome.records.values()
    by_width = {r["config"]["hidden_dim"]: r["macs"] for r in records}
    assert by_width[16] > by_width[8] > 0


def test_latency_as_an_objective_is_measured_with_nothing_else_running(tmp_path, monkeypatch):
    space = {"glnn": {"max_epochs": 2, "hidden_dim": [8, 16]}}
    sweep = asked(trials=3, seeds=[100], objectives=["val_accuracy", "latency_ms"], space=space)
    (records,) = hunt(tmp_path, sweep).records.values()
    assert all(r["latency_ms"] > 0 for r in records)
