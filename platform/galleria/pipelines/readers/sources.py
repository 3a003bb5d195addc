"""Chooses the reader of a folder or file by the name of its format, or by what is in it."""

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from galleria.errors import ConfigurationError, DataError
from galleria.files import absolute
from galleria.learn.family import Family
from galleria.learn.task import Row
from galleria.pipelines.readers import oml, open_images
from galleria.pipelines.readers.activitynet import read_activitynet
from galleria.pipelines.readers.coco import is_coco, read_coco
from galleria.pipelines.readers.datasets import READERS, recognise_dataset
from galleria.pipelines.readers.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, media_column
from galleria.pipelines.readers.folder import read_folder
from galleria.pipelines.readers.huggingface import SplitTable, parquet_tables, saved_tables
from galleria.pipelines.readers.options import ReadOptions, Report
from galleria.pipelines.readers.parts import parts_of
from galleria.pipelines.readers.table import TABLE_SUFFIXES, open_raw, rows_of_table, table_suffix
from galleria.pipelines.readers.tree import Tree
from galleria.pipelines.readers.webdataset import SUFFIXES as TAR_SUFFIXES
from galleria.pipelines.readers.webdataset import read_webdataset
from galleria.pipelines.splits import SPLIT_ALIASES

FORMATS = ("folder", "table", *READERS, "activitynet", "coco", "open_images", "oml", "webdataset", "huggingface")
"""Names for `--format`."""


def read_any_folder(tree: Tree, family: Family[Any], options: ReadOptions, report: Report) -> Iterator[pa.Table]:
    """Yield the rows of a folder: a known data set, tar files, what `datasets` saved, or folders of pictures.

    Raises:
        ConfigurationError: it is not of the format that the options name.
        DataError: it cannot be read.
    """
    name = options.format
    if name in READERS and media_column(family) != "image":
        raise ConfigurationError(f"{family.name} reads videos, and {name} holds pictures: choose another family")
    if name in READERS or (name is None and media_column(family) == "image"):
        dataset = recognise_dataset(tree, name)
        if dataset is not None:
            return parts_of(_boxes(READERS[dataset[0]](dataset[1]), options), family)
    if name in ("huggingface", None) and tree.names & {"dataset_dict.json", "state.json"}:
        return _split_tables(saved_tables(tree), tree, family, options, report)
    if name in ("webdataset", "huggingface", None):
        files = [file for file in tree.below() if not file.startswith(".")]
        suffixes = {PurePosixPath(file).suffix.lower() for file in files}
        if name is not None or not suffixes & (IMAGE_SUFFIXES | VIDEO_SUFFIXES):
            tars = [file for file in files if file.lower().endswith(TAR_SUFFIXES)]
            if tars and name != "huggingface":
                return parts_of(_tar_rows(tree, tars, report), family)
            if ".parquet" in suffixes:
                return _split_tables(parquet_tables(tree), tree, family, options, report)
    return parts_of(read_folder(tree.files, tree.inside, tree.root, family, options, report), family)


def read_any_file(
    tree: Tree, inside: str, family: Family[Any], options: ReadOptions, report: Report
) -> Iterator[pa.Table]:
    """Yield the rows of a file in a folder: a table, a tar file, or annotations.

    Raises:
        DataError: it cannot be read.
    """
    suffix = table_suffix(inside)
    name = inside.rpartition("/")[2]
    if name.lower().endswith(TAR_SUFFIXES):
        return parts_of(_tar_rows(tree, [name], report), family)
    if suffix == ".json":
        return parts_of(_boxes(_annotations(tree, inside, options), options), family)
    if suffix in TABLE_SUFFIXES:
        table = open_raw(tree.files, inside, options, report)
        header = set(table.header)
        may_recognise = options.format is None and not options.columns
        if options.format == "oml" or (may_recognise and header >= set(oml.MARKS)):
            return parts_of(_boxes(oml.read_oml(table, tree.root), options), family)
        if options.format == "open_images" or (may_recognise and header >= set(open_images.MARKS)):
            rows = open_images.read_open_images(table, tree, _images(tree, options), _split_in(name))
            return parts_of(_boxes(rows, options), family)
        return rows_of_table(table, inside, tree.root, family, options, report)
    if suffix == ".xml":
        raise DataError(f"{inside} is XML: if it is a product feed, add --feed google or --feed meta")
    raise DataError(
        f"{inside} is not a folder, nor a .csv, .tsv, .txt, .jsonl, .parquet or .json file: convert one of these"
    )


def _annotations(tree: Tree, inside: str, options: ReadOptions) -> Iterator[Row]:
    name = inside.rpartition("/")[2]
    if options.format != "activitynet":
        try:
            document = json.loads(tree.read(name))
        except ValueError:
            document = None  # the other reader says what is wrong
        if options.format == "coco" or is_coco(document):
            return read_coco(document or {}, inside, _images(tree, options), _split_in(name))
    return read_activitynet(tree.files, inside, options.videos or tree.root)


def _images(tree: Tree, options: ReadOptions) -> str:
    """Return the folder of the pictures that annotations name."""
    return absolute(options.images).rstrip("/") if options.images else tree.root


def _split_in(name: str) -> str | None:
    """Return the split in a file's name, such as `instances_val2017.json` or `train-annotations-bbox.csv`."""
    words = re.findall("[a-z]+", name.lower())
    return next((SPLIT_ALIASES[word] for word in words if word in SPLIT_ALIASES), None)


def _boxes(rows: Iterator[Row], options: ReadOptions) -> Iterator[Row]:
    if not options.whole:
        return rows
    return ({name: value for name, value in row.items() if name != "crop"} for row in rows)


def _tar_rows(tree: Tree, names: list[str], report: Report) -> Iterator[Row]:
    for name in names:
        yield from read_webdataset(tree.files, f"{tree.inside}/{name}", _split_in(name), report)


def _split_tables(
    tables: list[SplitTable], tree: Tree, family: Family[Any], options: ReadOptions, report: Report
) -> Iterator[pa.Table]:
    """Yield the rows of several tables, with the split of each where the table has no such column."""
    for number, (split, table) in enumerate((table.split, table.table) for table in tables):
        is_numbered = "id" not in table.header and "id" not in options.columns
        for part in rows_of_table(table, tree.root, tree.root, family, options, report):
            yield _named_part(part, split, number if is_numbered else None)


def _named_part(part: pa.Table, split: str | None, table: int | None) -> pa.Table:
    if split is not None and "split" not in part.column_names:
        part = part.append_column("split", pa.array([split] * len(part), pa.string()))
    if table:  # rows are numbered in each table
        ids = pa.array([f"{table}-{identifier}" for identifier in part["id"].to_pylist()], pa.string())
        part = part.set_column(part.column_names.index("id"), "id", ids)
    return part
