"""Items that are to be written to the catalogue of one release, apart from HTTP."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from galleria.catalog.attribute_names import check_count, names_of
from galleria.catalog.items import INPUT_FIELDS, content_hash, encode_attributes, item_key
from galleria.catalog.writer import Unchanged
from galleria.errors import DataError
from galleria.media.images import media_type
from galleria.media.limits import Limits
from galleria.serving.concurrency import map_concurrently
from galleria.serving.config import CatalogLocation
from galleria.serving.inference.client import ModelClient
from galleria.serving.retrieval.image_reader import ReadImage
from galleria.serving.retrieval.searcher import Catalog
from galleria.serving.retrieval.writer import CatalogPut
from galleria.serving.schemas.problems import ProblemError, to_problem_error
from galleria.serving.schemas.requests import ItemInput
from galleria.serving.schemas.responses import ItemResult
from galleria.serving.services.search import unit

Row = dict[str, Any]
"""Fields of an item; its `vector`, where the client has sent one."""


class PreparedItem(NamedTuple):
    """The row of an item to write, and its vector, or None where the item seems to be unchanged."""

    row: Row
    vector: NDArray[np.float32] | None


class ItemService:
    """Prepares items for the catalogue of one release: checks and embeds them.

    Args:
        location: of the catalogue.
        catalog: as searches see it.
        model: embeds pictures and texts.
        limits: on a request.

    Attributes:
        location: of the catalogue.
        release: that it belongs to, where it was published as one.
    """

    def __init__(self, location: CatalogLocation, catalog: Catalog, model: ModelClient, limits: Limits) -> None:
        self.location = location
        self.release = model.model.release
        self._catalog = catalog
        self._model = model
        self._limits = limits

    @property
    def version(self) -> int:
        """Return the version of the catalogue that searches see."""
        version: int = self._catalog.state.version
        return version

    async def check(self, items: Sequence[Mapping[str, Any]], read_image: ReadImage | None) -> list[Row | ItemResult]:
        """Return the rows of items, each given as its JSON, without their vectors; or why one is rejected."""
        return await map_concurrently(lambda item: self._check(item, read_image), items)

    async def prepare(self, rows: Sequence[Row | ItemResult]) -> list[PreparedItem | ItemResult]:
        """Return the items to write, without the vectors of those that seem to be unchanged; or why one is rejected.

        Raises:
            ProblemError: 503, the model cannot be reached.
        """
        return await map_concurrently(self._prepare, rows)

    async def with_vectors(self, prepared: Sequence[PreparedItem | ItemResult]) -> list[PreparedItem | ItemResult]:
        """Return the items with their vectors. Raises as `prepare`."""
        return await map_concurrently(self._with_vector, prepared)

    def put(self, prepared: Sequence[PreparedItem | ItemResult]) -> CatalogPut:
        """Return the request that writes the items that are not rejected."""
        items = [item for item in prepared if not isinstance(item, ItemResult)]
        vectors = [item.vector for item in items if item.vector is not None]
        return CatalogPut(
            self.location,
            [Unchanged(item.row["id"], content_hash(item.row)) if item.vector is None else item.row for item in items],
            np.stack(vectors) if vectors else np.empty((0, self._catalog.dimension), np.float32),
        )

    async def _check(self, values: Mapping[str, Any], read_image: ReadImage | None) -> Row | ItemResult:
        item_id = values.get("id")
        try:
            item = await asyncio.to_thread(ItemInput.model_validate, values)
            if item.image_uri is not None and read_image is not None:
                item.image = await read_image(item.image_uri)
            return await asyncio.to_thread(self._row, item)
        except (DataError, ValidationError, ProblemError) as error:
            return _rejected(item_id if isinstance(item_id, str) else None, error)

    async def _prepare(self, row: Row | ItemResult) -> PreparedItem | ItemResult:
        if isinstance(row, ItemResult):
            return row
        prepared = PreparedItem(row, None)
        return prepared if self._seems_unchanged(row) else await self._with_vector(prepared)

    async def _with_vector(self, item: PreparedItem | ItemResult) -> PreparedItem | ItemResult:
        """Return an item with its vector, or why it is rejected."""
        if isinstance(item, ItemResult) or item.vector is not None:
            return item
        try:
            return PreparedItem(item.row, await self._vector(item.row))
        except (DataError, ProblemError) as error:
            return _rejected(item.row["id"], error)

    def _row(self, item: ItemInput) -> Row:
        item_key(item.id)
        row = {"id": item.id, **{name: getattr(item, name) for name in INPUT_FIELDS}}
        check_count(names_of(item.attributes), self._limits.item_attributes)
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

    def _seems_unchanged(self, row: Row) -> bool:
        entry = self._catalog.state.key_map.get(item_key(row["id"]))
        return entry is not None and entry.content == content_hash(row)

    async def _vector(self, row: Row) -> NDArray[np.float32]:
        if "vector" in row:
            vector: NDArray[np.float32] = row["vector"]
            return vector
        query = {"image": row["image"]} if row["image"] is not None else {"text": row["text"]}
        embedding: NDArray[np.float32] = (await self._model.predict(query))["embedding"]
        return embedding / np.linalg.norm(embedding)


def without_vector(row: Row | ItemResult) -> Row | ItemResult:
    """Return the row for the catalogue of another model than the client's vector is of, or why there is none."""
    if isinstance(row, ItemResult) or "vector" not in row:
        return row
    if row["image"] is None and row["text"] is None:
        problem = "its vector is of another model, and it has no picture or text"
        return ItemResult(id=row["id"], status="rejected", problem=problem)
    return {name: value for name, value in row.items() if name != "vector"}


def _rejected(item_id: str | None, error: Exception) -> ItemResult:
    """Return the result of an item that cannot be used; errors of the service itself are raised."""
    problem = to_problem_error(error)
    if problem.status >= 500:
        raise error
    return ItemResult(id=item_id, status="rejected", problem=problem.detail)
