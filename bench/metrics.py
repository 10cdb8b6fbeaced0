"""Metrics: one table of what is measured, and the numpy functions that measure quality.

Predictions are class ids int64 [n] or logits float [n, C]; labels are int64 [n]. The results are
fractions unless the table says otherwise.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metric:
    """How to read a column: its label in tables, its unit, and which direction is better.

    A `family` sets a diagnostic apart: it has tables of its own, and the comparison does without.
    """

    label: str
    unit: str
    higher_is_better: bool
    family: str = ""


METRICS: dict[str, Metric] = {
    "test_accuracy": Metric("accuracy", "%", True),
    "val_accuracy": Metric("val accuracy", "%", True),
    "tran_accuracy": Metric("tran", "%", True),  # observed test nodes
    "ind_accuracy": Metric("ind", "%", True),  # unseen test nodes
    "prod_accuracy": Metric("prod", "%", True),  # (1 - hidden rate) tran + hidden rate ind
    "macro_f1": Metric("macro F1", "%", True),
    "agreement": Metric("agreement with teacher", "%", True),
    "ece": Metric("calibration error", "%", False),
    "params": Metric("parameters", "", False),
    "macs": Metric("MACs, whole graph", "", False),
    "macs_node": Metric("MACs, one node", "", False),
    "latency_ms": Metric("latency, whole graph", "ms", False),
    "latency_node_ms": Metric("latency, one node", "ms", False),
    "train_seconds": Metric("training time", "s", False),
    "seconds_encode": Metric("positional encodings", "s", False),
    "peak_memory_mib": Metric("peak memory of the fit", "MiB", False),
    "inference_memory_mib": Metric("memory of inference, whole graph", "MiB", False),
    "energy_joules": Metric("energy, whole graph", "J", False),
    # Accuracy on a part of the scored test nodes; `diagnose.strata` says which nodes those are.
    "accuracy_degree_low": Metric("accuracy, low degree", "%", True, "degree"),
    "accuracy_degree_middle": Metric("accuracy, middle degree", "%", True, "degree"),
    "accuracy_degree_high": Metric("accuracy, high degree", "%", True, "degree"),
    "accuracy_class_small": Metric("accuracy, small classes", "%", True, "class size"),
    "accuracy_class_large": Metric("accuracy, large classes", "%", True, "class size"),
    "accuracy_border": Metric("accuracy, border", "%", True, "neighbours"),
    "accuracy_interior": Metric("accuracy, interior", "%", True, "neighbours"),
    "accuracy_train_near": Metric("accuracy, 1 hop from train", "%", True, "distance"),
    "accuracy_train_middle": Metric("accuracy, 2 hops from train", "%", True, "distance"),
    "accuracy_train_far": Metric("accuracy, 3 hops from train or more", "%", True, "distance"),
    # Of the scored test nodes that the teacher gets wrong: those on which it is followed.
    "repeated_errors": Metric("errors repeated", "%", False, "teacher"),
    # By codecarbon from nominal power: follows latency, and is never ranked by.
    "energy_modelled_joules": Metric("energy, whole graph, modelled", "J", False, "modelled"),
    "expert_entropy": Metric("entropy of the experts' load", "", True, "experts"),
    "experts_collapsed": Metric("experts without a node", "", False, "experts"),
}


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the fraction of predictions equal to the labels; NaN for no node."""
    return float(np.mean(labels == predictions)) if len(labels) else float("nan")


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return the mean over the classes present of 2 TP / (2 TP + FP + FN)."""
    if not len(labels):
        return float("nan")
    size = int(max(labels.max(), predictions.max())) + 1
    hits = np.bincount(labels[labels == predictions], minlength=size)
    total = np.bincount(labels, minlength=size) + np.bincount(predictions, minlength=size)
    present = total > 0
    return float(np.mean(2.0 * hits[present] / total[present]))


def agreement(predictions: np.ndarray, teacher: np.ndarray) -> float:
    """Return the fraction of nodes on which student and teacher predict the same class."""
    return accuracy(teacher, predictions)


def repeated_errors(labels: np.ndarray, predictions: np.ndarray, teacher: np.ndarray) -> float:
    """Return the fraction of the teacher's errors that are made alike: the same wrong class.

    NaN for a teacher without errors.
    """
    wrong = teacher != labels
    return agreement(predictions[wrong], teacher[wrong])


def expected_calibration_error(labels: np.ndarray, logits: np.ndarray, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, Eq. 3.
    """
    if not len(labels):
        return float("nan")
    shifted = logits - logits.max(axis=1, keepdims=True)
    probs = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    confidence, hit = probs.max(axis=1), logits.argmax(axis=1) == labels
    slot = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(slot, weights=hit - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
