"""Classification scores with their confidence intervals.

torchmetrics returns one value; an interval needs it for every resample, so many resamples are scored at once from
their counts, and tests check that the values equal those of torchmetrics.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from galleria.learn.metrics.calibration import TEMPERATURE, scaled_softmax, softmax_temperature
from galleria.learn.metrics.score import RESAMPLES, Floats, Score, percentile_score

MAX_DRAWN = 1 << 22
"""Numbers drawn at a time: bounds memory with many samples or classes."""

BINS = 15


def classification(probabilities: Floats, labels: NDArray[np.int64], seed: int = 0) -> Mapping[str, Score]:
    """Score single-label predictions, each with its 95 % percentile-bootstrap interval over samples.

    "accuracy"; "balanced_accuracy", the mean recall of the classes that occur (UAR); "macro_F1" over the classes
    that occur or are predicted; "ECE", the expected calibration error over 15 equal bins of confidence (lower is
    better); "temperature", that which calibrates these samples, and "ECE/scaled", the ECE with it;
    "majority/accuracy", the accuracy of always predicting the most frequent label of these samples.

    Args:
        probabilities: `[N, K]`, rows sum to 1.
        labels: `[N]` classes 0…K−1; a sample with a negative label has none: it is left out and counted.
        seed: of the resampling; the same gives the same intervals.
    """
    known = labels >= 0
    dropped = int((~known).sum())
    probabilities, labels = probabilities[known], labels[known]
    if len(labels) == 0:
        names = ("accuracy", "balanced_accuracy", "macro_F1", "ECE", "ECE/scaled", TEMPERATURE, "majority/accuracy")
        return dict.fromkeys(names, Score.undefined(dropped))
    classes = probabilities.shape[1]
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    hits = (predicted == labels).astype(np.float64)
    temperature = softmax_temperature(probabilities, labels)
    scaled_confidence = scaled_softmax(probabilities, temperature).max(1)
    bins, scaled_bins = confidence_bins(confidence), confidence_bins(scaled_confidence)

    def scored(samples: NDArray[np.int64]) -> dict[str, Floats]:
        drawn = labels[samples]
        correct = _counts(drawn, classes, hits[samples])
        actual, guessed = _counts(drawn, classes), _counts(predicted[samples], classes)
        gaps = _counts(bins[samples], BINS, (confidence - hits)[samples])
        scaled_gaps = _counts(scaled_bins[samples], BINS, (scaled_confidence - hits)[samples])
        return {
            "accuracy": correct.sum(1) / len(labels),
            "balanced_accuracy": _mean_where(actual > 0, correct, actual),
            "macro_F1": _mean_where(actual + guessed > 0, 2 * correct, actual + guessed),
            "ECE": np.abs(gaps).sum(1) / len(labels),
            "ECE/scaled": np.abs(scaled_gaps).sum(1) / len(labels),
            "majority/accuracy": actual.max(1) / len(labels),
        }

    parts = [scored(samples) for samples in sample_indices(len(labels), max(len(labels), classes), seed)]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scores = {name: percentile_score(value[0], value[1:], len(labels), dropped) for name, value in values.items()}
    return scores | {TEMPERATURE: Score(temperature, temperature, temperature, len(labels), dropped)}


def confidence_bins(confidence: Floats) -> NDArray[np.int64]:
    """Return the number of the bin, of `BINS` equal ones, of every confidence."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def sample_indices(count: int, width: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield indices `[R, count]`: each sample once, then the resamples, few at a time so that R × width is bounded."""
    generator = np.random.default_rng(seed)
    yield np.arange(count)[None]
    size = max(1, MAX_DRAWN // width)
    for start in range(0, RESAMPLES, size):
        yield generator.integers(0, count, (min(size, RESAMPLES - start), count))


def _counts(classes: NDArray[np.int64], width: int, weights: Floats | None = None) -> Floats:
    """Sum the weights (1 by default) of every class in each row: `[R, N]` classes → `[R, width]`."""
    rows = np.arange(len(classes))[:, None] * width + classes
    flat = None if weights is None else weights.ravel()
    return np.bincount(rows.ravel(), flat, len(classes) * width).reshape(len(classes), width).astype(np.float64)


def _mean_where(counted: NDArray[np.bool_], numerator: Floats, denominator: Floats) -> Floats:
    """Return the row means of a ratio over the columns that are counted."""
    ratios = np.divide(numerator, denominator, out=np.zeros_like(numerator, np.float64), where=counted)
    means: Floats = ratios.sum(1) / np.maximum(counted.sum(1), 1)
    return means
