"""Unit vectors, items with fields and builds of them, for the tests of the index."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from galleria.index.base import Base, Vectors, write_build
from galleria.index.columns import filter_columns
from galleria.index.kinds import Kind, Plan, build
from galleria.index.manifest import Manifest

HASH = "b" * 64
COLOURS = ("red", "green", "blue", "grey")

FIELDS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "title", "product_id", "source")),
        ("category", pa.list_(pa.string())),
        ("attributes", pa.string()),
    ]
)


def unit(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Return unit vectors in clusters of about fifty."""
    near = unit(max(1, count // 50), dimension, seed + 1)[
        np.random.default_rng(seed).integers(0, max(1, count // 50), count)
    ]
    vectors = near + 0.5 * unit(count, dimension, seed)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def columns(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return `filter_columns` of items whose attributes are mappings."""
    encoded = [dict(row) | {"attributes": json.dumps(row.get("attributes") or {}) or None} for row in rows]
    return filter_columns(pa.Table.from_pylist(encoded, FIELDS))


def row(key: int) -> dict[str, Any]:
    """Return the item of a key: a colour of four, a shelf of ten, and whether its number is even."""
    return {
        "id": f"item {key}",
        "category": ["Shop", f"Shelf {key % 10}"],
        "attributes": {"colour": COLOURS[key % 4], "number": key, "even": key % 2 == 0},
    }


def items(keys: Sequence[int], vectors: np.ndarray) -> Vectors:
    numbers = np.array(keys, np.uint64)
    return Vectors(numbers, numbers + np.uint64(1), vectors, columns([row(key) for key in keys]))


def base(keys: Sequence[int], vectors: np.ndarray, kind: Kind = "Flat") -> Base:
    """Return an open base that was never on a disk."""
    index, spec = build(vectors, Plan(kind=kind))
    numbers = np.array(keys, np.uint64)
    return Base(index, spec, numbers, numbers + np.uint64(1), columns([row(key) for key in keys]))


def write(folder: Path, count: int = 60, shards: int = 2, version: int = 1, seed: int = 0, **plan: Any) -> Manifest:
    """Write a build of items 0 … count - 1, each in the shard of its key."""
    vectors = unit(count, 8, seed)
    parts = [items(range(number, count, shards), vectors[number::shards]) for number in range(shards)]
    return write_build(folder, parts, Plan(**plan), HASH, version)
