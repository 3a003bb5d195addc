"""Makes rows of tables: CSV and its kin, JSON lines or parquet; one row a picture or a video."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from galleria.errors import ConfigurationError, DataError, SchemaError
from galleria.learn.family import Family
from galleria.pipelines.columns import column_types
from galleria.pipelines.readers.cells import (
    FILE,
    LEVEL_SEPARATOR,
    file_column,
    files_of,
    is_list_column,
    join_levels,
    list_column,
    number_column,
    text_column,
)
from galleria.pipelines.readers.delimited import RawTable, open_delimited
from galleria.pipelines.readers.files import file_columns, media_column
from galleria.pipelines.readers.json_lines import open_json_lines
from galleria.pipelines.readers.options import NUMBER, ReadOptions, Report
from galleria.pipelines.readers.parts import MAX_BYTES
from galleria.pipelines.rejects import Reject

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
JSON_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, ".parquet")
MAX_ROWS = 1 << 16
"""In a part of a parquet file."""
COMPRESSED = (".gz", ".bz2", ".zst")


def table_suffix(path: str) -> str:
    """Return the suffix of a table's name in lower case, without that of a compression."""
    name = path.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return PurePosixPath(name).suffix


def read_table(
    files: pyarrow.fs.FileSystem, inside: str, folder: str, family: Family[Any], options: ReadOptions, report: Report
) -> Iterator[pa.Table]:
    """Yield the rows of a table in parts.

    Args:
        files: file system of the table.
        inside: path of the table in it.
        folder: paths of pictures and videos are relative to it.
        family: its columns are those of the rows.
        options: `columns`, `levels` and `attributes` name the table's columns.
        report: receives records that cannot be parsed, and notices.

    Raises:
        DataError: the file cannot be parsed.
        SchemaError: a column is missing, or there are two of its name.
        ConfigurationError: an option names a column that the family does not have.
    """
    return rows_of_table(open_raw(files, inside, options, report), inside, folder, family, options, report)


def rows_of_table(
    raw: RawTable, inside: str, folder: str, family: Family[Any], options: ReadOptions, report: Report
) -> Iterator[pa.Table]:
    """Yield the rows of an open table in parts; as `read_table`."""
    columns = _map_columns(family, options.columns)
    _check_columns(raw.header, columns, inside, family, options)
    columns = {
        name: column for name, column in columns.items() if column in raw.header and column not in options.levels
    }
    needed = list(dict.fromkeys([*columns.values(), *options.levels, *options.attributes]))
    flat = _FlatPaths()
    first = 0
    repeated = {
        raw.header.index(column) for name, column in columns.items() if name == "split" or is_list_column(family, name)
    }
    for table in raw.read([raw.header.index(column) for column in needed], repeated):
        named = table.rename_columns(needed)
        if options.category_separator is None and _has_paths(named, columns.get("category")):
            options = replace(options, category_separator=LEVEL_SEPARATOR)  # for the rest of the table, too
        part = _typed(named, columns, family, options)
        if "id" not in part.column_names:
            part = part.append_column("id", pa.array(range(first, first + len(table))).cast(pa.string()))
        first += len(table)
        flat.see(part)
        yield with_full_paths(part, folder, family)
    flat.warn(inside, report)


def open_raw(files: pyarrow.fs.FileSystem, inside: str, options: ReadOptions, report: Report) -> RawTable:
    """Open a table by its suffix.

    Raises:
        DataError: it cannot be read.
    """
    suffix = table_suffix(inside)
    if suffix == ".parquet":
        return open_parquet(files, inside)
    if suffix in JSON_SUFFIXES:
        return open_json_lines(files, inside, report)
    return open_delimited(files, inside, suffix, options, report)


def open_parquet(files: pyarrow.fs.FileSystem, inside: str) -> RawTable:
    """Open a parquet file.

    Raises:
        DataError: it is not one.
    """
    try:
        file = pq.ParquetFile(files.open_input_file(inside))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{inside} cannot be read as parquet: {error}") from error
    names = file.schema_arrow.names
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    row_bytes = sum(group.total_byte_size for group in groups) / max(1, file.metadata.num_rows)
    rows = int(min(MAX_ROWS, max(1, MAX_BYTES // (row_bytes + 1))))

    def read(indices: Sequence[int], _: Container[int]) -> Iterator[pa.Table]:
        columns = [names[index] for index in indices]
        try:
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                yield pa.Table.from_batches([batch]).select(columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{inside} cannot be read as parquet: {error}") from error

    return RawTable(names, read)


def _map_columns(family: Family[Any], renamed: Mapping[str, str]) -> dict[str, str]:
    """Return galleria's name → the table's name, for every column that the family can have."""
    columns = {name: name for name in column_types(family)}
    unknown = [name for name in renamed if name not in columns]
    if unknown:
        raise ConfigurationError(f"unknown column {unknown[0]!r}: {family.name} reads {', '.join(sorted(columns))}")
    return columns | dict(renamed)


def _check_columns(
    present: Sequence[str], columns: Mapping[str, str], inside: str, family: Family[Any], options: ReadOptions
) -> None:
    """Check that the table has each column that an option names, and that of the picture or video, once."""
    media = media_column(family)
    required = (*options.columns.values(), *options.levels, *options.attributes, columns[media])
    header = ", ".join(map(str, present[:100]))
    for name in required:
        if name not in present:
            raise SchemaError(
                f"{inside} has no column {name!r}: add --column {media}=NAME, or --level NAME; if cells are not apart, "
                f"add --delimiter (its columns: {header})"
            )
    for name in (*required, *columns.values()):
        if list(present).count(name) > 1:
            raise SchemaError(f"{inside} has {list(present).count(name)} columns {name!r}: rename all but one")


def _has_paths(table: pa.Table, category: str | None) -> bool:
    """Whether any cell of the category column is a path with " > ": then a ";" in others is a part of a name."""
    if category is None:
        return False
    column = table[category]
    texts = pc.unique(column.cast(pa.string())) if pa.types.is_dictionary(column.type) else column
    is_text = pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)
    return bool(is_text and pc.any(pc.match_substring(texts, LEVEL_SEPARATOR)).as_py())


def _typed(table: pa.Table, columns: Mapping[str, str], family: Family[Any], options: ReadOptions) -> pa.Table:
    """Return the columns of a table under galleria's names, with their types."""
    pictures = [name for name in file_columns(family) if name != "video"]
    typed: dict[str, pa.ChunkedArray] = {}
    for name, column in columns.items():
        values = table[column]
        if name in pictures:
            typed[name] = file_column(values, column)
        elif name == "video" and pa.types.is_struct(values.type):
            typed[name] = pc.struct_field(file_column(values, column), "path")
        elif is_list_column(family, name):
            typed[name] = list_column(values, column, options.category_separator if name == "category" else None)
        elif pa.types.is_floating(column_types(family)[name]):
            typed[name] = number_column(values, column)
        elif name == "split" and pa.types.is_dictionary(values.type):
            typed[name] = values
        else:
            typed[name] = text_column(values, column)
    if options.levels:
        typed["category"] = join_levels([text_column(table[level], level) for level in options.levels])
    for name, kind in options.attributes.items():
        typed.setdefault(name, number_column(table[name], name) if kind == NUMBER else table[name])
    return pa.table(typed)


def with_full_paths(part: pa.Table, folder: str, family: Family[Any]) -> pa.Table:
    """Return a part whose relative paths of pictures and videos begin with a folder."""
    for name in file_columns(family):
        if name not in part.column_names:
            continue
        column = part[name]
        if column.type == FILE:
            full = files_of(pc.struct_field(column, "bytes"), _full_paths(pc.struct_field(column, "path"), folder))
        else:
            full = _full_paths(column, folder)
        part = part.set_column(part.column_names.index(name), name, full)
    return part


def _full_paths(paths: pa.ChunkedArray, folder: str) -> pa.ChunkedArray:
    """Return relative paths as full ones."""
    is_full = pc.or_(pc.match_substring(paths, "://"), pc.starts_with(paths, "/"))
    return pc.if_else(is_full, paths, pc.binary_join_element_wise(folder, paths, "/"))


class _FlatPaths:
    """Notices where no category path has two levels, but some hold the sign of a separator."""

    def __init__(self) -> None:
        self._is_flat = True
        self._example: str | None = None

    def see(self, part: pa.Table) -> None:
        if "category" not in part.column_names or not self._is_flat:
            return
        category = part["category"]
        self._is_flat = not pc.any(pc.greater(pc.list_value_length(category), 1)).as_py()
        if self._example is None:
            names = pc.list_flatten(category)
            signs = names.filter(pc.match_substring_regex(names, "[>/|]"))
            self._example = signs[0].as_py() if len(signs) else None

    def warn(self, inside: str, report: Report) -> None:
        if self._is_flat and self._example is not None:
            sign = next(sign for sign in ">/|" if sign in self._example)
            reason = (
                f"every category of {inside} has one level, such as {self._example!r}: if these are paths, add "
                f"--category-separator '{sign}'"
            )
            report(Reject("", reason, kept=True))
