"""Clustered unit vectors for benchmarks of searches."""

import numpy as np
from numpy.typing import NDArray


def clustered(
    count: int, dimension: int, seed: int, inner: int = 24, clusters: int = 500, deviation: float = 0.6
) -> NDArray[np.float32]:
    """Return unit vectors `[N, D]` in overlapping clusters near a plane of `inner` dimensions, reproducible by seed.

    As with vectors of a network, the nearest is at a cosine of about .86, and a search in lists has to probe several.
    """
    shared = np.random.default_rng(0)
    centres = shared.standard_normal((clusters, inner), np.float32)
    plane = shared.standard_normal((inner, dimension), np.float32) / np.float32(np.sqrt(dimension))
    generator = np.random.default_rng(seed)
    points = centres[generator.integers(0, clusters, count)]
    points += np.float32(deviation) * generator.standard_normal((count, inner), np.float32)
    vectors = points @ plane
    vectors += np.float32(0.1 * np.sqrt(inner / dimension)) * generator.standard_normal((count, dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
