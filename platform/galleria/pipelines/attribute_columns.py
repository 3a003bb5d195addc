"""Columns that become attributes of items: texts, numbers and truth values; what is like one of them is converted."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from galleria.errors import SchemaError

PLAIN_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_null,
)
TEXT_TYPES = (pa.types.is_date, pa.types.is_time)
LIST_TYPES = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)

Convert = Callable[[pa.ChunkedArray], pa.ChunkedArray]


def attribute_converter(kind: pa.DataType, name: str) -> Convert | None:
    """Return the function that makes texts or numbers of a column, or None where it holds these already.

    Decimals become floating point, categories their texts, and dates and times texts in ISO 8601, those with a time
    zone in UTC: such texts compare as the times do.

    Raises:
        SchemaError: the column holds something else.
    """
    if _is_one(kind, PLAIN_TYPES):
        return None
    if pa.types.is_decimal(kind):
        return decimal_to_float
    if pa.types.is_dictionary(kind):
        inner = attribute_converter(kind.value_type, name)
        return lambda column: _then(column.cast(kind.value_type), inner)
    if pa.types.is_timestamp(kind):
        zone = "Z" if kind.tz else ""
        plain = pa.timestamp(kind.unit, "UTC" if kind.tz else None)
        return lambda column: pc.strftime(column.cast(plain), format=f"%Y-%m-%dT%H:%M:%S{zone}")
    if _is_one(kind, TEXT_TYPES):
        return lambda column: column.cast(pa.string())
    if _is_one(kind, LIST_TYPES):
        raise SchemaError(
            f"the column {name!r} is {kind}: an attribute is one text or number, so write a column for each value, or "
            "leave it out"
        )
    raise SchemaError(f"the column {name!r} is {kind}: an attribute is a text or a number")


def decimal_to_float(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the nearest floating point number of each decimal; pyarrow's own cast is not exact."""
    return column.cast(pa.string()).cast(pa.float64())


def _is_one(kind: pa.DataType, tests: tuple[Callable[[pa.DataType], bool], ...]) -> bool:
    return any(test(kind) for test in tests)


def _then(column: pa.ChunkedArray, convert: Convert | None) -> pa.ChunkedArray:
    return column if convert is None else convert(column)
