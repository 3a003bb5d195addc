"""Finds and reads items: the seams between the gateway, the catalogue, and the shards of its index."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from galleria.catalog.items import FIELDS
from galleria.catalog.live import LiveCatalog, State
from galleria.index.filters import Filter
from galleria.index.shard import Neighbor
from galleria.serving.schemas.responses import ShardStatus

QUICK_SECONDS = 0.001
"""Searches that take less hold nobody else up."""

FEW = 100
"""Results that a quick search looks for, at the most."""

RECENT = 0.1
"""Weight of the last search in what searches take of late."""


class CatalogState(Protocol):
    """The catalogue at one version: all of an answer comes from one."""

    @property
    def version(self) -> int:
        """Version of the product table."""

    @property
    def count(self) -> int:
        """Number of items."""

    @property
    def shard_count(self) -> int:
        """How many shards the index has."""


class Catalog(Protocol):
    """A catalogue that follows its table: `LiveCatalog`."""

    @property
    def state(self) -> Any:
        """The newest `CatalogState` that it has seen."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def wait_for(self, version: int, timeout_s: float) -> Any:
        """The state as soon as it has reached a version, or None after so many seconds."""

    def fetch(self, keys: Sequence[int], columns: Sequence[str] = FIELDS, state: Any = None) -> list[dict[str, Any]]:
        """Fields of items by key, each with its id."""

    def contents(self, keys: Sequence[int], state: Any = None) -> list[tuple[int, int]]:
        """Keys of the items that there are, each with a hash of its content."""

    def item(self, item_id: str, columns: Sequence[str] = FIELDS, state: Any = None) -> Mapping[str, Any] | None:
        """Fields of the item with `item_id`, or None."""

    def close(self) -> None:
        """Follow no longer; what was seen can still be searched and read."""


class SearchResult(NamedTuple):
    """What a search found, in how many shards, and the state that they were searched at."""

    found: list[Neighbor]
    shards: int
    state: Any


class Searcher(Protocol):
    """Searches a catalogue, in this process or in others.

    Attributes:
        catalog: what it searches.
    """

    @property
    def catalog(self) -> Catalog:
        """What it searches."""

    @property
    def unindexed(self) -> int:
        """Items that are searched exactly, since the index does not hold them yet."""

    async def search(self, vector: NDArray[np.float32], k: int, allowed: Filter | None, state: Any) -> SearchResult:
        """The `k` items (or all that there are) of the greatest dot product with a vector `[D]`, best first.

        SearchResult is `state`, or a newer one where the shards are beyond it.

        Raises:
            DataError: the vector has another length, is zero, or is not finite.
            ProblemError: 503, no shard answers.
        """

    async def shards(self) -> list[ShardStatus]:
        """The shards that answer."""


class LocalSearcher:
    """Searches in threads of this process.

    Args:
        catalog: with its shards.
        threads: searches that run at a time.
    """

    def __init__(self, catalog: LiveCatalog, threads: int) -> None:
        self.catalog = catalog
        self._threads = ThreadPoolExecutor(threads, "search")
        self._seconds = 1.0  # what a search takes of late; that it is quick must be seen first
        self._state: State | None = None  # what was searched last: the first search of a state has more to do

    @property
    def unindexed(self) -> int:
        """As `Searcher.unindexed`."""
        return self.catalog.state.unindexed

    async def search(self, vector: NDArray[np.float32], k: int, allowed: Filter | None, state: State) -> SearchResult:
        """As `Searcher.search`. One that is over sooner than a thread would have taken it up is done here."""
        if allowed is None and k <= FEW and state is self._state and self._seconds < QUICK_SECONDS:
            found = self._search(vector, k, allowed, state)
        else:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._threads, self._search, vector, k, allowed, state)
        return SearchResult(found, len(state.shards), state)

    def _search(self, vector: NDArray[np.float32], k: int, allowed: Filter | None, state: State) -> list[Neighbor]:
        begun = time.perf_counter()
        found: list[Neighbor] = self.catalog.search(vector[None], k, allowed, state)[0]
        taken = time.perf_counter() - begun
        self._seconds = max(taken, self._seconds + (taken - self._seconds) * RECENT)
        self._state = state
        return found

    async def shards(self) -> list[ShardStatus]:
        """As `Searcher.shards`."""
        return shard_answers(self.catalog.state)


def shard_answers(state: State) -> list[ShardStatus]:
    """What a state's shards say of themselves."""
    return [
        ShardStatus(kind=shard.base.spec.kind, indexed=view.base_count, unindexed=view.rows)
        for shard, view in state.shards.values()
    ]
