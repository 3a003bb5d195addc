"""Ranks hits by score, and equal scores by key: in the same order in every search, so that pages fit together."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and positions `[B, K]` of a search of FAISS, best first; positions are -1 where it found fewer."""


class Cursor(NamedTuple):
    """The last hit of a page, behind which the next page begins, and the number of hits so far."""

    score: float
    key: int
    depth: int


ROUNDING = 2e-6
"""Scores of one vector differ by less between FAISS, which adds in one order or another, and `exact_scores`."""

WIDENING = 4
"""Factor by which a search is widened while the last result has the score of the k-th."""


def exact_scores(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the dot products `[N]` of vectors `[N, D]` with a query `[D]`, each of which depends on these two only.

    Those of FAISS and BLAS differ in the last bit by what else is computed, so that equal vectors change their order.
    """
    scores: NDArray[np.float32] = np.einsum("nd,d->n", vectors, query)
    return scores


def is_behind(scores: NDArray[np.floating], keys: NDArray[np.uint64], after: Cursor) -> NDArray[np.bool_]:
    """Return which hits, by scores and keys `[N]`, come after the one of a cursor."""
    behind: NDArray[np.bool_] = (scores < after.score) | ((scores == after.score) & (keys > np.uint64(after.key)))
    return behind


def with_ties(search: Callable[[int], Found], k: int, limit: int) -> Found:
    """Search for at least `k` results, and for all that have the score of the last one, if they are within `limit`.

    Args:
        search: returns the best results, so many for each query.
        k: at most `limit`.
        limit: maximum number of results. Where it is the same for all pages, they share the same part of a longer tie.
    """
    width = min(k + 1, limit)
    while True:
        scores, positions = search(width)
        tied = (positions[:, -1] >= 0) & (scores[:, -1] >= scores[:, k - 1] - ROUNDING)
        if width == limit or not tied.any():
            return scores, positions
        width = min(WIDENING * width, limit)


def best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the positions of the `k` greatest scores of `[N]`, and of those that equal the last of them."""
    if k >= len(scores):
        return np.arange(len(scores))
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    return np.flatnonzero(scores >= threshold - ROUNDING)
