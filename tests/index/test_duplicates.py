"""Groups of nearly the same vectors, by angles."""

import numpy as np
import pytest

from galleria.errors import ConfigurationError
from galleria.index.duplicates import duplicate_groups


def at(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_duplicate_groups_are_connected():
    # cos 10° = .985, cos 20° = .940: 0°, 10° and 20° are a chain, 90° and 95° a pair, 180° alone.
    vectors = at(0, 90, 10, 180, 95, 20)
    assert duplicate_groups(vectors, 0.98) == [[0, 2, 5], [1, 4]]
    assert duplicate_groups(vectors, 0.99) == [[1, 4]]
    assert duplicate_groups(vectors, 0.999) == []


def test_threshold_one_groups_equal_vectors():
    assert duplicate_groups(at(0, 90, 0), 1) == [[0, 2]]


def test_no_vectors_have_no_duplicates():
    assert duplicate_groups(np.zeros((0, 4), np.float32), 0.9) == []


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_invalid_threshold_is_rejected(threshold):
    with pytest.raises(ConfigurationError, match="threshold"):
        duplicate_groups(at(0, 1), threshold)


def test_duplicate_groups_match_all_pairs():
    vectors = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors.T >= 0.995
    names = np.arange(300)
    for _ in range(300):  # the lowest name of each component spreads
        spread = np.where(near, names[None], 300).min(1)
        if (spread == names).all():
            break
        names = spread
    expected = {tuple(np.flatnonzero(names == name)) for name in set(names) if (names == name).sum() > 1}
    assert {tuple(group) for group in duplicate_groups(vectors, 0.995)} == expected
