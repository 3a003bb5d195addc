"""Matches the columns of a user's files with those that a family reads."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from galleria.errors import SchemaError
from galleria.learn.family import Family
from galleria.pipelines.attribute_columns import attribute_converter

SHARED_COLUMNS = {
    "split": pa.string(),
    "title": pa.string(),
    "category": pa.list_(pa.string()),
}
"""Optional columns of every data set, in addition to those of the family."""
ATTRIBUTE = "attribute:"
"""Begins the name of a column that becomes an attribute of the items."""


@dataclass(frozen=True)
class Source:
    """Location of a data set, and how to read it.

    Attributes:
        path: a parquet file or a folder of them, local or on an object store.
        columns: galleria's name → the name in the files, where they differ.
        category_depth: rows whose category path has another length are rejected; None accepts any.
        attributes: columns of the files that become attributes of the items, by which searches can be filtered.
    """

    path: str
    columns: Mapping[str, str] = field(default_factory=dict)
    category_depth: int | None = None
    attributes: Sequence[str] = ()


def column_types(family: Family[Any]) -> dict[str, pa.DataType]:
    """Return name → type of every column that a data set of the family can have."""
    return SHARED_COLUMNS | {column.name: column.type for column in family.schema}


def match_columns(schema: pa.Schema, source: Source, family: Family[Any]) -> dict[str, str]:
    """Return galleria's name → the name in the files, for every known column that is present.

    Raises:
        SchemaError: a column is unknown, missing, or of another type.
    """
    types = column_types(family)
    _check_known(source, types, family)
    names = {name: source.columns.get(name, name) for name in types}
    required = {*source.columns, *(column.name for column in family.schema if not column.nullable)}
    for name, actual in names.items():
        if name in required and actual not in schema.names:
            raise _missing_column(name, actual, schema, source)
    present = {name: actual for name, actual in names.items() if actual in schema.names}
    for name, actual in present.items():
        _check_type(actual, schema.field(actual).type, types[name], source)
    for name in source.attributes:
        _check_attribute(name, schema, source)
    return present | {f"{ATTRIBUTE}{name}": name for name in source.attributes}


def is_file_struct(kind: pa.DataType) -> bool:
    """Whether a column holds files as Hugging Face's `datasets` store them: `struct<bytes, path>`."""
    return bool(pa.types.is_struct(kind)) and {field.name for field in kind} == {"bytes", "path"}


def attributes_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a row by name, without missing values."""
    return {
        name.removeprefix(ATTRIBUTE): value
        for name, value in row.items()
        if name.startswith(ATTRIBUTE) and value is not None and not (isinstance(value, float) and math.isnan(value))
    }


def _check_known(source: Source, types: Mapping[str, pa.DataType], family: Family[Any]) -> None:
    unknown = [name for name in source.columns if name not in types]
    if unknown:
        raise SchemaError(f"unknown column {unknown[0]!r}: {family.name} reads {', '.join(sorted(types))}")


def _missing_column(name: str, actual: str, schema: pa.Schema, source: Source) -> SchemaError:
    similar = difflib.get_close_matches(actual, schema.names, n=1)
    fix = f"did you mean {similar[0]!r}? Add --column {name}={similar[0]}" if similar else f"add --column {name}=NAME"
    return SchemaError(f"{source.path} has no column {actual!r}: {fix} (its columns: {', '.join(schema.names)})")


def _check_type(column: str, actual: pa.DataType, expected: pa.DataType, source: Source) -> None:
    if not _compatible(actual, expected):
        raise SchemaError(f"the column {column!r} of {source.path} is {actual}, not {expected}: convert it")


def _check_attribute(name: str, schema: pa.Schema, source: Source) -> None:
    if name not in schema.names:
        raise SchemaError(f"{source.path} has no column {name!r} (its columns: {', '.join(schema.names)})")
    attribute_converter(schema.field(name).type, name)


def _compatible(actual: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_string(expected):
        plain = actual.value_type if pa.types.is_dictionary(actual) else actual
        return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_null(plain))
    if pa.types.is_binary(expected):
        return bool(pa.types.is_binary(actual) or pa.types.is_large_binary(actual) or is_file_struct(actual))
    if pa.types.is_list(expected):
        inner = actual.value_type if pa.types.is_list(actual) or pa.types.is_large_list(actual) else None
        return inner is not None and _compatible(inner, expected.value_type)
    if pa.types.is_floating(expected):
        return bool(pa.types.is_floating(actual) or pa.types.is_integer(actual))
    return bool(actual == expected)
