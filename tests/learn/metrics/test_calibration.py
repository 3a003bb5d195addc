"""Temperature scaling finds the temperature that samples were drawn with, and lowers the calibration error."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from galleria.learn.metrics.calibration import (
    scaled_sigmoid,
    scaled_softmax,
    sigmoid_temperature,
    softmax_temperature,
    temperatures,
)
from galleria.learn.metrics.classification import classification
from galleria.learn.metrics.multi_label import multi_label
from galleria.learn.metrics.score import Score

SAMPLES = 4000


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(1).numpy()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).sigmoid().numpy()


def drawn(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a network that is too sure by a factor (or not enough), and labels."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (SAMPLES, 5))
    labels = np.array([generator.choice(5, p=row) for row in softmax(logits)])
    return softmax(logits * temperature), labels


def drawn_events(temperature: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (SAMPLES, 3))
    truth = (generator.random(logits.shape) < sigmoid(logits)).astype(np.float64)
    return sigmoid(logits * temperature), truth


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_of_drawn_labels_is_fitted(temperature):
    assert softmax_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.1)
    assert sigmoid_temperature(*drawn_events(temperature)) == pytest.approx(temperature, rel=0.1)


def test_scaling_lowers_calibration_error():
    for scores in (classification(*drawn(3.0)), multi_label(*drawn_events(3.0), ("a", "b", "c"))):
        assert scores["ECE"].value > 0.1
        assert scores["ECE/scaled"].value < 0.03
        assert scores["temperature"].value == pytest.approx(3, rel=0.1)


def test_errors_equal_torchmetrics():
    probabilities, labels = drawn(3.0)
    scores = classification(probabilities, labels)
    scaled = scaled_softmax(probabilities, scores["temperature"].value)
    for name, values in (("ECE", probabilities), ("ECE/scaled", scaled)):
        expected = multiclass_calibration_error(torch.from_numpy(values), torch.from_numpy(labels), 5, n_bins=15)
        assert scores[name].value == pytest.approx(float(expected), abs=1e-6)

    probabilities, truth = drawn_events(3.0)
    scores = multi_label(probabilities, truth, ("a", "b", "c"))
    scaled = scaled_sigmoid(probabilities, scores["temperature"].value)
    for name, values in (("ECE", probabilities), ("ECE/scaled", scaled)):
        expected = binary_calibration_error(
            torch.from_numpy(values).flatten(), torch.from_numpy(truth).long().flatten(), n_bins=15
        )
        assert scores[name].value == pytest.approx(float(expected), abs=1e-6)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(temperature=st.floats(0.05, 20), seed=st.integers(0, 100), spread=st.sampled_from([0.1, 3.0, 30.0]))
def test_scaling_keeps_predicted_class(temperature, seed, spread):
    logits = np.random.default_rng(seed).normal(0, spread, (20, 4))

    scaled = scaled_softmax(softmax(logits), temperature)

    assert scaled.sum(1) == pytest.approx(1)
    assert scaled.max(1) == pytest.approx(scaled[np.arange(20), softmax(logits).argmax(1)])
    assert (scaled_sigmoid(sigmoid(logits), temperature) >= 0.5).tolist() == (logits >= 0).tolist()


def test_scaling_is_that_of_logits():
    logits = np.random.default_rng(0).normal(0, 3, (50, 4))

    assert scaled_softmax(softmax(logits), 2.5) == pytest.approx(softmax(logits / 2.5))
    assert scaled_sigmoid(sigmoid(logits), 2.5) == pytest.approx(sigmoid(logits / 2.5))


def test_perfect_predictions_are_not_scaled():
    sure = np.array([[0.9, 0.1], [0.2, 0.8]])

    assert softmax_temperature(sure, np.array([0, 1])) == 1
    assert softmax_temperature(sure, np.array([1, 0])) == 1
    assert sigmoid_temperature(sure, np.array([[1.0, 0.0], [0.0, 1.0]])) == 1


def test_undefined_temperatures_are_left_out():
    scores = {
        "temperature": Score(1.5, 1.5, 1.5, 3),
        "emotion/temperature": Score.undefined(3),
        "aesthetics/temperature": Score(2.0, 2.0, 2.0, 3),
        "ECE": Score(0.1, 0.1, 0.1, 3),
    }

    assert temperatures(scores) == {"temperature": 1.5, "aesthetics/temperature": 2.0}
