"""Spearman's rank correlation of predicted and annotated scores, with its confidence interval."""

import numpy as np

from galleria.learn.metrics.classification import sample_indices
from galleria.learn.metrics.score import Floats, Score, percentile_score


def spearman(predicted: Floats, truth: Floats, seed: int = 0) -> Score:
    """Return the SRCC with its 95 % percentile-bootstrap interval over samples; ties share their mean rank.

    Args:
        predicted: `[N]`.
        truth: `[N]`; a sample with NaN has no score: it is left out and counted.
        seed: of the resampling; the same gives the same interval.
    """
    known = ~np.isnan(truth)
    dropped = int((~known).sum())
    predicted, truth = predicted[known], truth[known]
    if len(set(predicted.tolist())) < 2 or len(set(truth.tolist())) < 2:
        return Score.undefined(len(known))
    samples = sample_indices(len(truth), len(truth), seed)
    values = np.concatenate([_correlations(predicted[rows], truth[rows]) for rows in samples])
    return percentile_score(values[0], values[1:], len(truth), dropped)


def _correlations(predicted: Floats, truth: Floats) -> Floats:
    """Return the correlations `[R]` of the ranks in the rows of `[R, N]`; NaN where one side is constant."""
    from scipy.stats import rankdata  # here: a process that only serves does not need it

    mean = (truth.shape[1] + 1) / 2
    x, y = (rankdata(values, axis=1) - mean for values in (predicted, truth))
    norms = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    ratios = np.divide((x * y).sum(1), norms, out=np.full(len(norms), np.nan), where=norms > 0)
    bounded: Floats = ratios.clip(-1, 1)
    return bounded
