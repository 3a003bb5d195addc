"""Finds and reads items: the seam between the gateway and the catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galleria.catalog.table import FIELDS
from galleria.index.shard import Shard
from galleria.serving.fit import open_table
from galleria.serving.places import Places


@dataclass(frozen=True, slots=True)
class Found:
    """A result: its place in the table, and its similarity."""

    place: int
    score: float


class Searcher(Protocol):
    """One version of the catalogue, searchable.

    Attributes:
        bundle_hash: bundle that made its vectors.
        version: version of the product table.
        count: number of items.
        dimension: length of a vector.
    """

    bundle_hash: str
    version: int
    count: int
    dimension: int

    def search(self, vector: NDArray[np.float32], k: int) -> list[Found]:
        """The `k` items (or all, where there are fewer) of the greatest dot product with `vector` `[D]`, best first."""

    def fetch(self, places: Sequence[int]) -> list[Mapping[str, Any]]:
        """Fields of items by place."""

    def item(self, item_id: str, columns: Sequence[str] = FIELDS) -> Mapping[str, Any] | None:
        """Fields of the item with `item_id`, or None."""


class LocalSearcher:
    """Table and index in this process."""

    def __init__(self, table: str, index: str, bundle_hash: str) -> None:
        """Open both.

        Raises:
            DataError: there is no table.
            BundleError: the table's vectors were made with another bundle.
            IndexDamagedError: the index is damaged, or belongs to another bundle or version of the table.
        """
        self._table = open_table(table, bundle_hash)
        self._shard = Shard(index, bundle_hash, self._table.version)
        self._places = Places(self._table.ids())
        self.bundle_hash = bundle_hash
        self.version = self._table.version
        self.count = self._shard.manifest.count
        self.dimension = self._shard.manifest.dimension

    def search(self, vector: NDArray[np.float32], k: int) -> list[Found]:
        """As `Searcher.search`. The vector may have any length: with level weights it is not 1.

        Raises:
            DataError: the vector has another length, is zero, or is not finite.
        """
        cosines, places = self._shard.search(vector[None], k)
        length = float(np.linalg.norm(vector))
        return [
            Found(int(place), length * float(cosine))
            for place, cosine in zip(places[0], cosines[0], strict=True)
            if place >= 0
        ]

    def fetch(self, places: Sequence[int]) -> list[Mapping[str, Any]]:
        """As `Searcher.fetch`."""
        return self._table.rows(places)

    def item(self, item_id: str, columns: Sequence[str] = FIELDS) -> Mapping[str, Any] | None:
        """As `Searcher.item`."""
        for place in self._places.candidates(item_id):
            row = self._table.rows([place], columns)[0]
            if row["id"] == item_id:
                return row
        return None
