"""Average precision of classes that a sample may have several of, with confidence intervals.

torchmetrics gives one value; an interval needs it for every resample, so all are scored at once, as counts of
how often a resample drew each sample. Tests check that the values equal those of torchmetrics.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from galleria.learn.metrics.calibration import TEMPERATURE, scaled_sigmoid, sigmoid_temperature
from galleria.learn.metrics.classification import BINS, confidence_bins
from galleria.learn.metrics.score import Floats, Score, percentile_score, resample_counts


def multi_label(probabilities: Floats, truth: Floats, names: Sequence[str], seed: int = 0) -> Mapping[str, Score]:
    """Score multi-label predictions, each with its 95 % percentile-bootstrap interval over samples.

    "mAP", the mean over the classes that occur of their average precision; "AP/<name>" of each of them; and
    "prevalence/mAP", their mean share of the samples: the score of a random ranking. "ECE", the expected calibration
    error of the probabilities of all classes over 15 equal bins (lower is better); "temperature", that which
    calibrates these samples, and "ECE/scaled", the ECE with it.

    Args:
        probabilities: `[N, K]`.
        truth: `[N, K]` of 0 and 1; a sample with negative ones is unlabelled: it is left out and counted.
        names: of the K classes.
        seed: of the resampling; the same gives the same intervals.
    """
    known = (truth >= 0).all(1)
    dropped = int((~known).sum())
    probabilities, truth = probabilities[known], truth[known]
    occurring = [k for k in range(len(names)) if truth[:, k].any()]
    if not occurring:
        names = ("mAP", "prevalence/mAP", "ECE", "ECE/scaled", TEMPERATURE)
        return dict.fromkeys(names, Score.undefined(dropped))
    count = len(truth)
    weights = resample_counts(count, seed).astype(np.float64)
    precisions = np.stack([average_precision(probabilities[:, k], truth[:, k], weights) for k in occurring])
    shares = np.stack([weights @ truth[:, k] / count for k in occurring])
    occurs = shares > 0  # a resample may miss a rare class, or all
    values = {"mAP": _mean_where(occurs, precisions), "prevalence/mAP": _mean_where(occurs, shares)}
    temperature = sigmoid_temperature(probabilities, truth)
    values["ECE"] = _calibration_errors(probabilities, truth, weights)
    values["ECE/scaled"] = _calibration_errors(scaled_sigmoid(probabilities, temperature), truth, weights)
    values |= {f"AP/{names[k]}": precision for k, precision in zip(occurring, precisions, strict=True)}
    scores = {name: percentile_score(value[0], value[1:], count, dropped) for name, value in values.items()}
    return scores | {TEMPERATURE: Score(temperature, temperature, temperature, count, dropped)}


def _calibration_errors(probabilities: Floats, truth: Floats, weights: Floats) -> Floats:
    """Compute the expected calibration error `[R]` of `[N, K]` binary decisions for each of `[R, N]` weights."""
    rows = np.broadcast_to(np.arange(len(truth))[:, None], truth.shape)
    gaps = np.zeros((len(truth), BINS))
    np.add.at(gaps, (rows, confidence_bins(probabilities)), probabilities - truth)
    errors: Floats = np.abs(weights @ gaps).sum(1) / (weights.sum(1) * truth.shape[1])
    return errors


def average_precision(probabilities: Floats, truth: Floats, weights: Floats) -> Floats:
    """Compute `Σ precision at the rank of every positive / positives` of `N` samples for each of `[R, N]` weights.

    Samples of equal probability share a rank, the last of theirs. NaN where the weights leave no positive.
    """
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    last = np.searchsorted(-ranked, -ranked, side="right") - 1
    weighted = weights[:, order]
    positives = weighted * truth[order]
    total = positives.sum(1)
    hits, ranked_weight = positives.cumsum(1)[:, last], weighted.cumsum(1)[:, last]
    precision = np.divide(hits, ranked_weight, out=np.zeros_like(hits), where=ranked_weight > 0)
    summed: Floats = (positives * precision).sum(1)
    result: Floats = np.divide(summed, total, out=np.full_like(summed, np.nan), where=total > 0)
    return result


def _mean_where(counted: NDArray[np.bool_], values: Floats) -> Floats:
    """Return column means over the rows that are counted; NaN where there is none."""
    sums: Floats = np.where(counted, values, 0).sum(0)
    means: Floats = np.divide(sums, counted.sum(0), out=np.full_like(sums, np.nan), where=counted.any(0))
    return means
