"""A shard: an immutable base, what has been committed since (delta), and what is gone (tombstones), searched as one."""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.errors import DataError
from galleria.index.base import Base
from galleria.index.filters import Filter, join_columns
from galleria.index.kinds import search, settings

EXACT_SHARE = 0.05
"""Share of a base under which its allowed vectors are scanned exactly: a graph or lists would miss some."""

EXACT_VALUES = 1 << 20
"""Values of vectors that are scanned as fast as a graph is searched around what a filter leaves out."""

PLAIN = (1e-12, 1e12)
"""Squared lengths of vectors that need not be brought to unit length: sums of float32 neither overflow nor vanish."""

WIDEST = 2048
"""Most candidates of one search with a filter."""

MASKS = 64
"""Filters whose answers on the base are kept."""


class Neighbor(NamedTuple):
    """A result: the key of the item, and its similarity."""

    key: int
    score: float


@dataclass(frozen=True, slots=True)
class View:
    """One state of a shard. Never changes, so that a search goes on with the one that it began with.

    Attributes:
        alive: which vectors of the base hold, `[N]`.
        base_count: how many.
        vectors: of the delta `[capacity, D]`; the first `rows` belong to this view.
        keys: of the delta `[capacity]`.
        delta_alive: which of the delta's rows hold, `[rows]`.
        chunks: what filters read, for the delta's rows in order.
    """

    alive: NDArray[np.bool_]
    base_count: int
    vectors: NDArray[np.float32]
    keys: NDArray[np.uint64]
    delta_alive: NDArray[np.bool_]
    chunks: tuple[pa.Table, ...]

    @property
    def rows(self) -> int:
        """Rows of the delta, those that are gone too."""
        return len(self.delta_alive)

    @property
    def count(self) -> int:
        """Vectors that hold."""
        return self.base_count + int(self.delta_alive.sum())


@dataclass(frozen=True, slots=True)
class _Selection:
    """Vectors of the base that a search may find, for FAISS: as bits and, where they are scanned exactly, as places."""

    bitmap: Any
    packed: NDArray[np.uint8]
    places: Any
    count: int


class Shard:
    """Searches a base together with the changes since. One thread changes it; any number search.

    Args:
        base: the immutable part.
        exact_values: values of allowed vectors up to which a filtered search scans instead of walking a graph.
    """

    def __init__(self, base: Base, exact_values: int = EXACT_VALUES) -> None:
        self.base = base
        self._exact_values = exact_values
        count, dimension = len(base.keys), base.index.d
        self.view = View(
            np.ones(count, bool),
            count,
            np.empty((1024, dimension), np.float32),
            np.empty(1024, np.uint64),
            np.zeros(0, bool),
            (),
        )
        self._delta: dict[int, int] = {}
        self._masks: OrderedDict[str, NDArray[np.bool_]] = OrderedDict()
        self._selections: OrderedDict[tuple[str, int], tuple[NDArray[np.bool_], _Selection]] = OrderedDict()
        self._lock = Lock()

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
        """Put items in, whatever was under their keys, and take items out; searches see all of it or nothing.

        Args:
            upserted: keys `[M]`, each once.
            vectors: theirs, of unit length `[M, D]`.
            columns: `filter_columns` of them, M rows.
            deleted: keys that are in no shard any more.
        """
        view = self.view
        alive, delta_alive = view.alive, view.delta_alive
        gone = np.concatenate([upserted, deleted])
        places = self.base.positions(gone)
        places = places[places >= 0]
        base_count = view.base_count
        if len(places) and alive[places].any():
            alive = alive.copy()
            alive[places] = False
            base_count = int(alive.sum())
        delta_alive = np.concatenate([delta_alive, np.ones(len(upserted), bool)])
        delta_alive[[row for row in map(self._delta.get, gone.tolist()) if row is not None]] = False
        all_vectors, keys = self._room(view, len(upserted))
        rows = slice(view.rows, view.rows + len(upserted))
        all_vectors[rows], keys[rows] = vectors, upserted
        for key in deleted.tolist():
            self._delta.pop(key, None)
        self._delta.update(zip(upserted.tolist(), range(rows.start, rows.stop), strict=True))
        chunks = (*view.chunks, columns) if len(upserted) else view.chunks
        if len(chunks) > MASKS:
            chunks = (join_columns(chunks),)
        self.view = View(alive, base_count, all_vectors, keys, delta_alive, chunks)
        if alive is not view.alive:
            with self._lock:
                self._selections.clear()  # of states that only searches which are under way still see

    def search(
        self, vectors: NDArray[np.float32], k: int, allowed: Filter | None = None, view: View | None = None
    ) -> list[list[Neighbor]]:
        """The `k` nearest items of every query, best first; fewer only where fewer hold and meet the filter.

        Args:
            vectors: queries `[B, D]` of any length but 0.
            k: most results.
            allowed: which items may be found.
            view: by default the newest.

        Raises:
            DataError: a vector has another length, is zero, or is not finite; `k` is below 1.
        """
        queries, lengths = self._checked(vectors, k)
        view = view or self.view
        all_scores, all_keys = self._in_base(queries, k, allowed, view)
        if view.rows:
            scores, keys = _in_delta(queries, k, allowed, view)
            all_scores, all_keys = np.concatenate([all_scores, scores], 1), np.concatenate([all_keys, keys], 1)
        answers = []
        for row, (scores, keys) in enumerate(zip(all_scores, all_keys, strict=True)):
            if view.rows or (scores[1:] >= scores[:-1]).any():  # FAISS answers in order, but for equal scores
                best = np.lexsort((keys, -scores))[:k]
                scores, keys = scores[best], keys[best]  # noqa: PLW2901
            answers.append(
                list(map(Neighbor, keys.tolist(), (scores if lengths is None else scores * lengths[row]).tolist()))
            )
        return answers

    def _checked(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
        """Queries to search with, and what to multiply their scores by, if anything."""
        if k < 1:
            raise DataError(f"k={k} asks for no result: use 1 or more")
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise DataError(
                f"the vector has {vectors.shape[-1]} values, the index has {self.dimension}: "
                "embed the query with the model that the index was built with"
            )
        if vectors.dtype == np.float32:
            squares = np.einsum("bd,bd->b", vectors, vectors)
            if ((squares > PLAIN[0]) & (squares < PLAIN[1])).all():
                return np.ascontiguousarray(vectors), None
        exact = vectors.astype(np.float64)
        lengths = np.sqrt(np.einsum("bd,bd->b", exact, exact))
        if not ((lengths > 0) & (lengths < np.inf)).all():
            raise DataError("the vector is zero or not finite: send finite values that are not all zero")
        return np.ascontiguousarray(exact / lengths[:, None], dtype=np.float32), lengths

    def _in_base(
        self, queries: NDArray[np.float32], k: int, allowed: Filter | None, view: View
    ) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        count = len(self.base.keys)
        selection = None
        left = view.base_count
        if allowed is not None or left < count:
            selection = self._select(allowed, view)
            left = selection.count
        k = min(k, left)
        if k == 0:
            return _nothing(len(queries))
        index, spec = self.base.index, self.base.spec
        bitmap = selection.bitmap if selection else None
        if spec.effort and not (selection and self._few(left)):
            effort = max(spec.effort, k) if spec.kind == "HNSW32" else spec.effort
            effort = min(int(effort * count / left), max(WIDEST, k))  # what is filtered out takes up candidates too
            if spec.kind != "HNSW32":
                effort = min(effort, index.nlist)
            scores, places = search(index, queries, k, settings(spec.kind, effort, bitmap))
            if (places >= 0).all():
                return scores, self.base.keys[places]
        # Exactly: all that is allowed is looked at, so that k answers are k answers.
        if spec.kind.startswith("IVF"):
            scores, places = search(index, queries, k, settings(spec.kind, index.nlist, bitmap))
        else:
            flat = faiss.downcast_index(index.storage) if spec.kind == "HNSW32" else index
            chosen = selection.places or bitmap if selection else None
            scores, places = search(flat, queries, k, settings("Flat", 0, chosen))
        return scores, self.base.keys[places]

    def _few(self, left: int) -> bool:
        """Whether so many allowed vectors are scanned exactly."""
        values = 0 if self.base.spec.kind.startswith("IVF") else self._exact_values  # lists: no vector at a place
        return left <= max(EXACT_SHARE * len(self.base.keys), values // self.dimension)

    def _select(self, allowed: Filter | None, view: View) -> _Selection:
        name = (allowed.text if allowed else "", id(view.alive))
        with self._lock:
            kept = self._selections.get(name)
            if kept is not None and kept[0] is view.alive:
                self._selections.move_to_end(name)
                return kept[1]
        mask = view.alive if allowed is None else view.alive & self._mask(allowed)
        packed = np.packbits(mask, bitorder="little")
        count = int(mask.sum())
        places = faiss.IDSelectorArray(np.flatnonzero(mask)) if self._few(count) else None
        selection = _Selection(faiss.IDSelectorBitmap(packed), packed, places, count)
        with self._lock:
            self._selections[name] = (view.alive, selection)
            while len(self._selections) > MASKS:
                self._selections.popitem(last=False)
        return selection

    def _mask(self, allowed: Filter) -> NDArray[np.bool_]:
        with self._lock:
            if allowed.text in self._masks:
                self._masks.move_to_end(allowed.text)
                return self._masks[allowed.text]
        mask = allowed.mask(self.base.columns)
        with self._lock:
            self._masks[allowed.text] = mask
            while len(self._masks) > MASKS:
                self._masks.popitem(last=False)
        return mask

    def _room(self, view: View, more: int) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        """The delta's arrays, with room behind the view's rows; those who search an older view keep the old ones."""
        rows = view.rows
        if rows + more <= len(view.keys):
            return view.vectors, view.keys
        capacity = max(2 * len(view.keys), rows + more)
        vectors = np.empty((capacity, self.dimension), np.float32)
        keys = np.empty(capacity, np.uint64)
        vectors[:rows], keys[:rows] = view.vectors[:rows], view.keys[:rows]
        return vectors, keys


def _in_delta(
    queries: NDArray[np.float32], k: int, allowed: Filter | None, view: View
) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    mask = view.delta_alive
    if allowed is not None and view.rows:
        mask = mask & np.concatenate([allowed.mask(chunk) for chunk in view.chunks])
    count = int(mask.sum())
    if count == 0:
        return _nothing(len(queries))
    scores = queries @ view.vectors[: view.rows].T
    scores[:, ~mask] = -np.inf
    k = min(k, count)
    places = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return np.take_along_axis(scores, places, axis=1), view.keys[places]


def _nothing(queries: int) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.uint64)
