"""A score: the mean of a metric over samples, with its confidence interval from a bootstrap."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
MAX_DRAWN = 1 << 20
"""Numbers drawn at a time: bounds memory with many samples."""
PERCENTILES = (2.5, 97.5)
"""Ends of the 95 % percentile interval (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A mean over `count` samples with its 95 % bootstrap interval; `dropped` more had no defined value."""

    value: float
    low: float
    high: float
    count: int
    dropped: int = 0

    @classmethod
    def undefined(cls, dropped: int) -> "Score":
        """Return the score of no samples, whose value is NaN."""
        return cls(math.nan, math.nan, math.nan, 0, dropped)


def bootstrap(
    values: Floats, resamples: int = RESAMPLES, seed: int = 0, statistic: Callable[[Floats], Any] | None = None
) -> Score:
    """Return the mean (or another `statistic`) of `[N]` values without NaN, with its percentile interval.

    A seed gives one interval. The statistic reduces `[…, N]` along the last axis: many resamples are computed at once.
    """
    defined = values[~np.isnan(values)]
    dropped = len(values) - len(defined)
    if len(defined) == 0:
        return Score.undefined(dropped)
    statistic = statistic or _mean
    generator = np.random.default_rng(seed)
    size = max(1, MAX_DRAWN // len(defined))
    counts = (min(size, resamples - start) for start in range(0, resamples, size))
    resampled = [statistic(generator.choice(defined, (count, len(defined)))) for count in counts]
    return percentile_score(float(statistic(defined)), np.concatenate(resampled), len(defined), dropped)


def _mean(values: Floats) -> Any:
    return values.mean(-1)


def percentile_score(value: float, resampled: Floats, count: int, dropped: int = 0) -> Score:
    """Return a value with the percentile interval of its `[R]` resamples, which always contains the value itself."""
    low, high = np.nanpercentile(resampled, PERCENTILES)
    return Score(float(value), float(min(low, value)), float(max(high, value)), count, dropped)


def resample_counts(samples: int, seed: int) -> NDArray[np.int64]:
    """Return `[1 + RESAMPLES, samples]`: how often each sample counts, first once each, then as resampled."""
    drawn = np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), RESAMPLES)
    return np.vstack([np.ones(samples, np.int64), drawn])
