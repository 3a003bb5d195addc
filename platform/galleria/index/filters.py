"""Filters on items: read from JSON, checked, and answered by columns. Nothing of them is ever evaluated as code.

The form is the one of other vector stores::

    {"category": {"$prefix": ["Shoes", "Boots"]}, "price": {"$gte": 20, "$lt": 50}, "brand": {"$in": ["Acme", "Emca"]}}
    {"$or": [{"colour": "red"}, {"$not": {"season": "winter"}}]}

Names are `id`, `title`, `product_id`, `source`, `category` (a path from the root) and those of attributes. An item
without the field meets no comparison, but `$ne`, `$nin`, `$not` and ``{"$exists": false}``. A field that is null is one
that the item does not have; an empty text and an empty path are values.
"""

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from galleria.errors import DataError
from galleria.index.columns import ARROW_TYPES, INT64, TEXT_FIELDS, column_name, encode_path, expand_mask, kind_of
from galleria.index.numbers import ORDERED, ColumnTest, equal_to, is_among, ordered

Mask = NDArray[np.bool_]
Test = Callable[[pa.Table], Mask]
"""Which rows of a table of `filter_columns` meet a condition."""

MAX_DEPTH = 8
MAX_CONDITIONS = 64
MAX_VALUES = 1000

OPERATORS = ("$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$prefix", "$exists")
"""Conditions on one field."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked filter.

    Attributes:
        text: canonical JSON, by which masks are cached.
    """

    text: str
    _test: Test

    def mask(self, table: pa.Table) -> Mask:
        """Return which rows `[N]` of a table of `filter_columns` meet it."""
        return self._test(table)


def read_filter(value: Any) -> Filter:
    """Check a filter as it comes from JSON.

    Raises:
        DataError: names what cannot be used.
    """
    test = _Parser().parse(value)
    return Filter(json.dumps(value, sort_keys=True), test)


class _Parser:
    """Reads one filter, and counts its conditions."""

    def __init__(self) -> None:
        self._conditions = 0

    def parse(self, value: Any, depth: int = 1) -> Test:
        """Return the test of an object of conditions, all of which must be met."""
        if not isinstance(value, Mapping) or not value:
            raise DataError(f'filter: {_short(value)} is not an object of conditions: write {{"field": value}}')
        if depth > MAX_DEPTH:
            raise DataError(f"filter: conditions are nested deeper than {MAX_DEPTH}: write it flatter")
        return _all([self._entry(name, operand, depth) for name, operand in value.items()])

    def _entry(self, name: str, operand: Any, depth: int) -> Test:
        self._count(1)
        if name in ("$and", "$or"):
            if not isinstance(operand, list) or not operand:
                raise DataError(f"filter: {name} takes a list of conditions, not {_short(operand)}")
            tests = [self.parse(part, depth + 1) for part in operand]
            return _all(tests) if name == "$and" else _any(tests)
        if name == "$not":
            return _not(self.parse(operand, depth + 1))
        if name.startswith("$"):
            raise DataError(f"filter: {name!r} is not a valid condition: use $and, $or, $not or the name of a field")
        return self._field(name, operand)

    def _field(self, name: str, operand: Any) -> Test:
        operators = operand if isinstance(operand, Mapping) else {"$eq": operand}
        if not operators:
            raise DataError(f'filter: {name!r} has no condition: write {{"{name}": value}}')
        self._count(len(operators) - 1)
        return _all([_condition(name, operator, operand) for operator, operand in operators.items()])

    def _count(self, more: int) -> None:
        self._conditions += more
        if self._conditions > MAX_CONDITIONS:
            raise DataError(f"filter: there are more than {MAX_CONDITIONS} conditions: use $in for lists of values")


def _condition(name: str, operator: str, operand: Any) -> Test:
    """Return the test of one operator on one field."""
    if operator in ("$prefix", "$exists"):
        return (_prefix if operator == "$prefix" else _exists)(name, operand)
    if name == "category":
        return _category(operator, operand)
    if operator in ("$ne", "$nin"):
        return _not(_condition(name, "$eq" if operator == "$ne" else "$in", operand))
    if operator == "$eq":
        return _among(name, [operand])
    if operator == "$in":
        if not isinstance(operand, list) or not 0 < len(operand) <= MAX_VALUES:
            raise DataError(f"filter: {name!r} $in takes a list of 1 to {MAX_VALUES} values, not {_short(operand)}")
        return _any([_among(name, values) for values in _by_kind(name, operand)])
    return _ordered(name, operator, operand)


def _ordered(name: str, operator: str, operand: Any) -> Test:
    if operator not in ORDERED:
        raise DataError(f"filter: {operator!r} of {name!r} is not a valid operator: use {', '.join(OPERATORS)}")
    kind = _kind(name, operand)
    if kind == "truth":
        raise DataError(f"filter: {name!r} {operator} compares with {_short(operand)}: give a number or a text")
    if kind == "number":
        return _of_numbers(name, ordered(operator, operand))
    compare, scalar = ORDERED[operator], pa.scalar(operand, ARROW_TYPES[kind])
    return _of_column(column_name(name, kind), lambda column: compare(column, scalar))


def _among(name: str, values: list[Any]) -> Test:
    """Return the test for values, which are all of one kind."""
    kind = _kind(name, values[0])
    if kind == "number":
        return _of_numbers(name, equal_to(values))
    return _of_column(column_name(name, kind), is_among(values, ARROW_TYPES[kind]))


def _by_kind(name: str, values: list[Any]) -> list[list[Any]]:
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_kind(name, value), []).append(value)
    return list(kinds.values())


def _category(operator: str, operand: Any) -> Test:
    paths = operand if operator in ("$in", "$nin") else [operand]
    known = operator in ("$eq", "$ne", "$in", "$nin")
    if not known or not isinstance(paths, list) or not 0 < len(paths) <= MAX_VALUES:
        raise DataError(
            f"filter: 'category' takes $exists, and $eq, $ne, $in, $nin or $prefix with paths, not {operator}"
        )
    array = pa.array([_path(path) for path in paths], ARROW_TYPES["text"])
    test = _of_column("category", lambda column: pc.is_in(column, array))
    return _not(test) if operator in ("$ne", "$nin") else test


def _prefix(name: str, operand: Any) -> Test:
    if name == "category":
        prefix = _path(operand)
    elif isinstance(operand, str) and kind_of(operand) is not None:
        prefix = operand
    else:
        raise DataError(f"filter: {name!r} $prefix takes a text, not {_short(operand)}")
    return _of_column(column_name(name, "text"), lambda column: pc.starts_with(column, prefix))


def _exists(name: str, operand: Any) -> Test:
    """Return the test for a value of any kind, or for none."""
    if not isinstance(operand, bool):
        raise DataError(f"filter: {name!r} $exists takes true or false, not {_short(operand)}")
    columns = sorted({column_name(name, kind) for kind in ARROW_TYPES})
    test = _any([_of_column(column, pc.is_valid) for column in columns])
    return test if operand else _not(test)


def _path(value: Any) -> str:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(kind_of(name) == "text" for name in names):
        raise DataError(f"filter: a category is a list of names from the root, not {_short(value)}")
    return encode_path(names)


def _kind(name: str, value: Any) -> str:
    """Return the kind of a value; "number" for integers and floats, which are compared with each other."""
    kind = kind_of(value)
    if value is None:
        raise DataError(f'filter: {name!r} is compared with None: write {{"$exists": false}} for items without it')
    if kind is None:
        raise DataError(
            f"filter: {name!r} is compared with {_short(value)}: give a text, a finite number or a truth value"
        )
    if name in TEXT_FIELDS and kind != "text":
        raise DataError(f"filter: {name!r} is a text, and is compared with {_short(value)}: put it into quotes")
    if kind == "float" and isinstance(value, int):
        raise DataError(
            f"filter: {name!r} is compared with {_short(value)}: integers are {INT64[0]} to {INT64[-1]}, "
            "write a larger number with a decimal point"
        )
    return "number" if kind in ("integer", "float") else kind


def _of_numbers(name: str, tests: Mapping[str, ColumnTest]) -> Test:
    """Return a test of the columns of a field's numbers, by their kind."""
    return _any([_of_column(column_name(name, kind), test) for kind, test in tests.items()])


def _of_column(name: str, test: ColumnTest) -> Test:
    """Return a test of one column; it is false where the column is null, or where there is none."""

    def test_column(table: pa.Table) -> Mask:
        position = table.schema.get_field_index(name)
        return expand_mask(table.column(position), test) if position >= 0 else np.zeros(len(table), bool)

    return test_column


def _all(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    return lambda table: np.logical_and.reduce([test(table) for test in tests])


def _any(tests: Sequence[Test]) -> Test:
    return lambda table: np.logical_or.reduce([test(table) for test in tests])


def _not(test: Test) -> Test:
    return lambda table: ~test(table)


def _short(value: Any) -> str:
    return reprlib.repr(value)[:60]
