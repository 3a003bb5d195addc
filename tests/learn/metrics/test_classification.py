"""Classification scores: numbers to work by hand, and equality with torchmetrics."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from galleria.learn.metrics.classification import classification


def sure(predicted: list[int], classes: int, confidence: float = 1.0) -> np.ndarray:
    probabilities = np.full((len(predicted), classes), (1 - confidence) / max(1, classes - 1))
    probabilities[np.arange(len(predicted)), predicted] = confidence
    return probabilities


def test_scores_worked_by_hand():
    scores = classification(sure([0, 0, 0, 1, 1, 0], 2, 0.8), np.array([0, 0, 0, 0, 1, 1]))

    assert scores["accuracy"].value == pytest.approx(4 / 6)
    assert scores["balanced_accuracy"].value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert scores["macro_F1"].value == pytest.approx((2 * 3 / 8 + 2 * 1 / 4) / 2)
    assert scores["ECE"].value == pytest.approx(0.8 - 4 / 6)
    assert scores["majority/accuracy"].value == pytest.approx(4 / 6)
    assert {score.count for score in scores.values()} == {6}


def test_perfect_prediction_scores_one():
    scores = classification(sure([0, 1, 2, 1], 3), np.array([0, 1, 2, 1]))

    assert [scores[name].value for name in ("accuracy", "balanced_accuracy", "macro_F1", "ECE")] == [1, 1, 1, 0]


def test_unlabelled_samples_are_dropped():
    scores = classification(sure([0, 1, 1], 2), np.array([0, -1, 1]))

    assert scores["accuracy"].value == 1
    assert (scores["accuracy"].count, scores["accuracy"].dropped) == (2, 1)


def test_no_labels_give_nan():
    score = classification(sure([0, 1], 2), np.array([-1, -1]))["accuracy"]

    assert np.isnan(score.value)
    assert (score.count, score.dropped) == (0, 2)


def test_absent_class_is_not_averaged():
    two = classification(sure([0, 1, 0], 2), np.array([0, 1, 1]))
    five = classification(sure([0, 1, 0], 5), np.array([0, 1, 1]))

    assert two["balanced_accuracy"] == five["balanced_accuracy"]
    assert two["macro_F1"] == five["macro_F1"]


def test_interval_depends_on_seed_and_samples():
    generator = np.random.default_rng(0)
    few, many = generator.integers(0, 3, 30), generator.integers(0, 3, 3000)
    first, again = (classification(sure(list(few), 3), np.roll(few, 1))["accuracy"] for _ in range(2))
    wide = first.high - first.low
    narrow = classification(sure(list(many), 3), np.roll(many, 1))["accuracy"]

    assert first == again
    assert narrow.high - narrow.low < wide / 3


def test_interval_equals_normal_approximation():
    labels = np.zeros(20_000, np.int64)
    score = classification(sure([0] * 14_000 + [1] * 6_000, 2), labels)["accuracy"]
    half = 1.96 * (0.7 * 0.3 / 20_000) ** 0.5

    assert score.value == 0.7
    assert (score.low, score.high) == pytest.approx((0.7 - half, 0.7 + half), abs=half / 5)


def test_many_classes_take_bounded_memory():
    labels = np.arange(2_000)
    tracemalloc.start()
    scores = classification(sure(list(labels), 2_000), labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert scores["balanced_accuracy"].value == 1
    assert peak < 500 << 20


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 60))
def test_values_equal_torchmetrics(seed, classes, samples):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.5), samples)
    labels = generator.integers(0, classes, samples)
    scores = classification(probabilities, labels)
    given_, truth = torch.from_numpy(probabilities), torch.from_numpy(labels)

    expected = {
        "accuracy": multiclass_accuracy(given_, truth, classes, average="micro"),
        "balanced_accuracy": multiclass_accuracy(given_, truth, classes, average=None)[np.unique(labels)].mean(),
        "macro_F1": multiclass_f1_score(given_, truth, classes, average="macro"),
        "ECE": multiclass_calibration_error(given_, truth, classes, n_bins=15),
    }

    for name, value in expected.items():
        assert scores[name].value == pytest.approx(float(value), abs=1e-6), name
        assert 0 <= scores[name].low <= scores[name].value <= scores[name].high <= 1
