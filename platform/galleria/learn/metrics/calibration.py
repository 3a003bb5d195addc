"""Temperature scaling: one number that makes the confidence of a classifier agree with its accuracy."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from galleria.learn.metrics.score import Floats, Score

TEMPERATURE = "temperature"
"""Name of the score that is the fitted temperature."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
TINY = float(np.finfo(np.float32).tiny)


def softmax_temperature(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Fit T of softmax(z / T) by maximum likelihood (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    Args:
        probabilities: `[N, K]`, softmax(z).
        labels: `[N]` classes 0…K−1.

    Returns:
        T; 1 where every sample or none is predicted correctly, since then no finite T is likeliest.
    """
    hits = probabilities.argmax(1) == labels
    if hits.all() or not hits.any():
        return 1.0
    logits = np.log(np.maximum(probabilities, TINY))

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float((_logsumexp(scaled) - scaled[np.arange(len(labels)), labels]).mean())

    return _minimum(loss)


def sigmoid_temperature(probabilities: Floats, truth: Floats) -> float:
    """Fit T of sigmoid(z / T) by maximum likelihood, over all classes of all samples.

    Args:
        probabilities: `[N, K]`, sigmoid(z).
        truth: `[N, K]` of 0 and 1.

    Returns:
        T; 1 where every class or none is predicted correctly.
    """
    hits = (probabilities >= 0.5) == (truth >= 0.5)
    if hits.all() or not hits.any():
        return 1.0
    logits = _logit(probabilities)

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float((np.logaddexp(0, scaled) - truth * scaled).mean())

    return _minimum(loss)


def temperatures(scores: Mapping[str, Score]) -> dict[str, float]:
    """Return the fitted temperatures among scores, by name: "temperature", or "<output>/temperature"."""
    named = {name: score.value for name, score in scores.items() if name.split("/")[-1] == TEMPERATURE}
    return {name: value for name, value in named.items() if not math.isnan(value)}


def scaled_softmax(probabilities: Floats, temperature: float) -> Floats:
    """Compute softmax(z / T) `[N, K]` from softmax(z)."""
    scaled = np.log(np.maximum(probabilities, TINY)) / temperature
    result: Floats = np.exp(scaled - _logsumexp(scaled)[:, None])
    return result


def scaled_sigmoid(probabilities: Floats, temperature: float) -> Floats:
    """Compute sigmoid(z / T) `[N, K]` from sigmoid(z)."""
    result: Floats = np.exp(-np.logaddexp(0, -_logit(probabilities) / temperature))
    return result


def _minimum(loss: Callable[[float], float]) -> float:
    from scipy.optimize import minimize_scalar  # here: a process that only serves does not need it

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x)


def _logsumexp(logits: Floats) -> Floats:
    highest = logits.max(1, keepdims=True)
    summed: Floats = highest[:, 0] + np.log(np.exp(logits - highest).sum(1))
    return summed


def _logit(probabilities: Floats) -> Floats:
    bounded = np.clip(probabilities, TINY, 1 - np.finfo(np.float64).eps)
    result: Floats = np.log(bounded) - np.log1p(-bounded)
    return result
