"""Finds and reads items: the seam between the gateway and the catalogue."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from galleria.catalog.items import FIELDS
from galleria.index.filters import Filter
from galleria.index.shard import Found


class CatalogState(Protocol):
    """The catalogue at one version: all of an answer comes from one."""

    @property
    def version(self) -> int:
        """Version of the product table."""

    @property
    def count(self) -> int:
        """Number of items."""

    @property
    def shard_count(self) -> tuple[int, int]:
        """How many shards are searched, and how many there are."""

    @property
    def waiting(self) -> int:
        """Items that are searched exactly, since the index does not hold them yet."""


class Searcher(Protocol):
    """A catalogue that follows its table; `LiveCatalog` in this process.

    Attributes:
        state: the newest that it has seen.
        dimension: length of a vector.
    """

    @property
    def state(self) -> Any:
        """The newest `CatalogState` that it has seen."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def at(self, version: int, seconds: float) -> Any:
        """The state as soon as it has reached a version, or None after so many seconds."""

    def search(
        self, vectors: NDArray[np.float32], k: int, allowed: Filter | None = None, state: Any = None
    ) -> list[list[Found]]:
        """For every vector `[B, D]` the `k` items (or all that there are) of the greatest dot product, best first.

        Raises:
            DataError: a vector has another length, is zero, or is not finite.
        """

    def fetch(self, keys: Sequence[int], columns: Sequence[str] = FIELDS, state: Any = None) -> list[dict[str, Any]]:
        """Fields of items by key, each with its id."""

    def item(self, item_id: str, columns: Sequence[str] = FIELDS, state: Any = None) -> Mapping[str, Any] | None:
        """Fields of the item with `item_id`, or None."""
