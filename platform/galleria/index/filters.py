"""Filters on items: read from JSON, checked, and answered by columns. Nothing of them is ever evaluated as code.

The form is the one of other vector stores::

    {"category": {"$prefix": ["Shoes", "Boots"]}, "price": {"$gte": 20, "$lt": 50}, "brand": {"$in": ["Acme", "Emca"]}}
    {"$or": [{"colour": "red"}, {"$not": {"season": "winter"}}]}

Names are `id`, `title`, `product_id`, `source`, `category` (a path from the root) and those of attributes. An item
without the field meets no comparison, but `$ne`, `$nin` and `$not`.
"""

import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from galleria.errors import DataError

Mask = NDArray[np.bool_]

TEXTS = ("id", "title", "product_id", "source")
"""Fields of an item that hold a text."""

FILTER_FIELDS = (*TEXTS, "category", "attributes")
"""Columns of the product table that filters read."""

SEPARATOR = "\x1f"
"""Ends every name of a category path, so that a path is a prefix of another exactly where its text is."""

_ESCAPED = str.maketrans({"\x1e": "\x1e0", SEPARATOR: "\x1e1"})

DEEPEST = 8
MOST_TERMS = 64
MOST_VALUES = 1000
_TOO_MANY = f"filter: there are more than {MOST_TERMS} conditions: use $in for lists of values"

_KINDS: Mapping[type, str] = {str: "text", bool: "truth", int: "number", float: "number"}
_TYPES = {"text": pa.string(), "truth": pa.bool_(), "number": pa.float64()}


def filter_columns(table: pa.Table) -> pa.Table:
    """Return the columns that filters read, one a name and type of value, from `FILTER_FIELDS` of a product table."""
    columns: dict[str, Any] = {name: table[name] for name in TEXTS}
    columns["category"] = pa.array(
        [None if path is None else _joined(path) for path in table["category"].to_pylist()], pa.string()
    )
    columns |= _attribute_columns(table["attributes"].to_pylist())
    return pa.table(columns)


def join_columns(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of `filter_columns` one below the other; what one of them lacks is null."""
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked filter.

    Attributes:
        text: the same for the same filter: masks are kept by it.
        _test: answers a table of `filter_columns`.
    """

    text: str
    _test: Callable[[pa.Table], Mask]

    def mask(self, table: pa.Table) -> Mask:
        """Which rows `[N]` of a table of `filter_columns` meet it."""
        return self._test(table)


def read_filter(value: Any) -> Filter:
    """Check a filter as it comes from JSON.

    Raises:
        DataError: names what cannot be used.
    """
    terms = [0]
    test = _read(value, 1, terms)
    return Filter(json.dumps(value, sort_keys=True), test)


def _read(value: Any, depth: int, terms: list[int]) -> Callable[[pa.Table], Mask]:
    if not isinstance(value, Mapping) or not value:
        raise DataError(f'filter: {_short(value)} is no object of conditions: write {{"field": value}}')
    if depth > DEEPEST:
        raise DataError(f"filter: conditions are nested deeper than {DEEPEST}: write it flatter")
    tests = []
    for name, wanted in value.items():
        terms[0] += 1
        if terms[0] > MOST_TERMS:
            raise DataError(_TOO_MANY)
        if name in ("$and", "$or"):
            if not isinstance(wanted, list) or not wanted:
                raise DataError(f"filter: {name} takes a list of conditions, not {_short(wanted)}")
            inner = [_read(part, depth + 1, terms) for part in wanted]
            tests.append(_all(inner) if name == "$and" else _any(inner))
        elif name == "$not":
            tests.append(_not(_read(wanted, depth + 1, terms)))
        elif name.startswith("$"):
            raise DataError(f"filter: {name!r} is no condition: use $and, $or, $not or the name of a field")
        else:
            operators = wanted if isinstance(wanted, Mapping) else {"$eq": wanted}
            if not operators:
                raise DataError(f'filter: {name!r} has no condition: write {{"{name}": value}}')
            terms[0] += len(operators) - 1
            if terms[0] > MOST_TERMS:
                raise DataError(_TOO_MANY)
            tests += [_compare(name, operator, operand) for operator, operand in operators.items()]
    return tests[0] if len(tests) == 1 else _all(tests)


def _compare(name: str, operator: str, operand: Any) -> Callable[[pa.Table], Mask]:
    if operator == "$prefix":
        return _prefix(name, operand)
    if name == "category":
        return _category(operator, operand)
    if operator in ("$ne", "$nin"):
        return _not(_compare(name, "$eq" if operator == "$ne" else "$in", operand))
    if operator == "$eq":
        return _among(name, [operand])
    if operator == "$in":
        if not isinstance(operand, list) or not 0 < len(operand) <= MOST_VALUES:
            raise DataError(f"filter: {name!r} $in takes a list of 1 to {MOST_VALUES} values, not {_short(operand)}")
        return _any([_among(name, part) for part in _by_kind(name, operand)])
    functions = {"$gt": pc.greater, "$gte": pc.greater_equal, "$lt": pc.less, "$lte": pc.less_equal}
    if operator not in functions:
        raise DataError(
            f"filter: {operator!r} of {name!r} is no operator: use $eq, $ne, $in, $nin, $gt, $gte, $lt, $lte, $prefix"
        )
    kind = _kind(name, operand)
    if kind == "truth":
        raise DataError(f"filter: {name!r} {operator} compares with {_short(operand)}: give a number or a text")
    compare = functions[operator]
    scalar = pa.scalar(_held(operand), _TYPES[kind])
    return lambda table: _of_column(table, name, kind, lambda column: compare(column, scalar))


def _among(name: str, values: list[Any]) -> Callable[[pa.Table], Mask]:
    kind = _kind(name, values[0])
    if len(values) == 1:
        scalar = pa.scalar(_held(values[0]), _TYPES[kind])
        return lambda table: _of_column(table, name, kind, lambda column: pc.equal(column, scalar))
    wanted = pa.array([_held(value) for value in values], _TYPES[kind])
    return lambda table: _of_column(table, name, kind, lambda column: pc.is_in(column, wanted))


def _by_kind(name: str, values: list[Any]) -> list[list[Any]]:
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_kind(name, value), []).append(value)
    return list(kinds.values())


def _category(operator: str, operand: Any) -> Callable[[pa.Table], Mask]:
    paths = operand if operator in ("$in", "$nin") else [operand]
    if (
        operator not in ("$eq", "$ne", "$in", "$nin")
        or not isinstance(paths, list)
        or not 0 < len(paths) <= MOST_VALUES
    ):
        raise DataError(f"filter: 'category' takes $eq, $ne, $in, $nin or $prefix with paths, not {operator}")
    wanted = pa.array([_path(path) for path in paths], pa.string())
    test = lambda table: _of_column(table, "category", "", lambda column: pc.is_in(column, wanted))  # noqa: E731
    return _not(test) if operator in ("$ne", "$nin") else test


def _prefix(name: str, operand: Any) -> Callable[[pa.Table], Mask]:
    if name != "category":
        if not isinstance(operand, str) or not _usable(operand):
            raise DataError(f"filter: {name!r} $prefix takes a text, not {_short(operand)}")
        return lambda table: _of_column(table, name, "text", lambda column: pc.starts_with(column, operand))
    start = _path(operand)
    return lambda table: _of_column(table, name, "", lambda column: pc.starts_with(column, start))


def _path(value: Any) -> str:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and _usable(name) for name in names):
        raise DataError(f"filter: a category is a list of names from the root, not {_short(value)}")
    return _joined(names)


def _joined(path: Sequence[str | None]) -> str:
    return "".join(f"{(name or '').translate(_ESCAPED)}{SEPARATOR}" for name in path)


def _kind(name: str, value: Any) -> str:
    kind = _KINDS.get(type(value))
    if kind is None or not _usable(value):
        raise DataError(
            f"filter: {name!r} is compared with {_short(value)}: give a text, a finite number or a truth value"
        )
    if name in TEXTS and kind != "text":
        raise DataError(f"filter: {name!r} is a text, and is compared with {_short(value)}: put it into quotes")
    return kind


def _usable(value: str | float) -> bool:
    """Whether a column can hold it: Unicode text, a truth value, a number that is a finite float."""
    try:
        if isinstance(value, str):
            value.encode()
            return True
        return math.isfinite(value)
    except (UnicodeEncodeError, OverflowError):
        return False


def _held(value: Any) -> Any:
    """As a column holds it: whole numbers as floats, and one zero."""
    return value if isinstance(value, str | bool) else float(value) + 0.0


def _of_column(table: pa.Table, name: str, kind: str, test: Callable[[Any], Any]) -> Mask:
    column = name if name in (*TEXTS, "category") else f"{kind}:{name}"
    if column not in table.column_names:
        return np.zeros(len(table), bool)
    found: Mask = pc.fill_null(test(table[column]), False).to_numpy()
    return found


def _attribute_columns(encoded: Sequence[str | None]) -> dict[str, pa.Array]:
    values: dict[str, list[Any]] = {}
    for place, text in enumerate(encoded):
        for name, value in json.loads(text).items() if text else ():
            kind = _KINDS.get(type(value))
            if kind is not None and _usable(value):  # what nothing can be compared with is in no column
                values.setdefault(f"{kind}:{name}", [None] * len(encoded))[place] = _held(value)
    return {name: pa.array(column, _TYPES[name.partition(":")[0]]) for name, column in values.items()}


def _all(tests: Sequence[Callable[[pa.Table], Mask]]) -> Callable[[pa.Table], Mask]:
    return lambda table: np.logical_and.reduce([test(table) for test in tests])


def _any(tests: Sequence[Callable[[pa.Table], Mask]]) -> Callable[[pa.Table], Mask]:
    return lambda table: np.logical_or.reduce([test(table) for test in tests])


def _not(test: Callable[[pa.Table], Mask]) -> Callable[[pa.Table], Mask]:
    return lambda table: ~test(table)


def _short(value: Any) -> str:
    return reprlib.repr(value)[:60]
