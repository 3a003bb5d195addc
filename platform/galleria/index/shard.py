"""A shard: an immutable base, the changes since, and the deletions, searched as one."""

from collections.abc import Iterator
from typing import NamedTuple

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.errors import DataError
from galleria.index.base import Base
from galleria.index.filters import Filter
from galleria.index.kinds import search, settings
from galleria.index.ranking import WIDENING, Cursor, Found, exact_scores, is_behind, with_ties
from galleria.index.selection import EXACT_VALUES, Selection, Selections
from galleria.index.view import Hits, View

SAFE_SQUARES = (1e-12, 1e12)
"""Squared lengths of queries that need not be normalised: sums of float32 neither overflow nor vanish."""

MAX_CANDIDATES = 2048
"""Candidates of one search with a filter or a tie, unless more results are requested."""


class Neighbor(NamedTuple):
    """A result: the key of the item, and its similarity."""

    key: int
    score: float


class Shard:
    """Searches a base together with the changes since. One thread changes it; any number search.

    Args:
        base: the immutable part.
        exact_values: values of allowed vectors up to which a filtered search scans instead of walking a graph.
    """

    def __init__(self, base: Base, exact_values: int = EXACT_VALUES) -> None:
        self.base = base
        self.view = View.of_base(len(base.keys), base.index.d)
        self._delta_rows: dict[int, int] = {}
        self._selections = Selections(base, exact_values)
        self._vectors = _stored_vectors(base)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self.base.index.d)

    def apply(
        self,
        upserted: NDArray[np.uint64],
        vectors: NDArray[np.float32],
        columns: pa.Table,
        deleted: NDArray[np.uint64],
    ) -> None:
        """Upsert and delete items in one step: searches see all of it or nothing.

        Args:
            upserted: keys `[M]`, each once.
            vectors: theirs, of unit length `[M, D]`.
            columns: `filter_columns` of them, M rows.
            deleted: keys that are in no shard any more.
        """
        before = self.view
        superseded = np.concatenate([upserted, deleted])
        positions = self.base.positions(superseded)
        rows = [row for row in map(self._delta_rows.get, superseded.tolist()) if row is not None]
        view = before.changed(upserted, vectors, columns, positions[positions >= 0], rows)
        for key in deleted.tolist():
            self._delta_rows.pop(key, None)
        self._delta_rows.update(zip(upserted.tolist(), range(before.rows, view.rows), strict=True))
        self.view = view
        if view.alive is not before.alive:
            self._selections.clear()

    def search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        allowed: Filter | None = None,
        view: View | None = None,
        after: Cursor | None = None,
    ) -> list[list[Neighbor]]:
        """Return the `k` nearest items of every query, best first; fewer only where fewer exist and meet the filter.

        Equal scores are in the order of their keys. Behind a cursor an item of an inverted file or a graph may be
        missing that was not among the hits before it either; all others follow as in one longer search.

        Args:
            vectors: queries `[B, D]` of any length but 0.
            k: maximum number of results.
            allowed: filter that every result meets.
            view: by default the newest.
            after: items that come behind it only; of a search for the same single query.

        Raises:
            DataError: a vector has another length, is zero, or is not finite; `k` is below 1.
        """
        queries, lengths = self._normalized(vectors, k)
        view = view or self.view
        if after is None:
            ranked = self._ranked(queries, lengths, k, allowed, view)
        else:
            ranked = [self._ranked_behind(queries, lengths, k, allowed, view, after)]
        return [list(map(Neighbor, keys[:k].tolist(), scores[:k].tolist())) for scores, keys in ranked]

    def _ranked_behind(
        self,
        queries: NDArray[np.float32],
        lengths: NDArray[np.float64] | None,
        k: int,
        allowed: Filter | None,
        view: View,
        after: Cursor,
    ) -> tuple[NDArray[np.floating], NDArray[np.uint64]]:
        """Return scores and keys of at least the first `k` items behind a cursor.

        As many items come before it as there were hits so far, and those that were written since: it searches for more
        until there are `k` behind it, and at last for all, which is a scan.
        """
        width = after.depth + k
        while True:
            [(scores, keys)] = self._ranked(queries, lengths, width, allowed, view)
            behind = is_behind(scores, keys, after)
            if behind.sum() >= k or len(keys) < width:
                return scores[behind], keys[behind]
            width = WIDENING * width if WIDENING * width <= MAX_CANDIDATES else max(view.count, width + 1)

    def _ranked(
        self,
        queries: NDArray[np.float32],
        lengths: NDArray[np.float64] | None,
        k: int,
        allowed: Filter | None,
        view: View,
    ) -> list[tuple[NDArray[np.floating], NDArray[np.uint64]]]:
        """Return scores and keys of the `k` nearest items of every query, best first."""
        base_hits = self._search_base(queries, k, allowed, view)
        delta_hits = view.search_delta(queries, k, allowed) if view.rows else None
        results = []
        for row, (scores, keys) in enumerate(base_hits):
            if delta_hits is not None:
                scores = np.concatenate([scores, delta_hits[row][0]])  # noqa: PLW2901
                keys = np.concatenate([keys, delta_hits[row][1]])  # noqa: PLW2901
            ranked = np.lexsort((keys, -scores))[:k]
            similarities = scores[ranked] if lengths is None else scores[ranked] * lengths[row]
            results.append((similarities, keys[ranked]))
        return results

    def _normalized(
        self, vectors: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
        """Return queries to search with, and the lengths to multiply their scores by, if any."""
        if k < 1:
            raise DataError(f"k={k} is below 1: use 1 or more")
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise DataError(
                f"the vector has {vectors.shape[-1]} values, the index has {self.dimension}: "
                "embed the query with the model that the index was built with"
            )
        if vectors.dtype == np.float32:
            squares = np.einsum("bd,bd->b", vectors, vectors)
            if ((squares > SAFE_SQUARES[0]) & (squares < SAFE_SQUARES[1])).all():
                return np.ascontiguousarray(vectors), None
        exact = vectors.astype(np.float64)
        lengths = np.sqrt(np.einsum("bd,bd->b", exact, exact))
        if not ((lengths > 0) & (lengths < np.inf)).all():
            raise DataError("the vector is zero or not finite: send finite values that are not all zero")
        return np.ascontiguousarray(exact / lengths[:, None], dtype=np.float32), lengths

    def _search_base(self, queries: NDArray[np.float32], k: int, allowed: Filter | None, view: View) -> Iterator[Hits]:
        """Yield the `k` nearest vectors of the base for each query, and those as near as the last of them."""
        scores, positions = self._find(queries, k, allowed, view)
        for row, query in enumerate(queries):
            found = positions[row] >= 0
            hits = positions[row][found]
            exact = scores[row][found] if self._vectors is None else exact_scores(self._vectors[hits], query)
            yield exact, self.base.keys[hits]

    def _find(self, queries: NDArray[np.float32], k: int, allowed: Filter | None, view: View) -> Found:
        total = len(self.base.keys)
        unrestricted = allowed is None and view.base_count == total
        selection = None if unrestricted else self._selections.select(allowed, view.alive)
        count = selection.count if selection else total
        k = min(k, count)
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        scanned = k > MAX_CANDIDATES or (selection is not None and self._selections.scanned(count))
        if self.base.spec.effort and not scanned:
            limit = min(count, max(MAX_CANDIDATES, k))
            scores, positions = with_ties(lambda width: self._approximate(queries, width, selection), k, limit)
            # The probed lists of an inverted file may end with the tie; a graph that ends is not connected.
            required = positions if self.base.spec.kind == "HNSW32" else positions[:, :k]
            if (required >= 0).all():
                return scores, positions
        # FAISS may return fewer than k where a filter leaves out much; a scan finds every allowed vector.
        return with_ties(lambda width: self._scan(queries, width, selection), k, count)

    def _approximate(
        self, queries: NDArray[np.float32], k: int, selection: Selection | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search a graph or lists; where they run out of candidates, positions are -1."""
        index, spec = self.base.index, self.base.spec
        effort = max(spec.effort, k) if spec.kind == "HNSW32" else spec.effort
        if selection:  # what is filtered out takes up candidates too
            effort = int(effort * len(self.base.keys) / selection.count)
        effort = min(effort, max(MAX_CANDIDATES, k))
        if spec.kind != "HNSW32":
            effort = min(effort, index.nlist)
        return search(index, queries, k, settings(spec.kind, effort, selection.bitmap if selection else None))

    def _scan(
        self, queries: NDArray[np.float32], k: int, selection: Selection | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Compare the queries with every allowed vector."""
        index, kind = self.base.index, self.base.spec.kind
        if kind.startswith("IVF"):
            return search(index, queries, k, settings(kind, index.nlist, selection.bitmap if selection else None))
        flat = faiss.downcast_index(index.storage) if kind == "HNSW32" else index
        selector = (selection.positions or selection.bitmap) if selection else None
        return search(flat, queries, k, settings("Flat", 0, selector))


def _stored_vectors(base: Base) -> NDArray[np.float32] | None:
    """Return the vectors of a base `[N, D]` as its index holds them, or None for the lists of an inverted file."""
    if base.spec.kind.startswith("IVF"):
        return None
    flat = faiss.downcast_index(base.index.storage) if base.spec.kind == "HNSW32" else base.index
    vectors: NDArray[np.float32] = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(-1, flat.d)
    return vectors
