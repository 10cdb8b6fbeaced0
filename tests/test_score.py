import numpy as np
import pytest
import torch

from bench import diagnose, metrics, registry, score
from bench.expand import expand
from bench.method import Method
from bench.metrics import METRICS
from bench.run import Place, load_exam, run
from bench.sweep import from_overrides
from tests import toys

DATA = "synthetic:nodes=300,degree=6,classes=3,features=40"


@pytest.fixture(scope="module", params=["transductive", "production"])
def ran(request, tmp_path_factory):
    """The rows of a teacher, a plain student and one with routers, after 3 epochs; the place."""
    small = [f"{name}.max_epochs=3" for name in ("gcn", "mlp", "moe")]
    texts = ["teachers=gcn", "students=mlp,moe", *small, "moe.warmup_epochs=1"]
    texts += [f"datasets={DATA}", "splits=random", f"settings={request.param}"]
    place = Place(tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("data"))
    cells = expand(from_overrides(texts), place.data)
    rows = {cell.group[4] or cell.group[3]: (cell, run(cell, place)) for cell in cells}
    return rows, place


def test_the_parts_of_a_family_that_covers_all_nodes_mix_to_the_pooled_accuracy(ran):
    rows, place = ran
    for cell, row in rows.values():
        numbers, exam = row.variants[""], load_exam(cell, place)
        labels = exam.graph.y[score.scored(exam)].numpy()
        with np.load(place.store.artefact(row, "predictions.npz")) as file:
            pooled = metrics.accuracy(labels, file["_"])
        for family in ("degree", "train"):
            names = [n.removeprefix("nodes_") for n in numbers if n.startswith(f"nodes_{family}")]
            hits = sum(numbers[f"accuracy_{name}"] * numbers[f"nodes_{name}"] for name in names)
            assert sum(numbers[f"nodes_{name}"] for name in names) == len(labels)
            assert hits / len(labels) == pytest.approx(pooled)


def test_methods_without_a_teacher_keep_the_labels_of_the_nodes_they_were_scored_on(ran):
    rows, place = ran
    for cell, row in rows.values():
        exam = load_exam(cell, place)
        with np.load(place.store.artefact(row, "predictions.npz")) as file:
            arrays = dict(file)
        assert ("_labels" in arrays) is (cell.teacher_cell is None)
        if cell.teacher_cell is None:
            assert arrays["_labels"].tolist() == exam.graph.y[score.scored(exam)].tolist()
    assert {cell.teacher_cell is None for cell, _ in rows.values()} == {True, False}


def test_a_taught_students_repeated_errors_are_those_that_reports_compute(ran):
    """From the files: by the function that gives students without a teacher their reference."""
    rows, place = ran
    (_, teacher), (_, student) = rows["gcn"], rows["moe"]
    with np.load(place.store.artefact(teacher, "predictions.npz")) as file:
        theirs, labels = file["_"], file["_labels"]
    with np.load(place.store.artefact(student, "predictions.npz")) as file:
        found = metrics.repeated_errors(labels, file["_"], theirs)
    assert found == student.variants[""]["repeated_errors"]


def test_every_stratum_of_a_row_stands_in_the_table_of_metrics(ran):
    rows, _ = ran
    for _, row in rows.values():
        told = {name for name in row.variants[""] if name.startswith("accuracy_")}
        assert told >= {"accuracy_border", "accuracy_degree_low", "accuracy_train_far"}
        assert all(METRICS[name].family for name in told)


def test_experts_are_told_of_methods_with_routers_alone_and_over_the_observed_nodes(ran):
    rows, place = ran
    for name, (cell, row) in rows.items():
        has = cell.student is not None and name == "moe"
        assert ("experts.npz" in row.artefacts) is has
        assert ({"expert_entropy", "experts_collapsed"} <= row.variants[""].keys()) is has
    exam = load_exam(cell, place)
    with np.load(place.store.artefact(row, "experts.npz")) as file:
        arrays = dict(file)
    assert arrays["labels"].tolist() == exam.graph.y[exam.observed].tolist()
    n = exam.seen.num_nodes
    assert len(arrays["_/0/experts"]) == len(arrays["_/predicted"]) == len(arrays["labels"]) == n
    assert arrays["_/hidden"].shape[0] == len(arrays["_/nodes"])
    assert row.variants[""]["expert_entropy"] == pytest.approx(arrays["_/entropy"].mean())


def test_the_same_cell_gives_the_same_file_of_experts(ran, tmp_path):
    rows, place = ran
    cell, row = rows["moe"]
    again = run(cell, Place(tmp_path, place.data))
    assert again.artefacts["experts.npz"] == row.artefacts["experts.npz"]
    assert again.variants == row.variants


def test_the_strata_of_an_exam_are_told_once(ran, tmp_path, monkeypatch):
    rows, place = ran
    (cell, row), calls = rows["mlp"], []
    told = load_exam(cell, place)
    found, strata = score._strata(told), diagnose.strata
    monkeypatch.setattr(diagnose, "strata", lambda *given: calls.append(1) or strata(*given))
    fresh = Place(tmp_path, place.data)
    assert run(cell, fresh).variants == row.variants
    assert not calls
    expected = strata(told.graph, told.split.train, score.scored(told))
    assert {name: mask.tolist() for name, mask in found.items()} == {
        name: mask.tolist() for name, mask in expected.items()
    }


@pytest.mark.parametrize(
    ("setting", "roles"),
    [
        ("transductive", ["test_observed"]),
        ("production", ["test_observed", "test_unseen"]),
        ("inductive", ["test_unseen"]),
    ],
)
def test_the_setting_says_which_test_nodes_are_scored(setting, roles):
    exam = toys.exam("nodes=300,classes=3", "random", setting)
    expected = torch.cat([getattr(exam.split, role) for role in roles])
    assert torch.equal(score.scored(exam), expected)


@pytest.mark.parametrize(
    ("role", "name", "pieces"),
    [("student", "mlp", [50] * 11 + [32, 50, 50, 8]), ("teacher", "gcn", [582, 108])],
)
def test_nodes_are_scored_in_chunks_unless_the_edges_are_used(role, name, pieces, monkeypatch):
    exam = toys.exam("nodes=700,classes=3", "random", "production")
    graph = exam.graph
    torch.manual_seed(0)
    model = registry.build(role, name, {}, (graph.num_features, 3, graph.num_nodes)).eval()
    whole = score.predict(model, exam, "cpu")
    monkeypatch.setattr(Method.inference, "__defaults__", (50, None))
    sizes: list[int] = []
    model.register_forward_hook(lambda _, given, output: sizes.append(len(output.logits)))
    parts = score.predict(model, exam, "cpu")
    assert sizes == pieces
    assert [len(part) for part in parts] == [582, 108]
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_inductive_scores_come_from_the_unseen_logits():
    exam = toys.exam("nodes=300,classes=3", "random", "inductive")
    right = torch.nn.functional.one_hot(exam.graph.y, 3).float().numpy()
    seen, unseen = -right[exam.observed.numpy()], right[exam.split.test_unseen.numpy()]
    found, predicted = score.test_scores(exam, seen, unseen, None)
    assert found["ind_accuracy"] == found["test_accuracy"] == 1.0
    assert "tran_accuracy" not in found
    assert len(predicted) == len(exam.split.test_unseen)
