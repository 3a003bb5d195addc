"""Spearman's rank correlation: that of scipy and torchmetrics, with ties and missing scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torchmetrics.functional.regression import spearman_corrcoef

from galleria.learn.metrics.rank_correlation import spearman


@pytest.mark.parametrize(("truth", "value"), [([1, 2, 3, 4], 1), ([8, 6, 4, 2], -1), ([1, 3, 2, 4], 0.8)])
def test_value_is_worked_by_hand(truth, value):
    score = spearman(np.array([0.1, 0.2, 0.3, 0.9]), np.array(truth, np.float64))

    assert score.value == pytest.approx(value)
    assert (score.count, score.dropped) == (4, 0)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(seed=st.integers(0, 1000), count=st.integers(3, 40), values=st.integers(3, 50))
def test_value_equals_libraries(seed, count, values):
    predicted, truth = np.random.default_rng(seed).integers(0, values, (2, count)).astype(np.float64)
    predicted[:2], truth[:2] = (0, 1), (1, 0)  # neither is constant

    score = spearman(predicted, truth)

    assert score.value == pytest.approx(spearmanr(predicted, truth).statistic)
    expected = spearman_corrcoef(torch.from_numpy(predicted), torch.from_numpy(truth))
    assert score.value == pytest.approx(float(expected), abs=1e-5)
    assert -1 <= score.low <= score.value <= score.high <= 1


def test_samples_without_score_are_dropped():
    score = spearman(np.array([1.0, 5.0, 2.0, 3.0]), np.array([1.0, np.nan, 2.0, 3.0]))

    assert score.value == pytest.approx(1)
    assert (score.count, score.dropped) == (3, 1)


@pytest.mark.parametrize("truth", [[], [1.0], [2.0, 2.0], [np.nan, np.nan]])
def test_constant_scores_give_nan(truth):
    score = spearman(np.arange(len(truth), dtype=np.float64), np.array(truth))

    assert np.isnan(score.value)
    assert score.dropped == len(truth)
