"""Groups of pictures whose fingerprints are nearly the same."""

import faiss
import numpy as np
from numpy.typing import NDArray

from galleria.index.duplicates import connected_groups

MAX_DIFFERENT = 0.1
"""Bits in which two fingerprints of one picture differ, as a fraction of those that either has."""

MAX_COLOUR_STEP = 16
"""Difference of the mean colour, of 255, of any part of them."""

QUERY_BATCH = 4096


def similar_groups(fingerprints: NDArray[np.uint8], colours: NDArray[np.uint8]) -> list[list[int]]:
    """Return groups of positions whose `fingerprints` `[N, B]` and `colours` `[N, C]` are nearly the same.

    The largest come first. A fingerprint without a bit is like no other. Every pair is compared: 5 s of CPU for 50,000
    of 256 bits.
    """
    count, width = fingerprints.shape
    bits = np.bitwise_count(fingerprints).sum(1, dtype=np.int64)
    index = faiss.IndexBinaryFlat(8 * width)
    index.add(np.ascontiguousarray(fingerprints))
    radius = int(MAX_DIFFERENT * bits.max(initial=0)) + 1  # FAISS returns what is below it
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    for start in range(0, count, QUERY_BATCH):
        limits, distances, neighbors = index.range_search(fingerprints[start : start + QUERY_BATCH], radius)
        queries = np.repeat(np.arange(start, start + len(limits) - 1), np.diff(limits).astype(np.int64))
        either = (bits[queries] + bits[neighbors] + distances.astype(np.int64)) / 2
        near = (distances <= MAX_DIFFERENT * either) & (either > 0)
        queries, neighbors = queries[near], neighbors[near]
        steps = np.abs(colours[queries].astype(np.int16) - colours[neighbors]).max(1, initial=0)
        rows.append(queries[steps <= MAX_COLOUR_STEP])
        columns.append(neighbors[steps <= MAX_COLOUR_STEP])
    return connected_groups(rows, columns, count)
