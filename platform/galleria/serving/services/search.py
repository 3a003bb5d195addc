"""Searches, and reads of the catalogue, apart from HTTP."""

import asyncio
import hashlib
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from galleria.catalog.items import FIELDS, item_key
from galleria.catalog.state import State
from galleria.errors import MediaError
from galleria.index.filters import Filter, read_filter
from galleria.index.ranking import Cursor
from galleria.index.shard import Neighbor
from galleria.lru_cache import LRUCache
from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.serving.inference.client import ModelClient
from galleria.serving.retrieval.searcher import Searcher, SearchResult
from galleria.serving.schemas.cursor import is_of_model, write_cursor
from galleria.serving.schemas.item_paths import item_path
from galleria.serving.schemas.problems import ProblemError, invalid_field
from galleria.serving.schemas.requests import QueryInput, SearchRequest
from galleria.serving.schemas.responses import (
    CatalogResponse,
    CatalogVersion,
    Hit,
    Item,
    ItemResponse,
    SearchResponse,
    SearchStages,
    ShardCount,
    milliseconds,
)
from galleria.serving.services.version_wait import VersionWait

MIN_MIX_LENGTH = 1e-6
"""Length of a sum of unit vectors below which its direction means nothing."""

SAFE_SQUARES = (1e-100, 1e100)
"""Squared lengths that neither underflow nor overflow."""

ITEM_CACHE_BYTES = 64e6
"""Memory for the fields of items."""

INLINE_JPEG_BYTES = 64 * 1024
"""A JPEG's header is read faster than a thread starts; other types may have compressed texts in theirs."""

JPEG = b"\xff\xd8\xff"

UNLIMITED = Limits(image_bytes=2**62, image_pixels=2**62)
"""Of pictures that are stored: they were within the limits of their time."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An item's encoded picture; `tag` changes with it."""

    data: bytes
    media_type: str
    tag: str


class SearchService:
    """Searches one catalogue with the model that embedded it.

    Args:
        searcher: searches the catalogue.
        model: embeds pictures and texts.
        limits: on a query.
        threads: concurrent reads of the catalogue.
        version_timeout_s: how long a request waits for its `min_version`, in seconds.
    """

    def __init__(
        self, searcher: Searcher, model: ModelClient, limits: Limits, threads: int, version_timeout_s: float
    ) -> None:
        self._limits = limits
        self._searcher = searcher
        self._catalog = searcher.catalog
        self._model = model
        self._versions = VersionWait(searcher.catalog, version_timeout_s)
        self._threads = ThreadPoolExecutor(threads, "catalogue")
        self._items = LRUCache[tuple[int, int], tuple[str, Item]](ITEM_CACHE_BYTES, _memory_bytes)

    async def search(self, query: SearchRequest, started: float) -> SearchResponse:
        """Search for a query whose reading began at `started` (of `time.perf_counter`).

        Raises:
            DataError: the query cannot be used.
            ProblemError: 422, the model has no levels to weigh, or `after` is of another; 503, it cannot be reached, or
                runs another bundle, or the catalogue is older than `min_version`.
        """
        times = [started, time.perf_counter()]
        if query.after is not None and not is_of_model(query.after, self._model.model.hash):
            raise invalid_field("after", "is of another model than the one that responds now: begin at the first page")
        allowed = read_filter(query.filter) if query.filter is not None else None
        if query.min_version is not None:
            self._versions.check(query.min_version)  # a route waits for it before it admits the request
        state = self._catalog.state
        vector, predicted = await self._embed(query, state)
        match_score = await self._match_score(query)
        times.append(time.perf_counter())
        result = await self._neighbors(vector, query, allowed, state)
        times.append(time.perf_counter())
        min_score = match_score if query.min_score == "calibrated" else query.min_score
        hits = await self._hits(_with_score(result.neighbors, min_score), result.state)
        times.append(time.perf_counter())
        return SearchResponse(
            hits=hits,
            next=self._cursor(query, result.neighbors, min_score),
            predicted=predicted,
            match_score=match_score,
            no_match=None
            if match_score is None or query.end > query.k
            else not _with_score(result.neighbors, match_score),
            partial=result.shards < result.state.shard_count,
            shards=ShardCount(searched=result.shards, total=result.state.shard_count),
            stages=_stages(times),
            latency_ms=milliseconds(times[-1] - started),
            model=self._model.model,
            catalog=self._catalog_version(result.state),
        )

    async def wait_for_version(self, min_version: int | None) -> None:
        """Wait until the catalogue is at a version, or a newer one: before a request is admitted.

        Raises:
            ProblemError: 429, too many requests wait; 503, the table has no such version.
        """
        if min_version is not None:
            await self._versions.wait(min_version)

    async def item(self, item_id: str, min_version: int | None = None, with_vector: bool = False) -> ItemResponse:
        """Return the fields of one item, and if asked its vector.

        Raises:
            DataError: the id cannot be used.
            ProblemError: 404, there is none; and as `wait_for_version`.
        """
        await self.wait_for_version(min_version)
        state = self._catalog.state
        columns = (*FIELDS, "embedding") if with_vector else FIELDS
        row = await self._in_thread(self._catalog.item, item_id, columns, state)
        if row is None:
            raise _no_item(item_id)
        return ItemResponse(
            id=row["id"], item=_item(row), vector=row.get("embedding"), catalog=self._catalog_version(state)
        )

    async def catalog(self, writable: bool) -> CatalogResponse:
        """Describe the catalogue as it is searched now; `writable` says whether the service writes to it."""
        state: State = self._catalog.state
        manifest = state.build.manifest
        shards = await self._searcher.shards()
        return CatalogResponse(
            **self._catalog_version(state).model_dump(),
            writable=writable,
            bundle_hash=manifest.bundle_hash,
            dimension=manifest.dimension,
            index_version=manifest.catalog_version,
            unindexed=sum(shard.unindexed for shard in shards),
            shards=shards,
        )

    async def picture(self, item_id: str) -> Picture:
        """Return the picture of one item.

        Raises:
            ProblemError: 404, there is none; 502, the bytes that are stored are no picture.
        """
        row = await self._in_thread(self._catalog.item, item_id, ("image",), self._catalog.state)
        if row is None:
            raise _no_item(item_id)
        if not row["image"]:
            raise ProblemError(404, "not-found", f"item {item_id[:200]!r} has no picture")
        try:
            kind = media_type(row["image"], UNLIMITED)
        except MediaError as error:
            detail = f"the stored picture of item {item_id[:200]!r} is damaged: put the item again"
            raise ProblemError(502, "damaged-picture", detail) from error
        return Picture(row["image"], kind, f'"{hashlib.sha256(row["image"]).hexdigest()[:32]}"')

    async def _embed(self, query: SearchRequest, state: State) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Return the query's vector, and what else the model predicts for it."""
        if query.level_weights is not None and query.image is None and query.text is None:
            raise invalid_field("level_weights", "only what the model embeds has levels: send one picture")
        if query.mix is None:
            return await self._embed_one(query, query.level_weights, state)
        parts = await asyncio.gather(*(self._embed_one(part, None, state) for part in query.mix))
        weights = [part.weight for part in query.mix]
        mixed = np.asarray(weights, np.float64) @ np.stack([unit(vector) for vector, _ in parts])
        if not np.linalg.norm(mixed) > MIN_MIX_LENGTH:
            raise invalid_field("mix", "the parts cancel each other out: change their weights")
        return unit(mixed), {}

    async def _embed_one(
        self, query: QueryInput, level_weights: Sequence[float] | None, state: State
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        if query.vector is not None:
            return unit(query.vector), {}
        if query.item is not None:
            item = await self._in_thread(self._catalog.item, query.item, ("embedding",), state)
            if item is None:
                raise invalid_field("item", f"the catalogue has no item {query.item[:200]!r}")
            return np.asarray(item["embedding"], np.float32), {}
        row: dict[str, Any] = {"text": query.text}
        if query.image is not None:
            # Rejects most bad bytes before they are sent on.
            if len(query.image) <= INLINE_JPEG_BYTES and query.image.startswith(JPEG):
                media_type(query.image, self._limits)
            else:
                await self._in_thread(media_type, query.image, self._limits)
            row = {"image": query.image}
        if level_weights is not None:
            row["level_weights"] = level_weights
        predicted = dict(await self._model.predict(row))
        return predicted.pop("embedding"), predicted

    async def _match_score(self, query: SearchRequest) -> float | None:
        row = {name: value for name, value in query if name in ("image", "text", "level_weights") and value is not None}
        score = await self._model.match_score(row) if "image" in row or "text" in row else None
        if score is None and query.min_score == "calibrated":
            raise invalid_field(
                "min_score",
                "the model's evaluation has no reliable score for queries like this (`no_match/kept` of GET "
                "/v1/models): give a number",
            )
        return score

    async def _neighbors(
        self, vector: NDArray[np.float32], query: SearchRequest, allowed: Filter | None, state: State
    ) -> SearchResult:
        """Return the page of neighbors that a query requests, without the items that it consists of."""
        own = {item_key(part.item) for part in (query, *(query.mix or ())) if part.item is not None}
        end = query.offset + query.k
        after = None if query.after is None else query.after.hit
        result = await self._searcher.search(vector, end + len(own), allowed, state, after)
        neighbors = [neighbor for neighbor in result.neighbors if neighbor.key not in own]
        return result._replace(neighbors=neighbors[query.offset : end])

    def _cursor(self, query: SearchRequest, page: Sequence[Neighbor], min_score: float | None) -> str | None:
        """Return where the next page begins, or None where there is none."""
        if len(page) < query.k or (min_score is not None and page[-1].score < min_score):
            return None
        return write_cursor(self._model.model.hash, Cursor(page[-1].score, page[-1].key, query.end))

    async def _hits(self, neighbors: Sequence[Neighbor], state: State) -> list[Hit]:
        """Add the fields of the items, from the cache or the table."""
        contents = self._catalog.contents([neighbor.key for neighbor in neighbors], state)
        items = self._items.get_all(contents)
        missing = [content for content in contents if content not in items]
        if missing:
            rows = await self._in_thread(self._catalog.fetch, [key for key, _ in missing], FIELDS, state)
            for content, row in zip(missing, rows, strict=True):
                items[content] = row["id"], _item(row)
                self._items.put(content, items[content])
        return [
            Hit(id=items[content][0], score=neighbor.score, item=items[content][1])
            for neighbor, content in zip(neighbors, contents, strict=True)
        ]

    def _catalog_version(self, state: State) -> CatalogVersion:
        return CatalogVersion(version=state.version, count=state.count, release=self._model.model.release)

    async def _in_thread(self, function: Any, *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *values)


def _with_score(neighbors: Sequence[Neighbor], min_score: float | None) -> Sequence[Neighbor]:
    return neighbors if min_score is None else [neighbor for neighbor in neighbors if neighbor.score >= min_score]


def _stages(times: Sequence[float]) -> SearchStages:
    """Return the duration of each stage from the five times, in seconds, between which they lie."""
    read, embed, search, fetch = (milliseconds(end - start) for start, end in itertools.pairwise(times))
    return SearchStages(read_ms=read, embed_ms=embed, search_ms=search, fetch_ms=fetch)


def _item(row: Mapping[str, Any]) -> Item:
    return Item(
        title=row["title"],
        text=row["text"],
        category=row["category"],
        product_id=row["product_id"],
        source=row["source"],
        attributes=json.loads(row["attributes"]) if row["attributes"] else None,
        image=f"{item_path(row['id'])}/image",
    )


def _memory_bytes(cached: tuple[str, Item]) -> float:
    """Estimate the memory of a cached item."""
    item_id, item = cached
    texts = (item_id, item.title, item.text, item.product_id, item.source, *(item.category or ()))
    attributes = [*(item.attributes or {}).items()]
    return 1000 + 2 * sum(len(text or "") for text in texts) + sum(200 + 2 * len(str(pair)) for pair in attributes)


def _no_item(item_id: str) -> ProblemError:
    return ProblemError(404, "not-found", f"the catalogue has no item {item_id[:200]!r}")


def unit(vector: Sequence[float] | NDArray[Any]) -> NDArray[np.float32]:
    """Return a vector of unit length in the same direction, whatever its scale; zero stays zero."""
    values = np.asarray(vector, np.float64)
    with np.errstate(over="ignore"):
        square = values @ values
    if not SAFE_SQUARES[0] < square < SAFE_SQUARES[1]:
        peak = np.abs(values).max()
        if not peak:
            return values.astype(np.float32)
        values = values / peak
        square = values @ values
    return (values / math.sqrt(square)).astype(np.float32)
