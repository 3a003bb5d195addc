"""Values of cells and folder names, as the columns of a family hold them."""

from typing import Any

import pyarrow as pa

from galleria.learn.family import Family

LIST_SEPARATOR = ";"
"""Between the values of one cell, where the family's column is a list."""


def typed_value(value: Any, family: Family[Any], column: str) -> Any:
    """Return a value as the column holds it: a list, bytes as they are, everything else as text."""
    kind = family.schema.field(column).type if column in family.schema.names else pa.string()
    if pa.types.is_list(kind) or column == "category":
        if isinstance(value, list):
            return value
        return [part.strip() for part in str(value).split(LIST_SEPARATOR) if part.strip()]
    if isinstance(value, bytes):
        return value
    return str(value)
