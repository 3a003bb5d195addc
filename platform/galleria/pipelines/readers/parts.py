"""Rows of a family in parts: tables with galleria's names of columns, whose pictures are `cells.FILE`."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.columns import column_types
from galleria.pipelines.readers import crops
from galleria.pipelines.readers.cells import FILE, map_distinct
from galleria.pipelines.readers.files import file_columns
from galleria.pipelines.splits import SPLIT_ALIASES, split_of

ROWS = 4096
MAX_BYTES = 32 << 20


def part_types(family: Family[Any]) -> dict[str, pa.DataType]:
    """Return name → type of the columns of parts."""
    pictures = {name: FILE for name in file_columns(family) if name != "video"}
    return column_types(family) | pictures | {crops.COLUMN: crops.CROP}


def parts_of(
    rows: Iterable[Row], family: Family[Any], attributes: Mapping[str, pa.DataType] = MappingProxyType({})
) -> Iterator[pa.Table]:
    """Yield rows as parts, without the columns that are neither the family's nor attributes.

    All rows have the same columns; a picture is its content, or the path of its file.
    """
    types = {**attributes, **part_types(family)}
    rows = iter(rows)
    while part := list(_take(rows)):
        columns = {
            name: [_file(row[name]) if types.get(name) == FILE else row[name] for row in part]
            for name in part[0]
            if name in types
        }
        yield pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})


def with_splits(part: pa.Table) -> pa.Table:
    """Return a part whose rows all have a split: by its alias, or by a hash of the product, or else of the id."""
    named = part["split"] if "split" in part.column_names else pa.chunked_array([pa.nulls(len(part), pa.string())])
    split = map_distinct(named, _known_splits)
    if split.null_count:
        rest = pc.is_null(split)
        keys = part["id"]
        if "product_id" in part.column_names:
            keys = pc.coalesce(part["product_id"], keys)
        split = pc.coalesce(split, map_distinct(pc.if_else(rest, keys, None), _hashed_splits))
    if "split" in part.column_names:
        return part.set_column(part.column_names.index("split"), "split", split)
    return part.append_column("split", split)


def _take(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield some rows: fewer where their pictures are large."""
    size = 0
    for row in islice(rows, ROWS):
        yield row
        size += sum(len(value) for value in row.values() if isinstance(value, bytes))
        if size > MAX_BYTES:
            return


def _file(value: bytes | str | None) -> Mapping[str, Any] | None:
    if value is None:
        return None
    return {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value}


def _known_splits(names: pa.Array) -> pa.Array:
    return pa.array([SPLIT_ALIASES.get(name.lower(), name) or None for name in names.to_pylist()], pa.string())


def _hashed_splits(keys: pa.Array) -> pa.Array:
    return pa.array([split_of(key) for key in keys.to_pylist()], pa.string())
