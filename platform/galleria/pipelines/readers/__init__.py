"""Reads a user's files (folders, tables, annotation files) as rows of a family; files are named by their paths."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow.fs

from galleria.errors import DataError
from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.readers.activitynet import read_activitynet
from galleria.pipelines.readers.files import filesystem
from galleria.pipelines.readers.folder import read_folder
from galleria.pipelines.readers.options import ReadOptions
from galleria.pipelines.readers.table import TABLE_SUFFIXES, read_table
from galleria.pipelines.splits import SPLIT_ALIASES, split_of

__all__ = ["ReadOptions", "list_rows"]


def list_rows(path: str, family: Family[Any], options: ReadOptions) -> list[Row]:
    """Return the rows of a folder of pictures or videos, a CSV or parquet table, or an ActivityNet annotation file.

    Rows hold the full paths or URIs of their pictures and videos. A row without a split gets one by a hash of its
    product, or else of its id, so that pictures of a product stay together.

    Args:
        path: local, or on an object store as a URI.
        family: its columns are those of the rows.
        options: how the files become rows.

    Raises:
        DataError: there is nothing at the path, or it cannot be read.
        SchemaError: a column is missing.
        ConfigurationError: an option names a column that the family does not have.
    """
    rows: list[Row] = [dict(row) | {"split": _split(row)} for row in _read(path, family, options)]
    if not rows:
        raise DataError(f"{path} holds nothing to read for {family.name}: it reads {', '.join(family.schema.names)}")
    return rows


def _read(path: str, family: Family[Any], options: ReadOptions) -> Iterator[Row]:
    """Choose the reader by what the path is, and by its suffix."""
    files, inside = filesystem(path)
    kind = files.get_file_info(inside).type
    full = path if "://" in path else inside
    if kind == pyarrow.fs.FileType.NotFound:
        raise DataError(f"there is nothing at {path}: name a folder, a .csv, a .parquet or a .json file")
    if kind == pyarrow.fs.FileType.Directory:
        return read_folder(files, inside, full.rstrip("/"), family, options)
    folder = full.rsplit("/", 1)[0]
    suffix = PurePosixPath(inside).suffix.lower()
    if suffix == ".json":
        return read_activitynet(files, inside, options.videos or folder)
    if suffix in TABLE_SUFFIXES:
        return read_table(files, inside, folder, family, options)
    raise DataError(f"{path} is not a folder, nor a .csv, .tsv, .parquet or .json file: convert one of these")


def _split(row: Row) -> str:
    split = row.get("split")
    if not split:
        return split_of(str(row.get("product_id") or row["id"]))
    return SPLIT_ALIASES.get(str(split).lower(), str(split))
