"""One state of a shard: which vectors of its base count, and the rows that were written since (delta)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.index.columns import join_columns
from galleria.index.filters import Filter
from galleria.index.ranking import best, exact_scores

Hits = tuple[NDArray[np.float32], NDArray[np.uint64]]
"""Scores and keys of one query's hits, in no order."""

INITIAL_CAPACITY = 1024
"""Rows of a delta that there is space for at first."""

MAX_CHUNKS = 64
"""Tables of filter columns of a delta before they are joined into one."""


@dataclass(frozen=True, slots=True)
class View:
    """One state of a shard. Never changes, so that a search goes on with the one that it began with.

    Attributes:
        alive: which vectors of the base count, `[N]`; the others were deleted or replaced.
        base_count: how many.
        vectors: of the delta `[capacity, D]`; the first `rows` belong to this view.
        keys: of the delta `[capacity]`.
        delta_alive: which of the delta's rows count, `[rows]`.
        chunks: what filters read, for the delta's rows in order.
    """

    alive: NDArray[np.bool_]
    base_count: int
    vectors: NDArray[np.float32]
    keys: NDArray[np.uint64]
    delta_alive: NDArray[np.bool_]
    chunks: tuple[pa.Table, ...]

    @classmethod
    def of_base(cls, count: int, dimension: int) -> "View":
        """Return the view of a base of `count` vectors, before any change."""
        vectors = np.empty((INITIAL_CAPACITY, dimension), np.float32)
        keys = np.empty(INITIAL_CAPACITY, np.uint64)
        return cls(np.ones(count, bool), count, vectors, keys, np.zeros(0, bool), ())

    @property
    def rows(self) -> int:
        """Rows of the delta, including deleted and replaced ones."""
        return len(self.delta_alive)

    @property
    def count(self) -> int:
        """Number of items."""
        return self.base_count + int(self.delta_alive.sum())

    def changed(
        self,
        keys: NDArray[np.uint64],
        vectors: NDArray[np.float32],
        columns: pa.Table,
        removed_positions: NDArray[np.int64],
        removed_rows: Sequence[int],
    ) -> "View":
        """Return the view with more rows in the delta, and without some of the vectors that counted.

        Args:
            keys: of the new rows `[M]`.
            vectors: theirs `[M, D]`.
            columns: `filter_columns` of them, M rows.
            removed_positions: vectors of the base that no longer count.
            removed_rows: rows of the delta that no longer count.
        """
        alive, base_count = self.alive, self.base_count
        if len(removed_positions) and alive[removed_positions].any():
            alive = alive.copy()
            alive[removed_positions] = False
            base_count = int(alive.sum())
        delta_alive = np.concatenate([self.delta_alive, np.ones(len(keys), bool)])
        delta_alive[removed_rows] = False
        all_vectors, all_keys = self._with_capacity(self.rows + len(keys))
        new = slice(self.rows, self.rows + len(keys))
        all_vectors[new], all_keys[new] = vectors, keys
        chunks = (*self.chunks, columns) if len(keys) else self.chunks
        if len(chunks) > MAX_CHUNKS:
            chunks = (join_columns(chunks),)
        return View(alive, base_count, all_vectors, all_keys, delta_alive, chunks)

    def search_delta(self, queries: NDArray[np.float32], k: int, allowed: Filter | None) -> list[Hits]:
        """Return the `k` nearest rows of the delta for each query, and those as near as the last of them."""
        mask = self.delta_alive
        if allowed is not None and self.rows:
            mask = mask & np.concatenate([allowed.mask(chunk) for chunk in self.chunks])
        rows = np.flatnonzero(mask)
        scores = queries @ self.vectors[: self.rows].T
        hits = []
        for query, row_scores in zip(queries, scores, strict=True):
            nearest = rows[best(row_scores[rows], k)]
            hits.append((exact_scores(self.vectors[nearest], query), self.keys[nearest]))
        return hits

    def _with_capacity(self, rows: int) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        """Return arrays for so many rows of the delta: these, or larger copies; older views keep theirs."""
        if rows <= len(self.keys):
            return self.vectors, self.keys
        capacity = max(2 * len(self.keys), rows)
        vectors = np.empty((capacity, self.vectors.shape[1]), np.float32)
        keys = np.empty(capacity, np.uint64)
        vectors[: self.rows], keys[: self.rows] = self.vectors[: self.rows], self.keys[: self.rows]
        return vectors, keys
