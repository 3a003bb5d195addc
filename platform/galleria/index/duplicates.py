"""Groups of items whose vectors are nearly the same."""

from collections import defaultdict

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from galleria.errors import ConfigurationError

QUERIES_AT_ONCE = 4096


def duplicate_groups(vectors: NDArray[np.float32], threshold: float) -> list[list[int]]:
    """Places of unit vectors `[N, D]` that hang together by cosines of at least `threshold`, largest group first.

    Every pair is compared, N² dot products; a group's members need not all be that near to each other.

    Raises:
        ConfigurationError: the threshold is no cosine above 0.
    """
    if not 0 < threshold <= 1:
        raise ConfigurationError(f"threshold {threshold} is not above 0 and at most 1: .97 is a good beginning")
    count, dimension = vectors.shape
    index = faiss.IndexFlatIP(dimension)
    index.add(np.ascontiguousarray(vectors, np.float32))
    radius = float(np.nextafter(np.float32(threshold), np.float32(0)))  # FAISS finds what is above it
    ends: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for start in range(0, count, QUERIES_AT_ONCE):
        limits, _, found = index.range_search(vectors[start : start + QUERIES_AT_ONCE], radius)
        begins = np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits).astype(np.int64))
        ends.append((begins, found))
    rows = np.concatenate([begins for begins, _ in ends]) if ends else np.empty(0, np.int64)
    columns = np.concatenate([found for _, found in ends]) if ends else np.empty(0, np.int64)
    _, names = connected_components(coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count)))
    groups: dict[int, list[int]] = defaultdict(list)
    for place, name in enumerate(names.tolist()):
        groups[name].append(place)
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda group: (-len(group), group[0]))
