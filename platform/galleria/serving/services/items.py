"""Writes of items, apart from HTTP."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from galleria.catalog.items import INPUT_FIELDS, content_hash, encode_attributes, item_key
from galleria.errors import DataError
from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.serving.inference.client import ModelClient
from galleria.serving.retrieval.image_store import read_picture
from galleria.serving.retrieval.searcher import Catalog
from galleria.serving.retrieval.writer import Writer
from galleria.serving.schemas.problems import ProblemError, invalid_field, to_problem_error
from galleria.serving.schemas.requests import ItemInput
from galleria.serving.schemas.responses import ItemResult, WriteResponse, milliseconds
from galleria.serving.services.search import unit


class AbsentError(ProblemError):
    """404: there is no such item."""

    def __init__(self, item_id: str) -> None:
        super().__init__(404, "not-found", f"the catalogue has no item {item_id[:200]!r}")


class ItemService:
    """Puts items into the catalogue and deletes them.

    Args:
        catalog: as searches see it.
        model: embeds pictures and texts.
        writer: writes.
        limits: on a request.
        stores: prefixes of the URIs that pictures may be read from.
    """

    def __init__(
        self, catalog: Catalog, model: ModelClient, writer: Writer, limits: Limits, stores: Sequence[str]
    ) -> None:
        self._catalog = catalog
        self._model = model
        self._writer = writer
        self._limits = limits
        self._stores = stores

    async def put(self, items: Sequence[Mapping[str, Any]], started: float) -> WriteResponse:
        """Put items, each as its JSON; one that cannot be used does not stop the others.

        Raises:
            ProblemError: 422, too many items; 503, the model or the writer cannot be reached; nothing is written then.
            CatalogFullError: the disk is full; nothing is written.
        """
        if len(items) > self._limits.batch_items:
            raise invalid_field("items", f"are {len(items)}, over the limit of {self._limits.batch_items}")
        prepared = await asyncio.gather(*(self._prepare(item) for item in items))
        results = {index: outcome for index, outcome in enumerate(prepared) if isinstance(outcome, ItemResult)}
        to_write = {index: outcome for index, outcome in enumerate(prepared) if not isinstance(outcome, ItemResult)}
        version = self._catalog.state.version
        if to_write:
            rows, vectors = zip(*to_write.values(), strict=True)
            written = await self._writer.put(rows, np.stack(vectors))
            version = written.version
            for index, row, status in zip(to_write, rows, written.statuses, strict=True):
                results[index] = ItemResult(id=row["id"], status=status)
        return WriteResponse(
            version=version,
            items=[results[index] for index in range(len(items))],
            latency_ms=milliseconds(time.perf_counter() - started),
        )

    async def delete(self, item_id: str, started: float) -> WriteResponse:
        """Delete one item.

        Raises:
            AbsentError: there is none.
            ProblemError: 503, the writer cannot be reached.
            DataError: the id cannot be used.
        """
        item_key(item_id)
        written = await self._writer.delete([item_id])
        if written.statuses[0] == "absent":
            raise AbsentError(item_id)
        return WriteResponse(
            version=written.version,
            items=[ItemResult(id=item_id, status=written.statuses[0])],
            latency_ms=milliseconds(time.perf_counter() - started),
        )

    async def _prepare(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], NDArray[np.float32]] | ItemResult:
        """Return an item's row and vector, or its result where there is nothing to write."""
        item_id = values.get("id")
        try:
            item = await asyncio.to_thread(ItemInput.model_validate, values)
            row = await asyncio.to_thread(self._row, item)
            if self._unchanged(row):
                return ItemResult(id=row["id"], status="unchanged")
            return row, await self._vector(row)
        except (DataError, ValidationError, ProblemError) as error:
            problem = to_problem_error(error)
            if problem.status >= 500:
                raise
            known_id = item_id if isinstance(item_id, str) else None
            return ItemResult(id=known_id, status="rejected", problem=problem.detail)

    def _row(self, item: ItemInput) -> dict[str, Any]:
        item_key(item.id)
        row = {"id": item.id, **{name: getattr(item, name) for name in INPUT_FIELDS}}
        row["attributes"] = json.loads(encode_attributes(item.attributes) or "{}")
        if item.image_uri is not None:
            row["image"] = read_picture(item.image_uri, self._stores, self._limits.image_bytes)
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

    def _unchanged(self, row: Mapping[str, Any]) -> bool:
        entry = self._catalog.state.key_map.get(item_key(row["id"]))
        return entry is not None and entry.content == content_hash(row)

    async def _vector(self, row: Mapping[str, Any]) -> NDArray[np.float32]:
        if "vector" in row:
            vector: NDArray[np.float32] = row["vector"]
            return vector
        query = {"image": row["image"]} if row["image"] is not None else {"text": row["text"]}
        embedding: NDArray[np.float32] = (await self._model.predict(query))["embedding"]
        return embedding / np.linalg.norm(embedding)
