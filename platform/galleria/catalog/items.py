"""Items of a catalogue as rows of the product table."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galleria.errors import DataError, SchemaError
from galleria.index.columns import INT64

BUNDLE_HASH = b"bundle_hash"
"""Schema metadata: hash of the bundle that made the vectors."""

TABLE_ID = b"table_id"
"""Schema metadata: identity of a table, which no other has; tables of galleria 0.1 have none."""

FORMAT_KEY = b"galleria_format"
"""Schema metadata: version of this layout."""

FORMAT = 1

FIELDS = ("title", "text", "category", "product_id", "source", "attributes")
"""Columns of an item that responses carry."""

INPUT_FIELDS = ("image", *FIELDS)
"""Columns that a client sends; the others are computed."""

MAX_ID_BYTES = 512
"""Maximum bytes of an id as UTF-8."""

UNIT_TOLERANCE = 1e-3
"""Maximum difference of a squared length from 1."""

AttributeValue = str | int | float | bool


def table_schema(dimension: int, bundle_hash: str) -> pa.Schema:
    """Return the columns of a product table whose vectors have `dimension` float32 values.

    The table is a log: the last row of an id is the current one, and a row with `deleted` says that there is no such
    item. `key` is a 64-bit hash of the id, by which rows are looked up and spread over shards; `content` a hash of the
    fields that the client sent, by which an unchanged item is recognised. `settled` rows were written by `compact`.
    """
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("key", pa.uint64(), nullable=False),
            pa.field("content", pa.uint64(), nullable=False),
            pa.field("deleted", pa.bool_(), nullable=False),
            pa.field("settled", pa.bool_(), nullable=False),
            pa.field("image", pa.binary()),
            pa.field("title", pa.string()),
            pa.field("text", pa.string()),
            pa.field("category", pa.list_(pa.string())),
            pa.field("product_id", pa.string()),
            pa.field("source", pa.string()),
            pa.field("attributes", pa.string()),
            pa.field("embedding", pa.list_(pa.float32(), dimension)),
        ],
        metadata={BUNDLE_HASH: bundle_hash.encode(), FORMAT_KEY: str(FORMAT).encode()},
    )


def item_key(item_id: str) -> int:
    """Return a stable 64-bit hash of an id (BLAKE2b).

    Raises:
        DataError: the id is empty, too long, or not Unicode text.
    """
    if not isinstance(item_id, str):
        raise DataError(f"id {item_id!r} is not text: put it into quotes")
    try:
        encoded = item_id.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"id {item_id!r} is not valid Unicode: send other characters") from error
    if not 0 < len(encoded) <= MAX_ID_BYTES:
        raise DataError(f"an id has 1 to {MAX_ID_BYTES} bytes, {item_id[:40]!r} has {len(encoded)}")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def check_fields(item: Mapping[str, Any]) -> None:
    """Check that a table can hold the fields of an item, apart from its picture.

    Raises:
        DataError: an attribute cannot be used.
        SchemaError: a field has a value of another type.
    """
    for name in FIELDS:
        _normalized(name, item.get(name))


def content_hash(item: Mapping[str, Any]) -> int:
    """Return a 64-bit hash of the fields that a client sent: `INPUT_FIELDS`, and its own `vector`; never 0.

    Raises:
        DataError: a field cannot be used.
    """
    return _content_hash({name: _normalized(name, item.get(name)) for name in INPUT_FIELDS}, item.get("vector"))


def upserts(items: Sequence[Mapping[str, Any]], vectors: NDArray[np.float32], bundle_hash: str) -> pa.RecordBatch:
    """Return the rows that put items with their unit vectors `[N, D]` into a table.

    Args:
        items: `id` and those of the `INPUT_FIELDS` that are known; `attributes` as a mapping; `vector`, if the client
            sent its own. An item with neither picture nor text always has one.
        vectors: of these items, in the same order.
        bundle_hash: the bundle that made them.

    Raises:
        DataError: an id, an attribute or a vector cannot be used.
        SchemaError: a field has a value of another type.
    """
    check_unit(vectors)
    count, dimension = vectors.shape
    if count != len(items):
        raise DataError(f"there are {len(items)} items with {count} vectors: give one for every item")
    schema = table_schema(dimension, bundle_hash)
    inputs = [{name: _normalized(name, item.get(name)) for name in INPUT_FIELDS} for item in items]
    columns: dict[str, Any] = {
        "id": [item.get("id", "") for item in items],
        "key": [item_key(item.get("id", "")) for item in items],
        "content": [
            _content_hash(fields, item.get("vector") if fields["image"] or fields["text"] else vector)
            for fields, item, vector in zip(inputs, items, vectors, strict=True)
        ],
        "deleted": np.zeros(count, bool),
        "settled": np.zeros(count, bool),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel().astype(np.float32)), dimension),
    } | {name: [fields[name] for fields in inputs] for name in INPUT_FIELDS}
    try:
        return pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    except UnicodeEncodeError as error:
        raise DataError(f"an item's text is not valid Unicode ({error}): send other characters") from error


def deletions(ids: Iterable[str], schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows that delete items from a table of this schema.

    Raises:
        DataError: an id cannot be used.
    """
    names = list(ids)
    columns = {
        "key": pa.array([item_key(name) for name in names], pa.uint64()),
        "id": pa.array(names, pa.string()),
        "content": pa.array(np.zeros(len(names), np.uint64)),
        "deleted": pa.array(np.ones(len(names), bool)),
        "settled": pa.array(np.zeros(len(names), bool)),
    }
    return pa.record_batch(
        [columns[field.name] if field.name in columns else pa.nulls(len(names), field.type) for field in schema],
        schema=schema,
    )


def encode_attributes(attributes: Mapping[str, AttributeValue] | str | None) -> str | None:
    """Encode attributes as the canonical JSON that the table holds.

    Raises:
        DataError: they are not a flat object of names with texts, numbers and truth values.
    """
    if isinstance(attributes, str):
        try:
            attributes = json.loads(attributes)
        except (ValueError, RecursionError) as error:
            raise DataError(f"attributes are not JSON ({error}): send an object of names and values") from error
    if attributes is None:
        return None
    if not isinstance(attributes, Mapping) or not all(isinstance(name, str) for name in attributes):
        raise DataError("attributes are not an object: send names with their values")
    for name, value in attributes.items():
        if not _is_attribute(value):
            raise DataError(
                f"attribute {name!r} is {value!r:.60}: a text, a finite number, true or false can be used; "
                f"integers are {INT64[0]} to {INT64[-1]}"
            )
    if not attributes:
        return None
    return json.dumps(dict(attributes), ensure_ascii=False, sort_keys=True)


def check_unit(vectors: NDArray[np.float32]) -> None:
    """Check that vectors `[N, D]` are finite and of unit length.

    Raises:
        DataError: they are not; the message names the first that is not.
    """
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise DataError(f"vectors are {vectors.dtype} of shape {vectors.shape}: give one row of numbers for every item")
    invalid = np.flatnonzero(~(np.abs(np.einsum("nd,nd->n", vectors, vectors) - 1) < UNIT_TOLERANCE))
    if len(invalid):
        raise DataError(
            f"{len(invalid)} vectors are not of unit length (first: row {invalid[0]}): embed the products again"
        )


def _content_hash(fields: Mapping[str, Any], vector: NDArray[np.float32] | None) -> int:
    values = [value for value in fields.values() if not isinstance(value, bytes)]
    digest = hashlib.blake2b(json.dumps(values).encode(), digest_size=8)
    for part in (fields["image"], vector):
        digest.update(b"\0" if part is None else b"\1")
        if part is not None:
            content = part if isinstance(part, bytes) else np.ascontiguousarray(part, np.float32).tobytes()
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return int.from_bytes(digest.digest(), "little") or 1


def _normalized(name: str, value: Any) -> Any:
    """Return a field as the table holds it, equal for equal meanings: an empty list or object is null."""
    if name == "attributes":
        return encode_attributes(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if name == "category":
        valid = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
        expected = "list of names from the root"
    else:
        valid = isinstance(value, bytes if name == "image" else str)
        expected = "picture's bytes" if name == "image" else "text"
    if value is not None and not valid:
        raise SchemaError(f"an item's {name} is {value!r:.60}: send a {expected}, or nothing")
    return (list(value) or None) if name == "category" and value is not None else value


def _is_attribute(value: Any) -> bool:
    if isinstance(value, int):
        return value in INT64
    return isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))
