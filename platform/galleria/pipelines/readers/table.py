"""Reads a table: CSV, TSV or parquet, one row a picture or a video."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq

from galleria.errors import ConfigurationError, DataError, SchemaError
from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.readers.cells import typed_value
from galleria.pipelines.readers.files import file_columns, media_column
from galleria.pipelines.readers.options import ReadOptions

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = (*DELIMITERS, ".parquet")


def read_table(
    files: pyarrow.fs.FileSystem, inside: str, folder: str, family: Family[Any], options: ReadOptions
) -> Iterator[Row]:
    """Yield a row for each line of a table.

    Args:
        files: file system of the table.
        inside: path of the table in it.
        folder: paths of pictures and videos are relative to it.
        family: its columns are those of the rows.
        options: `columns` and `levels` name the table's columns.

    Raises:
        DataError: the file cannot be parsed.
        SchemaError: a column is missing.
        ConfigurationError: an option names a column that the family does not have.
    """
    table = _open_table(files, inside)
    columns = _map_columns(family, options.columns)
    _check_columns(table.column_names, columns, inside, family, options)
    for number, cells in enumerate(table.to_pylist()):
        row = _typed_row(cells, columns, family)
        row.setdefault("id", str(number))
        if options.levels:
            row["category"] = _category_path(cells, options.levels)
        yield row | _full_paths(row, folder, family)


def _open_table(files: pyarrow.fs.FileSystem, inside: str) -> pa.Table:
    suffix = PurePosixPath(inside).suffix.lower()
    with files.open_input_file(inside) as stream:
        try:
            return pq.read_table(stream) if suffix == ".parquet" else _parse_csv(stream, DELIMITERS[suffix])
        except pa.ArrowInvalid as error:
            raise DataError(f"{inside} cannot be read as {suffix[1:]}: {error}") from error


def _parse_csv(stream: pa.NativeFile, delimiter: str) -> pa.Table:
    options = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    return pyarrow.csv.read_csv(stream, parse_options=options)


def _map_columns(family: Family[Any], renamed: Mapping[str, str]) -> dict[str, str]:
    """Return galleria's name → the table's name, for every column that the family can have."""
    columns = {name: name for name in ("id", "split", "title", "category", *family.schema.names)}
    unknown = [name for name in renamed if name not in columns]
    if unknown:
        raise ConfigurationError(f"unknown column {unknown[0]!r}: {family.name} reads {', '.join(sorted(columns))}")
    return columns | dict(renamed)


def _check_columns(
    present: Sequence[str], columns: Mapping[str, str], inside: str, family: Family[Any], options: ReadOptions
) -> None:
    """Check that the table has each column that an option names, and that of the picture or video."""
    media = media_column(family)
    required = (*options.columns.values(), *options.levels, columns[media])
    missing = [name for name in required if name not in present]
    if missing:
        raise SchemaError(
            f"{inside} has no column {missing[0]!r}: add --column {media}=NAME, or --level NAME "
            f"(its columns: {', '.join(present)})"
        )


def _typed_row(cells: Mapping[str, Any], columns: Mapping[str, str], family: Family[Any]) -> dict[str, Any]:
    """Return the cells that are not empty, under galleria's names."""
    return {
        name: typed_value(cells[column], family, name)
        for name, column in columns.items()
        if cells.get(column) is not None
    }


def _category_path(cells: Mapping[str, Any], levels: Sequence[str]) -> list[str]:
    return [str(cells[level]) for level in levels if cells[level] not in (None, "")]


def _full_paths(row: Mapping[str, Any], folder: str, family: Family[Any]) -> dict[str, str]:
    """Return the relative paths of a row as full ones."""
    paths = {name: row[name] for name in file_columns(family) if isinstance(row.get(name), str)}
    return {name: f"{folder}/{path}" for name, path in paths.items() if "://" not in path and not path.startswith("/")}
