"""The columns that filters read: of each item its text fields, its category path and its attributes.

Columns of attributes are run-end encoded, with a run for each value and one for each gap: their memory follows the
number of values, and not names times items, where each item has names of its own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
"""Types of the values by their kind. Indexes of galleria 0.1 hold texts as `pa.string()`, and no runs."""

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


def take_columns(columns: pa.Table, order: NDArray[np.int64]) -> pa.Table:
    """Return the rows of a table of `filter_columns` in another order, a permutation."""
    position = np.empty(len(order), np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)
    taken = {}
    for name, column in zip(columns.column_names, columns.combine_chunks().itercolumns(), strict=True):
        if not pa.types.is_run_end_encoded(column.type):
            taken[name] = column.take(pa.array(order))
            continue
        [runs] = column.chunks or [pa.array([], column.type)]
        ends, values = _runs(runs)
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        rows = position[ends[valid] - 1]  # a value is a run of its own
        by_row = np.argsort(rows)
        taken[name] = _encode_runs(rows[by_row], values.filter(pa.array(valid)).take(pa.array(by_row)), len(order))
    return pa.table(taken)


def expand_mask(column: pa.ChunkedArray, test: Any) -> NDArray[np.bool_]:
    """Return which rows of a column meet a test of Arrow arrays; it is false where the column is null."""
    masks = [np.zeros(0, bool)]
    for chunk in column.chunks:
        encoded = pa.types.is_run_end_encoded(chunk.type)
        ends, values = _runs(chunk) if encoded else (None, chunk)
        mask = test(values).fill_null(False).to_numpy(zero_copy_only=False)
        masks.append(mask if ends is None else np.repeat(mask, np.diff(ends, prepend=0)))
    return np.concatenate(masks)


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
    rows: dict[str, list[int]] = {}
    values: dict[str, list[Any]] = {}
    for row, text in enumerate(encoded):
        for name, value in json.loads(text).items() if text else ():
            kind = kind_of(value)
            if kind is not None:  # no filter can find another value
                column = f"{kind}:{name}"
                rows.setdefault(column, []).append(row)
                values.setdefault(column, []).append(value if kind != "float" else float(value) + 0.0)  # -0 as 0
    return {
        column: _encode_runs(
            np.array(rows[column], np.int32), pa.array(cells, ARROW_TYPES[column.partition(":")[0]]), len(encoded)
        )
        for column, cells in values.items()
    }


def _encode_runs(rows: NDArray[np.int32], values: pa.Array, count: int) -> pa.Array:
    """Return an array of `count` rows that has values at some rows, in order, and null at the others."""
    before = np.diff(rows, prepend=np.int32(-1)) > 1  # rows with a gap before them
    last = count > 0 and (not len(rows) or rows[-1] < count - 1)
    starts = np.arange(len(rows)) + np.cumsum(before)  # runs before each value
    ends = np.empty(len(rows) + before.sum() + last, np.int32)
    sources = np.full(len(ends), -1)
    ends[starts], sources[starts] = rows + 1, np.arange(len(rows))
    ends[starts[before] - 1] = rows[before]
    ends[len(ends) - last :] = count
    return pa.RunEndEncodedArray.from_arrays(
        pa.array(ends, pa.int32()), values.take(pa.array(sources, mask=sources < 0))
    )


def _runs(array: pa.Array) -> tuple[NDArray[np.int32], pa.Array]:
    """Return the ends of an array's runs, and their values."""
    start, count = array.find_physical_offset(), array.find_physical_length()
    ends = array.run_ends.to_numpy()[start : start + count] - np.int32(array.offset)
    return np.minimum(ends, np.int32(len(array))), array.values.slice(start, count)
