"""Exact comparisons of numbers with columns of integers and of floats: no value is rounded."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from galleria.index.columns import ARROW_TYPES, INT64, ROUNDED

ColumnTest = Callable[[Any], Any]
"""Which values of a column meet a condition."""

ORDERED: Mapping[str, Any] = {
    "$gt": pc.greater,
    "$gte": pc.greater_equal,
    "$lt": pc.less,
    "$lte": pc.less_equal,
}


def equal_to(values: Sequence[int | float]) -> dict[str, ColumnTest]:
    """Return, by the kind of column, the test for values that equal one of these."""
    equal: dict[str, Sequence[int | float]] = {
        "integer": [int(value) for value in values if value == int(value) and int(value) in INT64],
        "float": [float(value) + 0.0 for value in values if value == float(value)],  # -0 as 0
        ROUNDED: [float(value) + 0.0 for value in values],
    }
    return {kind: is_among(among, ARROW_TYPES[kind]) for kind, among in equal.items()}


def ordered(operator: str, value: float) -> dict[str, ColumnTest]:
    """Return, by the kind of column, the test for values that are above or below this one."""
    return {
        "integer": _integers(operator, value),
        "float": _compare(_float_operator(operator, value), float(value), "float"),
        ROUNDED: _compare(operator, float(value), ROUNDED),
    }


def is_among(values: Sequence[Any], column_type: pa.DataType) -> ColumnTest:
    """Return the test for values that equal one of these."""
    if len(values) == 1:
        scalar = pa.scalar(values[0], column_type)
        return lambda column: pc.equal(column, scalar)
    array = pa.array(values, column_type)
    return lambda column: pc.is_in(column, array)


def _compare(operator: str, value: float, kind: str) -> ColumnTest:
    compare, scalar = ORDERED[operator], pa.scalar(value, ARROW_TYPES[kind])
    return lambda column: compare(column, scalar)


def _integers(operator: str, value: float) -> ColumnTest:
    bound = math.floor(value) if operator in ("$gt", "$lte") else math.ceil(value)
    if bound in INT64:
        return _compare(operator, bound, "integer")
    every = (bound > 0) == (operator in ("$lt", "$lte"))
    return pc.is_valid if every else lambda column: pc.and_(pc.is_valid(column), False)


def _float_operator(operator: str, value: float) -> str:
    """Return the operator that compares floats with the rounded value as the requested one does with the exact value.

    No float lies between the two.
    """
    if float(value) == value:
        return operator
    if operator in ("$gt", "$gte"):
        return "$gte" if float(value) > value else "$gt"
    return "$lt" if float(value) > value else "$lte"
