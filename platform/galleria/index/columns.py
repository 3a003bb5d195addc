"""The columns that filters read: of each item its text fields, its category path and its attributes."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

TEXT_FIELDS = ("id", "title", "product_id", "source")
"""Fields of an item that hold a text."""

FILTER_FIELDS = (*TEXT_FIELDS, "category", "attributes")
"""Columns of the product table that filters read."""

INT64 = range(-(2**63), 2**63)
"""Integers that a column can hold."""

ROUNDED = "number"
"""Kind of the columns of indexes of galleria 0.1 that hold all numbers as floats. Removed in 0.3."""

ARROW_TYPES = {
    "text": pa.large_string(),  # the texts of a shard may be larger than 2 GiB
    "truth": pa.bool_(),
    "integer": pa.int64(),
    "float": pa.float64(),
    ROUNDED: pa.float64(),
}
"""Types of the columns by the kind of their values. Indexes of galleria 0.1 hold texts as `pa.string()`."""

SEPARATOR = "\x1f"
"""Ends every name of a category path, so that a path is a prefix of another exactly where its text is."""

_ESCAPED = str.maketrans({"\x1e": "\x1e0", SEPARATOR: "\x1e1"})

_KINDS: Mapping[type, str] = {str: "text", bool: "truth", int: "integer", float: "float"}


def filter_columns(table: pa.Table) -> pa.Table:
    """Return the columns that filters read, one a name and kind of value, from `FILTER_FIELDS` of a product table."""
    columns: dict[str, Any] = {name: table[name].cast(ARROW_TYPES["text"]) for name in TEXT_FIELDS}
    paths = [None if path is None else encode_path(path) for path in table["category"].to_pylist()]
    columns["category"] = pa.array(paths, ARROW_TYPES["text"])
    columns |= _attribute_columns(table["attributes"].to_pylist())
    return pa.table(columns)


def join_columns(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables of `filter_columns`; a column that one of them lacks is null there."""
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def column_name(field: str, kind: str) -> str:
    """Return the name of the column that holds a field's values of one kind."""
    return field if field in (*TEXT_FIELDS, "category") else f"{kind}:{field}"


def kind_of(value: Any) -> str | None:
    """Return the kind of a value that a column can hold, or None: it must be Unicode text, a truth value or finite.

    An integer beyond `INT64` is held as a float.
    """
    kind = _KINDS.get(type(value))
    try:
        if kind == "text":
            value.encode()
        elif kind is not None and not math.isfinite(value):
            return None
    except (UnicodeEncodeError, OverflowError):
        return None
    return "float" if kind == "integer" and value not in INT64 else kind


def encode_path(path: Sequence[str | None]) -> str:
    """Return a category path as the text that a column holds."""
    return "".join(f"{(name or '').translate(_ESCAPED)}{SEPARATOR}" for name in path)


def _attribute_columns(encoded: Sequence[str | None]) -> dict[str, pa.Array]:
    values: dict[str, list[Any]] = {}
    for row, text in enumerate(encoded):
        for name, value in json.loads(text).items() if text else ():
            kind = kind_of(value)
            if kind is not None:  # no filter can find another value
                cell = value if kind != "float" else float(value) + 0.0  # -0 as 0
                values.setdefault(f"{kind}:{name}", [None] * len(encoded))[row] = cell
    return {column: pa.array(cells, ARROW_TYPES[column.partition(":")[0]]) for column, cells in values.items()}
