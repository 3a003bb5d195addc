"""Scores: means with intervals that a seed fixes and that cover the truth."""

import math
import tracemalloc

import numpy as np
import pytest

from galleria.learn.metrics.score import bootstrap, percentile_score


def test_constant_values_have_zero_width():
    score = bootstrap(np.full(9, 0.25))

    assert (score.value, score.low, score.high, score.count) == (0.25, 0.25, 0.25, 9)


def test_interval_depends_on_seed():
    values = np.random.default_rng(0).random(50)

    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3).low != bootstrap(values, seed=4).low
    assert bootstrap(values, seed=3).value == bootstrap(values, seed=4).value == pytest.approx(values.mean())


def test_missing_values_are_dropped():
    values = np.array([0.0, np.nan, 1.0, np.nan])
    assert (bootstrap(values).count, bootstrap(values).dropped) == (2, 2)

    assert bootstrap(values).value == 0.5
    assert (bootstrap(values).low, bootstrap(values).high) == (0, 1)
    assert math.isnan(bootstrap(np.array([np.nan])).value)


def test_interval_covers_truth_at_95_percent():
    generator = np.random.default_rng(0)
    scores = [bootstrap((generator.random(80) < 0.3).astype(float), resamples=200) for _ in range(200)]

    covered = np.mean([score.low <= 0.3 <= score.high for score in scores])

    assert 0.9 <= covered <= 0.99
    assert all(score.low < score.value < score.high for score in scores)


@pytest.mark.parametrize("count", [1, 7, 3000])
def test_bootstrap_equals_one_resample_at_a_time(count):
    values = np.random.default_rng(1).normal(size=count)
    for statistic, single in ((None, np.mean), (lambda many: np.median(many, -1), np.median)):
        generator = np.random.default_rng(5)
        resampled = [single(generator.choice(values, count)) for _ in range(1000)]

        score = bootstrap(values, seed=5, statistic=statistic)

        assert score == percentile_score(single(values), np.array(resampled), count)


def test_bootstrap_memory_is_bounded():
    values = np.random.default_rng(1).normal(size=50_000)
    tracemalloc.start()
    bootstrap(values, resamples=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 60e6
