"""Columns of tables, and names of folders, as the columns of a family hold them."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from galleria.errors import SchemaError
from galleria.learn.family import Family

LIST_SEPARATOR = ";"
"""Between the values of one cell, where the family's column is a list."""
LEVEL_SEPARATOR = " > "
"""Between the levels of a category path, as product feeds write it."""
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""A picture or a map: its content, or else the path of its file, as Hugging Face's `datasets` store them."""
_UNIT = "\x1f"
"""Unit separator of ASCII: joins what is split again at once."""


def is_list_column(family: Family[Any], column: str) -> bool:
    """Return whether a column of a family holds lists of names."""
    kind = family.schema.field(column).type if column in family.schema.names else pa.string()
    return column == "category" or bool(pa.types.is_list(kind))


def typed_value(value: str, family: Family[Any], column: str) -> str | list[str]:
    """Return a text as a family's column holds it: a list, or the text itself."""
    if is_list_column(family, column):
        return [part.strip() for part in value.split(LIST_SEPARATOR) if part.strip()]
    return value


def text_column(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return a column as text: numbers in decimal, dates in ISO form, an empty text as null.

    Raises:
        SchemaError: the column holds something else, such as lists.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_nested(kind):
        raise SchemaError(f"the column {name!r} is {kind}, not a text: convert it")
    if pa.types.is_floating(kind):  # a column of whole numbers with a gap is one of floats in pandas
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), 2.0**53))
        digits = pc.if_else(whole, column, None).cast(pa.int64()).cast(pa.string())
        column = pc.coalesce(digits, pc.if_else(pc.is_nan(column), None, column).cast(pa.string()))
    try:
        text = column.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise SchemaError(f"the column {name!r} is {kind}, which is not text ({error}): convert it") from error
    empty = pc.equal(text, "")
    return pc.if_else(empty, None, text) if pc.any(empty).as_py() else text


def number_column(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return a column as numbers.

    Raises:
        SchemaError: a value is not a number.
    """
    text = pc.utf8_trim_whitespace(text_column(column, name))
    try:
        return pc.if_else(pc.equal(text, ""), None, text).cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise SchemaError(f"the column {name!r} has a value that is not a number ({error}): keep it as text") from error


def list_column(column: pa.ChunkedArray, name: str, separator: str | None = None) -> pa.ChunkedArray:
    """Return a column as lists of texts; the parts of a text are between separators. Empty parts are left out.

    Args:
        column: lists or texts.
        name: its name.
        separator: None splits at " > " where it occurs, and at ";" elsewhere.

    Raises:
        SchemaError: the column holds something else.
    """
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        try:
            return column.cast(pa.list_(pa.string()))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaError(f"the column {name!r} is {kind}, not a list of names: convert it") from error
    if not (pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type)):
        column = text_column(column, name)
    return map_distinct(column, lambda texts: _split(texts, separator))


def map_distinct(column: pa.ChunkedArray, function: Callable[[pa.Array], pa.Array]) -> pa.ChunkedArray:
    """Return a column with a function of its distinct texts in place of each: categories and splits are few."""
    encoded = column.unify_dictionaries().combine_chunks().dictionary_encode()
    return pa.chunked_array([function(encoded.dictionary).take(encoded.indices)])


def _split(texts: pa.Array, separator: str | None) -> pa.Array:
    if separator is not None:
        joined = pc.replace_substring(texts, separator, _UNIT)
    else:
        in_levels = pc.replace_substring(texts, LEVEL_SEPARATOR, _UNIT)
        has_levels = pc.match_substring(texts, LEVEL_SEPARATOR)
        joined = pc.if_else(has_levels, in_levels, pc.replace_substring(texts, LIST_SEPARATOR, _UNIT))
    joined = pc.replace_substring_regex(joined, rf"\s*{_UNIT}[\s{_UNIT}]*", _UNIT)
    return split_units(pc.utf8_trim(joined, f" \t\r\n{_UNIT}"))


def join_levels(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Return one column of category paths of the columns of their levels, without empty levels."""
    return split_units(pc.binary_join_element_wise(*columns, _UNIT, null_handling="skip"))


def split_units(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return lists of the parts of each text; none where it is empty or null."""
    return pc.split_pattern(pc.if_else(pc.equal(text, ""), None, text), _UNIT)


def file_column(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return a column of pictures as `FILE`: of contents, of paths, or of `struct<bytes, path>`.

    Raises:
        SchemaError: the column holds something else.
    """
    kind = column.type
    contents: pa.ChunkedArray = pa.chunked_array([pa.nulls(len(column), pa.binary())])
    paths: pa.ChunkedArray = pa.chunked_array([pa.nulls(len(column), pa.string())])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        contents = column.cast(pa.binary())
    elif pa.types.is_struct(kind):
        fields = {field.name for field in kind}
        if not fields & {"bytes", "path"}:
            raise SchemaError(f"the column {name!r} is {kind}, not a picture: convert it to struct<bytes, path>")
        if "bytes" in fields:
            contents = pc.struct_field(column, "bytes").cast(pa.binary())
        if "path" in fields:
            paths = pc.struct_field(column, "path").cast(pa.string())
    else:
        paths = text_column(column, name)
    return files_of(contents, paths)


def files_of(contents: pa.ChunkedArray, paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of `FILE` of its two fields; null where both are."""
    contents, paths = _one_chunk(contents), _one_chunk(paths)
    missing = pc.and_(pc.is_null(contents), pc.is_null(paths))
    return pa.chunked_array([pa.StructArray.from_arrays([contents, paths], fields=list(FILE), mask=missing)])


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
