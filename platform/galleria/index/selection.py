"""Which vectors of a base a search may return, for FAISS."""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from galleria.index.base import Base
from galleria.index.filters import Filter
from galleria.lru_cache import LRUCache

EXACT_FRACTION = 0.05
"""Part of a base under which its allowed vectors are scanned exactly: a graph or lists would miss some."""

EXACT_VALUES = 1 << 20
"""Values of vectors that are scanned as fast as a graph is searched around what a filter leaves out."""

MAX_CACHED_FILTERS = 64
"""Filters whose masks on the base are cached."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Allowed vectors of a base.

    Attributes:
        bitmap: FAISS selector.
        packed: its bits, which must live as long as it.
        positions: FAISS selector by position, where they are few enough to be scanned; or None.
        count: number of allowed vectors.
    """

    bitmap: Any
    packed: NDArray[np.uint8]
    positions: Any
    count: int


class Selections:
    """Selections of a base, and the masks of filters on it, cached.

    Args:
        base: whose vectors are selected.
        exact_values: values of allowed vectors up to which a filtered search scans instead of walking a graph.
    """

    def __init__(self, base: Base, exact_values: int) -> None:
        self._base = base
        # Lists of an inverted file cannot be read by position.
        values = 0 if base.spec.kind.startswith("IVF") else exact_values
        self._max_scanned: float = max(EXACT_FRACTION * len(base.keys), values // base.index.d)
        self._masks = LRUCache[str, NDArray[np.bool_]](MAX_CACHED_FILTERS)
        self.clear()

    def clear(self) -> None:
        """Drop the selections of earlier views, which only searches that are still running use."""
        self._selections = LRUCache[tuple[str, int], tuple[NDArray[np.bool_], Selection]](MAX_CACHED_FILTERS)

    def scanned(self, count: int) -> bool:
        """Return whether so many allowed vectors are scanned exactly."""
        return count <= self._max_scanned

    def select(self, allowed: Filter | None, alive: NDArray[np.bool_]) -> Selection:
        """Return the selection of the vectors that count (`alive`, `[N]`) and meet a filter."""
        name = (allowed.text if allowed else "", id(alive))
        cache = self._selections
        cached = cache.get(name)
        if cached is not None and cached[0] is alive:
            return cached[1]
        mask = alive if allowed is None else alive & self._mask(allowed)
        packed = np.packbits(mask, bitorder="little")
        count = int(mask.sum())
        positions = faiss.IDSelectorArray(np.flatnonzero(mask)) if self.scanned(count) else None
        selection = Selection(faiss.IDSelectorBitmap(packed), packed, positions, count)
        cache.put(name, (alive, selection))
        return selection

    def _mask(self, allowed: Filter) -> NDArray[np.bool_]:
        mask = self._masks.get(allowed.text)
        if mask is None:
            mask = allowed.mask(self._base.columns)
            self._masks.put(allowed.text, mask)
        return mask
