"""Scoring of a fitted method: what it ships is examined; the one place where test labels are read.

A deployed model sees the graph without labels, and without edges unless it uses them at inference;
one that reads labels gets those of the train nodes.
"""

from pathlib import Path

import numpy as np
import torch

from bench import diagnose, metrics
from bench.cell import Cell
from bench.graph import Graph
from bench.kept import once
from bench.method import Method
from bench.protocol import Exam
from bench.results import Row, Store


def evaluate(cell: Cell, store: Store, row: Row, draft: Path, exam: Exam, method: Method) -> None:
    """Score every deployed variant into the row; the first and only time test labels are read.

    Writes predictions.npz (class ids int16 of the scored nodes, by variant; "_" is the only one; of
    a method without a teacher the labels too, as "_labels") and, for methods with routers,
    experts.npz (`diagnose.expert_layers`, `<variant>/...`) into the draft. Where the cell does not
    evaluate test there are val scores alone, and no file.
    """
    predictions: dict[str, np.ndarray] = {}
    routing: dict[str, np.ndarray] = {}
    reference = _teacher_predictions(cell, store)
    nodes = scored(exam)
    parts = _strata(exam) if cell.evaluate_test else {}
    for variant, model in method.deploy().items():
        model.eval()
        seen, unseen = predict(model, exam, cell.device)
        numbers = {"params": float(model.num_parameters()), **val_scores(exam, seen)}
        if cell.evaluate_test:
            scores, predicted = test_scores(exam, seen, unseen, reference)
            numbers.update(scores)
            numbers.update(diagnose.accuracies(parts, exam.graph.y[nodes].numpy(), predicted))
            predictions[variant or "_"] = predicted.astype(np.int16)
            told, arrays = _experts(model, exam, cell.device, seen)
            numbers.update(told)
            routing.update({f"{variant or '_'}/{name}": array for name, array in arrays.items()})
        row.variants[variant] = numbers
    if predictions and reference is None:  # reports compare such methods among each other
        predictions["_labels"] = exam.graph.y[nodes].numpy().astype(np.int16)
    if predictions:
        np.savez(draft / "predictions.npz", **predictions)  # type: ignore[arg-type]
    if routing:
        routing["labels"] = exam.graph.y[exam.observed].numpy().astype(np.int16)
        np.savez_compressed(draft / "experts.npz", **routing)  # type: ignore[arg-type]


def _strata(exam: Exam) -> dict[str, np.ndarray]:
    """The parts of the scored nodes, the same for all who sit the exam."""
    tell = diagnose.strata
    return once(exam, "strata", lambda: tell(exam.graph, exam.split.train, scored(exam)))


def _experts(
    model: Method, exam: Exam, device: str, seen: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What a deployed model's routers do with the observed nodes, and its predictions for them."""
    graph = deployed_graph(model, exam, device, seen=True)
    numbers, arrays = diagnose.expert_layers(model, graph)
    if arrays:
        arrays["predicted"] = seen.argmax(axis=1).astype(np.int16)
    return numbers, arrays


def deployed_graph(model: Method, exam: Exam, device: str, *, seen: bool = False) -> Graph:
    """Return the graph a shipped model works on: no labels, and no edges unless it uses them.

    A model that reads labels gets the train nodes' as it was given them in its task.
    """
    graph = exam.seen if seen else exam.graph
    labels = torch.full_like(graph.y, -1)
    if model.reads_labels:
        labels[slice(None) if seen else exam.observed] = exam.seen.y  # -1 but for train
    graph = graph.replace(y=labels)
    return (graph if model.graph_use == "inference" else graph.without_edges()).to(device)


@torch.no_grad()
def predict(model: Method, exam: Exam, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Return logits of the observed nodes [n, C] and of the unseen test nodes [m, C].

    Observed nodes are computed on the observed graph, unseen ones on the whole graph.
    """
    seen = model.inference(deployed_graph(model, exam, device, seen=True)).logits
    if not len(exam.split.test_unseen):
        return seen.cpu().numpy(), np.zeros((0, seen.shape[1]), np.float32)
    whole = deployed_graph(model, exam, device)
    unseen = model.inference(whole, nodes=exam.split.test_unseen.to(device)).logits
    return seen.cpu().numpy(), unseen.cpu().numpy()


def scored(exam: Exam) -> torch.Tensor:
    """Return the ids of the test nodes that the setting scores, the observed before the unseen."""
    split, setting = exam.split, exam.protocol.setting
    observed = split.test_observed[:0] if setting == "inductive" else split.test_observed
    return torch.cat([observed, split.test_unseen])


def _accuracy(exam: Exam, labels: np.ndarray, predictions: np.ndarray) -> float:
    return (exam.accuracy or metrics.accuracy)(labels, predictions)


def val_scores(exam: Exam, seen: np.ndarray) -> dict[str, float]:
    """Return the val metrics of the logits [n, C] of the observed nodes."""
    val = exam.split.val
    predicted = seen[exam.seen_ids(val).numpy()].argmax(axis=1)
    return {"val_accuracy": _accuracy(exam, exam.graph.y[val].numpy(), predicted)}


def test_scores(
    exam: Exam, seen: np.ndarray, unseen: np.ndarray, reference: np.ndarray | None
) -> tuple[dict[str, float], np.ndarray]:
    """Return the test metrics and the predictions of the scored nodes, observed before unseen."""
    split, setting = exam.split, exam.protocol.setting
    observed = seen[exam.seen_ids(split.test_observed).numpy()]
    logits = unseen if setting == "inductive" else np.concatenate([observed, unseen])
    labels = exam.graph.y[scored(exam)].numpy()
    predicted = logits.argmax(axis=1)
    scores: dict[str, float] = {}
    if setting != "inductive":
        n = len(split.test_observed)
        scores["tran_accuracy"] = _accuracy(exam, labels[:n], predicted[:n])
    if setting != "transductive":
        n = len(split.test_unseen)
        scores["ind_accuracy"] = _accuracy(exam, labels[-n:], predicted[-n:])
    if setting == "production":
        rate = exam.protocol.hidden_rate
        mixed = (1 - rate) * scores["tran_accuracy"] + rate * scores["ind_accuracy"]
        scores["prod_accuracy"] = mixed
    main = {"transductive": "tran", "production": "prod", "inductive": "ind"}[setting]
    scores["test_accuracy"] = scores[f"{main}_accuracy"]
    scores["macro_f1"] = metrics.macro_f1(labels, predicted)
    scores["ece"] = metrics.expected_calibration_error(labels, logits)
    if reference is not None:
        scores["agreement"] = metrics.agreement(predicted, reference)
        if (reference != labels).any():
            repeated = metrics.repeated_errors(labels, predicted, reference)
            scores["repeated_errors"] = repeated
    return scores, predicted


def _teacher_predictions(cell: Cell, store: Store) -> np.ndarray | None:
    teacher = cell.teacher_cell
    if teacher is None or not cell.evaluate_test:
        return None
    row = store.read(teacher.key)
    assert row is not None
    with np.load(store.artefact(row, "predictions.npz")) as file:
        return np.asarray(file["_"], dtype=np.int64)
