"""Shards of the index in processes of their own, and the gateway's side that asks them and merges their answers."""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from galleria.catalog.live import LiveCatalog
from galleria.errors import DataError
from galleria.index.filters import Filter, read_filter
from galleria.index.shard import Neighbor
from galleria.lru_cache import LRUCache
from galleria.serving.config import SEARCH, CatalogLocation, ServiceConfig
from galleria.serving.resolve import ResolvedAlias, in_use
from galleria.serving.retrieval.searcher import Catalog, SearchResult, shard_answers
from galleria.serving.rpc import call
from galleria.serving.schemas.problems import ProblemError, unavailable
from galleria.serving.schemas.responses import ShardStatus

logger = logging.getLogger("ray.serve")

KEPT = 3
"""Catalogues that stay open, those that were asked last: the one in use, the one before it, and one to try out."""

RECENT = 16
"""Versions that a shard can still be asked for when it has seen a newer."""

FOLLOW_SECONDS = 0.5
"""How often a shard looks for newer versions by itself; a query that asks for one has it caught up with at once."""


class ShardQuery(NamedTuple):
    """One search of a shard.

    Attributes:
        place: the catalogue that is searched.
        vector: `[D]`.
        k: most results.
        allowed: a filter's text, or None.
        version: of the product table; all shards are asked for the same.
    """

    place: CatalogLocation
    vector: NDArray[np.float32]
    k: int
    allowed: str | None
    version: int


class ShardFound(NamedTuple):
    """What one shard found, best first: keys `[K]` and scores `[K]`; `unindexed` items are not in its index yet."""

    keys: NDArray[np.uint64]
    scores: NDArray[np.float64]
    unindexed: int


class ShardServer:
    """One replica of one shard, as a Serve deployment. It searches any version of a table, and reads no fields."""

    def __init__(self, config: ServiceConfig, number: int, choice: ResolvedAlias) -> None:
        """Open the shard of the catalogues that are in use; `choice` is what was at first.

        Raises:
            GalleriaError: the table or the index are missing, damaged, or do not belong to the bundle.
        """
        self._number = number
        self._threads = ThreadPoolExecutor(config.threads, "search")
        self._catalogs = LRUCache[CatalogLocation, LiveCatalog](KEPT)
        self._opening = Lock()
        for offer in in_use(config, SEARCH, choice).offers:
            if offer.catalog is not None:
                self._catalog(offer.catalog)

    async def search(self, query: ShardQuery) -> ShardFound | DataError | None:
        """What is found at the query's version; the caller's error as a value; None where that version is gone."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._search, query)

    async def describe(self, place: CatalogLocation) -> list[ShardStatus]:
        """What it holds of a catalogue; opens it where it is not yet."""
        return shard_answers((await asyncio.to_thread(self._catalog, place)).state)

    async def check_health(self) -> None:
        """Called by Serve, which replaces a replica whose searching threads are stuck."""
        await asyncio.get_running_loop().run_in_executor(self._threads, _nothing)

    def _catalog(self, place: CatalogLocation) -> LiveCatalog:
        found = self._catalogs.get(place)
        if found is not None:
            return found
        with self._opening:
            found = self._catalogs.get(place)
            if found is None:
                found = LiveCatalog(place.table, place.index, place.bundle_hash, (self._number,), RECENT)
                found.follow(FOLLOW_SECONDS)
                for idle in self._catalogs.put(place, found):
                    idle.close()
            return found

    def _search(self, query: ShardQuery) -> ShardFound | DataError | None:
        catalog = self._catalog(query.place)
        try:
            state = catalog.state_at(query.version)
        except DataError:  # storage may show a version later here than to the gateway
            state = None
        if state is None:
            return None
        try:
            allowed = None if query.allowed is None else read_filter(json.loads(query.allowed))
            [found] = catalog.search(query.vector[None], query.k, allowed, state)
        except DataError as error:
            return error
        keys = np.array([one.key for one in found], np.uint64)
        return ShardFound(keys, np.array([one.score for one in found]), state.unindexed)


class ShardedSearcher:
    """Asks every shard for its best, and merges them. A shard that does not answer makes an answer partial.

    Args:
        catalog: reads items; holds no shard.
        place: the same, for the shards.
        handles: of the shards' deployments, in order.
        seconds: how long a shard may take.
    """

    def __init__(self, catalog: Catalog, place: CatalogLocation, handles: Sequence[Any], seconds: float) -> None:
        self.catalog = catalog
        self._place = place
        self._handles = handles
        self._seconds = seconds
        self._waits = ThreadPoolExecutor(len(handles), "version")
        self._unindexed = [0] * len(handles)

    @property
    def unindexed(self) -> int:
        """As `Searcher.unindexed`, as far as the shards have told with their last answers."""
        return sum(self._unindexed)

    async def search(self, vector: NDArray[np.float32], k: int, allowed: Filter | None, state: Any) -> SearchResult:
        """As `Searcher.search`."""
        ended = time.monotonic() + self._seconds
        while True:
            query = ShardQuery(self._place, vector, k, allowed.text if allowed else None, state.version)
            outcomes = await self._all("search", query)
            left = ended - time.monotonic()
            if left <= 0 or not any(outcome is None for outcome in outcomes):
                break
            # A shard is beyond this version, and has skipped it: follow, and ask for a newer.
            loop = asyncio.get_running_loop()
            newer = await loop.run_in_executor(self._waits, self.catalog.wait_for, state.version + 1, left)
            if newer is None:
                break
            state = newer
        found: list[Neighbor] = []
        answered = 0
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, DataError):
                raise outcome
            if isinstance(outcome, ShardFound):
                answered += 1
                self._unindexed[number] = outcome.unindexed
                found += map(Neighbor, outcome.keys.tolist(), outcome.scores.tolist())
        if not answered:
            refused = next((one for one in outcomes if isinstance(one, ProblemError)), None)
            raise refused or unavailable("the catalogue changes faster than it can be searched: try again")
        found.sort(key=lambda one: (-one.score, one.key))
        return SearchResult(found[:k], answered, state)

    async def shards(self) -> list[ShardStatus]:
        """As `Searcher.shards`."""
        outcomes = await self._all("describe", self._place)
        return [one for outcome in outcomes if isinstance(outcome, list) for one in outcome]

    async def _all(self, method: str, *values: Any) -> list[Any]:
        """What every shard answers, or why it is 503."""

        async def ask(number: int, handle: Any) -> Any:
            try:
                return await call(f"shard {number}", self._seconds, getattr(handle, method).remote, *values)
            except ProblemError as error:
                return error
            except RayTaskError as error:
                logger.error("shard %d failed: %s", number, error)
                return unavailable(f"shard {number} failed: see the service's log")

        return await asyncio.gather(*(ask(number, handle) for number, handle in enumerate(self._handles)))


def _nothing() -> None:
    """What a health check runs in a searching thread."""
