"""What the gateway does for a request, apart from HTTP."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.serving.embedding import Description, Embeds
from galleria.serving.problems import RefusedError, unavailable
from galleria.serving.schemas import CatalogName, Hit, Item, ItemAnswer, ModelName, SearchAnswer, SearchQuery, Stages
from galleria.serving.searcher import Searcher


@dataclass(frozen=True, slots=True)
class Picture:
    """An item's encoded picture; `tag` changes with the catalogue."""

    data: bytes
    media_type: str
    tag: str


class SearchService:
    """Answers queries from an embedder and a searcher that belong together.

    Args:
        searcher: holds the catalogue.
        embedder: embeds pictures and words.
        model: name of the embedder's bundle.
        limits: bounds on a query.
        threads: searches that run at a time.
    """

    def __init__(self, searcher: Searcher, embedder: Embeds, model: ModelName, limits: Limits, threads: int) -> None:
        self.limits = limits
        self._searcher = searcher
        self._embedder = embedder
        self._model = model
        self._catalog = CatalogName(version=searcher.version, count=searcher.count)
        self._threads = ThreadPoolExecutor(threads, "search")

    async def search(self, query: SearchQuery, started: float) -> SearchAnswer:
        """Hits for a query whose reading began at `started` (of `time.perf_counter`).

        Raises:
            DataError: the query cannot be used.
            RefusedError: 503, the embedder cannot answer, or answers for another bundle.
        """
        read = time.perf_counter()
        vector = await self._vector(query)
        embedded = time.perf_counter()
        hits, searched, fetched = await self._in_thread(self._find, vector, query.k)
        return SearchAnswer(
            hits=hits,
            stages=Stages(
                read_ms=_milliseconds(read - started),
                embed_ms=_milliseconds(embedded - read),
                search_ms=_milliseconds(searched),
                fetch_ms=_milliseconds(fetched),
            ),
            latency_ms=_milliseconds(time.perf_counter() - started),
            model=self._model,
            catalog=self._catalog,
        )

    async def item(self, item_id: str) -> ItemAnswer:
        """One item's fields.

        Raises:
            RefusedError: 404, there is none.
        """
        row = await self._in_thread(self._searcher.item, item_id)
        if row is None:
            raise _no_item(item_id)
        return ItemAnswer(id=row["id"], item=_item(row), catalog=self._catalog)

    async def picture(self, item_id: str) -> Picture:
        """One item's picture.

        Raises:
            RefusedError: 404, there is none.
        """
        row = await self._in_thread(self._searcher.item, item_id, ("image",))
        if row is None:
            raise _no_item(item_id)
        if not row["image"]:
            raise RefusedError(404, "not-found", f"item {id!r} has no picture")
        try:
            kind = media_type(row["image"], Limits())
        except Exception:  # whatever is stored: it is handed out as bytes that no browser interprets
            kind = "application/octet-stream"
        return Picture(row["image"], kind, f'"{self._catalog.version}-{len(row["image"])}"')

    async def model(self) -> Description:
        """The embedder in use, once it has answered and fits the catalogue.

        Raises:
            RefusedError: 503, it does not answer, or is of another bundle.
        """
        description = await self._embedder.describe()
        self._check_hash(description.hash)
        return description

    async def _vector(self, query: SearchQuery) -> NDArray[np.float32]:
        if query.vector is not None:
            values = np.asarray(query.vector, np.float64)
            peak = np.abs(values).max()
            return (values / peak if peak else values).astype(np.float32)  # within float32, whatever its scale
        row: dict[str, Any] = {"text": query.text}
        if query.image is not None:
            await self._in_thread(media_type, query.image, self.limits)  # refuses most bad bytes before the hop
            row = {"image": query.image}
        outcome = await self._embedder.embed(row)
        self._check_hash(outcome.bundle_hash)
        return outcome.unwrap()

    def _find(self, vector: NDArray[np.float32], k: int) -> tuple[list[Hit], float, float]:
        started = time.perf_counter()
        found = self._searcher.search(vector, k)
        searched = time.perf_counter()
        rows = self._searcher.fetch([result.place for result in found])
        hits = [Hit(id=row["id"], score=result.score, item=_item(row)) for result, row in zip(found, rows, strict=True)]
        return hits, searched - started, time.perf_counter() - searched

    def _check_hash(self, found: str) -> None:
        if found != self._searcher.bundle_hash:
            raise unavailable(
                f"the embedder runs bundle {found[:12]}, the catalogue was made with "
                f"{self._searcher.bundle_hash[:12]}: start the service again with a bundle and a "
                "catalogue that belong together"
            )

    async def _in_thread(self, function: Any, *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *values)


def _item(row: Mapping[str, Any]) -> Item:
    return Item(
        title=row["title"],
        text=row["text"],
        category=row["category"],
        product_id=row["product_id"],
        source=row["source"],
        image=f"/v1/items/{quote(row['id'], safe='')}/image",
    )


def _no_item(item_id: str) -> RefusedError:
    return RefusedError(404, "not-found", f"the catalogue has no item {item_id[:200]!r}")


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
