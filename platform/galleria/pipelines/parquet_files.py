"""Opens the parquet files of a data set as one, with a schema that all of them fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset

from galleria.errors import SchemaError
from galleria.pipelines.attribute_columns import decimal_to_float


@dataclass(frozen=True)
class ParquetFiles:
    """The files of a data set.

    Attributes:
        schema: of all files: columns that differ have a type that holds the values of all. Null gives way to any type,
            integers to floating point, dictionaries to their texts; what is not in a file is null there.
        groups: files of one schema each.
    """

    schema: pa.Schema
    groups: Sequence[pyarrow.dataset.Dataset]

    @classmethod
    def open(cls, path: str) -> "ParquetFiles":
        """Open a file, or the files of a folder.

        Raises:
            SchemaError: the files cannot be read, or a column has types that nothing joins.
        """
        try:
            files = pyarrow.dataset.dataset(path, format="parquet")
            parts = [(part.path, part.physical_schema.remove_metadata()) for part in files.get_fragments()]
        except (FileNotFoundError, OSError, pa.ArrowInvalid) as error:
            raise SchemaError(f"{path} cannot be read as parquet: {error}") from error
        if not parts:
            raise SchemaError(f"{path} holds no parquet file: name a parquet file or a folder of them")
        if all(schema.equals(parts[0][1]) for _, schema in parts):
            return cls(files.schema, [files])
        groups: dict[pa.Schema, list[str]] = {}
        for file, schema in parts:
            groups.setdefault(schema, []).append(file)
        opened = [
            pyarrow.dataset.dataset(paths, schema, "parquet", files.filesystem) for schema, paths in groups.items()
        ]
        return cls(_unify(parts), opened)

    def read(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of all rows."""
        schema = pa.schema([self.schema.field(name) for name in dict.fromkeys(columns)])
        for group in self.groups:
            for batch in group.to_batches(columns=[name for name in schema.names if name in group.schema.names]):
                yield fit(pa.Table.from_batches([batch]), schema)


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema, in its types."""
    return pa.table([_fit_column(table, field) for field in schema], schema=schema)


def _fit_column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    column = table[field.name]
    if pa.types.is_decimal(column.type) and pa.types.is_floating(field.type):
        return decimal_to_float(column)
    return column.cast(field.type)


def _unify(parts: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    types: dict[str, pa.DataType] = {}
    for file, schema in parts:
        for field in schema:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            types[field.name] = _join(types.get(field.name, pa.null()), kind, field.name, file)
    return pa.schema(list(types.items()))


def _join(one: pa.DataType, other: pa.DataType, name: str, file: str) -> pa.DataType:
    is_text = [pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in (one, other)]
    is_null = pa.types.is_null(one) or pa.types.is_null(other)
    try:
        if any(is_text) and not all(is_text) and not is_null:  # pyarrow would make bytes of texts
            raise pa.ArrowTypeError("a text and something else")
        if one != other and not is_null and (pa.types.is_decimal(one) or pa.types.is_decimal(other)):
            return _join(pa.float64(), pa.float64() if pa.types.is_decimal(other) else other, name, file)
        schemas = [pa.schema([(name, kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowTypeError as error:
        raise SchemaError(
            f"the column {name!r} is {other} in {file}, and {one} in files before it: write all files with one type"
        ) from error
