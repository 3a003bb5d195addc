"""The interfaces between the gateway, the catalogue and the shards of its index, and the search in this process."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from galleria.catalog.items import FIELDS
from galleria.catalog.live import FollowerStatus, LiveCatalog
from galleria.catalog.state import State
from galleria.index.filters import Filter
from galleria.index.ranking import Cursor
from galleria.index.shard import Neighbor
from galleria.serving.schemas.responses import ShardStatus

INLINE_LATENCY_S = 0.001
"""Searches below this latency run in the event loop: a thread would take longer to start."""

INLINE_MAX_K = 100
"""Maximum number of results of a search in the event loop."""

LATENCY_SMOOTHING = 0.1
"""Weight of the last search in the moving average of latencies."""


class CatalogState(Protocol):
    """The catalogue at one version: a response comes from exactly one."""

    @property
    def version(self) -> int:
        """Return the version of the product table."""

    @property
    def table_id(self) -> str:
        """Return the identity of the product table."""

    @property
    def count(self) -> int:
        """Return the number of items."""

    @property
    def shard_count(self) -> int:
        """Return the number of shards of the index."""


class Catalog(Protocol):
    """A catalogue that follows its table: `LiveCatalog`."""

    @property
    def state(self) -> Any:
        """Return the newest `CatalogState` that it has seen."""

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""

    @property
    def status(self) -> FollowerStatus:
        """Return how well it follows its table."""

    def wait_for(self, version: int, timeout_s: float) -> Any:
        """Wait for a version and return the state, or None after so many seconds."""

    @property
    def refreshed_at(self) -> float:
        """Return when the last look at the table began whose result `state` has, of `time.monotonic`."""

    def fetch(self, keys: Sequence[int], columns: Sequence[str] = FIELDS, state: Any = None) -> list[dict[str, Any]]:
        """Return fields of items by key, each with its id."""

    def contents(self, keys: Sequence[int], state: Any = None) -> list[tuple[int, int]]:
        """Return the keys of the items that exist, each with a hash of its content."""

    def item(self, item_id: str, columns: Sequence[str] = FIELDS, state: Any = None) -> Mapping[str, Any] | None:
        """Return fields of the item with `item_id`, or None."""

    def close(self) -> None:
        """Stop following the table; states can still be searched and read."""


class SearchResult(NamedTuple):
    """Neighbors, best first, the number of shards that were searched, and the state that they were searched at."""

    neighbors: list[Neighbor]
    shards: int
    state: Any


class Searcher(Protocol):
    """Searches a catalogue, in this process or in others.

    Attributes:
        catalog: that it searches.
    """

    @property
    def catalog(self) -> Catalog:
        """Return the catalogue that it searches."""

    @property
    def unindexed(self) -> int:
        """Return the number of items that are not in the index yet, and so are searched exactly."""

    async def search(
        self, vector: NDArray[np.float32], k: int, allowed: Filter | None, state: Any, after: Cursor | None = None
    ) -> SearchResult:
        """Return the `k` items (or all, if fewer) with the greatest dot product with a vector `[D]`, best first.

        With `after` those that come behind it.

        The result's state is `state`, or a newer one where a shard no longer has that version.

        Raises:
            DataError: the vector has another length, is zero, or is not finite.
            ProblemError: 503, no shard responds.
        """

    async def shards(self) -> list[ShardStatus]:
        """Describe the shards that respond."""


class LocalSearcher:
    """Searches in threads of this process.

    Args:
        catalog: with its shards.
        threads: maximum number of concurrent searches.
        clock: returns seconds.
    """

    def __init__(self, catalog: LiveCatalog, threads: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.catalog = catalog
        self._clock = clock
        self._threads = ThreadPoolExecutor(threads, "search")
        self._latency_s = 1.0  # moving average; starts high, so that the first searches run in threads
        self._last_state: State | None = None  # the first search of a state takes longer

    @property
    def unindexed(self) -> int:
        """As `Searcher.unindexed`."""
        return self.catalog.state.unindexed

    async def search(
        self, vector: NDArray[np.float32], k: int, allowed: Filter | None, state: State, after: Cursor | None = None
    ) -> SearchResult:
        """As `Searcher.search`. Fast searches run in the event loop, others in a thread."""
        fast = self._latency_s < INLINE_LATENCY_S and state is self._last_state
        if fast and allowed is None and after is None and k <= INLINE_MAX_K:
            neighbors = self._search(vector, k, allowed, state)
        else:
            loop = asyncio.get_running_loop()
            neighbors = await loop.run_in_executor(self._threads, self._search, vector, k, allowed, state, after)
        return SearchResult(neighbors, len(state.shards), state)

    def _search(
        self, vector: NDArray[np.float32], k: int, allowed: Filter | None, state: State, after: Cursor | None = None
    ) -> list[Neighbor]:
        started = self._clock()
        neighbors: list[Neighbor] = self.catalog.search(vector[None], k, allowed, state, after)[0]
        latency_s = self._clock() - started
        self._latency_s = max(latency_s, self._latency_s + (latency_s - self._latency_s) * LATENCY_SMOOTHING)
        self._last_state = state
        return neighbors

    async def shards(self) -> list[ShardStatus]:
        """As `Searcher.shards`."""
        return shard_statuses(self.catalog.state)


def shard_statuses(state: State) -> list[ShardStatus]:
    """Describe the shards of a state."""
    return [
        ShardStatus(kind=shard.base.spec.kind, indexed=view.base_count, unindexed=view.rows)
        for shard, view in state.shards.values()
    ]
