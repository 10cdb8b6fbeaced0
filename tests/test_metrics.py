import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from bench.metrics import (
    METRICS,
    accuracy,
    agreement,
    expected_calibration_error,
    macro_f1,
    repeated_errors,
)

LABELS = np.array([0, 0, 1, 1, 2])
PREDICTIONS = np.array([0, 1, 1, 1, 0])


def test_accuracy_by_hand():
    assert accuracy(LABELS, PREDICTIONS) == 3 / 5
    assert agreement(PREDICTIONS, LABELS) == 3 / 5


def test_macro_f1_by_hand():
    # class 0: 2*1 / (2 + 2), class 1: 2*2 / (2 + 3), class 2: 0
    assert macro_f1(LABELS, PREDICTIONS) == pytest.approx((0.5 + 0.8 + 0) / 3)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_sklearns(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 40)
    predictions = rng.integers(0, 7, 40)  # classes that no label has count, with a score of 0
    predictions[predictions == 3] = 4
    ours = macro_f1(labels, predictions)
    assert ours == pytest.approx(f1_score(labels, predictions, average="macro", zero_division=0))


def test_calibration_error_by_hand():
    # Confidences 0.75 (right), 0.75 (wrong) and 0.9 (right), in two bins of 15:
    # |1 - 1.5| / 3 + |1 - 0.9| / 3.
    logits = np.log(np.array([[0.75, 0.25], [0.75, 0.25], [0.1, 0.9]]))
    found = expected_calibration_error(np.array([0, 1, 1]), logits)
    assert found == pytest.approx((0.5 + 0.1) / 3)


def test_a_sure_and_right_model_is_calibrated():
    logits = np.array([[1000.0, -1000.0], [-1000.0, 1000.0]])
    assert expected_calibration_error(np.array([0, 1]), logits) == 0
    assert expected_calibration_error(np.array([1, 0]), logits) == 1


def test_no_node_has_no_score():
    none = np.zeros(0, dtype=np.int64)
    assert math.isnan(accuracy(none, none))
    assert math.isnan(macro_f1(none, none))
    assert math.isnan(expected_calibration_error(none, np.zeros((0, 3))))


@pytest.mark.parametrize("name", ["ogbn-arxiv", "ogbn-products"])
def test_accuracy_is_that_of_ogbs_evaluator(name):
    from bench.datasets.ogb import _accuracy as evaluate

    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, (2, 101))
    assert evaluate(name, labels, predictions) == pytest.approx(accuracy(labels, predictions))


def test_every_metric_says_how_to_read_it():
    for name, metric in METRICS.items():
        assert metric.label, name
        assert metric.unit in {"%", "", "ms", "s", "MiB", "J"}, name
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    lower = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert not any("accuracy" in name for name in lower)
    assert {"ece", "latency_ms", "params"} <= lower


def test_a_diagnostic_belongs_to_a_family_and_strata_are_accuracies():
    families = {metric.family for metric in METRICS.values() if metric.family}
    strata = {"degree", "class size", "neighbours", "distance"}
    assert families == {*strata, "experts", "teacher", "modelled"}
    others = ("", "experts", "teacher", "modelled")
    strata = [name for name, m in METRICS.items() if m.family not in others]
    assert all(name.startswith("accuracy_") and METRICS[name].unit == "%" for name in strata)
    assert not METRICS["test_accuracy"].family


def test_repeated_errors_are_the_same_wrong_class_where_the_teacher_is_wrong():
    labels, teacher = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 2, 0])  # wrong at 1 2 3 5
    student = np.array([1, 1, 2, 0, 2, 2])  # alike at 1 and 2, another error at 3, right at 5
    assert repeated_errors(labels, student, teacher) == 2 / 4
    assert repeated_errors(labels, teacher, teacher) == 1.0
    assert repeated_errors(labels, labels, teacher) == 0.0
    assert np.isnan(repeated_errors(labels, student, labels))  # a teacher without errors
