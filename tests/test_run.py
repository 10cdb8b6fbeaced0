import dataclasses
import json
import time

import pytest

from bench import cost, registry, score
from bench import run as runner
from bench.expand import expand
from bench.results import CorruptError, tidy
from bench.run import Place, record_failure, run
from bench.students.mlp import PlainMLP
from bench.sweep import from_overrides
from tests import outside

DATA = "synthetic:nodes=300,degree=6,classes=3"
METHODS = ("gcn", "chalkless", "mlp", "glnn", "explode", "fail", "decline")


@pytest.fixture(scope="module", autouse=True)
def _outsiders(tmp_path_factory):
    with outside.installed(tmp_path_factory.mktemp("outside")):
        yield


@pytest.fixture(scope="module")
def cells(_outsiders, tmp_path_factory):
    """One cell for each (teacher, student), 5 epochs each."""
    texts = ["teachers=gcn,chalkless", "students=mlp,glnn,explode,fail,decline"]
    texts += [f"{name}.max_epochs=5" for name in METHODS]
    sweep = from_overrides([f"datasets={DATA}", "splits=random", "settings=production", *texts])
    return {cell.group[3:]: cell for cell in expand(sweep, tmp_path_factory.mktemp("none"))}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("data"))


def test_a_teacher_is_fitted_scored_and_kept(cells, place):
    row = run(cells["gcn", ""], place)
    assert row.status == "ok"
    assert row.variants[""].keys() >= {"test_accuracy", "val_accuracy", "params"}
    files = {"history.json", "logits.npy", "predictions.npz", "weights.pt"}
    assert row.artefacts.keys() == files
    kept = {p.name for p in place.store.folder(row.key).iterdir()}
    assert kept == {*files, "row.json", "cost.json"}
    assert row.fit["epochs"] == len(place.store.history(row.key)["loss"]) == 5
    assert row.ran["threads"] == 1
    assert row.teacher_key == ""


def test_production_mixes_the_observed_and_the_unseen(cells, place):
    numbers = run(cells["gcn", "glnn"], place).variants[""]
    mixed = 0.8 * numbers["tran_accuracy"] + 0.2 * numbers["ind_accuracy"]
    assert numbers["test_accuracy"] == numbers["prod_accuracy"] == pytest.approx(mixed)


def test_a_row_has_the_numbers_that_a_method_says_of_its_fit(cells, place, monkeypatch):
    fit = PlainMLP.fit

    def told(self, task):
        return dataclasses.replace(fit(self, task), numbers={"mixup_share_2": 0.25})

    monkeypatch.setattr(PlainMLP, "fit", told)
    cell = dataclasses.replace(cells["", "mlp"], seed=7)
    row = run(cell, place)
    assert row.fit["mixup_share_2"] == place.store.read(cell.key).fit["mixup_share_2"] == 0.25
    assert row.fit["epochs"] == 5
    assert [record["mixup_share_2"] for record in tidy([row])] == [0.25]


def test_a_student_trains_its_teacher_first_and_shares_it(cells, tmp_path, place):
    fresh = Place(tmp_path, place.data)
    row = run(cells["gcn", "glnn"], fresh)
    assert row.status == "ok"
    assert row.teacher_key == cells["gcn", ""].key
    assert fresh.store.keys() == sorted([row.key, row.teacher_key])
    assert "agreement" in row.variants[""]


def test_the_same_cell_again_is_read_and_gives_the_same_elsewhere(cells, place, tmp_path):
    row = run(cells["", "mlp"], place)
    assert run(cells["", "mlp"], place).ran["started"] == row.ran["started"]
    other = run(cells["", "mlp"], Place(tmp_path, place.data))
    assert other.variants == row.variants
    assert other.artefacts["predictions.npz"] == row.artefacts["predictions.npz"]


def test_an_exam_is_kept_while_there_is_room(cells, place, monkeypatch):
    one, two = cells["", "mlp"], dataclasses.replace(cells["", "mlp"], split_seed=7)
    exam = runner.load_exam(one, place)
    assert runner.load_exam(two, place).graph.adj is exam.graph.adj
    assert runner.load_exam(one, place) is exam
    monkeypatch.setattr(runner._exams, "size", 0)
    runner.load_exam(dataclasses.replace(one, split_seed=8), place)
    assert runner.load_exam(one, place) is not exam


def test_tuning_sees_no_test_metric(cells, place):
    blind = dataclasses.replace(cells["gcn", "glnn"], evaluate_test=False)
    row = run(blind, place)
    assert row.status == "ok"
    assert row.key != cells["gcn", "glnn"].key
    assert "val_accuracy" in row.variants[""]
    assert not {name for name in row.variants[""] if "test" in name or "tran" in name}
    assert "predictions.npz" not in row.artefacts


@pytest.mark.parametrize(
    ("group", "status", "reason"),
    [
        (("", "explode"), "diverged", "the loss is not finite at epoch 2"),
        (("", "fail"), "failed", "RuntimeError: the fuse\nburnt"),
        (("", "decline"), "skipped", "it has no time"),
        (("chalkless", ""), "failed", "RuntimeError: no chalk"),
        (("chalkless", "glnn"), "failed", "its teacher chalkless failed: RuntimeError: no chalk"),
    ],
)
def test_what_goes_wrong_becomes_status_and_reason(group, status, reason, cells, place):
    row = run(cells[group], place)
    assert (row.status, row.reason) == (status, reason)
    assert row.variants == {}
    assert place.store.read(row.key).status == status


def test_a_failure_keeps_its_traceback(cells, place):
    row = run(cells["", "fail"], place)
    assert "the fuse" in place.store.artefact(row, "traceback.txt").read_text()


def test_a_method_that_cannot_be_warmed_up_or_imported_is_a_failed_row(
    cells, place, tmp_path, monkeypatch
):
    fresh = Place(tmp_path, place.data)
    cell = cells["", "mlp"]
    method = registry.load_method("student", "mlp")

    def broken(*_):
        raise RuntimeError("no compiler")

    for owner, name in ((method, "warm_up"), (registry, "load_method")):
        runner._warm_method.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            row = run(cell, fresh)
        assert (row.status, row.reason) == ("failed", "RuntimeError: no compiler")
        assert "in broken" in fresh.store.artefact(row, "traceback.txt").read_text()
    assert run(cell, fresh).status == "ok"  # it was no fault of the process


def test_the_first_cell_of_a_method_does_not_pay_for_its_warm_up(
    cells, place, tmp_path, monkeypatch
):
    method = registry.load_method("student", "mlp")
    clock, ticks = time.perf_counter, []
    monkeypatch.setattr(method, "warm_up", lambda: ticks.append(30))
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + sum(ticks))
    runner._warm_method.cache_clear()
    row = run(cells["", "mlp"], Place(tmp_path, place.data))
    assert ticks == [30]
    assert row.ran["seconds"] < 30


def test_a_failed_cell_runs_again_and_a_skipped_one_does_not(cells, place):
    for name, again in (("fail", True), ("decline", False)):
        first, second = (run(cells["", name], place).ran["started"] for _ in range(2))
        assert (first != second) is again


def test_data_that_changed_since_the_plan_is_refused(cells, tmp_path, place):
    cell = next(iter(cells.values()))
    other = dataclasses.replace(cell.protocol, checksum="0" * 64)
    row = run(dataclasses.replace(cell, protocol=other), Place(tmp_path, place.data))
    assert row.status == "failed"
    assert "is not the one this cell was planned for" in row.reason


def test_a_lost_cell_is_recorded(cells, tmp_path, place):
    fresh = Place(tmp_path, place.data)
    record_failure(cells["gcn", "glnn"], fresh, "timeout", "took longer than 5 s")
    row = fresh.store.read(cells["gcn", "glnn"].key)
    assert (row.status, row.reason) == ("timeout", "took longer than 5 s")
    assert row.teacher_key == cells["gcn", ""].key


def test_damaged_teacher_logits_are_made_again(cells, tmp_path, place):
    fresh = Place(tmp_path, place.data)
    teacher = run(cells["gcn", ""], fresh)
    path = fresh.store.folder(teacher.key) / "logits.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\0\0\0\1")
    assert run(cells["gcn", "glnn"], fresh).status == "ok"
    assert path.read_bytes() == content
    assert len(list((tmp_path / "corrupt").iterdir())) == 1


def test_a_model_comes_back_from_its_weights_and_damaged_ones_are_refused(cells, tmp_path, place):
    fresh = Place(tmp_path, place.data)
    row = run(cells["", "mlp"], fresh)
    model = runner.load_model(cells["", "mlp"], fresh)
    exam = runner.load_exam(cells["", "mlp"], fresh)
    seen, unseen = score.predict(model, exam, "cpu")
    scores, _ = score.test_scores(exam, seen, unseen, None)
    assert scores["test_accuracy"] == row.variants[""]["test_accuracy"]
    path = fresh.store.folder(row.key) / "weights.pt"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CorruptError, match=r"weights\.pt does not match"):
        runner.load_model(cells["", "mlp"], fresh)


def test_cost_is_measured_on_the_stored_model(cells, tmp_path, place):
    fresh = Place(tmp_path, place.data)
    row = run(cells["", "mlp"], fresh)
    found = runner.measure(row, fresh)[""]
    assert found["latency_ms"] > 0
    assert found["latency_node_ms"] > 0
    assert found["cost_threads"] == 1
    assert json.loads(json.dumps(found)) == fresh.store.read(row.key).cost[""]
    assert {"macs", "macs_node"} <= set(row.cost[""])  # counted with the fit, and kept
    assert found.items() >= row.cost[""].items()


def test_the_memory_of_inference_is_counted_with_the_fit(cells, tmp_path, place, monkeypatch):
    sizes = []

    def memory(model, graph):
        sizes.append((model.num_parameters(), graph.adj.nnz))
        return {"inference_memory_mib": 7.5}

    monkeypatch.setattr(cost, "inference_memory", memory)
    row = run(cells["", "mlp"], Place(tmp_path, place.data))
    assert row.cost[""]["inference_memory_mib"] == 7.5
    assert sizes == [(row.variants[""]["params"], 0)]  # as deployed: an MLP gets no edges


def test_macs_of_the_fit_are_those_of_the_stored_model(cells, tmp_path, place):
    fresh = Place(tmp_path, place.data)
    row = run(cells["", "mlp"], fresh)
    counted = row.cost
    assert fresh.store.read(row.key).cost == counted
    row.cost = {}
    assert runner.measure(row, fresh, timed=False) == counted


def test_a_model_whose_macs_cannot_be_counted_is_a_good_fit(cells, tmp_path, place, monkeypatch):
    fresh = Place(tmp_path, place.data)
    with monkeypatch.context() as patch:
        patch.setattr(cost, "macs", lambda *_: 1 / 0)
        row = run(cells["", "mlp"], fresh)
    assert (row.status, row.cost) == ("ok", {})
    assert runner.measure(row, fresh, timed=False)[""]["macs"] > 0
