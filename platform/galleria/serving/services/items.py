"""Writes of items, apart from HTTP."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from galleria.catalog.items import INPUT_FIELDS, content_hash, encode_attributes, item_key
from galleria.catalog.writer import ContentChangedError, Unchanged, WriteResult
from galleria.errors import DataError
from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.serving.audit import Origin
from galleria.serving.inference.client import ModelClient
from galleria.serving.retrieval.image_reader import ImageReader, ReadImage
from galleria.serving.retrieval.searcher import Catalog
from galleria.serving.retrieval.writer import Writer
from galleria.serving.schemas.problems import ProblemError, invalid_field, to_problem_error
from galleria.serving.schemas.requests import ItemInput
from galleria.serving.schemas.responses import ItemResult, WriteResponse, milliseconds
from galleria.serving.services.search import unit


class ItemService:
    """Puts items into the catalogue and deletes them.

    Args:
        catalog: as searches see it.
        model: embeds pictures and texts.
        writer: writes.
        limits: on a request.
        images: reads pictures that items name by URI.
    """

    def __init__(
        self, catalog: Catalog, model: ModelClient, writer: Writer, limits: Limits, images: ImageReader
    ) -> None:
        self._catalog = catalog
        self._model = model
        self._writer = writer
        self._limits = limits
        self._images = images

    async def put(self, items: Sequence[Mapping[str, Any]], started: float, origin: Origin) -> WriteResponse:
        """Put items, each as its JSON; one that cannot be used does not stop the others.

        Raises:
            ProblemError: 422, too many items; 429, too many requests with an `image_uri`; 503, the model or the writer
                cannot be reached; nothing is written then.
            CatalogFullError: the disk is full; nothing is written.
        """
        if len(items) > self._limits.batch_items:
            raise invalid_field("items", f"are {len(items)}, over the limit of {self._limits.batch_items}")
        if any(item.get("image_uri") is not None for item in items):
            async with self._images.request() as read_image:
                return await self._put(items, started, origin, read_image)
        return await self._put(items, started, origin)

    async def _put(
        self, items: Sequence[Mapping[str, Any]], started: float, origin: Origin, read_image: ReadImage | None = None
    ) -> WriteResponse:
        prepared = await asyncio.gather(*(self._prepare(item, read_image) for item in items))
        try:
            written = await self._write(prepared, origin)
        except ContentChangedError:  # this gateway sees an older version of the table than the writer
            prepared = await asyncio.gather(*(self._with_vector(item) for item in prepared))
            written = await self._write(prepared, origin)
        statuses = iter(written.statuses)
        return WriteResponse(
            version=written.version,
            items=[
                item if isinstance(item, ItemResult) else ItemResult(id=item.row["id"], status=next(statuses))
                for item in prepared
            ],
            latency_ms=milliseconds(time.perf_counter() - started),
        )

    async def delete(self, item_id: str, started: float, origin: Origin) -> WriteResponse:
        """Delete one item; its status is "absent" where there is none, as after a deletion whose response was lost.

        Raises:
            ProblemError: 503, the writer cannot be reached.
            DataError: the id cannot be used.
        """
        item_key(item_id)
        written = await self._writer.delete([item_id], origin)
        return WriteResponse(
            version=written.version,
            items=[ItemResult(id=item_id, status=written.statuses[0])],
            latency_ms=milliseconds(time.perf_counter() - started),
        )

    async def _prepare(self, values: Mapping[str, Any], read_image: ReadImage | None) -> "_Prepared | ItemResult":
        """Return an item to write, without its vector where it seems to be unchanged; or why it is rejected."""
        item_id = values.get("id")
        try:
            item = await asyncio.to_thread(ItemInput.model_validate, values)
            if item.image_uri is not None and read_image is not None:
                item.image = await read_image(item.image_uri)
            row = await asyncio.to_thread(self._row, item)
        except (DataError, ValidationError, ProblemError) as error:
            return _rejected(item_id if isinstance(item_id, str) else None, error)
        prepared = _Prepared(row, None)
        return prepared if self._seems_unchanged(row) else await self._with_vector(prepared)

    async def _with_vector(self, item: "_Prepared | ItemResult") -> "_Prepared | ItemResult":
        """Return an item with its vector, or why it is rejected."""
        if isinstance(item, ItemResult) or item.vector is not None:
            return item
        try:
            return _Prepared(item.row, await self._vector(item.row))
        except (DataError, ProblemError) as error:
            return _rejected(item.row["id"], error)

    async def _write(self, prepared: Sequence["_Prepared | ItemResult"], origin: Origin) -> WriteResult:
        """Write the items that are not rejected, in one request.

        Raises:
            ContentChangedError: one without a vector has changed; nothing is written.
        """
        items = [item for item in prepared if not isinstance(item, ItemResult)]
        if not items:
            return WriteResult(self._catalog.state.version, ())
        vectors = [item.vector for item in items if item.vector is not None]
        return await self._writer.put(
            [Unchanged(item.row["id"], content_hash(item.row)) if item.vector is None else item.row for item in items],
            np.stack(vectors) if vectors else np.empty((0, self._catalog.dimension), np.float32),
            origin,
        )

    def _row(self, item: ItemInput) -> dict[str, Any]:
        item_key(item.id)
        row = {"id": item.id, **{name: getattr(item, name) for name in INPUT_FIELDS}}
        row["attributes"] = json.loads(encode_attributes(item.attributes) or "{}")
        if row["image"] is not None:
            media_type(row["image"], self._limits)
        if item.vector is not None:
            row["vector"] = self._check_vector(item.vector)
        return row

    def _check_vector(self, vector: Sequence[float]) -> NDArray[np.float32]:
        if len(vector) != self._catalog.dimension:
            raise DataError(f"vector has {len(vector)} values, the catalogue has {self._catalog.dimension}")
        if not any(vector):
            raise DataError("vector is all zero: send an embedding of the same model")
        return unit(vector)

    def _seems_unchanged(self, row: Mapping[str, Any]) -> bool:
        entry = self._catalog.state.key_map.get(item_key(row["id"]))
        return entry is not None and entry.content == content_hash(row)

    async def _vector(self, row: Mapping[str, Any]) -> NDArray[np.float32]:
        if "vector" in row:
            vector: NDArray[np.float32] = row["vector"]
            return vector
        query = {"image": row["image"]} if row["image"] is not None else {"text": row["text"]}
        embedding: NDArray[np.float32] = (await self._model.predict(query))["embedding"]
        return embedding / np.linalg.norm(embedding)


class _Prepared(NamedTuple):
    """The row of an item to write, and its vector, or None where the item seems to be unchanged."""

    row: dict[str, Any]
    vector: NDArray[np.float32] | None


def _rejected(item_id: str | None, error: Exception) -> ItemResult:
    """Return the result of an item that cannot be used; errors of the service itself are raised."""
    problem = to_problem_error(error)
    if problem.status >= 500:
        raise error
    return ItemResult(id=item_id, status="rejected", problem=problem.detail)
