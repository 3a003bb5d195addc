"""Reads a user's files (folders, tables, annotation files) as rows of a family; files are named by their paths."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs

from galleria.errors import DataError
from galleria.learn.family import Family
from galleria.pipelines.readers.activitynet import read_activitynet
from galleria.pipelines.readers.files import filesystem
from galleria.pipelines.readers.folder import read_folder
from galleria.pipelines.readers.options import ReadOptions, Report
from galleria.pipelines.readers.parts import parts_of, with_splits
from galleria.pipelines.readers.table import TABLE_SUFFIXES, read_table, table_suffix

__all__ = ["ReadOptions", "Report", "read_parts"]


def read_parts(path: str, family: Family[Any], options: ReadOptions, report: Report) -> Iterator[pa.Table]:
    """Yield the rows of a folder of pictures or videos, a table, or an ActivityNet annotation file, in parts.

    Parts have galleria's names of columns. Pictures are `cells.FILE`: contents, full paths or URIs; videos are paths.
    A row without a split gets one by a hash of its product, or else of its id, so that pictures of a product stay
    together.

    Args:
        path: local, or on an object store as a URI.
        family: its columns are those of the rows.
        options: how the files become rows.
        report: receives rows that cannot be used, and notices.

    Raises:
        DataError: there is nothing at the path, or it cannot be read.
        SchemaError: a column is missing.
        ConfigurationError: an option names a column that the family does not have.
    """
    is_empty = True
    for part in _read(path, family, options, report):
        if len(part):
            is_empty = False
            yield with_splits(part)
    if is_empty:
        raise DataError(f"{path} holds nothing to read for {family.name}: it reads {', '.join(family.schema.names)}")


def _read(path: str, family: Family[Any], options: ReadOptions, report: Report) -> Iterator[pa.Table]:
    """Choose the reader by what the path is, and by its suffix."""
    files, inside = filesystem(path)
    kind = files.get_file_info(inside).type
    full = path if "://" in path else inside
    if kind == pyarrow.fs.FileType.NotFound:
        raise DataError(f"there is nothing at {path}: name a folder, a .csv, a .parquet or a .json file")
    if kind == pyarrow.fs.FileType.Directory:
        return parts_of(read_folder(files, inside, full.rstrip("/"), family, options, report), family)
    folder = full.rsplit("/", 1)[0]
    suffix = table_suffix(inside)
    if suffix == ".json":
        return parts_of(read_activitynet(files, inside, options.videos or folder), family)
    if suffix in TABLE_SUFFIXES:
        return read_table(files, inside, folder, family, options, report)
    raise DataError(
        f"{path} is not a folder, nor a .csv, .tsv, .txt, .jsonl, .parquet or .json file: convert one of these"
    )
