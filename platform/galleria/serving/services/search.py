"""What the gateway does for a search, apart from HTTP."""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from galleria.catalog.items import FIELDS, item_key
from galleria.catalog.live import State
from galleria.index.filters import Filter, read_filter
from galleria.index.shard import Neighbor
from galleria.lru_cache import LRUCache
from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.serving.inference.client import ServedModel
from galleria.serving.retrieval.searcher import Searcher, SearchResult
from galleria.serving.schemas.problems import ProblemError, invalid_field, unavailable
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

SMALLEST = 1e-6
"""Length of a sum of unit vectors below which its direction means nothing."""

PLAIN = (1e-100, 1e100)
"""Squares of lengths that can be divided by as they are."""

KEPT_BYTES = 64e6
"""Memory for the fields of items that were found."""

QUICK_BYTES = 64 * 1024
"""A JPEG's header is read sooner than a thread would have taken it up; other kinds may have packed texts in it."""

JPEG = b"\xff\xd8\xff"

WAITS = 16
"""Searches that wait for a version at a time; more wait for one of them first."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An item's encoded picture; `tag` changes with it."""

    data: bytes
    media_type: str
    tag: str


class SearchService:
    """Answers queries from a model and a searcher that belong together.

    Args:
        searcher: searches the catalogue.
        model: embeds pictures and words.
        limits: bounds on a query.
        threads: reads of the catalogue that run at a time.
        version_timeout_s: how long a search waits for the version that it asks for.
    """

    def __init__(
        self, searcher: Searcher, model: ServedModel, limits: Limits, threads: int, version_timeout_s: float
    ) -> None:
        self._limits = limits
        self._searcher = searcher
        self._catalog = searcher.catalog
        self._model = model
        self._version_seconds = version_timeout_s
        self._threads = ThreadPoolExecutor(threads, "catalogue")
        self._waits = ThreadPoolExecutor(WAITS, "version")
        self._items = LRUCache[tuple[int, int], tuple[str, Item]](KEPT_BYTES, _bytes_of)

    async def search(self, query: SearchRequest, started: float) -> SearchResponse:
        """Hits for a query whose reading began at `started` (of `time.perf_counter`).

        Raises:
            DataError: the query cannot be used.
            ProblemError: 422, the model has no levels to weigh; 503, it cannot answer, or answers for another bundle.
        """
        read = time.perf_counter()
        allowed = read_filter(query.filter) if query.filter is not None else None
        state = await self._state(query.min_version)
        vector, predicted = await self._embed(query, state)
        match_score = await self._match_score(query)
        embedded = time.perf_counter()
        least = match_score if query.min_score == "calibrated" else query.min_score
        found, shards, state = await self._find(vector, query, allowed, state)
        no_match = None if match_score is None or query.offset else not _reaches(found, match_score)
        found = [result for result in found if least is None or result.score >= least]
        searched = time.perf_counter()
        hits = await self._hits(found, state)
        done = time.perf_counter()
        return SearchResponse(
            hits=hits,
            predicted=predicted,
            match_score=match_score,
            no_match=no_match,
            partial=shards < state.shard_count,
            shards=ShardCount(searched=shards, total=state.shard_count),
            stages=SearchStages(
                read_ms=milliseconds(read - started),
                embed_ms=milliseconds(embedded - read),
                search_ms=milliseconds(searched - embedded),
                fetch_ms=milliseconds(done - searched),
            ),
            latency_ms=milliseconds(done - started),
            model=self._model.model,
            catalog=CatalogVersion(version=state.version, count=state.count),
        )

    async def item(self, item_id: str, min_version: int | None = None) -> ItemResponse:
        """One item's fields.

        Raises:
            DataError: the id cannot be used.
            ProblemError: 404, there is none; 503, the version that was asked for is not here yet.
        """
        state = await self._state(min_version)
        row = await self._in_thread(self._catalog.item, item_id, FIELDS, state)
        if row is None:
            raise _no_item(item_id)
        return ItemResponse(
            id=row["id"], item=_item(row), catalog=CatalogVersion(version=state.version, count=state.count)
        )

    async def catalog(self, writable: bool = False) -> CatalogResponse:
        """What is searched now, and whether the service writes to it."""
        state: State = self._catalog.state
        manifest = state.build.manifest
        shards = await self._searcher.shards()
        return CatalogResponse(
            version=state.version,
            count=state.count,
            writable=writable,
            bundle_hash=manifest.bundle_hash,
            dimension=manifest.dimension,
            index_version=manifest.catalog_version,
            unindexed=sum(shard.unindexed for shard in shards),
            shards=shards,
        )

    async def picture(self, item_id: str) -> Picture:
        """One item's picture.

        Raises:
            ProblemError: 404, there is none.
        """
        row = await self._in_thread(self._catalog.item, item_id, ("image",), self._catalog.state)
        if row is None:
            raise _no_item(item_id)
        if not row["image"]:
            raise ProblemError(404, "not-found", f"item {item_id[:200]!r} has no picture")
        try:
            kind = media_type(row["image"], Limits())
        except Exception:  # whatever is stored: it is handed out as bytes that no browser interprets
            kind = "application/octet-stream"
        return Picture(row["image"], kind, f'"{hashlib.sha256(row["image"]).hexdigest()[:32]}"')

    async def _embed(self, query: SearchRequest, state: State) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The query's vector, and what else the model says of it."""
        if query.level_weights is not None and query.image is None and query.text is None:
            raise invalid_field("level_weights", "only what the model embeds has levels: send one picture")
        if query.mix is None:
            return await self._embed_one(query, query.level_weights, state)
        parts = await asyncio.gather(*(self._embed_one(part, None, state) for part in query.mix))
        weights = [part.weight for part in query.mix]
        mixed = np.asarray(weights, np.float64) @ np.stack([unit(vector) for vector, _ in parts])
        if not np.linalg.norm(mixed) > SMALLEST:
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
            # Refuses most bad bytes before they go any further.
            if len(query.image) <= QUICK_BYTES and query.image.startswith(JPEG):
                media_type(query.image, self._limits)
            else:
                await self._in_thread(media_type, query.image, self._limits)
            row = {"image": query.image}
        if level_weights is not None:
            row["level_weights"] = level_weights
        predicted = dict(await self._model.answer(row))
        return predicted.pop("embedding"), predicted

    async def _state(self, min_version: int | None) -> State:
        newest: State = self._catalog.state
        if min_version is None or newest.version >= min_version:
            return newest
        state: State | None = await asyncio.get_running_loop().run_in_executor(
            self._waits, self._catalog.wait_for, min_version, self._version_seconds
        )
        if state is None:
            raise unavailable(f"the catalogue is at version {newest.version}, not yet at {min_version}: try again")
        return state

    async def _match_score(self, query: SearchRequest) -> float | None:
        row = {name: value for name, value in query if name in ("image", "text", "level_weights") and value is not None}
        score = await self._model.match_score(row) if "image" in row or "text" in row else None
        if score is None and query.min_score == "calibrated":
            raise invalid_field("min_score", "the model was not measured for queries like this: give a number")
        return score

    async def _find(
        self,
        vector: NDArray[np.float32],
        query: SearchRequest,
        allowed: Filter | None,
        state: State,
    ) -> SearchResult:
        asked = {item_key(part.item) for part in (query, *(query.mix or ())) if part.item is not None}
        last = query.offset + query.k
        searched = await self._searcher.search(vector, last + len(asked), allowed, state)
        found = [result for result in searched.found if result.key not in asked][query.offset : last]
        return searched._replace(found=found)

    async def _hits(self, found: Sequence[Neighbor], state: State) -> list[Hit]:
        names = self._catalog.contents([result.key for result in found], state)
        items = self._items.get_all(names)
        missing = [name for name in names if name not in items]
        if missing:
            rows = await self._in_thread(self._catalog.fetch, [key for key, _ in missing], FIELDS, state)
            for name, row in zip(missing, rows, strict=True):
                items[name] = item = row["id"], _item(row)
                self._items.put(name, item)
        described = [items[name] for name in names]
        return [
            Hit(id=item_id, score=result.score, item=item)
            for result, (item_id, item) in zip(found, described, strict=True)
        ]

    async def _in_thread(self, function: Any, *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *values)


def _reaches(found: Sequence[Neighbor], score: float) -> bool:
    return any(result.score >= score for result in found)


def _item(row: Mapping[str, Any]) -> Item:
    return Item(
        title=row["title"],
        text=row["text"],
        category=row["category"],
        product_id=row["product_id"],
        source=row["source"],
        attributes=json.loads(row["attributes"]) if row["attributes"] else None,
        image=f"/v1/items/{quote(row['id'], safe='')}/image",
    )


def _bytes_of(kept: tuple[str, Item]) -> float:
    """About as much memory as it takes."""
    item_id, item = kept
    texts = (item_id, item.title, item.text, item.product_id, item.source, *(item.category or ()))
    attributes = [*(item.attributes or {}).items()]
    return 1000 + 2 * sum(len(text or "") for text in texts) + sum(200 + 2 * len(str(pair)) for pair in attributes)


def _no_item(item_id: str) -> ProblemError:
    return ProblemError(404, "not-found", f"the catalogue has no item {item_id[:200]!r}")


def unit(vector: Sequence[float] | NDArray[Any]) -> NDArray[np.float32]:
    """The same direction at unit length, whatever its scale; zero stays zero."""
    values = np.asarray(vector, np.float64)
    with np.errstate(over="ignore"):
        square = values @ values
    if not PLAIN[0] < square < PLAIN[1]:
        peak = np.abs(values).max()
        if not peak:
            return values.astype(np.float32)
        values = values / peak
        square = values @ values
    return (values / math.sqrt(square)).astype(np.float32)
