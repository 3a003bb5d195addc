"""Groups of items whose vectors are nearly the same."""

from collections import defaultdict
from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from galleria.errors import ConfigurationError

QUERY_BATCH = 4096


def duplicate_groups(vectors: NDArray[np.float32], threshold: float) -> list[list[int]]:
    """Return groups of positions in `vectors` `[N, D]` connected by cosines of at least `threshold`, largest first.

    The vectors have unit length. Every pair is compared, N² dot products; groups are connected components, so that two
    members of one may be less similar than that.

    Raises:
        ConfigurationError: the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ConfigurationError(f"threshold {threshold} is not above 0 and at most 1: begin with 0.97")
    count, dimension = vectors.shape
    index = faiss.IndexFlatIP(dimension)
    index.add(np.ascontiguousarray(vectors, np.float32))
    radius = float(np.nextafter(np.float32(threshold), np.float32(0)))  # FAISS returns what is above it
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for start in range(0, count, QUERY_BATCH):
        limits, _, neighbors = index.range_search(vectors[start : start + QUERY_BATCH], radius)
        queries = np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits).astype(np.int64))
        pairs.append((queries, neighbors))
    return connected_groups([queries for queries, _ in pairs], [neighbors for _, neighbors in pairs], count)


def connected_groups(
    rows: Sequence[NDArray[np.int64]], columns: Sequence[NDArray[np.int64]], count: int
) -> list[list[int]]:
    """Return the groups of two or more of `count` positions that pairs connect, largest first.

    Args:
        rows: one position of each pair, in parts.
        columns: the other one.
        count: number of positions.
    """
    row, column = (np.concatenate([*parts, np.empty(0, np.int64)]) for parts in (rows, columns))
    _, labels = connected_components(coo_array((np.ones(len(row), bool), (row, column)), shape=(count, count)))
    groups: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels.tolist()):
        groups[label].append(position)
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda group: (-len(group), group[0]))
