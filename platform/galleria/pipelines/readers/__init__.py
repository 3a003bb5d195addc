"""Reads a user's files (folders, tables, annotations, data sets) as rows of a family; files are named by paths."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs

from galleria.errors import ConfigurationError, DataError
from galleria.learn.family import Family
from galleria.pipelines.readers import feeds, shopify
from galleria.pipelines.readers.feeds import read_feed
from galleria.pipelines.readers.files import filesystem, media_column
from galleria.pipelines.readers.options import FEEDS, ReadOptions, Report
from galleria.pipelines.readers.parts import parts_of, with_splits
from galleria.pipelines.readers.shopify import read_shopify
from galleria.pipelines.readers.sources import FORMATS, read_any_file, read_any_folder
from galleria.pipelines.readers.table import TABLE_SUFFIXES, open_raw, table_suffix, with_full_paths
from galleria.pipelines.readers.tree import Tree

__all__ = ["ReadOptions", "Report", "columns_of", "read_parts"]


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
        columns = ", ".join(family.schema.names)
        raise DataError(
            f"{path} holds nothing to read for {family.name}: it reads {columns}, of {media_column(family)}s; "
            "name another path or another family"
        )


def _read(path: str, family: Family[Any], options: ReadOptions, report: Report) -> Iterator[pa.Table]:
    """Choose the reader by the options, by what the path is, by its suffix and by what is in it."""
    files, inside = filesystem(path)
    kind = files.get_file_info(inside).type
    full = path if "://" in path else inside
    if options.format is not None and options.format not in FORMATS:
        raise ConfigurationError(f"{options.format!r} is not a known format: use one of {', '.join(FORMATS)}")
    if kind == pyarrow.fs.FileType.NotFound:
        raise DataError(f"there is nothing at {path}: name a folder, a .csv, a .parquet or a .json file")
    if options.feed is not None:
        folder = full.rpartition("/")[0]
        return (with_full_paths(part, folder, family) for part in _read_feed(files, inside, family, options, report))
    if kind == pyarrow.fs.FileType.Directory:
        return read_any_folder(Tree(files, inside.rstrip("/"), full.rstrip("/")), family, options, report)
    parent = Tree(files, inside.rpartition("/")[0], full.rpartition("/")[0])
    return read_any_file(parent, inside, family, options, report)


def _read_feed(
    files: pyarrow.fs.FileSystem, inside: str, family: Family[Any], options: ReadOptions, report: Report
) -> Iterator[pa.Table]:
    if options.feed not in FEEDS:
        raise ConfigurationError(f"{options.feed!r} is not a known feed: use one of {', '.join(FEEDS)}")
    if media_column(family) != "image":
        raise ConfigurationError(f"{family.name} reads videos, and product feeds name pictures: leave --feed out")
    if options.feed == "shopify":
        return parts_of(read_shopify(files, inside, options, report), family, shopify.ATTRIBUTES)
    return parts_of(read_feed(files, inside, options, report), family, feeds.ATTRIBUTES)


def columns_of(path: str, options: ReadOptions) -> list[str] | None:
    """Return the names of a table's columns, or None if the path is not a table. Raises DataError as `read_parts`."""
    files, inside = filesystem(path)
    is_file = files.get_file_info(inside).type == pyarrow.fs.FileType.File
    if options.feed is not None or not is_file or table_suffix(inside) not in TABLE_SUFFIXES:
        return None
    return list(open_raw(files, inside, options, lambda _: None).header)
