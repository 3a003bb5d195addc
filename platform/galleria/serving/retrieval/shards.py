"""Shards of the index in processes of their own, and the gateway's side that searches them and merges the results."""

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from galleria.catalog.live import LiveCatalog
from galleria.errors import DataError, StorageError
from galleria.index.filters import Filter, read_filter
from galleria.index.ranking import Cursor
from galleria.index.shard import Neighbor
from galleria.serving.config import SEARCH, CatalogLocation, ServiceConfig
from galleria.serving.garbage import freeze_heap
from galleria.serving.open_cache import OpenCache
from galleria.serving.resolve import ReleaseRef, resolve_current
from galleria.serving.retrieval.searcher import Catalog, SearchResult, shard_statuses
from galleria.serving.rpc import call
from galleria.serving.schemas.problems import ProblemError, unavailable, without_paths
from galleria.serving.schemas.responses import ShardStatus
from galleria.serving.traffic_split import TrafficSplit

logger = logging.getLogger("ray.serve")

MAX_OPEN_CATALOGS = 3
"""The catalogue in use, the one before it, and that of a canary."""

MAX_KEPT_VERSIONS = 16
"""Versions that a shard can still search when it has seen a newer one."""

POLL_INTERVAL_S = 0.5
"""How often a shard looks for newer versions; a query for a newer version makes it look at once."""


class ShardQuery(NamedTuple):
    """One search of a shard.

    Attributes:
        location: the catalogue to search.
        vector: `[D]`.
        k: maximum number of results.
        allowed: a filter's text, or None.
        version: of the product table; all shards search the same.
        table_id: identity of the table.
        after: items that come behind it only, or None.
    """

    location: CatalogLocation
    vector: NDArray[np.float32]
    k: int
    allowed: str | None
    version: int
    table_id: str
    after: Cursor | None = None


class ShardResult(NamedTuple):
    """The neighbors in one shard, best first: keys `[K]` and scores `[K]`; `unindexed` items are searched exactly."""

    keys: NDArray[np.uint64]
    scores: NDArray[np.float64]
    unindexed: int


class ShardServer:
    """One replica of one shard, as a Serve deployment. It searches any version of a table, and reads no fields."""

    def __init__(self, config: ServiceConfig, number: int, started: TrafficSplit[ReleaseRef]) -> None:
        """Open the shard of the catalogues that are in use; `started` are those at first.

        Raises:
            GalleriaError: the table or the index are missing, damaged, or do not belong to the bundle.
        """
        self._number = number
        self._threads = ThreadPoolExecutor(config.threads, "search")
        self._catalogs = OpenCache[CatalogLocation, LiveCatalog](
            MAX_OPEN_CATALOGS, self._open_catalog, LiveCatalog.close
        )
        for reference in resolve_current(config, SEARCH, started).all:
            if reference.catalog is not None:
                self._catalogs.open(reference.catalog)
        freeze_heap()

    async def search(self, query: ShardQuery) -> ShardResult | DataError | StorageError | None:
        """Return the neighbors at the query's version, None without that version, or an error that is expected."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._search, query)

    async def describe(self, location: CatalogLocation) -> list[ShardStatus]:
        """Describe this shard of a catalogue; open it where it is not."""
        return shard_statuses((await asyncio.to_thread(self._catalogs.open, location)).state)

    async def check_health(self) -> None:
        """Wait for a search thread. Called by Serve, which replaces a replica whose threads are stuck."""
        await asyncio.get_running_loop().run_in_executor(self._threads, _nothing)

    def _open_catalog(self, location: CatalogLocation) -> LiveCatalog:
        shards = (self._number,)
        catalog = LiveCatalog(location.table, location.index, location.bundle_hash, shards, MAX_KEPT_VERSIONS)
        catalog.follow(POLL_INTERVAL_S)
        return catalog

    def _search(self, query: ShardQuery) -> ShardResult | DataError | StorageError | None:
        catalog = self._catalogs.open(query.location)
        try:
            state = catalog.state_at(query.version, query.table_id)
        except DataError:  # storage may show a version later here than to the gateway
            state = None
        except StorageError as error:
            return error
        if state is None:
            return None
        try:
            allowed = None if query.allowed is None else read_filter(json.loads(query.allowed))
            [neighbors] = catalog.search(query.vector[None], query.k, allowed, state, query.after)
        except DataError as error:
            return error
        keys = np.array([neighbor.key for neighbor in neighbors], np.uint64)
        return ShardResult(keys, np.array([neighbor.score for neighbor in neighbors]), state.unindexed)


ShardOutcome = ShardResult | DataError | ProblemError | None
"""Of one search: the result, the client's error, why the shard gave no response, or None for a version it lacks."""


class ShardedSearcher:
    """Searches every shard, and merges their results. A shard that does not respond makes the result partial.

    Args:
        catalog: reads items; holds no shard.
        location: the same catalogue, for the shards.
        handles: of the shards' deployments, in order.
        timeout_s: how long a shard may take, in seconds.
    """

    def __init__(self, catalog: Catalog, location: CatalogLocation, handles: Sequence[Any], timeout_s: float) -> None:
        self.catalog = catalog
        self._location = location
        self._handles = handles
        self._timeout_s = timeout_s
        self._version_threads = ThreadPoolExecutor(len(handles), "version")
        self._unindexed = [0] * len(handles)

    @property
    def unindexed(self) -> int:
        """As `Searcher.unindexed`, by the last response of each shard."""
        return sum(self._unindexed)

    async def search(
        self, vector: NDArray[np.float32], k: int, allowed: Filter | None, state: Any, after: Cursor | None = None
    ) -> SearchResult:
        """As `Searcher.search`."""
        text = allowed.text if allowed else None
        query = ShardQuery(self._location, vector, k, text, state.version, state.table_id, after)
        outcomes, state = await self._search_one_version(query, state)
        results = {}
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, DataError):
                raise outcome
            if isinstance(outcome, ShardResult):
                results[number] = outcome
                self._unindexed[number] = outcome.unindexed
        if not results:
            raise _first_problem(outcomes)
        return SearchResult(_merge(results.values(), k), len(results), state)

    async def shards(self) -> list[ShardStatus]:
        """As `Searcher.shards`."""
        outcomes = await self._call_all("describe", self._location)
        return [shard for outcome in outcomes if isinstance(outcome, list) for shard in outcome]

    async def _search_one_version(self, query: ShardQuery, state: Any) -> tuple[list[ShardOutcome], Any]:
        """Search all shards at the version of `state`, or at a newer one where a shard no longer has it."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            outcomes = await self._call_all("search", query._replace(version=state.version, table_id=state.table_id))
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0 or not any(outcome is None for outcome in outcomes):
                return outcomes, state
            newer = await asyncio.get_running_loop().run_in_executor(
                self._version_threads, self.catalog.wait_for, state.version + 1, remaining_s
            )
            if newer is None:
                return outcomes, state
            state = newer

    async def _call_all(self, method: str, *values: Any) -> list[Any]:
        """Return the response of every shard, or the 503 in place of it."""

        async def call_shard(number: int, handle: Any) -> Any:
            try:
                result = await call(f"shard {number}", self._timeout_s, getattr(handle, method).remote, *values)
                if isinstance(result, StorageError):
                    return unavailable(f"shard {number}: {without_paths(str(result))}")
                return result
            except ProblemError as error:
                return error
            except RayTaskError as error:
                logger.error("shard %d failed: %s", number, error)
                return unavailable(f"shard {number} failed: see the service's log")

        return await asyncio.gather(*(call_shard(number, handle) for number, handle in enumerate(self._handles)))


def _merge(results: Iterable[ShardResult], k: int) -> list[Neighbor]:
    """Return the best `k` of all results, equal scores by key."""
    neighbors: list[Neighbor] = []
    for result in results:
        neighbors += map(Neighbor, result.keys.tolist(), result.scores.tolist())
    neighbors.sort(key=lambda neighbor: (-neighbor.score, neighbor.key))
    return neighbors[:k]


def _first_problem(outcomes: Iterable[ShardOutcome]) -> ProblemError:
    """Return why no shard gave a result."""
    problem = next((outcome for outcome in outcomes if isinstance(outcome, ProblemError)), None)
    return problem or unavailable("the catalogue changes faster than it can be searched: try again")


def _nothing() -> None:
    """Do nothing, in a search thread."""
