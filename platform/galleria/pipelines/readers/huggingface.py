"""Reads what Hugging Face's `datasets` saved: a folder of `save_to_disk`, or a folder of parquet files."""

import json
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from galleria.errors import DataError
from galleria.pipelines.readers.delimited import RawTable
from galleria.pipelines.readers.tree import Tree
from galleria.pipelines.splits import SPLIT_ALIASES

ARROW_FILE = re.compile(r"data-\d+-of-\d+\.arrow|dataset\.arrow")
ROWS = 256


@dataclass(frozen=True)
class SplitTable:
    """The table of one split, which a folder or the names of files say; None where they do not."""

    split: str | None
    table: RawTable


def saved_tables(tree: Tree) -> list[SplitTable]:
    """Return the tables of a folder of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`.

    Raises:
        DataError: a file is damaged.
    """
    if tree.has("dataset_dict.json"):
        splits = tree.json("dataset_dict.json")["splits"]
        return [SplitTable(name, _arrow_table(tree.sub(name))) for name in splits]
    return [SplitTable(None, _arrow_table(tree))]


def parquet_tables(tree: Tree) -> list[SplitTable]:
    """Return the tables of parquet files such as `train-00000-of-00002.parquet`, one for each split."""
    by_split: dict[str | None, list[str]] = {}
    for name in tree.below():
        if name.endswith(".parquet") and not any(part.startswith((".", "_")) for part in name.split("/")):
            words = re.split(r"[-_./]", name.lower())
            by_split.setdefault(next((word for word in words if word in SPLIT_ALIASES), None), []).append(name)
    return [SplitTable(split, _parquet_table(tree, names)) for split, names in by_split.items()]


def _arrow_table(tree: Tree) -> RawTable:
    names = sorted(name for name in tree.names if ARROW_FILE.fullmatch(name))
    if not names:
        raise DataError(f"{tree.root} holds no data-….arrow file: save the data set again with save_to_disk")
    with tree.files.open_input_stream(f"{tree.inside}/{names[0]}") as stream:
        schema = pa.ipc.open_stream(stream).schema

    def batches(columns: Sequence[str]) -> Iterator[pa.Table]:
        for name in names:
            with tree.files.open_input_stream(f"{tree.inside}/{name}") as stream:
                for batch in pa.ipc.open_stream(stream):
                    table = pa.Table.from_batches([batch]).select(columns)
                    yield from (table.slice(start, ROWS) for start in range(0, len(table), ROWS))

    return _table(schema, batches, tree.root)


def _parquet_table(tree: Tree, names: list[str]) -> RawTable:
    schema = pq.read_schema(f"{tree.inside}/{names[0]}", filesystem=tree.files)

    def batches(columns: Sequence[str]) -> Iterator[pa.Table]:
        for name in names:
            with tree.files.open_input_file(f"{tree.inside}/{name}") as file:
                for batch in pq.ParquetFile(file).iter_batches(batch_size=ROWS, columns=list(columns)):
                    yield pa.Table.from_batches([batch]).select(columns)

    return _table(schema, batches, tree.root)


def _table(schema: pa.Schema, batches: Any, root: str) -> RawTable:
    labels = _class_names(schema)

    def read(indices: Sequence[int], _: Container[int]) -> Iterator[pa.Table]:
        columns = [schema.names[index] for index in indices]
        try:
            for table in batches(columns):
                for name in labels.keys() & set(columns):
                    numbers = table[name].combine_chunks().cast(pa.int64())
                    numbers = pc.if_else(pc.less(numbers, 0), None, numbers)  # -1 is a label that is not published
                    named = pa.array(labels[name]).take(numbers)
                    table = table.set_column(table.column_names.index(name), name, named)  # noqa: PLW2901
                yield table
        except (pa.ArrowInvalid, pa.ArrowIndexError, OSError) as error:
            raise DataError(f"{root} cannot be read ({error}): save the data set again") from error

    return RawTable(schema.names, read)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of the classes of columns whose feature is a ClassLabel."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
