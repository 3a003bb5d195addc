"""Small product tables and indexes for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from galleria.catalog.items import table_schema, upserts
from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable, vector_column
from galleria.index.base import Vectors, write_build
from galleria.index.columns import FILTER_FIELDS, filter_columns
from galleria.index.kinds import Plan

HASH = "b" * 64
DIMENSION = 3


def unit(count: int, dimension: int = DIMENSION, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def at_angle(*degrees: float) -> np.ndarray:
    """Return unit vectors in a plane: the cosine of two is that of the difference of their angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles), np.zeros(len(degrees))], axis=1).astype(np.float32)


def rows(*ids: str, seed: int = 0, **fields: Any) -> pa.RecordBatch:
    """Return rows that put items; the title of each is its id unless another is given."""
    return upserts([{"id": name, "title": name} | fields for name in ids], unit(len(ids), seed=seed), HASH)


def create_table(path: Path, *batches: pa.RecordBatch, dimension: int = DIMENSION) -> ProductTable:
    table = ProductTable.create(path, table_schema(dimension, HASH))
    for batch in batches:
        table = table.append(batch)
    return table


def titles(table: ProductTable) -> dict[str, str | None]:
    """Return the titles of a table's items by id."""
    return {row["id"]: row["title"] for batch in table.items(("id", "title")) for row in batch.to_pylist()}


def index_of(
    table: ProductTable, folder: Path, shards: int = 1, plan: Plan | None = None, bundle_hash: str = HASH
) -> Path:
    """Build an index of a version of a table; return its folder."""
    keys, contents, addresses = table.key_map().arrays()
    parts = []
    for number in range(shards):
        mine = keys % np.uint64(shards) == number
        columns = table.take(addresses[mine], ("embedding", *FILTER_FIELDS))
        parts.append(Vectors(keys[mine], contents[mine], vector_column(columns), filter_columns(columns)))
    write_build(folder, parts, plan or Plan(), bundle_hash, table.version, table.table_id)
    return folder


def ids_of(hits: list[Any], catalog: LiveCatalog, **options: Any) -> list[str]:
    """Return the ids of one query's hits, best first."""
    return [row["id"] for row in catalog.fetch([hit.key for hit in hits], (), **options)]
